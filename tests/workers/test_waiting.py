"""A worker that waits sleeps: it takes no time from others."""

from __future__ import annotations

import os
import threading
import time

import numpy as np

import shmmap


def cpu_times(team: shmmap.Team) -> dict[int, float]:
    """CPU seconds of each worker so far."""
    used = shmmap.pmap(
        lambda _: (os.getpid(), time.process_time()),
        range(2),
        chunksize=1,
        schedule="static",
        engine=team,
        out=list,
    )
    return dict(used)


def test_one_that_waits_for_the_output_while_another_map_is_queued() -> None:
    """The record of the later call lies in its pipe, and must not end every wait."""

    def large(i: int) -> np.ndarray:
        if i == 0:
            time.sleep(1)  # the other one cannot know yet where its result goes
        return np.zeros(1 << 17)  # more than is handed over without knowing

    with shmmap.Team(2) as team:
        before = cpu_times(team)
        later: dict[int, float] = {}
        timer = threading.Timer(0.2, lambda: later.update(cpu_times(team)))
        timer.start()
        shmmap.pmap(large, np.arange(2), chunksize=1, schedule="static", engine=team)
        timer.join()
    assert later.keys() == before.keys()
    assert all(later[pid] - before[pid] < 0.25 for pid in before)
