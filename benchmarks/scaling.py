"""Strong scaling: the same work on 1, 2, 4, ... workers up to every core.

    python benchmarks/scaling.py     # table, stored in benchmarks/results/scaling.json

Four cases: bound by memory, bound by computing, uneven costs, and a warm call that does nothing
(which may only grow). Rounds are interleaved over the numbers of workers. `against.py --publish` runs
this as well, and puts it into the documents.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import machine, report, work

import shmmap


def cases(smoke: bool) -> dict[str, Callable[[int], Any]]:
    """What is scaled: a function of the number of workers each, over data placed once."""
    n = 1 << (20 if smoke else 27)
    x, y = shmmap.empty(n), shmmap.empty(n)
    work.ramp(x)
    items = 200 if smoke else 16_000
    even = shmmap.full(items, 5000.0)
    uneven = shmmap.empty(items)
    work.power_law_up(uneven)
    return {
        "memory-bound": lambda workers: shmmap.pmap_chunks(work.polish, x, out=y, workers=workers),
        "compute-bound": lambda workers: shmmap.pmap(work.burn, even, workers=workers),
        "uneven": lambda workers: shmmap.pmap(work.burn, uneven, workers=workers),
        "a call": lambda workers: shmmap.pmap_ranges(
            work.nothing_range, workers, chunksize=1, schedule="static", workers=workers
        ),
    }


def counts(cores: int) -> list[int]:
    """Powers of two, and all of them."""
    return sorted({*(1 << k for k in range(cores.bit_length())), cores})


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cores", type=int, default=machine.usable_cores())
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes")
    args = parser.parse_args()
    steps = counts(args.cores)
    busy = machine.Busy()
    times: dict[str, dict[int, list[float]]] = {}
    for name, call in cases(args.smoke).items():
        taken: dict[int, list[float]] = {workers: [] for workers in steps}
        for index in range(args.repeat + 1):
            for workers in steps:
                start = time.perf_counter()
                call(workers)
                if index:  # the first round starts workers and touches pages
                    taken[workers].append(time.perf_counter() - start)
        times[name] = taken
    medians = {
        name: {workers: statistics.median(values) for workers, values in taken.items()}
        for name, taken in times.items()
    }
    facts = {"machine": machine.describe(), "busy": busy.shares(), "seconds": medians}
    print(report.scaling_table(facts))
    if not args.smoke:
        report.SCALING.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
