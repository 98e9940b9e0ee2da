"""A call that was little work is begun by few workers; the others come as soon as it takes longer."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap.testing import wait_until
from tests.helpers import in_time, wait_dead

QUICK, MEET, DIE, SLEEP = range(4)


@pytest.fixture
def team() -> Iterator[shmmap.Team]:
    with shmmap.Team(3) as team:
        yield team


def work(i: int, mode: Any, here: Any) -> tuple[int, int]:
    """Index and process; it waits for the other items, dies once, or takes a while, as the mode says."""
    if mode[0] == MEET:
        here[i] = 1
        wait_until(lambda: here.all(), timeout_s=30)
    elif mode[0] == DIE and not here[i]:
        here[i] = 1
        os.kill(os.getpid(), signal.SIGKILL)
    elif mode[0] == SLEEP:
        time.sleep(mode[1 + i] * 1e-6)
    return i, os.getpid()


class Calls:
    """Calls that are alike, over as many items as there are workers."""

    def __init__(self, team: shmmap.Team) -> None:
        self._team = team
        self.mode, self.here = shmmap.zeros(4, int), shmmap.zeros(3, int)

    def call(self, mode: int) -> set[int]:
        """Processes that have taken part."""
        self.mode[0], self.here[:] = mode, 0
        axis = (0, None, None)
        with in_time(40):
            results = shmmap.pmap(
                work, range(3), self.mode, self.here, axis=axis, engine=self._team
            )
        assert [i for i, _ in results] == [0, 1, 2]
        return {pid for _, pid in results}

    def become_quick(self) -> set[int]:
        """Call a few times what is little work, so that few begin the next one; who has taken part last."""
        return [self.call(QUICK) for _ in range(5)][-1]


def test_one_is_enough_for_little_work(team: shmmap.Team) -> None:
    calls = Calls(team)
    calls.call(MEET)
    wait_until(lambda: len(calls.become_quick()) == 1, timeout_s=30)


def test_all_come_where_a_call_takes_longer_than_those_before(team: shmmap.Team) -> None:
    calls = Calls(team)
    for _ in range(3):
        calls.become_quick()
        assert len(calls.call(MEET)) == 3, "each waits for all others"


def test_a_worker_dies_that_has_begun_alone(team: shmmap.Team) -> None:
    calls = Calls(team)
    for _ in range(3):
        calls.become_quick()
        calls.call(DIE)
        calls.call(MEET)


def test_one_that_is_invited_has_died_meanwhile(team: shmmap.Team) -> None:
    calls = Calls(team)
    pids = calls.call(MEET)
    gone = pids - set(list(calls.become_quick())[:1])
    for pid in gone:
        os.kill(pid, signal.SIGKILL)
    wait_dead(*gone)
    assert len(calls.call(MEET) - gone) == 3


def test_about_as_long_as_it_is_waited_before_others_are_invited(team: shmmap.Team) -> None:
    calls, random = Calls(team), np.random.default_rng(7)
    for _ in range(60):
        calls.call(QUICK)
        calls.mode[1:] = random.integers(0, 1500, 3)
        calls.call(SLEEP)


def test_two_threads_at_a_time(team: shmmap.Team) -> None:
    def many(calls: Calls) -> None:
        for k in range(30):
            calls.mode[1:] = 400 * (k % 5)
            calls.call(QUICK if k % 3 else SLEEP)

    shmmap.pmap(many, [Calls(team) for _ in range(3)], engine="threads", workers=3)


def test_a_static_schedule_asks_all_that_have_a_share(team: shmmap.Team) -> None:
    def pids() -> set[int]:
        return set(shmmap.pmap(_pid, range(3), schedule="static", engine=team))

    for _ in range(20):
        assert len(pids()) == 3


def _pid(i: int) -> int:
    return os.getpid()
