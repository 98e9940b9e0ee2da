"""What becomes of submitted functions, whatever their workers say or suffer. No process is started."""

from __future__ import annotations

import functools
import os
import pickle
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, wait
from typing import Any

import pytest

import shmmap
from shmmap._results.recovery import DeadWorker
from shmmap._system.forks import make_lock
from shmmap._team.channels import Channels
from shmmap._team.run import Death
from shmmap._team.sending import Equipment
from shmmap._team.submissions import Submissions
from shmmap._team.submitted import Submission, SubmittedFuture
from shmmap._wire.bundles import Bundle
from shmmap._wire.claims import AT_PIPE, READING, RUNG, RUNNING, TAKEN
from shmmap._wire.records import (
    FINISHED_INLINE,
    FUNCTION_NBYTES,
    Record,
    RecordKind,
    Submitted,
    pack_finished,
)
from shmmap._wire.reports import report_exception


class Workers:
    """Workers of which nothing is there but the channels to them."""

    def __init__(self, size: int) -> None:
        self.channels = Channels()
        self.channels.open()
        self.size = size
        self.links = dict.fromkeys(range(size))
        self.last_seq = 0
        self.wakes = 0
        self.killed: list[tuple[int, int]] = []
        self.fault: BaseException | None = None

    def wake(self) -> None:
        self.wakes += 1

    def kill(self, rank: int, number: int) -> None:
        self.killed.append((rank, number))

    def equip(self, equipment: Equipment) -> None:
        if self.fault is not None:
            raise self.fault


class Inbox:
    """Payloads by their page, and the calls of which something is still taken."""

    def __init__(self) -> None:
        self.payloads: dict[int, bytes] = {}
        self.open: set[int] = set()

    def take(self, record: Record, inline: bytes) -> Any:
        return pickle.loads(self.payloads.pop(record.page) if record.page else inline)

    def skip(self, record: Record) -> None:
        self.payloads.pop(record.page, None)

    def begin_call(self, seq: int) -> None:
        self.open.add(seq)

    def end_call(self, seq: int) -> None:
        self.open.discard(seq)


class Desk:
    """Submissions to a team, and what its workers do."""

    def __init__(self, size: int) -> None:
        self.lock = make_lock()
        self.workers, self.inbox = Workers(size), Inbox()
        self.distrusted = 0
        self.submissions = Submissions(
            self.lock,
            self.workers,  # type: ignore[arg-type]
            self.inbox,  # type: ignore[arg-type]
            self._distrust,
        )
        slots = self.workers.channels.slots
        assert slots is not None
        self.slots = slots

    def _distrust(self) -> None:
        self.distrusted += 1

    def put(self, bundle: Bundle | None = None) -> SubmittedFuture:
        self.workers.last_seq += 1
        number = self.workers.last_seq
        future = SubmittedFuture(number, self.submissions)
        submitted = Submitted(number, 1, 0, False, pickle.dumps((abs, (-1,), {})))
        equipment = Equipment(frozenset(), 0, 1, False)
        with self.lock:
            self.submissions.put(Submission(future, submitted, abs, equipment, (), bundle))
        return future

    # ------------------------------------------------ what workers do

    def take(self, rank: int) -> int:
        """The worker on a rank takes a function and begins it; its number."""
        record = os.read(self.workers.channels.worker_fds()[1], FUNCTION_NBYTES)
        number = Submitted.unpack(record).number
        slot = self.slots.slot(rank)
        slot[TAKEN] = slot[RUNNING] = number
        return number

    def tell(self, rank: int, value: Any, kind: int = RecordKind.PLAIN, first: int = 0) -> None:
        """The worker on a rank tells what came of its function."""
        slot = self.slots.slot(rank)
        number, data = slot[TAKEN], pickle.dumps(value)
        if len(data) <= FINISHED_INLINE:
            told = pack_finished(Record(number, rank, kind, first, 1, 0, 0, len(data)), data)
        else:
            self.inbox.payloads[number] = data
            told = pack_finished(Record(number, rank, kind, first, 1, number, 0, len(data)))
        os.write(self.workers.channels.worker_fds()[3], told)
        slot[TAKEN] = slot[RUNNING] = 0

    def run(self, rank: int, value: Any = None, **what: Any) -> None:
        self.take(rank)
        self.tell(rank, value, **what)

    def die(self, rank: int) -> None:
        """The worker on a rank dies, and the monitor deals with it."""
        del self.workers.links[rank]
        slot = self.slots.slot(rank)
        worker = DeadWorker(rank, 1, range(0), range(0), has_successor=False)
        death = Death(worker, None, slot[RUNNING], is_broken_start=False)
        with self.lock:
            self.submissions.note_death(slot[TAKEN], death)

    def resolve(self) -> None:
        """As the monitor does in a round."""
        with self.lock:
            self.submissions.take_results()
            self.submissions.unheard()
            futures = self.submissions.to_resolve()
        self.submissions.resolve(futures)
        self.submissions.validate()


