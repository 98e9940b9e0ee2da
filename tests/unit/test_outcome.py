"""What follows from failures and losses, without any process."""

from __future__ import annotations

from typing import Any

import pytest

from shmmap import MapError
from shmmap._chunks.job import Job
from shmmap._chunks.plan import Plan
from shmmap._results.collect import Collector
from shmmap._results.outcome import Outcome
from shmmap._results.recovery import DeadWorker, Instructions
from shmmap._wire.reports import Report, report_exception


def make_outcome(keep_going: bool, chunksize: int = 1, retries: int = 0) -> Outcome:
    job = Job(
        inputs=(),
        out=None,
        seed=None,
        first=0,
        verb="items",
        gather=False,
        plan=Plan(8, chunksize),
        axis=0,
        dtypes=None,
        timeout=None,
        keep_going=keep_going,
        retries=retries,
        may_join=False,
    )
    on_error = "continue" if keep_going else "raise"
    return Outcome(job, Collector(job), abs, on_error=on_error, axis=0)


def test_a_failure_beside_what_is_undone_ends_the_map() -> None:
    """As where index 0's result does not fit ``dtype=``, and was handed over all the same."""
    outcome = make_outcome(keep_going=False)
    outcome.note_exception(0, TypeError("does not fit"), 0, 0, 1, "the calling process")
    assert outcome.next_round([5, 6]) == []


def test_what_was_drawn_and_not_begun_is_run_again() -> None:
    assert make_outcome(keep_going=False).next_round([5, 6]) == [5, 6]


def test_a_failure_that_is_to_be_reported_does_not_keep_others_from_being_run() -> None:
    outcome = make_outcome(keep_going=True)
    outcome.note_exception(0, TypeError("failed"), 0, 0, 1, "worker 0")
    assert outcome.next_round([5, 6]) == [5, 6]


def report(pid: int, index: int) -> Report:
    """A worker's report of an item that failed, as it is sent."""
    return report_exception(KeyError("a"), index, index, index + 1, 0, pid)


def die(outcome: Outcome, pid: int, tickets: range, inside: range, **known: Any) -> Instructions:
    """A worker on rank 0 dies, and another one takes its place; nothing is done."""
    dead = DeadWorker(rank=0, pid=pid, tickets=tickets, inside=inside, has_successor=True)
    known = {"stopped_at": None, "overdue": None} | known
    return outcome.note_death(dead, "worker 0 died", f"worker 0 (pid {pid})", bytes(8), **known)


@pytest.mark.parametrize("is_read_late", [False, True])
def test_what_a_dead_worker_said_of_a_chunk_that_is_done_again_is_void(is_read_late: bool) -> None:
    outcome = make_outcome(keep_going=True, chunksize=2)
    if not is_read_late:
        outcome.note_report(2, report(pid=7, index=4))
    assert list(die(outcome, 7, range(2, 4), range(2, 3)).again) == [2, 3]
    if is_read_late:
        outcome.note_report(2, report(pid=7, index=4))
    outcome.note_report(2, report(pid=8, index=5))  # by its successor
    with pytest.raises(MapError) as caught:
        outcome.finish([], bytes([1] * 4))
    assert caught.value.failed == ((5, 6),)


def test_what_a_dead_worker_said_of_a_chunk_that_has_failed_stands() -> None:
    """Its successor is not to do it again, so it is not among what the worker leaves."""
    outcome = make_outcome(keep_going=True)
    assert list(die(outcome, 7, range(3, 4), range(0)).again) == [3]
    outcome.note_report(2, report(pid=7, index=2))
    assert outcome.next_round([2]) == []


def test_a_call_that_took_too_long_has_failed_until_its_chunk_is_run_again() -> None:
    outcome = make_outcome(keep_going=True, chunksize=2, retries=1)
    told = die(outcome, 7, range(2, 3), range(2, 3), overdue=5)
    assert told.is_overdue and told.again == {2: 1} and not outcome.is_doomed()
    told = die(outcome, 8, range(0), range(2, 3), overdue=5)
    assert told.is_overdue and not told.again
    with pytest.raises(MapError) as caught:
        outcome.finish([2], bytes([1, 1, 0, 1]))
    assert caught.value.failed == ((4, 6),)
    (error,) = caught.value.exceptions
    assert isinstance(error, TimeoutError) and "index 5" in error.__notes__[0]
