"""Faults 30, 33 and 42: threads of the caller hold locks, map at once, or wait for one another."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap.testing import KillSelf, Raise, wait_until
from tests import functions
from tests.helpers import (
    assert_same,
    in_time,
)

from .common import run_program


class Test30BusyCaller:
    """Threads that hold locks and a warm BLAS pool in the caller: no hang with the default start.

    ``start="fork"`` cannot promise that: the handler that OpenBLAS runs before a fork waits for its threads,
    and for ever if another thread has work for them.
    """

    @pytest.mark.slow
    def test_no_hang(self, tmp_path: Path) -> None:
        printed = run_program(
            tmp_path,
            """
            import logging, threading
            big = np.random.default_rng(0).random((300, 300))
            expected = big @ big  # the pool of BLAS threads is warm from here on
            stop = threading.Event()
            log = logging.getLogger("busy")
            log.addHandler(logging.NullHandler())
            locks = [threading.Lock() for _ in range(3)]
            def hold(lock):
                while not stop.is_set():
                    with lock:
                        log.warning("held")
                        big @ big
            threads = [threading.Thread(target=hold, args=(lock,), daemon=True) for lock in locks]
            for thread in threads:
                thread.start()
            x = shmmap.asshared(np.stack([big] * 4))
            for _ in range(5):
                got = shmmap.pmap(lambda m: m @ m, x, workers=2)
                assert np.allclose(got, expected)
                shmmap.shutdown()
            stop.set()
            for thread in threads:
                thread.join()
            print("right")
            """,
        )
        assert printed == "right\n"


class Test33Threads:
    """Concurrent calls from several threads, re-entrant ones, and after the end."""

    def test_threads_share_the_default_team(self) -> None:
        start = threading.Barrier(4)

        def work(k: int) -> None:
            start.wait(20)
            for i in range(10):
                a = np.arange(100) + i
                assert_same(shmmap.pmap(lambda x: x * k, a, workers=2), a * k)

        with concurrent.futures.ThreadPoolExecutor(4) as threads:
            for future in [threads.submit(work, k) for k in range(4)]:
                future.result(timeout=60)

    @pytest.mark.slow
    def test_threads_with_teams_of_their_own(self) -> None:
        def work(k: int) -> None:
            with shmmap.Team(workers=1) as team:
                assert_same(
                    shmmap.pmap(lambda x: x * k, np.arange(50), engine=team), np.arange(50) * k
                )

        with concurrent.futures.ThreadPoolExecutor(3) as threads:
            for future in [threads.submit(work, k) for k in range(6)]:
                future.result(timeout=60)

    def test_map_from_a_callback_of_a_map(self) -> None:
        inner: list[Any] = []

        def progress(done: int, total: int) -> None:
            if done == total:
                inner.append(shmmap.pmap(functions.double, np.arange(3), engine="threads"))

        shmmap.pmap(functions.double, np.arange(10), progress=progress)
        assert_same(inner[-1], np.arange(3) * 2)

    def test_map_from_a_done_callback(self) -> None:
        inner: concurrent.futures.Future[Any] = concurrent.futures.Future()
        future = shmmap.pmap(functions.double, np.arange(10), wait=False)
        future.add_done_callback(
            lambda _: inner.set_result(shmmap.pmap(functions.double, np.arange(3), wait=False))
        )
        assert_same(inner.result(timeout=20).result(timeout=20), np.arange(3) * 2)

    @pytest.mark.parametrize("how", ["resolved", "cancelled"])
    def test_callback_that_waits_for_a_lock_of_the_users(self, team: Any, how: str) -> None:
        # Whoever has that lock is about to submit: it must not wait for the callback in turn.
        lock, is_called = threading.Lock(), threading.Event()

        def take_lock(_: Any) -> None:
            is_called.set()
            with lock:
                pass

        with lock, in_time():
            if how == "resolved":
                future = team.submit(functions.double, 1)
                future.add_done_callback(take_lock)
                assert is_called.wait(20)
                assert team.submit(functions.double, 2) is not None
                assert len(team._team.workers.links) == team.size
            else:
                futures = [team.submit(time.sleep, 0.2) for _ in range(20)]
                futures[-1].add_done_callback(take_lock)
                team.shutdown(wait=False, cancel_futures=True)
                assert is_called.wait(20)
                with pytest.raises(RuntimeError, match="after shutdown"):
                    team.submit(functions.double, 2)

    def test_shutdown_beside_a_map(self) -> None:
        for _ in range(5):
            future = shmmap.pmap(lambda i: i, np.arange(1000), chunksize=1, wait=False)
            with in_time():
                shmmap.shutdown()
                try:
                    assert_same(future.result(timeout=20), np.arange(1000))
                except (concurrent.futures.CancelledError, RuntimeError):
                    pass  # clearly refused; but never half done, and never stuck

    def test_team_of_a_thread_that_has_ended(self) -> None:
        made: list[Any] = []
        thread = threading.Thread(target=lambda: made.append(shmmap.Team(workers=2)))
        thread.start()
        thread.join()
        with made[0] as team:
            for _ in range(3):
                assert_same(
                    shmmap.pmap(functions.double, np.arange(10), engine=team), np.arange(10) * 2
                )


class Test42TwoMapsOnOneTeam:
    """One of them is cancelled, or fails; the other is right."""

    def neighbours(self, team: Any, first: Any, end: Any) -> None:
        """Run a map that ends oddly between two others."""
        before = shmmap.pmap(functions.double, np.arange(1000), engine=team, wait=False)
        odd = shmmap.pmap(first, np.arange(1000), engine=team, chunksize=1, wait=False)
        after = shmmap.pmap(lambda i: i * 3, np.arange(1000), engine=team, chunksize=1, wait=False)
        end(odd)
        assert_same(after.result(timeout=30), np.arange(1000) * 3)
        assert_same(before.result(timeout=30), np.arange(1000) * 2)

    def test_cancelled(self, team: Any) -> None:
        for _ in range(4):
            self.neighbours(team, functions.double, lambda odd: odd.cancel())

    def test_failing(self, team: Any) -> None:
        def failed(odd: Any) -> None:
            with pytest.raises(ValueError, match="on purpose"):
                odd.result(timeout=30)

        for at in (0, 500, 999):
            self.neighbours(team, Raise(ValueError("on purpose"), at=at), failed)

    def test_dying(self, team: Any) -> None:
        def died(odd: Any) -> None:
            with pytest.raises(shmmap.WorkerDied):
                odd.result(timeout=30)

        for at in (0, 500):
            self.neighbours(team, KillSelf(at=at), died)

    def test_latecomer_draws_no_ticket_of_the_next_map(self, team: Any) -> None:
        """A worker leaves a cancelled map while the next one already runs."""
        entered, go_on = shmmap.zeros(2, bool), shmmap.zeros(1, bool)

        def slow(i: Any) -> None:
            entered[min(int(i), 1)] = True
            wait_until(lambda: go_on[0], 0.5)

        calls = shmmap.zeros(500, int)

        def count(i: Any) -> None:
            calls[i] += 1

        odd = shmmap.pmap(slow, np.arange(500), engine=team, chunksize=1, wait=False)
        wait_until(entered.any)
        odd.cancel()
        following = shmmap.pmap(count, np.arange(500), engine=team, chunksize=1, wait=False)
        go_on[0] = True
        following.result(timeout=30)
        assert (calls == 1).all()


def test_33_maps_that_wait_for_their_turn_are_finished_before_the_end() -> None:
    """Leaving the block waits for all that was begun in it, however many maps that are."""
    with shmmap.Team(workers=2) as team:
        futures = [
            shmmap.pmap(functions.double, np.arange(50), engine=team, chunksize=1, wait=False)
            for _ in range(24)
        ]
    for future in futures:
        assert_same(future.result(timeout=20), np.arange(50) * 2)