@pytest.fixture
def make_desk() -> Iterator[Any]:
    desks: list[Desk] = []

    def make(size: int) -> Desk:
        desks.append(Desk(size))
        return desks[-1]

    yield make
    for desk in desks:
        desk.workers.channels.close()


def test_workers_take_them_in_order(make_desk: Any) -> None:
    desk = make_desk(2)
    futures = [desk.put() for _ in range(4)]
    assert [desk.take(1), desk.take(0)] == [1, 2]
    assert [future.running() for future in futures] == [True, True, False, False]
    desk.tell(0, "two")
    desk.resolve()
    assert futures[1].result(0) == "two" and not futures[0].done()
    assert not futures[1].running() and desk.inbox.open == {1, 3, 4}


def test_more_than_the_pipe_takes_wait_for_room(make_desk: Any) -> None:
    desk = make_desk(1)
    futures = [desk.put() for _ in range(3000)]
    assert desk.submissions.waiting
    for number in range(3000):
        desk.run(0, number)
        if number % 100 == 0:
            desk.resolve()
    desk.resolve()
    assert [future.result(0) for future in futures] == list(range(3000))
    assert desk.submissions.is_idle() and not desk.inbox.open


@pytest.mark.parametrize("fault", [MemoryError, OSError])
def test_one_that_cannot_be_sent_fails_alone(make_desk: Any, fault: type[BaseException]) -> None:
    desk = make_desk(1)
    desk.workers.fault = fault()
    broken = desk.put()
    desk.workers.fault = None
    good = desk.put()
    desk.resolve()
    assert type(broken.exception(0)) is fault
    assert desk.take(0) == good.number and good.running()


# ---------------------------------------------------------------- who resolves them


def test_who_waits_reads_by_itself(make_desk: Any) -> None:
    desk = make_desk(1)
    future = desk.put()
    desk.run(0, "read")
    assert future.result(0) == "read"
    assert desk.workers.wakes == 0 and desk.submissions.is_idle()


def test_who_waits_is_told_by_the_worker_while_it_waits(make_desk: Any) -> None:
    desk = make_desk(1)
    future = desk.put()
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(future.result(30)))
    thread.start()
    shmmap.testing.wait_until(lambda: bool(desk.slots.team[READING]))
    desk.run(0, "told")
    thread.join()
    assert results == ["told"] and not desk.slots.team[READING]


def test_the_monitor_is_woken_once_nothing_is_left(make_desk: Any) -> None:
    desk = make_desk(1)
    future = desk.put()
    idle: list[bool] = []
    desk.submissions.tell_when_idle()
    desk.workers.wake = lambda: idle.append(desk.submissions.is_idle())
    desk.run(0)
    future.result(0)
    assert idle[-1]


def test_what_it_read_for_others_is_left_to_the_monitor(make_desk: Any) -> None:
    desk = make_desk(1)
    first, second = desk.put(), desk.put()
    desk.run(0, 1)
    desk.run(0, 2)
    assert second.result(0) == 2
    assert not first.done() and desk.workers.wakes == 1
    desk.resolve()
    assert first.result(0) == 1


def test_what_has_arrived_is_not_waited_for(make_desk: Any) -> None:
    desk = make_desk(1)
    first, second = desk.put(), desk.put()
    desk.run(0, 1)
    desk.run(0, 2)
    assert [second.result(0), first.result(0)] == [2, 1]


def test_the_monitor_wakes_who_waits_although_it_has_taken_the_result(make_desk: Any) -> None:
    desk = make_desk(1)
    future = desk.put()
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(future.result(30)))
    with desk.lock:  # so that it comes no further than to wait
        thread.start()
        desk.run(0, "taken")
        desk.submissions.take_results()
    desk.resolve()
    thread.join()
    assert results == ["taken"]


