"""One kind of call by all peers, in an interpreter of its own.

    python -m harness.call_host KIND WORKERS PEER...

What a pool takes depends on the process more than on anything else, up to three times as much in one as in
another; so everybody is measured in the same one, in turns, and there are many processes. The answer is a
line of JSON: for each peer the seconds of a call, and those of the caller's processor time, threads included.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import time

import numpy as np

from harness.call_peers import PEERS
from harness.calls import KINDS, Task

TURNS = 3
BATCH_S = 0.03
"""Short calls are repeated for about this long in each turn."""
WARM_S = 0.05
"""And at first."""


def main() -> None:
    """Open everybody, check the results, measure in turns."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind")
    parser.add_argument("workers", type=int)
    parser.add_argument("peers", nargs="+")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    # What the work prints must not end up in the answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    kind = KINDS[args.kind]
    items = kind.items(args.smoke)
    with contextlib.ExitStack() as stack:
        tasks: dict[str, Task] = {}
        for peer in PEERS:
            if peer in args.peers:
                tasks[peer] = stack.enter_context(PEERS[peer](kind, items, args.workers))
        expected = np.ravel(next(iter(tasks.values()))())
        for peer, task in tasks.items():
            if not np.allclose(np.ravel(task()), expected):
                raise SystemExit(f"the result of {peer} differs")
        once = {peer: warm(task, args.smoke) for peer, task in tasks.items()}
        taken: dict[str, list[tuple[float, float]]] = {peer: [] for peer in tasks}
        order = list(tasks)
        for turn in range(1 if args.smoke else TURNS):
            for peer in order[turn % len(order) :] + order[: turn % len(order)]:
                calls = 1 if args.smoke else max(1, min(1000, int(BATCH_S / once[peer])))
                taken[peer].append(measure(tasks[peer], calls))
                if once[peer] > 1:  # of what takes long, one look is enough
                    order.remove(peer)
        values = {
            peer: [statistics.median(column) for column in zip(*pairs, strict=True)]
            for peer, pairs in taken.items()
        }
    print(json.dumps(values), file=answers, flush=True)


def warm(task: Task, smoke: bool) -> float:
    """Call for a moment; the least seconds of a call."""
    least, stop = np.inf, time.perf_counter() + (0 if smoke else WARM_S)
    while True:
        start = time.perf_counter()
        task()
        least = min(least, time.perf_counter() - start)
        if time.perf_counter() >= stop:
            return float(least)


def measure(task: Task, calls: int) -> tuple[float, float]:
    """Seconds of a call, and of the caller's processor time."""
    for _ in range(calls // 5):  # while others were measured, the workers of this one slept
        task()
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        task()
    return (time.perf_counter() - start) / calls, (time.process_time() - cpu) / calls


if __name__ == "__main__":
    main()
