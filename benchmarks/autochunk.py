"""How far is ``chunksize="auto"`` from the best fixed chunk size? Found by search.

    python benchmarks/autochunk.py            # the whole sweep: at most ten minutes on two cores
    python benchmarks/autochunk.py --quick    # every third cost, every other size

The function costs a set time per item, from 1 ns to 1 s; items have 8 B to 8 MB; it is called per
item (`pmap`) or per chunk (`pmap_chunks`). A cost is what is spent *beyond* reading the item, in a loop
whose steps were timed beforehand; what Python takes for a call, some 0.1 us, comes on top.

In each cell of the sweep a ladder of fixed sizes is gone through twice. The best two then meet
``"auto"`` in a duel: all three once per round, in turning order, and what counts is auto / fixed within a
round. So the choice of the best is not made by the samples it is judged by, as the smallest of many noisy
medians is too small. The duel ends when nine parts in ten of its certainty are on one side of 1.10, or
after nine rounds. A cell is *over* if all of its interval is; it is *within* if its median is.
"""

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
from shmmap._chunks import plan

COSTS_NS = {
    "item": (1, *(10**k for k in range(2, 10))),  # below 100 ns the call itself is all there is
    "chunk": tuple(10**k for k in range(10)),
}
ITEM_NBYTES = (8, 1 << 10, 64 << 10, 1 << 20, 8 << 20)
MOST_NBYTES = 256 << 20
MOST_ITEMS = {"item": 400_000, "chunk": 1 << 24}
MOST_CHUNKS = 20_000
"""More than this many chunks cannot be best, and take their time."""
SERIAL_S = 0.25
"""Serial time of one map, where items are cheap enough to choose."""
BOUND = 1.1
FEW, MANY = 5, 9
"""Rounds of a duel."""
DEAR_S = 0.3
"""Maps that take longer are run twice in a duel, as they hardly vary."""


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
    value = float(item.max()) if item.ndim else item
    if steps >= 1:
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
        floor_ns = 0 if self.kind == "chunk" else 100 if self.item_nbytes == 8 else 3000
        by_time = int(SERIAL_S * 1e9 / max(self.cost_ns + floor_ns, 1))
        least = 4 * workers if self.cost_ns < 10**9 else 2 * workers
        most = MOST_ITEMS[self.kind]
        return max(least, min(by_time, MOST_NBYTES // self.item_nbytes, most))

    def auto(self, n: int) -> int:
        """What ``"auto"`` comes to."""
        nbytes = self.item_nbytes + 8
        return plan.auto_chunksize(n, nbytes, vectorised=self.kind == "chunk")

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


@dataclass
class Found:
    """What came out in one cell."""

    cell: Cell
    n: int
    auto: int
    best: int
    auto_s: float
    best_s: float
    ratios: list[float]
    """Auto / best, one per round of the duel; empty if the two are the same size."""
    search: dict[int, float]
    """Seconds of each size of the ladder."""

    @property
    def ratio(self) -> float:
        """The median of the ratios within a round."""
        return statistics.median(self.ratios) if self.ratios else 1.0

    @property
    def interval(self) -> tuple[float, float]:
        """Where the true median lies, with nine chances in ten or better."""
        return interval(self.ratios) if self.ratios else (1.0, 1.0)

    @property
    def verdict(self) -> str:
        """Over, within, or neither."""
        if self.interval[0] > BOUND:
            return "over"
        return "within" if self.ratio <= BOUND else "unclear"


def interval(values: list[float]) -> tuple[float, float]:
    """An interval for the median that assumes nothing about the distribution: two order statistics."""
    ordered = sorted(values)
    k = max(0, int((len(values) - 1.645 * len(values) ** 0.5) / 2 - 0.5))
    return ordered[k], ordered[-1 - k]


def measure(cell: Cell, workers: int) -> Found:
    """Search, then the duel."""
    n = cell.n(workers)
    call = cell.call(n)

    def seconds(size: int | str) -> float:
        start = time.perf_counter()
        call(size)
        return time.perf_counter() - start

    auto = cell.auto(n)
    seconds("auto")
    search: dict[int, float] = {}
    sizes = ladder(n, workers)
    for turn in (sizes, sizes[::-1]):
        for size in turn:
            # Hopeless sizes need no second look, and what takes long no second sample.
            known = search.get(size)
            if known is None:
                search[size] = seconds(size)
            elif known < min(1.5 * min(search.values()), DEAR_S):
                search[size] = min(known, seconds(size))
    # Sizes that differ by a few items from auto's are the same to all intents.
    others = [size for size in sizes if not 0.8 <= size / auto <= 1.25]
    finalists = sorted(others, key=search.__getitem__)[:2]
    times: dict[int | str, list[float]] = {size: [] for size in ("auto", *finalists)}
    for index in range(2 if min(search.values()) > DEAR_S else MANY):
        turn = index % len(times)
        for size in (list(times) * 2)[turn : turn + len(times)]:
            times[size].append(seconds(size))
        if index + 1 >= FEW:
            spans = [interval(ratios(times["auto"], times[size])) for size in finalists]
            if all(high <= BOUND for _, high in spans) or any(low > BOUND for low, _ in spans):
                break
    best, its_ratios = auto, []
    for size in finalists:
        found = ratios(times["auto"], times[size])
        if not its_ratios or statistics.median(found) > statistics.median(its_ratios):
            best, its_ratios = size, found
    if its_ratios and statistics.median(its_ratios) < 1:
        best, its_ratios = auto, []  # nothing was better than what auto is
    auto_s = statistics.median(times["auto"])
    best_s = statistics.median(times[best]) if best in times else auto_s
    return Found(cell, n, auto, best, auto_s, best_s, its_ratios, search)


def ratios(ours: list[float], theirs: list[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def main() -> None:
    """Sweep, and print a table as it grows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--kind", choices=["item", "chunk"], nargs="+", default=["item", "chunk"])
    add("--costs", type=int, nargs="+", metavar="NS")
    add("--bytes", type=int, nargs="+", default=list(ITEM_NBYTES), metavar="N")
    add("--workers", type=int, default=machine.usable_cores())
    add("--quick", action="store_true", help="every third cost, every other size")
    args = parser.parse_args()
    start = time.perf_counter()
    busy = machine.busyness()
    stolen = machine.Stolen()
    cells = [
        Cell(kind, cost_ns, item_nbytes)
        for kind in args.kind
        for item_nbytes in (args.bytes[::2] if args.quick else args.bytes)
        for cost_ns in args.costs or COSTS_NS[kind][:: 3 if args.quick else 1]
        # What an item holds is nothing beside such a cost: two sizes will do.
        if cost_ns < 10**8 or item_nbytes in (args.bytes[0], args.bytes[-1])
    ]
    found = []
    with shmmap.config(workers=args.workers):
        for cell in cells:
            found.append(measure(cell, args.workers))
            print("  ".join(f"{text:>9}" for text in row(found[-1])), flush=True)
    print("\n" + report.markdown(HEAD, map(row, found)))
    for kind, by, key in (
        ("item", "chunks", lambda f, size: -(-f.n // size)),
        ("chunk", "bytes in a chunk", lambda f, size: size * f.cell.item_nbytes),
        ("chunk", "chunks", lambda f, size: -(-f.n // size)),
    ):
        if kind in args.kind:
            print(constants(kind, by, [f for f in found if f.cell.kind == kind], key))
    verdicts = [f.verdict for f in found]
    print(
        f"{verdicts.count('within')} of {len(found)} within 10 % of the best fixed size,"
        f" {verdicts.count('over')} over, {verdicts.count('unclear')} unclear;"
        f" median {statistics.median(f.ratio for f in found):.2f}, worst {max(f.ratio for f in found):.2f}."
        f" {time.perf_counter() - start:.0f} s, {args.workers} workers; other work before: {busy:.0%},"
        f" stolen: {stolen.share():.0%}."
    )


HEAD = (
    *("called per", "item", "cost", "items", "auto", "best", "auto, ms", "best, ms"),
    *("auto/best", "interval", ""),
)


def row(found: Found) -> tuple[str, ...]:
    """A line of the table."""
    low, high = found.interval
    return (
        found.cell.kind,
        nbytes_text(found.cell.item_nbytes),
        cost_text(found.cell.cost_ns),
        f"{found.n:,}",
        f"{found.auto:,}",
        f"{found.best:,}",
        f"{found.auto_s * 1e3:.3g}",
        f"{found.best_s * 1e3:.3g}",
        f"{found.ratio:.2f}",
        f"{low:.2f}-{high:.2f}",
        "" if found.verdict == "within" else f"**{found.verdict}**",
    )


def constants(kind: str, by: str, found: list[Found], key: Callable[[Found, int], int]) -> str:
    """What a rule that looks at one number alone would cost: by powers of four of that number."""
    costs: dict[int, list[float]] = {}
    for one in found:
        least = min(one.search.values())
        mine: dict[int, float] = {}
        for size, seconds in one.search.items():
            power = (max(1, key(one, size)).bit_length() - 1) // 2
            mine[power] = min(mine.get(power, 1e9), seconds / least)
        for power, cost in mine.items():
            costs.setdefault(power, []).append(cost)
    rows = [
        (
            f"{4**power:,}",
            str(len(costs[power])),
            f"{statistics.geometric_mean(costs[power]):.2f}",
            f"{max(costs[power]):.2f}",
        )
        for power in sorted(costs)
    ]
    return report.markdown((f"per {kind}: {by}", "cells", "time / best, mean", "worst"), rows)


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
