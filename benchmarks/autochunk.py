"""How far is ``chunksize="auto"`` from the best fixed chunk size? Found by search.

    python benchmarks/autochunk.py            # the whole sweep: some ten minutes
    python benchmarks/autochunk.py --quick    # every other decade, fewer rounds

The function costs a set time per item, from 1 ns to 1 s; items have 8 B to 8 MB; it is called per
item (`pmap`) or per chunk (`pmap_chunks`). Each cell of the sweep times ``"auto"`` and a ladder of
fixed chunk sizes, interleaved, on the same array, and reports auto / best (medians; below 1, auto
was the fastest). A cost is what is spent *beyond* reading the item, in a loop whose steps were timed
beforehand; a cost below what Python takes for a call is raised to that by necessity.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import machine, report

import shmmap

COSTS_NS = tuple(10**k for k in range(10))
ITEM_NBYTES = (8, 1 << 10, 64 << 10, 1 << 20, 8 << 20)
MOST_NBYTES = 256 << 20
MOST_ITEMS = {"item": 400_000, "chunk": 1 << 24}
MOST_CHUNKS = 20_000
"""More than this many chunks cannot be best, and take their time."""
SERIAL_S = 0.4
"""Serial time of one map, where items are cheap enough to choose."""


def step_ns() -> float:
    """What one step of `spin` takes here, at its quickest."""
    steps = 100_000
    taken = []
    for _ in range(20):
        start = time.perf_counter_ns()
        spin(steps)
        taken.append(time.perf_counter_ns() - start)
    return min(taken) / steps


def spin(steps: int) -> None:
    """Spend time by working, not by the clock, which also runs while others have the core."""
    for _ in range(steps):
        pass


def per_item(steps: float, item: Any) -> float:
    """Read one item and spend its cost."""
    value = float(item.max())
    spin(int(steps))
    return value


def per_chunk(steps: float, chunk: Any) -> Any:
    """Read a chunk and spend the cost of its items."""
    values = chunk.max(axis=1) if chunk.ndim > 1 else np.sqrt(chunk)
    spin(int(steps * len(chunk)))
    return values


STEP_NS = step_ns()


@dataclass(frozen=True)
class Cell:
    """One point of the sweep."""

    kind: str
    cost_ns: int
    item_nbytes: int

    def n(self, workers: int) -> int:
        """Items: what time, memory and patience allow, but four per worker at the least."""
        floor_ns = 300 if self.kind == "item" else 0
        by_time = int(SERIAL_S * 1e9 / max(self.cost_ns + floor_ns, 1))
        least = 4 * workers if self.cost_ns < 10**9 else 2 * workers
        most = MOST_ITEMS[self.kind]
        return max(least, min(by_time, MOST_NBYTES // self.item_nbytes, most))

    def call(self, n: int) -> Callable[[int | str], Any]:
        """The map, with its chunk size left open, over data and into an output placed once."""
        x = shmmap.ones(n if self.item_nbytes == 8 else (n, self.item_nbytes // 8))
        y = shmmap.ones(n)
        steps = self.cost_ns / STEP_NS
        if self.kind == "item":
            func = partial(per_item, steps)
            return lambda size: shmmap.pmap(func, x, out=y, chunksize=size)
        func = partial(per_chunk, steps)
        return lambda size: shmmap.pmap_chunks(func, x, out=y, chunksize=size)


def ladder(n: int, workers: int) -> list[int]:
    """Chunk sizes from one item to one share per worker, by factors of four."""
    sizes, size = [], 1
    share = -(-n // workers)
    while size < share:
        if n // size <= MOST_CHUNKS:
            sizes.append(size)
        size *= 4
    return [*sizes, share]


def measure(cell: Cell, workers: int, rounds: int) -> tuple[float, int, float, int]:
    """Return auto's seconds, the best fixed size, its seconds, and the number of items."""
    n = cell.n(workers)
    call = cell.call(n)
    sizes: list[int | str] = ["auto", *ladder(n, workers)]
    times: dict[int | str, list[float]] = {size: [] for size in sizes}
    call("auto")
    if cell.cost_ns >= 10**8:
        rounds = min(rounds, 2)
    for index in range(rounds):
        for size in sizes[index % len(sizes) :] + sizes[: index % len(sizes)]:
            # Hopeless sizes need no second look.
            if index and min(times[size]) > 2 * min(min(t) for t in times.values()):
                continue
            start = time.perf_counter()
            call(size)
            times[size].append(time.perf_counter() - start)
    medians = {size: statistics.median(taken) for size, taken in times.items()}
    best = min((size for size in sizes if size != "auto"), key=medians.__getitem__)
    assert isinstance(best, int)
    return medians["auto"], best, medians[best], n


def main() -> None:
    """Sweep, and print a table as it grows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--kind", choices=["item", "chunk"], nargs="+", default=["item", "chunk"])
    add("--costs", type=int, nargs="+", default=list(COSTS_NS), metavar="NS")
    add("--bytes", type=int, nargs="+", default=list(ITEM_NBYTES), metavar="N")
    add("--workers", type=int, default=machine.usable_cores())
    add("--repeat", type=int, default=5)
    add("--quick", action="store_true", help="every third cost, every other size, three rounds")
    args = parser.parse_args()
    costs, sizes, rounds = args.costs, args.bytes, args.repeat
    if args.quick:
        costs, sizes, rounds = costs[::3], sizes[::2], 3
    rows, ratios = [], []
    with shmmap.config(workers=args.workers):
        for kind in args.kind:
            for item_nbytes in sizes:
                for cost_ns in costs:
                    cell = Cell(kind, cost_ns, item_nbytes)
                    auto, best, seconds, n = measure(cell, args.workers, rounds)
                    ratios.append(auto / seconds)
                    row = (
                        kind,
                        nbytes_text(item_nbytes),
                        cost_text(cost_ns),
                        f"{n:,}",
                        f"{auto * 1e3:.3g}",
                        f"{seconds * 1e3:.3g}",
                        f"{best:,}",
                        f"{auto / seconds:.2f}",
                    )
                    rows.append(row)
                    print("  ".join(f"{cell:>9}" for cell in row), flush=True)
    head = ("called per", "item", "cost", "items", "auto, ms", "best, ms", "best size", "auto/best")
    print("\n" + report.markdown(head, rows))
    within = sum(ratio <= 1.1 for ratio in ratios)
    print(
        f"{within} of {len(ratios)} within 10 % of the best fixed size;"
        f" median {statistics.median(ratios):.2f}, worst {max(ratios):.2f}."
    )


def cost_text(cost_ns: int) -> str:
    """Say a time with its unit."""
    for unit, scale in (("s", 10**9), ("ms", 10**6), ("us", 10**3)):
        if cost_ns >= scale:
            return f"{cost_ns // scale} {unit}"
    return f"{cost_ns} ns"


def nbytes_text(nbytes: int) -> str:
    """Say a size with its unit."""
    for unit, scale in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if nbytes >= scale:
            return f"{nbytes // scale} {unit}"
    return f"{nbytes} B"


if __name__ == "__main__":
    main()
