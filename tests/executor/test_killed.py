"""Workers are killed at any moment while they take submitted functions: none is lost, and none runs twice."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap import Team


def count(cells: Any, i: int) -> int:
    cells[i] += 1
    return i


def link_pids(team: Team) -> list[int]:
    return [link.pid for link in [*team._team.workers.links.values()] if link.pid]


@pytest.mark.parametrize("start", ["clean", "fork"])
def test_each_runs_once_or_is_lost_with_its_worker(start: str) -> None:
    seed = random.randrange(1 << 30)
    draw = random.Random(seed)
    cells = shmmap.zeros(1500, np.int64)
    is_over = threading.Event()
    with Team(3, start=start) as team:
        team.submit(abs, 0).result(60)

        def kill() -> None:
            for _ in range(6):
                is_over.wait(draw.random() * 0.05)
                with suppress(ProcessLookupError, IndexError):
                    os.kill(draw.choice(link_pids(team)), signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        futures = [team.submit(count, cells, i) for i in range(len(cells))]
        errors = [future.exception(60) for future in futures]
        is_over.set()
        killer.join()
        team._team.validate()
    for i, (error, begun) in enumerate(zip(errors, cells.tolist(), strict=True)):
        assert begun == 1 if error is None else begun <= 1, (seed, i, error)
        assert error is None or isinstance(error, shmmap.WorkerDied), (seed, i)


def test_one_that_is_waited_for_fails_as_its_worker_dies() -> None:
    with Team(2) as team:
        future = team.submit(time.sleep, 60)
        shmmap.testing.wait_until(future.running)
        slots = team._team.workers.channels.slots
        assert slots is not None
        rank = next(rank for rank in range(2) if slots.taken(rank) == future.number)
        threading.Timer(0.1, os.kill, (team._team.workers.links[rank].pid, signal.SIGKILL)).start()
        with pytest.raises(shmmap.WorkerDied, match="SIGKILL"):
            future.result(60)
        assert team.submit(abs, -1).result(60) == 1


def test_a_function_does_not_wait_behind_a_map_that_came_after_it() -> None:
    """Idle workers are woken for both, and the one that reads the function is in the map, too."""
    gate = shmmap.zeros(2, bool)

    def hold(i: int) -> int:
        while not gate[0]:
            time.sleep(0.001)
        return i

    with Team(1) as team:
        assert list(team.map(abs, [-1])) == [1]
        for _ in range(20):
            gate[:] = False
            quick = team.submit(abs, -2)
            work = shmmap.pmap(hold, range(1), engine=team, wait=False)
            assert quick.result(60) == 2
            gate[0] = True
            assert work.result(60) == [0]
