"""Faults 1 and 4: what is done stays done, whoever dies when, and the error gives it out."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap.testing import (
    KillSelf,
    KillWhenPickled,
    StopSelf,
    wait_until,
)
from tests.helpers import assert_next_map_works, assert_same, in_time

N = 16


@pytest.fixture
def engine(process_engine: Any) -> Any:
    """Wherever processes do the work."""
    return process_engine


class Test1And4FinishedWork:
    """What is done stays done: no chunk that is finished is run again, whoever dies when."""

    @pytest.mark.slow
    @pytest.mark.parametrize("schedule", ["dynamic", "static"])
    @pytest.mark.parametrize("workers", [1, 2])
    def test_in_place_every_chunk_runs_once(self, engine: Any, schedule: str, workers: int) -> None:
        """A function that is applied twice would show: there is no way back in place."""
        x = shmmap.asshared(np.arange(40))
        kills = {7, 23}

        def func(chunk: Any) -> Any:
            if int(chunk[0]) in kills:
                os.kill(os.getpid(), signal.SIGKILL)
            return chunk + 1000

        with in_time(), pytest.raises(shmmap.MapError) as caught:
            shmmap.pmap_chunks(
                func,
                x,
                out=x,
                engine=engine,
                workers=workers,
                chunksize=1,
                schedule=schedule,
                on_error="continue",
            )
        assert caught.value.failed == ((7, 8), (23, 24))
        expected = np.arange(40) + 1000
        expected[[7, 23]] -= 1000
        assert_same(np.array(x), expected)
        assert_next_map_works(engine)

    @pytest.mark.parametrize("schedule", ["dynamic", "static"])
    def test_lost_chunk_is_run_again_where_that_is_safe(self, engine: Any, schedule: str) -> None:
        calls = shmmap.zeros(40, int)

        def func(i: Any) -> Any:
            calls[i] += 1
            if i == 23 and calls[i] == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return i * 3

        out = shmmap.zeros(40, int)
        with in_time():
            shmmap.pmap(
                func,
                np.arange(40),
                out=out,
                engine=engine,
                workers=2,
                chunksize=1,
                schedule=schedule,
            )
        assert_same(np.array(out), np.arange(40) * 3)
        assert calls[23] == 2
        assert calls.sum() == 41

    @pytest.mark.parametrize("at", [0, 5])
    @pytest.mark.parametrize("workers", [1, 2])
    def test_death_while_a_failure_is_told(self, engine: Any, at: int, workers: int) -> None:
        """The map had been stopped for it; its chunk is done again, which takes its time, and the others."""
        tries = shmmap.zeros(N, int)

        def func(i: Any) -> int:
            tries[i] += 1
            if i == at:
                if tries[i] == 1:
                    raise KillWhenPickled
                time.sleep(1.5)  # longer than chunks get that are at work when another one fails
            return 2 * int(i)

        for items in (np.arange(N), list(range(N))):
            tries[:] = 0
            with in_time():
                result = shmmap.pmap(func, items, engine=engine, workers=workers, chunksize=1)
            assert list(result) == list(range(0, 2 * N, 2))
            assert tries[at] == 2
            assert tries[at + 1 :].max() == 1, "only what it had begun is done again"
        assert_next_map_works(engine)

    @pytest.mark.parametrize("schedule", ["dynamic", "static"])
    @pytest.mark.parametrize("fault", [KillSelf(), StopSelf()], ids=["dies", "is stuck"])
    def test_ranges_that_are_done_stay_done(self, engine: Any, schedule: str, fault: Any) -> None:
        """Also those whose results would have been handed over together with others."""
        runs = shmmap.zeros(100, int)

        def func(start: int, stop: int) -> int:
            runs[start:stop] += 1
            if start == 52:
                fault(start)
            return start

        with in_time(), pytest.raises(shmmap.MapError) as caught:
            shmmap.pmap_ranges(
                func,
                100,
                engine=engine,
                workers=2,
                chunksize=2,
                schedule=schedule,
                timeout=0.4,
                on_error="continue",
            )
        assert caught.value.failed == ((52, 54),)
        assert runs.tolist() == [1] * 100
        assert_next_map_works(engine)

    @pytest.mark.parametrize("first", ["dies", "is stuck"])
    @pytest.mark.parametrize("verb", ["pmap", "pmap_chunks"])
    @pytest.mark.parametrize("on_error", ["raise", "continue"])
    def test_failure_after_a_loss(self, engine: Any, first: str, verb: str, on_error: str) -> None:
        """A loss leaves a chunk its retries; once it has failed in spite of them, that is told."""
        tries = shmmap.zeros(1, int)

        def func(value: Any) -> Any:
            if np.all(value == 5):
                tries[0] += 1
                if tries[0] == 1:
                    (KillSelf() if first == "dies" else StopSelf())(value)
                raise KeyError("five")
            return value

        error = KeyError if on_error == "raise" else shmmap.MapError
        options: dict[str, Any] = {"timeout": 0.3} if first == "is stuck" else {}
        with in_time(), pytest.raises(error) as caught:
            getattr(shmmap, verb)(
                func,
                np.arange(N),
                engine=engine,
                workers=2,
                chunksize=1,
                retries=1,
                on_error=on_error,
                **options,
            )
        if isinstance(caught.value, shmmap.MapError):
            assert caught.value.failed == ((5, 6),)
            assert [type(each) for each in caught.value.exceptions] == [KeyError]
        assert tries[0] == 3
        assert_next_map_works(engine)

    @pytest.mark.slow
    def test_loss_for_good_beside_one_that_is_made_up_for(self, engine: Any) -> None:
        """The map has no more than a second left; that another chunk is done again does not change it."""
        n = 60
        done, lost = shmmap.zeros(n, bool), shmmap.zeros(n, int)

        def func(value: Any) -> Any:
            i = int(value)
            if i == 0 or (i == n // 2 and not lost[i]):
                if i:
                    wait_until(lambda: lost[0] > 1)
                    time.sleep(0.2)  # the other loss is known by now
                lost[i] += 1
                KillSelf()(value)
            time.sleep(0.2)
            done[i] = True
            return value

        with in_time(), pytest.raises(shmmap.WorkerDied) as caught:
            shmmap.pmap(
                func, np.arange(n), engine=engine, workers=2, chunksize=1, schedule="static"
            )
        assert caught.value.failed[0][0] == 0
        assert done.sum() < n // 2
        assert_next_map_works(engine)

    @pytest.mark.slow
    def test_ranges_lost_in_place_may_be_partly_written(self, engine: Any) -> None:
        """1: the error says so, and the ranges next to it are whole."""
        x = shmmap.zeros(40)

        def func(start: int, stop: int) -> None:
            x[start] = 1
            if start == 20:
                os.kill(os.getpid(), signal.SIGKILL)
            x[start:stop] = 1

        with in_time(), pytest.raises(shmmap.MapError, match=r"\[20, 30\)") as caught:
            shmmap.pmap_ranges(
                func, 40, engine=engine, workers=2, chunksize=10, on_error="continue"
            )
        assert caught.value.failed == ((20, 30),)
        assert x.tolist() == [1.0] * 21 + [0.0] * 9 + [1.0] * 10


class Test1WhatSurvives:
    """What a `WorkerDied` carries."""

    def test_partial_result(self, engine: Any) -> None:
        done = shmmap.zeros(N, bool)

        def func(i: Any) -> Any:
            if i == 0:  # the first ticket is drawn alone; later draws may hold several
                wait_until(lambda: done.sum() >= N - 1)
                os.kill(os.getpid(), signal.SIGKILL)
            done[i] = True
            return i * 10

        with in_time(), pytest.raises(shmmap.WorkerDied) as caught:
            shmmap.pmap(func, np.arange(N), engine=engine, workers=2, chunksize=1)
        failed = np.zeros(N, bool)
        for start, stop in caught.value.failed:
            failed[start:stop] = True
        assert failed[0]
        if caught.value.result is not None:
            result = np.asarray(caught.value.result)
            assert (result[~failed] == 10 * np.flatnonzero(~failed)).all()

    def test_it_pickles(self, team: Any) -> None:
        import pickle

        with pytest.raises(shmmap.WorkerDied) as caught:
            shmmap.pmap(KillSelf(at=3), range(N), engine=team)
        again = pickle.loads(pickle.dumps(caught.value))
        assert str(again) == str(caught.value)
        assert again.failed == caught.value.failed
