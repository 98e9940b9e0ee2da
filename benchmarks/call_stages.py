"""Where the time of a call goes: before the workers are woken, while they work, after.

    python benchmarks/call_stages.py

Both workers stamp their half of a tiny shared array, call after call. The caller is timed at its system
calls, in microseconds, medians; the processor time of each process comes from the kernel's account. Beside
it, in the same run: forked processes and pipes by bare hands.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import machine, work
from harness.peers.bare import Crew

import shmmap

WORKERS = 2
CALLS = 3000
ROUNDS = 5

now = time.perf_counter


def call(x: Any) -> None:
    """The call that is taken apart."""
    shmmap.pmap_chunks(
        work.stamp, x, chunksize=-(-len(x) // WORKERS), schedule="static", workers=WORKERS
    )


def stages(x: Any) -> list[float]:
    """Seconds before the first wake, between that and the wait, in the wait, and after; medians."""
    write, read = os.write, os.read
    times: list[float] = []

    def timed_write(fd: int, data: bytes) -> int:
        times.append(now())
        return write(fd, data)

    def timed_read(fd: int, nbytes: int) -> bytes:
        times.append(now())
        data = read(fd, nbytes)
        times.append(now())
        return data

    rows = []
    os.write, os.read = timed_write, timed_read
    try:
        for _ in range(CALLS):
            times.clear()
            began = now()
            call(x)
            ended = now()
            if 3 <= len(times) <= WORKERS + 2:  # else the monitor had something to say
                rows.append(
                    (
                        times[0] - began,
                        times[-2] - times[0],
                        times[-1] - times[-2],
                        ended - times[-1],
                    )
                )
    finally:
        os.write, os.read = write, read
    return [statistics.median(column) for column in zip(*rows, strict=True)]


def processor_times(pids: list[int]) -> list[float]:
    """Seconds each process has had a processor."""
    return [int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9 for pid in pids]


def per_call(task: Callable[[], Any], pids: list[int]) -> tuple[float, list[float]]:
    """Seconds of a call, and of processor time in each process."""
    before = processor_times(pids)
    began = now()
    for _ in range(CALLS):
        task()
    took = now() - began
    used = [b - a for a, b in zip(before, processor_times(pids), strict=True)]
    return took / CALLS, [each / CALLS for each in used]


def main() -> None:
    """Measure, and print."""
    x = shmmap.zeros(2 * WORKERS)
    y = np.zeros(2 * WORKERS)
    size = len(x) // WORKERS
    crew = Crew(WORKERS, lambda rank, _: work.stamp(y[rank * size : (rank + 1) * size]))
    pids = [os.getpid(), *(int(pid) for pid in set(shmmap.pmap(_pid, range(64), workers=WORKERS)))]
    for _ in range(300):
        call(x)
        crew.call()
    rows = []
    for _ in range(ROUNDS):
        wall, used = per_call(lambda: call(x), pids)
        bare, _ = per_call(crew.call, pids)
        rows.append((wall, *stages(x), used[0], statistics.mean(used[1:]), bare))
    crew.end()
    names = (
        "a call",
        "  before the first wake",
        "  waking",
        "  waiting for the last worker",
        "  after",
        "processor time of the caller",
        "processor time of a worker",
        "the same by bare hands",
    )
    print(", ".join(f"{key}: {value}" for key, value in machine.describe().items()))
    for name, column in zip(names, zip(*rows, strict=True), strict=True):
        print(f"{name:32s} {statistics.median(column) * 1e6:6.1f} us")


def _pid(_: int) -> int:
    time.sleep(1e-3)
    return os.getpid()


if __name__ == "__main__":
    main()
