"""A team is a `concurrent.futures.Executor`, and stays whole."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap._team.monitor import Monitor
from shmmap.testing import KillSelf, KillWhenUnpickled, Raise, wait_until
from tests import functions
from tests.helpers import assert_same, in_time, is_alive, run_script, wait_dead

Team = shmmap.Team


def pids(team: Team) -> list[int]:
    """The processes of all members, each of which answers once."""
    n = team.size
    there = shmmap.zeros(n, int)

    def answer(i: Any) -> None:
        there[i] = os.getpid()
        wait_until(there.all)

    shmmap.pmap(answer, range(n), engine=team, workers=n, chunksize=1)
    return there.tolist()


def test_shutdown_waits_for_what_was_submitted() -> None:
    team = Team(workers=2)
    futures = [team.submit(pow, i, 2) for i in range(100)]
    team.shutdown()
    assert [future.result(timeout=0) for future in futures] == [i * i for i in range(100)]
    with pytest.raises(RuntimeError, match=r"shut ?down"):
        team.submit(pow, 2, 3)
    with pytest.raises(RuntimeError, match=r"shut ?down"):
        shmmap.pmap(functions.double, np.arange(3), engine=team)
    team.shutdown()


def test_shutdown_can_cancel_what_was_submitted() -> None:
    team = Team(workers=1)
    go_on = shmmap.zeros(1, bool)
    entered = shmmap.zeros(1, bool)

    def wait() -> str:
        entered[0] = True
        wait_until(lambda: go_on[0])
        return "finished"

    running = team.submit(wait)
    wait_until(lambda: entered[0])
    waiting = [team.submit(pow, 2, 3) for _ in range(50)]
    team.shutdown(wait=False, cancel_futures=True)
    go_on[0] = True
    assert running.result(timeout=20) == "finished"
    assert waiting[-1].cancelled()
    team.shutdown()


def test_block_ends_the_processes(team: Team) -> None:
    with Team(workers=2) as other:
        members = pids(other)
        assert all(map(is_alive, members))
    wait_dead(*members)
    assert all(map(is_alive, pids(team)))


def test_block_ends_the_processes_when_it_raises() -> None:
    with pytest.raises(KeyError), Team(workers=2) as team:
        members = pids(team)
        raise KeyError
    wait_dead(*members)


def test_more_workers_than_members_or_cores(team: Team) -> None:
    for workers in (1, 2, 3, -1):
        result = shmmap.pmap(functions.double, np.arange(10), engine=team, workers=workers)
        assert_same(result, np.arange(10) * 2)
    with Team(workers=5) as large:
        assert large.size == 5
        assert len({*pids(large)}) == 5


@pytest.mark.parametrize("workers", [0, -2, 1.5, "two"])
def test_wrong_number_of_workers_is_named(workers: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="workers"):
        Team(workers=workers)


def test_wrong_start_is_named() -> None:
    with pytest.raises(ValueError, match="start"):
        Team(workers=1, start="spawn")


def test_workers_respect_the_affinity_mask(tmp_path: Any) -> None:
    done = run_script(
        tmp_path,
        """
        import os, shmmap
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
        with shmmap.Team() as team:
            print(team.size)
        """,
    )
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_default_team_is_let_go_after_idling(tmp_path: Any) -> None:
    done = run_script(
        tmp_path,
        """
        import os, shmmap
        from shmmap.testing import wait_until
        with shmmap.Team(workers=2, idle_timeout=0.2) as team:
            first = {*team.map(lambda i: os.getpid(), range(20))}
            def gone(pid):
                try: return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] == "Z"
                except OSError: return True
            wait_until(lambda: all(map(gone, first)))
            second = {*team.map(lambda i: os.getpid(), range(20))}
            print(not first & second, team.size)
        """,
    )
    assert (done.stdout, done.stderr) == ("True 2\n", "")


@pytest.mark.parametrize("start", ["clean", "fork"])
def test_initializer_runs_once_in_every_worker(start: str) -> None:
    runs = shmmap.zeros(100, int)

    def init(offset: int) -> None:
        import builtins

        runs[os.getpid() % 100] += 1
        builtins.set_by_shmmap_test = offset  # type: ignore[attr-defined]

    def read(i: Any) -> int:
        import builtins

        return int(i) + builtins.set_by_shmmap_test  # type: ignore[attr-defined]

    with Team(workers=2, start=start, initializer=init, initargs=(10,)) as team:
        assert shmmap.pmap(read, range(4), engine=team) == [10, 11, 12, 13]
        assert list(team.map(read, range(4))) == [10, 11, 12, 13]
        assert len(pids(team)) == 2
        assert runs.sum() == 2


@pytest.mark.parametrize("start", ["clean", "fork"])
@pytest.mark.parametrize(
    "fault",
    [Raise(ImportError("no such library")), KillSelf(), KillWhenUnpickled()],
    ids=lambda fault: type(fault).__name__,
)
def test_failing_initializer_is_an_immediate_error(start: str, fault: Any) -> None:
    tries = shmmap.zeros(1, int)

    def init(fault: Any) -> None:
        tries[0] += 1
        fault(0)

    initializer, initargs = (init, (fault,))
    if isinstance(fault, KillWhenUnpickled):
        if start == "fork":
            pytest.skip("nothing is pickled for a forked worker")
        initializer, initargs = fault, (0,)  # type: ignore[assignment]
    with in_time(), pytest.raises(Exception) as caught:
        with Team(workers=2, start=start, initializer=initializer, initargs=initargs) as team:
            shmmap.pmap(functions.double, np.arange(10), engine=team)
    notes = "\n".join(getattr(caught.value, "__notes__", ()))
    if isinstance(fault, Raise):
        assert "no such library" in str(caught.value) + notes
    else:
        assert isinstance(caught.value, shmmap.WorkerDied)
        assert "SIGKILL" in str(caught.value)
    assert "start" in str(caught.value) + notes
    assert tries[0] <= 4, "no respawn loop"


@pytest.mark.slow
@pytest.mark.parametrize("start", ["clean", "fork"])
def test_an_initializer_that_failed_before_the_call_is_told_all_the_same(start: str) -> None:
    # Workers are started while inputs are placed: what they say may come before there is a call.
    initializer = Raise(ImportError("no such library"))
    for _ in range(10):
        with in_time(), pytest.raises(ImportError, match="no such library"):
            with Team(workers=2, start=start, initializer=initializer, initargs=(0,)) as team:
                team._team.warm_up(2)
                links = list(team._team.workers.links.values())
                wait_until(lambda links=links: any(link.failed for link in links))
                shmmap.pmap(functions.double, np.arange(10), engine=team)


def test_dead_worker_is_replaced_between_maps(team: Team) -> None:
    for _ in range(3):
        members = pids(team)
        os.kill(members[0], signal.SIGKILL)
        wait_dead(members[0])
        assert_same(
            shmmap.pmap(functions.double, np.arange(100), engine=team, chunksize=1),
            np.arange(100) * 2,
        )
        now = pids(team)
        assert len({*now}) == 2 and members[0] not in now
        assert members[1] in now, "the other one goes on"


def test_all_workers_killed_while_parked(team: Team) -> None:
    members = pids(team)
    for pid in members:
        os.kill(pid, signal.SIGKILL)
    assert_same(shmmap.pmap(functions.double, np.arange(100), engine=team), np.arange(100) * 2)
    assert not {*members} & {*pids(team)}


def test_death_during_a_submitted_call(team: Team) -> None:
    with in_time(), pytest.raises(shmmap.WorkerDied, match="SIGKILL"):
        team.submit(KillSelf(), 1).result(timeout=20)
    assert team.submit(pow, 2, 3).result(timeout=20) == 8


def test_a_map_inside_a_worker_runs_serially(team: Team) -> None:
    def inner(i: Any) -> bool:
        import shmmap

        return {*shmmap.pmap(functions.pid, range(8))} == {os.getpid()}

    with in_time(20):
        assert shmmap.pmap(inner, range(4), engine=team) == [True] * 4


def test_teams_side_by_side() -> None:
    with Team(workers=1) as one, Team(workers=2, start="fork") as two:
        a = shmmap.zeros(10)
        first = shmmap.pmap(lambda i: a.__iadd__(1) is None, range(1), engine=one, wait=False)
        assert first.result(timeout=20) == [False]
        assert shmmap.pmap(lambda i: float(a[i]), range(10), engine=two) == [1.0] * 10
        assert not {*pids(one)} & {*pids(two)}


class TestDropped:
    """A team that nobody has any more ends by itself, and harms nothing that runs."""

    @pytest.mark.parametrize("start", ["clean", "fork"])
    def test_its_processes_end(self, start: str) -> None:
        team = shmmap.Team(workers=2, start=start)
        pids = set(shmmap.pmap(functions.pid, range(20), engine=team, chunksize=1))
        del team
        gc.collect()
        wait_dead(*pids)

    @pytest.mark.parametrize("start", ["clean", "fork"])
    def test_a_map_that_runs_keeps_it(self, start: str) -> None:
        go = shmmap.zeros(1, bool)

        def func(i: Any) -> int:
            wait_until(lambda: go[0])
            return os.getpid()

        future = shmmap.pmap(
            func, range(2), engine=shmmap.Team(2, start=start), chunksize=1, wait=False
        )
        gc.collect()
        go[0] = True
        pids = set(future.result(5))
        del future
        gc.collect()
        wait_dead(*pids)

    def test_what_was_submitted_is_done(self) -> None:
        team = shmmap.Team(workers=2)
        futures = [team.submit(functions.double, i) for i in range(20)]
        pid = team.submit(os.getpid)
        del team
        gc.collect()
        assert [future.result(5) for future in futures] == [2 * i for i in range(20)]
        wait_dead(pid.result(5))

    def test_in_a_cycle(self) -> None:
        team: Any = shmmap.Team(workers=1)
        team.itself = team
        pid = team.submit(os.getpid).result()
        del team
        # Its monitor may have it for a moment, after which only a further collection finds it.
        wait_until(lambda: gc.collect() >= 0 and not is_alive(pid))

    @pytest.mark.parametrize("n", [20, 1 << 18, 1 << 22], ids=["pickle", "page", "segment"])
    def test_in_a_cycle_with_something_submitted(self, n: int) -> None:
        """Its monitor goes on until the results are there, in whatever form they come."""
        go = shmmap.zeros(1, bool)

        def func() -> Any:
            wait_until(lambda: go[0])
            return shmmap.ones(n // 8) if n == 1 << 22 else np.ones(n // 8)

        team: Any = shmmap.Team(workers=1)
        team.itself = team
        pid = team.submit(os.getpid).result()
        futures = [team.submit(func), team.submit(func)]
        del team
        gc.collect()
        go[0] = True
        for future in futures:
            assert future.result(5).sum() == n // 8
        wait_until(lambda: gc.collect() >= 0 and not is_alive(pid))


@pytest.mark.parametrize("start", ["clean", "fork"])
def test_monitor_that_fails_ends_everything(start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A map and a submitted function raise, the workers end, and the team is closed."""
    told: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    team = shmmap.Team(workers=2, start=start)
    begun = shmmap.zeros(3, bool)

    def func(i: Any) -> Any:
        begun[i] = True
        time.sleep(60)

    assert list(team.map(functions.double, range(4))) == [0, 2, 4, 6]
    pids = [link.pid for link in team._team.workers.links.values()]
    future = team.submit(func, 0)
    work = shmmap.pmap(func, range(1, 3), engine=team, chunksize=1, wait=False)
    wait_until(lambda: begun[0] and begun[1:].any())

    def fail(*args: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Monitor, "handle", fail)
    with in_time():
        team._team.workers.wake()
        for each in (future, work):
            with pytest.raises(RuntimeError, match="monitor"):
                each.result(60)
        wait_dead(*pids)
    assert [each.exc_type for each in told] == [ZeroDivisionError]
    told.clear()
    with pytest.raises(RuntimeError, match="shutdown"):
        team.submit(func, 0)
