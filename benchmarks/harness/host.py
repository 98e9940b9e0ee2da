"""One peer in an interpreter of its own: ``python -m harness.host FIGURE PEER WORKERS [--smoke]``.

It places the data, does the work, and answers ``ready`` with a fingerprint of the result; then one
``sample`` per line of its input, or the fingerprint for the first few items alone (``expect N``), with
which the results of peers are checked that do less. Times are taken here, so that talking to the
controller is not part of them, nor is what the controller does meanwhile: it waits.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from harness.figures import figures
from harness.peers import ENTRIES
from harness.work import Work, fingerprint

BATCH_S = 0.1
"""Short work is repeated for about this long, and the median of the batch is one sample."""
WARM_S = 0.02
SHORT_S = 0.3
"""While others were sampled, this host's cores, caches and workers have served them. Work that is
shorter than `SHORT_S` is done untimed for about `WARM_S` first, by every peer alike."""


def main() -> None:
    """Serve until the input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("figure")
    parser.add_argument("peer")
    parser.add_argument("workers", type=int)
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    # What the work prints must not end up among the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    figure = figures(args.workers, args.smoke)[args.figure]
    work = figure.work
    assert work is not None
    peer = ENTRIES[args.peer].load()(args.peer, work, args.workers)
    if not hasattr(peer, work.verb):
        answer(left_out=f"has no way to do {work.verb!r}")
        return
    try:
        peer.open()
    except NotImplementedError as reason:
        answer(left_out=str(reason))
        return
    try:
        # A loop over the calls is part of the work only where there is one.
        run = peer.run if work.calls > 1 else getattr(peer, work.verb)
        start = time.perf_counter()
        result = run()
        once = time.perf_counter() - start
        known = fingerprint(work, result)
        del result
        # The first calls still start things; of what takes long, one look is enough.
        for _ in range(3 if once < SHORT_S else 1 if once < 3 else 0):
            once = min(once, one(run, work))
        module = sys.modules.get("shmmap")
        where = None if module is None else module.__file__
        sample_s = count(work, once) * (once + work.pause_s)
        answer(ready=known, n=peer.n, sample_s=sample_s, where=where)
        for line in sys.stdin:
            if line.startswith("expect"):
                peer.shorten(int(line.split()[1]))
                answer(known=fingerprint(work, run()))
                peer.shorten(work.shape[0])
                continue
            once = warm(run, work, once)
            times = [one(run, work) for _ in range(count(work, once))]
            answer(seconds=statistics.median(times) / peer.works)
    finally:
        peer.close()


def count(work: Work, once: float) -> int:
    """How often the work is done for one sample."""
    return max(work.in_a_row, min(1000, int(BATCH_S / (once + work.pause_s))))


def warm(run: Callable[[], Any], work: Work, once: float) -> float:
    """Do short work untimed, for a moment; the least time it has taken by now is returned.

    What seemed to take 100 ms, as all hosts started at once, may take 100 us.
    """
    stop = time.perf_counter() + WARM_S
    while once < SHORT_S and time.perf_counter() < stop:
        once = min(once, one(run, work))
    return once


def one(run: Callable[[], Any], work: Work) -> float:
    """Do the work once; seconds."""
    if work.pause_s:
        time.sleep(work.pause_s)
    start = time.perf_counter()
    result = run()
    if work.drops:
        del result
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
