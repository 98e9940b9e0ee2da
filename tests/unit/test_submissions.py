"""What becomes of submitted functions, whatever their workers say or suffer. No process is started."""

from __future__ import annotations

import functools
import pickle
import sys
import threading
from concurrent.futures import CancelledError, Future, wait
from typing import Any

import pytest

import shmmap
from shmmap._results.recovery import DeadWorker
from shmmap._team.known import Known
from shmmap._team.roster import Roster
from shmmap._team.run import Death
from shmmap._team.submissions import Submissions, SubmittedFuture
from shmmap._wire.pickling import pack
from shmmap._wire.records import Record, RecordKind
from shmmap._wire.reports import report_exception
from shmmap._wire.surroundings import snapshot


class Worker:
    """A link, as far as submitted functions go."""

    gone = False

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.known = Known()


class Workers:
    """Workers that note what they are sent, and do nothing."""

    def __init__(self, size: int) -> None:
        self.roster = Roster()
        self.links = {rank: Worker(rank) for rank in self.roster.fill(size)}
        self.sent: list[tuple[int, int]] = []
        self.last_seq = 0
        self.wakes = 0
        self.fault: BaseException | None = None

    def wake(self) -> None:
        self.wakes += 1

    def next_seq(self) -> int:
        self.last_seq += 1
        return self.last_seq

    def send_call(self, link: Worker, seq: int, call: object, needs: object) -> None:
        if self.fault is not None:
            raise self.fault
        self.sent.append((link.rank, seq))


class Inbox:
    """Payloads by their page."""

    def __init__(self) -> None:
        self.payloads: dict[int, bytes] = {}

    def take(self, record: Record) -> Any:
        return pickle.loads(self.payloads.pop(record.page))

    def skip(self, record: Record) -> None:
        self.payloads.pop(record.page)

    def begin_call(self, seq: int) -> None: ...

    def end_call(self, seq: int) -> None: ...


class Desk:
    """Submissions to a workers, and what its workers say."""

    def __init__(self, size: int) -> None:
        self.workers, self.inbox = Workers(size), Inbox()
        self.submissions = Submissions(self.workers, self.inbox)  # type: ignore[arg-type]
        self.is_resolving = False
        self.resolved: list[bool] = []

    def resolve(self) -> None:
        self.is_resolving = True
        self.submissions.resolve()
        self.is_resolving = False
        assert all(self.resolved)

    def put(self) -> Future[Any]:
        future = SubmittedFuture()
        # As in a team: nobody resolves a future who holds the lock.
        future.add_done_callback(lambda _: self.resolved.append(self.is_resolving))
        self.submissions.put(future, pack((abs, (-1,), {})), "abs", snapshot())
        return future

    def say(self, seq: int, kind: int, value: Any = None) -> None:
        rank = dict((seq, rank) for rank, seq in self.workers.sent)[seq]
        if kind != RecordKind.LEAVE:
            self.inbox.payloads[seq] = pickle.dumps(value)
        self.submissions.take(Record(seq, rank, kind, 0, 1, seq, 0, 0))

    def die(self, rank: int, running: int, is_broken_start: bool = False) -> None:
        self.workers.links.pop(rank)
        self.submissions.forget(rank)
        departure = self.workers.roster.died(rank)
        for seq in departure.lost:
            worker = DeadWorker(rank, 1, range(0), range(0), has_successor=False)
            death = Death(worker, None, running, is_broken_start)
            self.submissions.note_death(seq, death)


def test_each_worker_holds_one() -> None:
    desk = Desk(2)
    futures = [desk.put() for _ in range(10)]
    assert [rank for rank, _ in desk.workers.sent] == [0, 1]
    assert [future.running() for future in futures] == [True] * 2 + [False] * 8
    desk.say(2, RecordKind.RESULTS, "two")
    desk.submissions.dispatch()
    assert len(desk.workers.sent) == 2, "it has not left"
    desk.say(2, RecordKind.LEAVE)
    desk.submissions.dispatch()
    assert desk.workers.sent[-1] == (1, 3)
    assert not futures[1].done()
    desk.resolve()
    assert futures[1].result(0) == "two"


def test_behind_a_map_only_where_no_worker_is_about_to_be_idle() -> None:
    desk = Desk(2)
    desk.workers.roster.assign(1, 100, again=True)
    first, second = desk.put(), desk.put()
    assert desk.workers.sent == [(0, 1)] and first.running() and not second.running()
    desk.say(1, RecordKind.RESULTS)
    desk.say(1, RecordKind.LEAVE)
    desk.submissions.dispatch()
    assert desk.workers.sent[1:] == [(0, 2)], "worker 0 was idle first"
    third = desk.put()
    assert not third.running()
    desk.submissions.dispatch(behind_maps=True)
    assert desk.workers.sent[2:] == [(1, 3)], (
        "a map has ended, and others may follow without an end"
    )


