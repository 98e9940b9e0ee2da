"""One peer in an interpreter of its own: ``python -m harness.host FIGURE PEER WORKERS [--smoke]``.

It places the data, does the work twice, and answers ``ready`` with a fingerprint of the result;
then one ``sample`` per line of its input. Times are taken here, so that talking to the
controller is not part of them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from typing import Any

from harness.figures import figures
from harness.peers import ENTRIES
from harness.work import fingerprint

BATCH_S = 0.1
"""Short work is repeated for about this long, and the median of the batch is one sample."""


def main() -> None:
    """Serve until the input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("figure")
    parser.add_argument("peer")
    parser.add_argument("workers", type=int)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--items", type=int, help="do the first few items only")
    args = parser.parse_args()
    # What the work prints must not end up among the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    figure = figures(args.workers, args.smoke)[args.figure]
    work = figure.work
    assert work is not None
    peer = ENTRIES[args.peer].load()(args.peer, work, args.workers, args.items)
    if not hasattr(peer, work.verb):
        answer(left_out=f"has no way to do {work.verb!r}")
        return
    try:
        peer.open()
    except NotImplementedError as reason:
        answer(left_out=str(reason))
        return
    try:
        result = peer.run()
        known = fingerprint(work, result)
        del result
        # The best of a few: the first ones still start things.
        once = min(one(peer, work.drops) for _ in range(1 if figure.heavy else 3))
        number = max(1, min(1000, int(BATCH_S / once)))
        answer(ready=known, n=peer.n)
        for _ in sys.stdin:
            times = [one(peer, work.drops) for _ in range(number)]
            answer(seconds=statistics.median(times))
    finally:
        peer.close()


def one(peer: Any, drops: bool) -> float:
    """Do the work once; seconds."""
    start = time.perf_counter()
    result = peer.run()
    if drops:
        del result
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