def test_a_time_out_leaves_nothing_behind(make_desk: Any) -> None:
    desk = make_desk(1)
    future = desk.put()
    with pytest.raises(TimeoutError):
        future.result(0.01)
    assert not desk.slots.team[READING] and desk.workers.channels.reader is None
    desk.run(0, "late")
    assert future.result(0) == "late"


def test_callbacks_are_called_by_the_monitor(make_desk: Any) -> None:
    desk = make_desk(1)
    future = desk.put()
    threads: list[Any] = []
    future.add_done_callback(lambda _: threads.append(threading.current_thread()))
    desk.run(0, "heard")
    with pytest.raises(TimeoutError):
        future.result(0)
    monitor = threading.Thread(target=desk.resolve)
    monitor.start()
    monitor.join()
    assert future.result(0) == "heard" and threads == [monitor]


def test_a_callback_may_ask_for_the_result(make_desk: Any) -> None:
    desk = make_desk(1)
    future = desk.put()
    results: list[Any] = []
    future.add_done_callback(lambda done: results.append(done.result()))
    desk.run(0, "asked")
    desk.resolve()
    assert results == ["asked"]
    cancelled = desk.put()
    cancelled.add_done_callback(lambda done: results.append(done.cancelled()))
    assert cancelled.cancel() and results == ["asked", True]


def test_who_waits_tells_the_monitor_of_others_at_once(make_desk: Any) -> None:
    desk = make_desk(1)
    other, own = desk.put(), desk.put()
    thread = threading.Thread(target=own.result)
    thread.start()
    shmmap.testing.wait_until(lambda: bool(desk.slots.team[READING]))
    desk.run(0, "for another")
    shmmap.testing.wait_until(lambda: desk.workers.wakes == 1)
    desk.resolve()
    assert other.result(0) == "for another"
    desk.run(0)
    thread.join()


def test_what_was_said_before_is_heard_before(make_desk: Any) -> None:
    desk = make_desk(2)
    future = desk.put()
    desk.run(1, "said", first=1)
    with pytest.raises(TimeoutError):
        future.result(0)
    with desk.lock:
        assert desk.submissions.to_resolve() == [] and desk.submissions.unheard() == [1]
        futures = desk.submissions.to_resolve()
    desk.submissions.resolve(futures)
    assert future.result(0) == "said"


def raise_interrupt() -> None:
    raise KeyboardInterrupt


class Interrupts:
    def __reduce__(self) -> Any:
        return raise_interrupt, ()


def test_what_calls_the_users_code_is_left_to_the_monitor(make_desk: Any) -> None:
    desk = make_desk(1)
    future = desk.put()
    desk.run(0, Interrupts(), kind=RecordKind.RESULTS)
    with pytest.raises(TimeoutError):
        future.result(0)
    assert not desk.submissions.is_idle() and desk.workers.wakes == 1
    desk.resolve()
    assert type(future.exception(0)) is KeyboardInterrupt and desk.submissions.is_idle()


def test_large_results_come_in_pages(make_desk: Any) -> None:
    desk = make_desk(1)
    future = desk.put()
    desk.run(0, "x" * 10_000)
    desk.resolve()
    assert future.result(0) == "x" * 10_000 and not desk.inbox.payloads


def test_callbacks_are_called_whatever_others_raise(
    make_desk: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = make_desk(1)
    future = desk.put()
    called: list[type[BaseException]] = []
    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: told.append(what.exc_type))

    def call_back(future: Future[Any], error: BaseException) -> None:
        called.append(type(error))
        raise error

    for error in (ValueError("odd"), GeneratorExit(), SystemExit(), KeyError("last")):
        future.add_done_callback(functools.partial(call_back, error=error))
    desk.run(0)
    thread = threading.Thread(target=desk.resolve)
    thread.start()
    thread.join()
    assert called == [ValueError, GeneratorExit, SystemExit, KeyError]
    assert told == [GeneratorExit, SystemExit]
    assert caplog.text.count("exception calling callback") == 2


def test_an_exception_is_the_functions_own(make_desk: Any) -> None:
    desk = make_desk(1)
    future = desk.put()
    report = tuple(report_exception(KeyError("k"), 0, 0, 0, 0, 1))
    desk.run(0, report, kind=RecordKind.ERROR)
    desk.resolve()
    with pytest.raises(KeyError, match="k"):
        future.result(0)