def test_all_workers_in_maps() -> None:
    desk = Desk(2)
    for rank, seq in ((0, 100), (0, 101), (1, 101)):
        desk.workers.roster.assign(rank, seq, again=True)
    desk.put()
    assert desk.workers.sent == [(1, 1)]


@pytest.mark.parametrize("fault", [MemoryError, SystemExit, KeyboardInterrupt])
def test_one_that_cannot_be_sent_fails_alone(fault: type[BaseException]) -> None:
    desk = Desk(1)
    desk.workers.fault = fault()
    broken = desk.put()
    desk.workers.fault = None
    good = desk.put()
    desk.resolve()
    assert type(broken.exception(0)) is fault
    assert good.running()


def test_callbacks_are_called_whatever_others_raise(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(1)
    future = desk.put()
    called: list[type[BaseException]] = []
    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: told.append(what.exc_type))

    def call_back(future: Future[Any], error: BaseException) -> None:
        called.append(type(error))
        raise error

    for error in (ValueError("odd"), GeneratorExit(), SystemExit(), KeyError("last")):
        future.add_done_callback(functools.partial(call_back, error=error))
    desk.say(1, RecordKind.RESULTS)
    thread = threading.Thread(target=desk.submissions.resolve)
    thread.start()
    thread.join()
    assert called == [ValueError, GeneratorExit, SystemExit, KeyError]
    assert told == [GeneratorExit, SystemExit]
    assert caplog.text.count("exception calling callback") == 2


def test_an_exception_is_the_functions_own() -> None:
    desk = Desk(1)
    future = desk.put()
    desk.say(1, RecordKind.ERROR, tuple(report_exception(KeyError("k"), 0, 0, 0, 0, 1)))
    desk.resolve()
    with pytest.raises(KeyError, match="k"):
        future.result(0)


def test_cancelled_ones_are_not_sent() -> None:
    desk = Desk(1)
    futures = [desk.put() for _ in range(3)]
    assert futures[-2].cancel()
    assert desk.workers.wakes == 1
    desk.say(1, RecordKind.LEAVE)
    desk.submissions.dispatch()
    assert len(desk.workers.sent) == 2
    assert futures[-1].running() and not desk.submissions.waiting


def test_who_waits_for_a_cancelled_one_hears_of_it_at_once() -> None:
    """While all workers are busy, that is."""
    desk = Desk(1)
    busy, future = desk.put(), desk.put()
    desk.resolve()
    assert future.cancel()
    assert wait([future], timeout=0).not_done
    desk.submissions.dispatch()
    desk.submissions.resolve()
    assert wait([future], timeout=0).done == {future} and busy.running()


def test_a_death_fails_what_was_running() -> None:
    desk = Desk(2)
    futures = [desk.put() for _ in range(2)]
    desk.die(0, running=1)
    desk.resolve()
    with pytest.raises(shmmap.WorkerDied, match="running abs"):
        futures[0].result(0)
    assert futures[1].running()


def test_what_never_began_goes_to_another_worker() -> None:
    desk = Desk(2)
    futures = [desk.put() for _ in range(2)]
    desk.die(0, running=0)
    desk.say(2, RecordKind.LEAVE)
    desk.submissions.dispatch()
    assert desk.workers.sent[-1][0] == 1
    desk.say(desk.workers.sent[-1][1], RecordKind.RESULTS, "again")
    desk.resolve()
    assert futures[0].result(0) == "again"


def test_a_start_that_is_broken_fails_its_function() -> None:
    desk = Desk(1)
    future = desk.put()
    desk.die(0, running=0, is_broken_start=True)
    desk.resolve()
    with pytest.raises(shmmap.WorkerDied):
        future.result(0)


def test_what_comes_late_is_let_go() -> None:
    desk = Desk(1)
    future = desk.put()
    desk.submissions.fail_running(lambda: RuntimeError("strays"))
    desk.say(1, RecordKind.RESULTS, 1)
    assert not desk.inbox.payloads
    desk.resolve()
    with pytest.raises(RuntimeError, match="strays"):
        future.result(0)


def test_nobody_is_forgotten_when_all_fail() -> None:
    desk = Desk(1)
    futures = [desk.put() for _ in range(4)]
    desk.submissions.fail_all(lambda: RuntimeError("over"))
    desk.resolve()
    errors = [future.exception(0) for future in futures]
    assert all(isinstance(error, RuntimeError) for error in errors)
    assert len(set(map(id, errors))) == len(errors), "each has its own"


def test_those_that_wait_are_cancelled_together() -> None:
    desk = Desk(1)
    futures = [desk.put() for _ in range(4)]
    desk.submissions.cancel_waiting()
    desk.resolve()
    assert [future.cancelled() for future in futures] == [False] + [True] * 3
    assert not desk.submissions.waiting


def test_one_that_is_given_out_again_can_still_be_cancelled() -> None:
    """Its worker died before it began; its future runs already, and hears of the end all the same."""
    desk = Desk(1)
    future = desk.put()
    desk.die(0, running=0)
    desk.submissions.cancel_waiting()
    desk.resolve()
    assert isinstance(future.exception(0), CancelledError)
