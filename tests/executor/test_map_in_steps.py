"""`Team.map`: whoever asks for the next result waits for it, and no thread where none is needed."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import shmmap
from shmmap import Team
from shmmap._team.open_maps import OPEN_MAX
from shmmap.testing import KillSelf, wait_until
from tests.helpers import assert_next_map_works, in_time

N = 12


@pytest.fixture
def gates() -> Iterator[Any]:
    """Shared memory: which items have begun, and which may end."""
    yield shmmap.zeros((2, 64), bool)


@pytest.fixture
def gated(gates: Any) -> Any:
    """A function that returns its item once it may, and takes long enough that each is drawn alone."""

    def func(i: int) -> int:
        gates[0, i] = True
        time.sleep(0.002)
        wait_until(lambda: gates[1, i], 30)
        return i

    return func


def waiting_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "shmmap-map"]


def wait_until_over(team: Team) -> None:
    wait_until(team._team.open_maps.is_empty)
    wait_until(lambda: not waiting_threads())


def test_nobody_waits_but_who_asks(team: Team, gates: Any, gated: Any) -> None:
    threads = threading.enumerate()  # another test's may be about to end
    results = team.map(gated, range(N), chunksize=1)
    for i in range(N):
        gates[1, i] = True
        assert next(results) == i
    assert list(results) == []
    new = [thread.name for thread in threading.enumerate() if thread not in threads]
    assert "shmmap-map" not in new


@pytest.mark.parametrize("at", [0, 1, 2, 5])
def test_what_was_put_before_a_dear_item_comes_at_once(
    team: Team, gates: Any, gated: Any, at: int
) -> None:
    """A result that comes while others were told just now must not wait for the item after it."""
    gates[1, :] = True
    gates[1, [at, at + 6]] = False
    with in_time():
        results = team.map(gated, range(N), chunksize=1)
        for i in range(at):
            assert next(results) == i
        wait_until(lambda: gates[0, at])
        gates[1, at] = True
        for i in range(at, at + 6):
            assert next(results) == i
        assert not gates[1, at + 6]
        gates[1, at + 6] = True
        assert list(results) == list(range(at + 6, N))


def test_it_goes_on_while_nobody_asks(team: Team) -> None:
    """Also where workers need room for their results."""
    done = shmmap.zeros(N, bool)

    def large(i: int) -> bytes:
        done[i] = True
        return bytes([i]) * (3 << 20)

    results = team.map(large, range(N), chunksize=1)
    wait_until(done.all, 30)
    assert [value[0] for value in results] == list(range(N))
    wait_until_over(team)


@pytest.mark.slow
def test_records_fill_shelf_and_pipe_while_nobody_asks(team: Team) -> None:
    """A pipe takes 1,170 of them, and a shelf 64; each item is long enough to have one of its own."""
    n = 1600
    done = shmmap.zeros(n, bool)

    def each(i: int) -> int:
        time.sleep(0.002)
        done[i] = True
        return i

    results = team.map(each, range(n), chunksize=1)
    wait_until(done.all, 30)
    assert list(results) == list(range(n))


def test_what_workers_print_does_not_wait(
    team: Team, gates: Any, gated: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def speak(i: int) -> int:
        print(f"item {i}", flush=True)
        return int(gated(i))

    heard = ""

    def hear() -> bool:
        nonlocal heard
        heard += capsys.readouterr().out
        return "item 0" in heard and "item 1" in heard

    results = team.map(speak, range(2), chunksize=1)
    wait_until(hear)
    gates[1, :] = True
    assert list(results) == [0, 1]


@pytest.mark.parametrize("asked", [0, 3])
def test_results_are_there_after_the_team_was_shut_down(
    team: Team, gates: Any, gated: Any, asked: int
) -> None:
    gates[1, :] = True
    results = team.map(gated, range(N), chunksize=1)
    first = [next(results) for _ in range(asked)]
    team.shutdown(wait=True)
    assert first + list(results) == list(range(N))


def test_a_failure_is_raised_at_its_item_whoever_waited(team: Team) -> None:
    def func(i: int) -> int:
        if i == 7:
            raise LookupError("seven")
        return i

    results = team.map(func, range(N), chunksize=1)
    team.shutdown(wait=True)
    got = []
    with pytest.raises(LookupError, match="seven"):
        for each in results:
            got.append(each)
    assert got == list(range(len(got))) and len(got) <= 7
    assert list(results) == []


def test_many_maps_that_nobody_asks_for(team: Team) -> None:
    """The last one begins although those before it have not been asked for."""
    with in_time(30):
        maps = [team.map(abs, range(-i, 0)) for i in range(1, 2 * OPEN_MAX)]
        assert list(maps[-1]) == [*range(2 * OPEN_MAX - 1, 0, -1)]
        for i, results in enumerate(maps[:-1], 1):
            assert list(results) == [*range(i, 0, -1)]
    wait_until_over(team)


def test_what_nobody_has_asked_for_is_done(team: Team) -> None:
    done = shmmap.zeros(N, int)

    def func(i: int) -> None:
        done[i] += 1

    team.map(func, range(N), chunksize=1)
    wait_until_over(team)
    assert done.tolist() == [1] * N


@pytest.mark.parametrize("how", ["close", "drop", "cycle"])
def test_the_rest_is_not_done_once_nobody_asks(
    team: Team, gates: Any, gated: Any, how: str
) -> None:
    gates[1, 0] = True
    results = team.map(gated, range(40), chunksize=1)
    assert next(results) == 0
    if how == "close":
        results.close()  # type: ignore[attr-defined]
        assert list(results) == []
    elif how == "cycle":
        cycle: list[Any] = [results]
        cycle.append(cycle)
        del cycle
    del results
    gc.collect()
    wait_until(
        lambda: (
            not team._team.open_maps.runs
            or all(
                run.is_cancelled
                for run in team._team.open_maps.runs.values()  # type: ignore[attr-defined]
            )
        )
    )
    gates[1, :] = True
    wait_until_over(team)
    assert not gates[0, 20:].any()
    assert_next_map_works(team)


def test_a_ctrl_c_while_waiting(team: Team, gates: Any) -> None:
    caller = os.getpid()

    def func(i: int) -> int:
        if i == 3:
            os.kill(caller, signal.SIGINT)
            wait_until(lambda: gates[1, 0], 30)
        return i

    results = team.map(func, range(8), chunksize=1)
    with in_time(), pytest.raises(KeyboardInterrupt):
        list(results)
    assert not waiting_threads()
    gates[1, 0] = True
    assert_next_map_works(team)


def test_deaths_while_nobody_asks(team: Team) -> None:
    tries = shmmap.zeros(N, int)

    def func(i: int) -> int:
        tries[i] += 1
        if i in (2, 7) and tries[i] == 1:
            KillSelf()(i)
        return i

    results = team.map(func, range(N), chunksize=1)
    wait_until(lambda: tries[-1], 30)
    with in_time():
        assert list(results) == list(range(N))


def test_threads_that_take_turns(team: Team) -> None:
    results, turn = team.map(abs, range(200), chunksize=1), threading.Lock()
    got: list[int] = []

    def take() -> None:
        while True:
            with turn:
                item = next(results, None)
                if item is None:
                    return
                got.append(item)

    threads = [threading.Thread(target=take) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == list(range(200))


def test_one_thread_asks_while_another_shuts_down(team: Team, gates: Any, gated: Any) -> None:
    results = team.map(gated, range(N), chunksize=1)
    got: list[int] = []
    asking = threading.Thread(target=lambda: got.extend(results))
    asking.start()
    wait_until(lambda: gates[0, 0])
    ending = threading.Thread(target=team.shutdown)
    ending.start()
    wait_until(lambda: team._team.is_closed)
    gates[1, :] = True
    asking.join()
    ending.join()
    assert got == list(range(N))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_in_between(team: Team) -> None:
    results = team.map(abs, range(50), chunksize=1)
    first = next(results)
    pid = os.fork()
    if pid == 0:
        del results
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert [first, *results] == list(range(50))


@pytest.mark.slow
def test_a_stuck_item_is_noticed_while_results_come_and_come(team: Team) -> None:
    n = 2000
    stuck = shmmap.zeros(1, int)

    def func(i: int) -> int:
        if i == 0:
            stuck[0] = os.getpid()
            time.sleep(60)
        time.sleep(0.0005)
        return i

    with in_time(30), pytest.raises(shmmap.MapError) as caught:
        future = shmmap.pmap(
            func, range(n), engine=team, chunksize=1, timeout=0.3, on_error="continue", wait=False
        )
        wait_until(lambda: stuck[0])
        wait_until(lambda: not os.path.exists(f"/proc/{stuck[0]}"))
        assert future.progress()[0] < n - 1
        future.result()
    assert caught.value.failed[0] == (0, 1)  # on a busy machine another item may be late


@pytest.mark.parametrize("asked", [0, 1])
def test_the_workers_are_ended_while_nobody_asks(
    team: Team, gates: Any, gated: Any, asked: int
) -> None:
    """What they had put and nobody took is gone with them."""
    gates[1, :6] = True
    results = team.map(gated, range(N), chunksize=1)
    for i in range(asked):
        assert next(results) == i
    wait_until(lambda: gates[0, 6])
    team.kill_workers()
    with in_time(), pytest.raises(shmmap.WorkerDied, match="kill_workers"):
        list(results)
    assert_next_map_works(team)
