"""A team has the face of an executor: what is submitted, and what others use an executor for."""

from __future__ import annotations

import concurrent.futures
import itertools
import os
import pickle
import threading
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap.testing import wait_until
from tests import functions
from tests.helpers import assert_same

Team = shmmap.Team


def test_it_is_an_executor(team: Team) -> None:
    assert isinstance(team, concurrent.futures.Executor)
    assert team.size == 2


def test_submit(team: Team) -> None:
    future = team.submit(divmod, 17, 5)
    assert isinstance(future, concurrent.futures.Future)
    assert future.result(timeout=20) == (3, 2)
    assert team.submit(int, "ff", base=16).result(timeout=20) == 255
    with pytest.raises(ZeroDivisionError):
        team.submit(divmod, 1, 0).result(timeout=20)
    assert isinstance(team.submit(divmod, 1, 0).exception(timeout=20), ZeroDivisionError)


def test_submitted_calls_run_at_the_same_time(team: Team) -> None:
    met = shmmap.zeros(2, bool)

    def meet(i: int) -> int:
        met[i] = True
        wait_until(met.all)
        return os.getpid()

    first, second = [team.submit(meet, i) for i in range(2)]
    assert first.result(timeout=20) != second.result(timeout=20)


def test_many_calls(team: Team) -> None:
    futures = [team.submit(pow, i, 2) for i in range(500)]
    assert [future.result(timeout=20) for future in futures] == [i * i for i in range(500)]
    assert {*concurrent.futures.as_completed(futures)} == {*futures}


def test_map_is_the_executors(team: Team) -> None:
    results = team.map(pow, range(20), [2] * 100, chunksize=3)
    assert next(results) == 0
    assert list(results) == [i * i for i in range(1, 20)]
    assert list(team.map(str, [])) == []
    results = team.map(lambda i: 1 // i, [1, 0, 1])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_the_shortest_iterable_ends_a_map(team: Team) -> None:
    assert list(team.map(pow, [1, 2, 3], itertools.repeat(2))) == [1, 4, 9]
    assert list(team.map(pow, iter([1, 2, 3]), itertools.count(), buffersize=4)) == [1, 2, 9]
    assert list(team.map(pow, [], itertools.repeat(2))) == []


def test_map_keeps_to_its_timeout(team: Team) -> None:
    go_on = shmmap.zeros(1, bool)
    results = team.map(lambda i: wait_until(lambda: go_on[0]), range(2), timeout=0.2)
    with pytest.raises(concurrent.futures.TimeoutError):
        list(results)
    go_on[0] = True


def test_serves_as_a_solver_uses_a_map(team: Team) -> None:
    """SciPy calls ``workers(func, rows)`` and makes an array of what comes back."""
    rows = np.arange(30.0).reshape(10, 3)
    for _ in range(3):
        energies = np.fromiter(team.map(lambda row: float((row**2).sum()), rows), float)
        assert_same(energies, (rows**2).sum(axis=1))
        rows = rows + 1


def test_serves_as_the_executor_of_an_event_loop(team: Team) -> None:
    import asyncio

    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(team, pow, i, 2) for i in range(5)))

    assert asyncio.run(main()) == [0, 1, 4, 9, 16]


def test_shared_arrays_cross_as_handles(team: Team) -> None:
    a = shmmap.zeros(100_000)

    def write(view: Any, value: float) -> Any:
        view[:] = value
        return view[::-1]

    back = team.submit(write, a[10:], 5.0).result(timeout=20)
    assert (a[10:] == 5).all() and (a[:10] == 0).all()
    a[10:] = 6
    assert (back == 6).all()
    assert team.submit(lambda: a.sum()).result(timeout=20) == a.sum()


def test_a_call_that_has_not_started_can_be_cancelled(team: Team) -> None:
    go_on = shmmap.zeros(1, bool)
    running = [team.submit(lambda: wait_until(lambda: go_on[0])) for _ in range(2)]
    waiting = [team.submit(pow, 2, 3) for _ in range(50)]
    assert waiting[-1].cancel()
    go_on[0] = True
    assert [future.result(timeout=20) for future in running] == [None, None]
    assert waiting[0].result(timeout=20) == 8
    with pytest.raises(concurrent.futures.CancelledError):
        waiting[-1].result(timeout=20)


def test_calls_and_maps_share_a_team(team: Team) -> None:
    calls = [team.submit(pow, i, 2) for i in range(50)]
    result = shmmap.pmap(functions.double, np.arange(1000), engine=team, chunksize=1)
    assert_same(result, np.arange(1000) * 2)
    assert [call.result(timeout=20) for call in calls] == [i * i for i in range(50)]


def test_arguments_that_cannot_be_pickled(team: Team) -> None:
    with pytest.raises((TypeError, pickle.PicklingError)):
        team.submit(len, threading.Lock()).result(timeout=20)  # type: ignore[arg-type]
    with pytest.raises((TypeError, pickle.PicklingError)):
        team.submit(threading.Lock).result(timeout=20)
    assert team.submit(pow, 2, 3).result(timeout=20) == 8
