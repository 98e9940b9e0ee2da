"""The function misbehaves: it survives or is reported, and the next map works.

What all engines share (ordinary and odd exceptions, wrong results) is in ``tests/engines``.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap._worker.prepare import HIGH_FD
from shmmap.testing import (
    ChangeDirectory,
    CloseDescriptors,
    Flood,
    ForkAndReturn,
    HoldGil,
    IgnoreSignals,
    KillSelf,
    StartThread,
    StopSelf,
    wait_until,
)
from tests.helpers import assert_next_map_works, assert_same, in_time

pytestmark = pytest.mark.quick

N = 16


class Test16Surroundings:
    """It changes what the worker shares with it."""

    @pytest.mark.parametrize(
        "fault",
        [
            ChangeDirectory("/"),
            IgnoreSignals(),
            StartThread(0.5),
            Flood(1 << 18),
            ForkAndReturn(at=5),
        ],
        ids=repr,
    )
    def test_survives(self, team: Any, fault: Any, capfd: Any) -> None:
        with in_time():
            result = shmmap.pmap(fault, np.arange(N), engine=team, chunksize=1)
            assert_same(result, np.arange(N))
        assert_next_map_works(team)

    def test_forked_child_never_draws(self, team: Any) -> None:
        calls = shmmap.zeros(200, int)
        fork = ForkAndReturn(at=5)

        def func(i: Any) -> Any:
            calls[i] += 1
            return fork(i)

        with in_time():
            assert_same(shmmap.pmap(func, np.arange(200), engine=team, chunksize=1), np.arange(200))
        assert (calls == 1).all()
        assert_next_map_works(team)

    def test_closed_descriptors(self, team: Any) -> None:
        """Everything the worker stands on is gone: right, or reported in time."""
        with in_time():
            try:
                result = shmmap.pmap(CloseDescriptors(at=5), np.arange(N), engine=team, chunksize=1)
            except (shmmap.WorkerDied, OSError):
                pass
            else:
                assert_same(result, np.arange(N))
        assert_next_map_works(team)

    @pytest.mark.parametrize("schedule", ["dynamic", "static"])
    def test_descriptors_that_became_others(self, team: Any, tmp_path: Any, schedule: Any) -> None:
        """Each of them in turn is a file of the function's own all of a sudden."""

        def high() -> list[int]:
            return sorted(fd for fd in map(int, os.listdir("/proc/self/fd")) if fd >= HIGH_FD)

        def count(i: Any) -> int:
            return len(high())

        path = tmp_path / "file"
        path.write_bytes(bytes(1 << 16))
        number = shmmap.pmap(count, [0], engine=team)[0]
        assert number >= 8
        for k in range(number):

            def func(i: Any, k: int = k) -> Any:
                if i == 5:
                    fd = os.open(path, os.O_RDWR)
                    os.dup2(fd, high()[k])
                    os.close(fd)
                return i

            with in_time():
                try:
                    result = shmmap.pmap(
                        func, np.arange(N), engine=team, chunksize=1, schedule=schedule
                    )
                except (shmmap.WorkerDied, OSError):
                    pass
                else:
                    assert_same(result, np.arange(N))
                assert_next_map_works(team)

    def test_ignored_signals_do_not_keep_a_worker(self) -> None:
        with shmmap.Team(workers=2) as team:
            shmmap.pmap(IgnoreSignals(), np.arange(N), engine=team, chunksize=1)
        # The leak guard looks for what is left.


