"""What becomes of submitted functions, whatever their workers say or suffer. No process is started."""

from __future__ import annotations

import pickle
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest

import shmmap
from shmmap._control import ERROR, LEAVE, RESULTS, Record
from shmmap._packing import pack
from shmmap._reports import report_exception
from shmmap._roster import Roster
from shmmap._run import Death
from shmmap._submissions import SUBMITTED_MAX, Submissions


class Worker:
    """A member, as far as submitted functions go."""

    gone = False
    submitted = 0

    def __init__(self, rank: int) -> None:
        self.rank = rank


class Crew:
    """Workers that note what they are sent, and do nothing."""

    def __init__(self, size: int) -> None:
        self.roster = Roster()
        self.members = {rank: Worker(rank) for rank in self.roster.fill(size)}
        self.sent: list[tuple[int, int]] = []
        self.last_seq = 0

    def next_seq(self) -> int:
        self.last_seq += 1
        return self.last_seq

    def send_call(self, member: Worker, seq: int, spec: object) -> None:
        self.sent.append((member.rank, seq))


class Shelf:
    """Payloads by their page."""

    def __init__(self) -> None:
        self.payloads: dict[int, bytes] = {}

    def take(self, record: Record) -> Any:
        return pickle.loads(self.payloads.pop(record.page))

    def skip(self, record: Record) -> None:
        self.payloads.pop(record.page)

    def purge(self, seq: int) -> None: ...


class Desk:
    """Submissions to a crew, and what its workers say."""

    def __init__(self, size: int) -> None:
        self.crew, self.shelf = Crew(size), Shelf()
        self.submissions = Submissions(self.crew, self.shelf)  # type: ignore[arg-type]
        self.is_resolving = False
        self.resolved: list[bool] = []

    def resolve(self) -> None:
        self.is_resolving = True
        self.submissions.resolve()
        self.is_resolving = False
        assert all(self.resolved)

    def put(self) -> Future[Any]:
        future: Future[Any] = Future()
        # As in a team: nobody resolves a future who holds the lock.
        future.add_done_callback(lambda _: self.resolved.append(self.is_resolving))
        self.submissions.put(future, pack((abs, (-1,), {})), "abs")
        return future

    def say(self, seq: int, kind: int, value: Any = None) -> None:
        rank = dict((seq, rank) for rank, seq in self.crew.sent)[seq]
        self.shelf.payloads[seq] = pickle.dumps(value)
        self.submissions.take(Record(seq, rank, kind, 0, 1, seq, 0, 0))

    def die(self, rank: int, running: int, is_broken_start: bool = False) -> None:
        self.crew.members.pop(rank)
        self.submissions.forget(rank)
        departure = self.crew.roster.died(rank)
        for seq in departure.lost:
            death = Death(rank, 1, None, running, (0, 0), range(0), is_broken_start, False)
            self.submissions.note_death(seq, death)


def test_each_worker_holds_only_so_many() -> None:
    desk = Desk(2)
    futures = [desk.put() for _ in range(10)]
    assert [rank for rank, _ in desk.crew.sent] == [0, 1] * SUBMITTED_MAX
    assert len(desk.submissions.waiting) == 10 - 2 * SUBMITTED_MAX
    desk.say(2, RESULTS, "two")
    desk.submissions.dispatch()
    assert len(desk.crew.sent) == 2 * SUBMITTED_MAX, "it has not left"
    desk.say(2, LEAVE)
    desk.submissions.dispatch()
    assert desk.crew.sent[-1] == (1, 2 * SUBMITTED_MAX + 1)
    assert not futures[1].done()
    desk.resolve()
    assert futures[1].result(0) == "two"


def test_an_exception_is_the_functions_own() -> None:
    desk = Desk(1)
    future = desk.put()
    desk.say(1, ERROR, tuple(report_exception(KeyError("k"), 0, 0, 0, 0, 1)))
    desk.resolve()
    with pytest.raises(KeyError, match="k"):
        future.result(0)


def test_cancelled_ones_are_not_sent() -> None:
    desk = Desk(1)
    futures = [desk.put() for _ in range(SUBMITTED_MAX + 2)]
    assert futures[-2].cancel()
    desk.say(1, LEAVE)
    desk.submissions.dispatch()
    assert len(desk.crew.sent) == SUBMITTED_MAX + 1
    assert futures[-1].running() and not desk.submissions.waiting


def test_a_death_fails_only_what_was_running() -> None:
    desk = Desk(2)
    futures = [desk.put() for _ in range(2 * SUBMITTED_MAX)]
    mine = [seq for rank, seq in desk.crew.sent if rank == 0]
    desk.die(0, running=mine[0])
    desk.resolve()
    with pytest.raises(shmmap.WorkerDied, match="running abs"):
        futures[mine[0] - 1].result(0)
    for seq in (2, 4):
        desk.say(seq, LEAVE)
    desk.submissions.dispatch()
    assert desk.crew.sent[-1][0] == 1, "the other worker takes what never began"
    desk.say(desk.crew.sent[-1][1], RESULTS, "again")
    desk.resolve()
    assert futures[mine[1] - 1].result(0) == "again"


def test_a_start_that_is_broken_fails_all_of_its_functions() -> None:
    desk = Desk(1)
    futures = [desk.put() for _ in range(SUBMITTED_MAX)]
    desk.die(0, running=0, is_broken_start=True)
    desk.resolve()
    for future in futures:
        with pytest.raises(shmmap.WorkerDied):
            future.result(0)


def test_what_comes_late_is_let_go() -> None:
    desk = Desk(1)
    future = desk.put()
    desk.submissions.fail_running(RuntimeError("strays"))
    desk.say(1, RESULTS, 1)
    assert not desk.shelf.payloads
    desk.resolve()
    with pytest.raises(RuntimeError, match="strays"):
        future.result(0)


def test_nobody_is_forgotten_when_all_fail() -> None:
    desk = Desk(1)
    futures = [desk.put() for _ in range(SUBMITTED_MAX + 3)]
    desk.submissions.fail_all(lambda: RuntimeError("over"))
    desk.resolve()
    errors = [future.exception(0) for future in futures]
    assert all(isinstance(error, RuntimeError) for error in errors)
    assert len(set(map(id, errors))) == len(errors), "each has its own"


def test_those_that_wait_are_cancelled_together() -> None:
    desk = Desk(1)
    futures = [desk.put() for _ in range(SUBMITTED_MAX + 3)]
    desk.submissions.cancel_waiting()
    desk.resolve()
    assert [future.cancelled() for future in futures] == [False] * SUBMITTED_MAX + [True] * 3
    assert not desk.submissions.waiting


def test_one_that_is_given_out_again_can_still_be_cancelled() -> None:
    """Its worker died before it began; its future runs already, and hears of the end all the same."""
    desk = Desk(1)
    futures = [desk.put() for _ in range(SUBMITTED_MAX)]
    desk.die(0, running=1)
    desk.submissions.cancel_waiting()
    desk.resolve()
    assert isinstance(futures[0].exception(0), shmmap.WorkerDied)
    assert isinstance(futures[1].exception(0), CancelledError)