# ---------------------------------------------------------------- cancelling


def test_cancelled_ones_are_not_run(make_desk: Any) -> None:
    desk = make_desk(1)
    futures = [desk.put() for _ in range(4)]
    assert desk.take(0) == 1
    assert futures[1].cancel() and not futures[0].cancel()
    assert wait([futures[1]], timeout=0).done == {futures[1]}
    desk.tell(0, None)
    desk.resolve()
    assert desk.take(0) == 3
    desk.tell(0, None)
    desk.resolve()
    assert desk.take(0) == 4


def test_many_are_cancelled_one_by_one(make_desk: Any) -> None:
    desk = make_desk(1)
    futures = [desk.put() for _ in range(2000)]
    assert all(future.cancel() for future in futures[1:-1])
    desk.run(0)
    desk.resolve()
    assert desk.take(0) == 2000


def test_one_whose_result_the_user_has_set_is_not_run(make_desk: Any) -> None:
    desk = make_desk(1)
    futures = [desk.put() for _ in range(2)]
    futures[0].set_result("mine")
    assert desk.take(0) == 2


def test_those_that_wait_are_cancelled_together(make_desk: Any) -> None:
    desk = make_desk(1)
    futures = [desk.put() for _ in range(4)]
    desk.take(0)
    with desk.lock:
        desk.submissions.cancel_waiting()
    desk.resolve()
    assert [future.cancelled() for future in futures] == [False] + [True] * 3
    assert not desk.submissions.waiting


# ---------------------------------------------------------------- deaths


def test_a_death_fails_what_was_running(make_desk: Any) -> None:
    desk = make_desk(2)
    futures = [desk.put() for _ in range(2)]
    desk.take(0)
    desk.take(1)
    desk.die(0)
    desk.resolve()
    with pytest.raises(shmmap.WorkerDied, match="running abs"):
        futures[0].result(0)
    assert futures[1].running()


def test_what_never_began_goes_to_another_worker(make_desk: Any) -> None:
    desk = make_desk(2)
    futures = [desk.put() for _ in range(2)]
    desk.take(0)
    desk.slots.slot(0)[RUNNING] = 0
    desk.die(0)
    desk.run(1, "again")
    assert desk.take(1) == 2
    assert futures[0].result(0) == "again"


def test_what_was_read_and_never_noted_goes_to_another_worker(make_desk: Any) -> None:
    desk = make_desk(2)
    futures = [desk.put() for _ in range(2)]
    desk.take(0)
    desk.slots.slot(0)[RUNNING], desk.slots.slot(0)[TAKEN] = 0, AT_PIPE
    desk.die(0)
    assert desk.take(1) == 1 and futures[0].running()


def test_as_long_as_another_one_is_just_reading_nothing_is_put_again(make_desk: Any) -> None:
    desk = make_desk(3)
    future = desk.put()
    desk.take(1)
    desk.slots.slot(1)[RUNNING], desk.slots.slot(1)[TAKEN] = 0, AT_PIPE
    desk.die(0)
    assert desk.submissions.is_in_doubt
    desk.slots.slot(1)[TAKEN] = 1
    with desk.lock:
        desk.submissions.note_death(0, None)
    assert not desk.submissions.is_in_doubt and future.running()
    with pytest.raises(BlockingIOError):
        desk.take(2)


def test_what_the_dead_worker_had_told_counts(make_desk: Any) -> None:
    desk = make_desk(1)
    future = desk.put()
    desk.run(0, "told")
    desk.slots.slot(0)[RUNNING] = desk.slots.slot(0)[TAKEN] = 1
    desk.die(0)
    desk.resolve()
    assert future.result(0) == "told"