class Test17HeldGil:
    """It holds the GIL for long."""

    def test_death_of_another_worker_is_noticed(self, team: Any) -> None:
        held = shmmap.zeros(2, bool)
        hold, kill = HoldGil(8), KillSelf()

        def func(i: Any) -> None:
            held[i] = True
            wait_until(held.all)
            (hold if i == 0 else kill)(i)

        with in_time(), pytest.raises(shmmap.WorkerDied, match="SIGKILL"):
            shmmap.pmap(func, np.arange(2), engine=team, chunksize=1)
        assert_next_map_works(team)

    def test_team_can_end(self) -> None:
        entered = shmmap.zeros(1, bool)

        def func(i: Any) -> None:
            entered[0] = True
            HoldGil(20)(i)

        with in_time(8), shmmap.Team(workers=1) as team:
            future = shmmap.pmap(func, [0], engine=team, wait=False)
            wait_until(lambda: entered[0])
            future.cancel()


class TestStopped:
    """It stops, deaf to everything."""

    def test_cancel_ends_the_map(self, team: Any) -> None:
        entered = shmmap.zeros(N, bool)
        stop = StopSelf(at=3)

        def func(i: Any) -> Any:
            entered[i] = True
            return stop(i)

        future = shmmap.pmap(func, np.arange(N), engine=team, chunksize=1, wait=False)
        wait_until(lambda: entered[3])
        with in_time():
            assert future.cancel()
            assert_next_map_works(team)


class Test9Error:
    """An ordinary exception stops the map soon."""

    def test_running_chunks_below_get_a_chance(self, team: Any) -> None:
        """The lower index fails later, and is the one to be raised."""
        failed = shmmap.zeros(1, bool)

        def func(i: Any) -> None:
            if i == 0:
                wait_until(lambda: failed[0])
                time.sleep(0.05)  # by now the failure of item 1 has been reported
                raise KeyError("item 0")
            failed[0] = True
            raise ValueError("item 1")

        with in_time(), pytest.raises(KeyError, match="item 0"):
            shmmap.pmap(func, np.arange(2), engine=team, chunksize=1)
        assert_next_map_works(team)

    def test_few_further_chunks_start(self, team: Any) -> None:
        """At most one further chunk per worker, but for those under way."""
        raised = shmmap.zeros(1, bool)
        later = shmmap.zeros(10_000, bool)

        def func(i: Any) -> None:
            if raised[0]:
                later[i] = True
                time.sleep(0.01)
            if i == 20:
                raised[0] = True
                raise ValueError("twenty")

        with in_time(), pytest.raises(ValueError, match="twenty"):
            shmmap.pmap(func, np.arange(10_000), engine=team, chunksize=1)
        assert later.sum() <= 20
        assert_next_map_works(team)

    def test_chunk_below_that_never_ends_is_not_waited_for(self, team: Any) -> None:
        entered = shmmap.zeros(2, bool)

        def func(i: Any) -> None:
            entered[i] = True
            wait_until(entered.all)
            if i == 0:
                wait_until(lambda: False, 30)
            raise ValueError("item 1")

        with in_time(), pytest.raises(ValueError, match="item 1"):
            shmmap.pmap(func, np.arange(2), engine=team, chunksize=1)
        assert_next_map_works(team)

    def test_notes_name_the_worker(self, team: Any) -> None:
        pids = shmmap.zeros(1, int)

        def func(i: Any) -> None:
            pids[0] = os.getpid()
            raise ValueError("on purpose")

        with pytest.raises(ValueError, match="on purpose") as caught:
            shmmap.pmap(func, np.arange(1), engine=team)
        notes = "\n".join(caught.value.__notes__)
        assert str(pids[0]) in notes
        assert "raise ValueError" in notes, "the remote traceback"
        assert "func" in notes


class TestSignals:
    """Signals meant for the caller's group reach idle and busy workers too."""

    def test_sigint_to_a_worker_is_no_harm(self, team: Any) -> None:
        ready = shmmap.zeros(2, int)

        def func(i: Any) -> Any:
            ready[i] = os.getpid()
            wait_until(ready.all)
            os.kill(os.getpid(), signal.SIGINT)
            return i

        with in_time():
            assert_same(shmmap.pmap(func, np.arange(2), engine=team, chunksize=1), np.arange(2))
        assert_next_map_works(team)
