"""Faults 1 and 4: workers die all at once, again and again, at random moments; replacements are bounded."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap.testing import (
    KillSelf,
    wait_until,
)
from tests.helpers import assert_next_map_works, in_time, process_tree

from .common import times

N = 16


@pytest.fixture
def engine(process_engine: Any) -> Any:
    """Wherever processes do the work."""
    return process_engine


class Test4AllAtOnce:
    """All workers killed at once, repeatedly, or by each other."""

    def test_all_at_once(self, engine: Any) -> None:
        there = shmmap.zeros(2, int)

        def func(i: Any) -> None:
            there[i] = os.getpid()
            wait_until(there.all)
            # Dead already: its successor has not come.
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(there[1 - i]), signal.SIGKILL)
            wait_until(lambda: False, 10)

        with in_time(), pytest.raises(shmmap.WorkerDied, match="SIGKILL"):
            shmmap.pmap(func, np.arange(2), engine=engine, workers=2, chunksize=1)
        assert_next_map_works(engine)

    def test_every_item_kills(self, engine: Any) -> None:
        """A bounded number of replacements, then the error."""
        calls = shmmap.zeros(N, int)

        def func(i: Any) -> None:
            calls[i] += 1
            os.kill(os.getpid(), signal.SIGKILL)

        with in_time(), pytest.raises(shmmap.WorkerDied, match="SIGKILL"):
            shmmap.pmap(func, np.arange(N), engine=engine, workers=2, chunksize=1)
        assert calls.sum() <= 2 * N
        assert_next_map_works(engine)

    @pytest.mark.slow
    def test_again_and_again(self, engine: Any) -> None:
        for at in range(0, N, 4):
            with in_time(), pytest.raises(shmmap.WorkerDied):
                shmmap.pmap(KillSelf(at=at), range(N), engine=engine, workers=2)
        assert_next_map_works(engine)


@pytest.mark.slow
class Test4Bounded:
    """Replacements are bounded: a map whose every chunk kills gives up soon."""

    @pytest.mark.parametrize("schedule", ["dynamic", "static"])
    def test_each_chunk_kills_at_most_twice(self, engine: Any, schedule: str) -> None:
        calls = shmmap.zeros(6, int)

        def func(i: Any) -> Any:
            calls[i] += 1
            os.kill(os.getpid(), signal.SIGKILL)

        with in_time(), pytest.raises(shmmap.MapError) as caught:
            shmmap.pmap(
                func,
                np.arange(6),
                engine=engine,
                workers=2,
                chunksize=1,
                schedule=schedule,
                on_error="continue",
            )
        assert caught.value.failed == ((0, 6),)
        assert calls.max() <= 2
        assert_next_map_works(engine)


def kill_a_worker(rng: random.Random, team: Any) -> None:
    """Kill one of this process's workers: a process without children that the team started."""
    me = os.getpid()
    leaves = [
        pid
        for pid in process_tree(me) - {me}
        if len(process_tree(pid)) == 1 and "resource_tracker" not in command(pid)
    ]
    if leaves:
        with contextlib.suppress(ProcessLookupError):  # replaced meanwhile
            os.kill(rng.choice(leaves), signal.SIGKILL)


def command(pid: int) -> str:
    """The command line of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


@pytest.mark.slow
@pytest.mark.timeout(900)
class Test1And4RandomMoments:
    """SIGKILL of workers at random moments: NumPy's result, or the exact ranges that are missing."""

    @pytest.mark.parametrize("start", ["clean", "fork"])
    @pytest.mark.parametrize("schedule", ["dynamic", "static"])
    def test_result_or_exact_ranges(self, start: str, schedule: str) -> None:
        rng = random.Random(7)
        x = shmmap.asshared(np.arange(300_000))
        expected = -np.asarray(x)
        wrong: list[Any] = []

        def func(chunk: Any) -> Any:
            time.sleep(0.0005)
            return -chunk

        with shmmap.Team(workers=2, start=start) as team:
            assert_next_map_works(team)
            for _ in range(times(6, 125)):
                out = shmmap.full(len(x), 1)
                future = shmmap.pmap_chunks(
                    func, x, out=out, engine=team, chunksize=2000, schedule=schedule, wait=False
                )
                for _ in range(rng.randint(1, 3)):
                    time.sleep(rng.random() * 0.02)  # the moment is the point
                    kill_a_worker(rng, team)
                try:
                    future.result(timeout=20)
                    failed = np.zeros(len(x), bool)
                except shmmap.WorkerDied as error:
                    failed = np.zeros(len(x), bool)
                    for a, b in error.failed:
                        failed[a:b] = True
                    assert failed.any()
                wrong.extend(np.flatnonzero((out != expected) & ~failed))
                assert not wrong
            assert_next_map_works(team)