def test_an_interruption_as_it_is_submitted_leaves_nothing_behind(
    make_desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = make_desk(1)

    def interrupt(record: bytes) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(desk.workers.channels, "put_function", interrupt)
        with pytest.raises(KeyboardInterrupt):
            desk.put()
    assert desk.submissions.is_in_doubt and desk.workers.wakes == 1
    with desk.lock:
        desk.submissions.note_death(0, None)
    desk.run(0)
    desk.resolve()
    assert desk.submissions.is_idle() and not desk.submissions.is_in_doubt


def test_strays_in_the_pipe_fail_what_runs(make_desk: Any) -> None:
    desk = make_desk(1)
    running, unread = desk.put(), desk.put()
    desk.take(0)
    os.write(desk.workers.channels.worker_fds()[3], b"stray")
    desk.resolve()
    with pytest.raises(RuntimeError, match="wrote to file descriptors"):
        running.result(0)
    desk.tell(0, "late")
    desk.run(0, "good")
    desk.resolve()
    assert unread.result(0) == "good" and desk.distrusted == 1


def test_nobody_is_forgotten_when_all_fail(make_desk: Any) -> None:
    desk = make_desk(1)
    futures = [desk.put() for _ in range(4)]
    desk.take(0)
    with desk.lock:
        desk.submissions.fail_all(lambda: RuntimeError("over"))
    desk.resolve()
    errors = [future.exception(0) for future in futures]
    assert all(isinstance(error, RuntimeError) for error in errors)
    assert len(set(map(id, errors))) == len(errors), "each has its own"


def test_one_that_is_given_out_again_can_still_be_cancelled(make_desk: Any) -> None:
    desk = make_desk(2)
    future = desk.put()
    desk.take(0)
    desk.slots.slot(0)[RUNNING] = 0
    desk.die(0)
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result(0)


def test_who_waits_is_let_go_as_the_workers_are_ended(make_desk: Any) -> None:
    desk = make_desk(1)
    future = desk.put()
    errors: list[Any] = []
    thread = threading.Thread(target=lambda: errors.append(future.exception(30)))
    thread.start()
    shmmap.testing.wait_until(lambda: desk.workers.channels.reader is future)
    with desk.lock:
        desk.submissions.fail_all(lambda: RuntimeError("ended"))
        futures = desk.submissions.to_resolve()
        desk.workers.channels.close()
    desk.submissions.resolve(futures)
    thread.join()
    assert [type(error) for error in errors] == [RuntimeError]
    assert desk.workers.channels.reader is None


def test_the_monitor_is_rung_again_after_it_has_read(make_desk: Any) -> None:
    desk = make_desk(1)
    desk.put()
    desk.slots.team[RUNG] = 1
    desk.run(0)
    desk.resolve()
    assert not desk.slots.team[RUNG]


# ---------------------------------------------------------------- functions that nobody wants any more


def test_of_an_abandoned_bundle_some_are_cancelled_and_others_killed(make_desk: Any) -> None:
    desk, bundle = make_desk(2), Bundle(None)
    own = [desk.put(bundle) for _ in range(2)]
    other = desk.put()
    assert desk.take(1) == own[0].number
    with desk.lock:
        desk.submissions.abandon(bundle)
    desk.resolve()
    assert desk.workers.killed == [(1, own[0].number)] and own[1].cancelled()
    desk.die(1)
    desk.resolve()
    assert type(own[0].exception(0)) is shmmap.WorkerDied
    assert desk.take(0) == other.number and not desk.submissions.is_in_doubt


def test_one_that_is_taken_as_it_is_abandoned_is_killed_later(make_desk: Any) -> None:
    desk, bundle = make_desk(2), Bundle(None)
    own = desk.put(bundle)
    record = os.read(desk.workers.channels.worker_fds()[1], FUNCTION_NBYTES)
    desk.slots.slot(1)[TAKEN] = AT_PIPE  # it has been read, and is not noted yet
    with desk.lock:
        desk.submissions.abandon(bundle)
    assert not desk.workers.killed and desk.submissions.is_in_doubt
    slot = desk.slots.slot(1)
    slot[TAKEN] = slot[RUNNING] = Submitted.unpack(record).number
    with desk.lock:
        desk.submissions.note_death(0, None)
    assert desk.workers.killed == [(1, own.number)]
    desk.die(1)
    desk.resolve()
    assert type(own.exception(0)) is shmmap.WorkerDied and desk.submissions.is_idle()


def test_one_that_a_dead_worker_had_not_begun_is_not_given_to_another(make_desk: Any) -> None:
    desk, bundle = make_desk(2), Bundle(None)
    own = desk.put(bundle)
    record = os.read(desk.workers.channels.worker_fds()[1], FUNCTION_NBYTES)
    desk.slots.slot(1)[TAKEN] = Submitted.unpack(record).number
    with desk.lock:
        desk.submissions.abandon(bundle)
    desk.die(1)
    desk.resolve()
    assert own.cancelled() and desk.submissions.is_idle()
