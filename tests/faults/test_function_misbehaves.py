"""Faults 14 to 16: the function is of an odd kind, maps itself, or changes its process."""

from __future__ import annotations

import functools
import operator
import os
import signal
import sys
import threading
import time
from pathlib import Path
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
    IgnoreSignals,
    StartThread,
    wait_until,
)
from tests import functions
from tests.helpers import (
    assert_next_map_works,
    assert_same,
    in_time,
)

N = 16


class Test14And15WhatIsMapped:
    """Functions of every kind; one that cannot be pickled; one that maps itself."""

    def test_lambda_closure_and_method(self, team: Any) -> None:
        factor = 3

        class Scale:
            def times(self, i: Any) -> Any:
                return factor * i

        for func in (lambda i: 3 * i, Scale().times, functools.partial(operator.mul, 3)):
            assert_same(shmmap.pmap(func, np.arange(N), engine=team), 3 * np.arange(N))

    def test_function_that_cannot_be_pickled_says_why(self, team: Any) -> None:
        lock = threading.Lock()

        def func(i: Any) -> Any:
            with lock:
                return i

        with (
            in_time(),
            pytest.raises(TypeError, match=r"func cannot be sent.*lock.*engine='threads'"),
        ):
            shmmap.pmap(func, np.arange(N), engine=team)
        assert_same(shmmap.pmap(func, np.arange(N), engine="threads"), np.arange(N))
        assert_next_map_works(team)

    def test_map_inside_a_worker_is_serial(self, team: Any) -> None:
        def inner(i: Any) -> Any:
            return os.getpid(), shmmap.pmap(lambda k: os.getpid(), range(4), workers=2)

        with in_time():
            results = shmmap.pmap(inner, range(4), engine=team, chunksize=1)
        assert all(pids == [pid] * 4 for pid, pids in results)
        assert os.getpid() not in {pid for pid, _ in results}
        assert_next_map_works(team)


@pytest.mark.slow
def test_16_descriptors_closed_again_and_again(team: Any) -> None:
    for _ in range(3):
        with in_time():
            try:
                shmmap.pmap(CloseDescriptors(at=5), np.arange(N), engine=team, chunksize=1)
            except (shmmap.WorkerDied, OSError) as error:
                assert "descriptor" in str(error), error
        assert_next_map_works(team)


@pytest.mark.slow
def test_16_forks_in_every_call(team: Any) -> None:
    """No child ever draws a ticket, whether it returns or raises; and none of them is left."""
    calls = shmmap.zeros(60, int)
    fork = ForkAndReturn()

    def func(i: Any) -> Any:
        calls[i] += 1
        return fork(i)

    with in_time():
        assert_same(shmmap.pmap(func, np.arange(60), engine=team, chunksize=1), np.arange(60))
    assert (calls == 1).all()
    assert_next_map_works(team)


def test_16_what_it_changes_around_it_ends_with_the_call(team: Any) -> None:
    """Working directory, umask, environment, NumPy's errors, search path, signals and timers."""

    def look(_: Any = None) -> Any:
        os.umask(umask := os.umask(0))
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGALRM)]
        return (
            os.getcwd(),
            umask,
            os.environ.get("SHMMAP_FAULT"),
            os.environ["HOME"],
            np.geterr(),
            sys.path,
            [getattr(handler, "__name__", handler) for handler in handlers],
            signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        )

    def change(i: Any) -> None:
        os.chdir("/")
        os.umask(0o777)
        os.environ["SHMMAP_FAULT"] = "changed"
        del os.environ["HOME"]
        np.seterr(all="raise")
        sys.path.append("/nowhere")
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

    options: dict[str, Any] = {"engine": team, "chunksize": 1, "workers": 2, "schedule": "static"}
    before = shmmap.pmap(look, range(2), **options)
    assert before[0] == before[1]
    for _ in range(2):
        shmmap.pmap(change, range(2), **options)
        assert shmmap.pmap(look, range(2), **options) == before
        team.submit(change, 0).result()
        assert [team.submit(look).result() for _ in range(4)] == before * 2
    time.sleep(0.3)  # the timers would have gone off by now
    assert shmmap.pmap(look, range(2), **options) == before


def test_16_what_an_initializer_changes_stays(tmp_path: Path) -> None:
    def look(_: Any) -> Any:
        return os.getcwd(), os.environ.get("SHMMAP_FAULT"), np.geterr()["divide"]

    def start() -> None:
        os.chdir(tmp_path)
        os.environ["SHMMAP_FAULT"] = "mine"
        np.seterr(divide="raise")

    with shmmap.Team(workers=2, initializer=start) as team:
        expected = [(str(tmp_path), "mine", "raise")] * 4
        assert shmmap.pmap(look, range(4), engine=team) == expected
        shmmap.pmap(lambda i: os.chdir("/"), range(4), engine=team)
        assert shmmap.pmap(look, range(4), engine=team) == expected


class Test16Surroundings:
    """It changes what the worker shares with it."""

    @pytest.mark.few(2)
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

    @pytest.mark.slow
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


class Test16Signals:
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


@pytest.mark.slow
def test_15_a_team_in_a_worker_is_its_own(team: Any) -> None:
    """Maps in a worker are serial; what it submits to a team of its own has processes of its own."""

    def func(i: Any) -> bool:
        with shmmap.Team(workers=1) as mine:
            elsewhere = mine.submit(os.getpid).result(20)
            doubled = shmmap.pmap(functions.double, np.arange(10), engine=mine)
        return elsewhere != os.getpid() and doubled.tolist() == list(range(0, 20, 2))

    assert shmmap.pmap(func, [0, 1], engine=team) == [True, True]
