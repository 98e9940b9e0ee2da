"""What follows from failures and losses, without any process."""

from __future__ import annotations

from shmmap._collect import Collector
from shmmap._job import Job
from shmmap._outcome import Outcome
from shmmap._plan import Plan


def make_outcome(keep_going: bool) -> Outcome:
    job = Job("chunks", False, 8, 1, (), 0, None, None, None, None, keep_going, 0)
    plan = Plan(8, 1)
    collector = Collector(job, plan, shape=lambda result: result, none_as_list=True)
    on_error = "continue" if keep_going else "raise"
    return Outcome(job, plan, collector, abs, in_place=False, on_error=on_error, axis=0, first=0)


def test_a_failure_beside_what_is_undone_ends_the_map() -> None:
    """As where index 0's result does not fit ``dtype=``, and was handed over all the same."""
    outcome = make_outcome(keep_going=False)
    outcome.note_exception(0, TypeError("does not fit"), 0, 0, 1, "the calling process")
    assert outcome.todo([5, 6]) == []


def test_what_was_drawn_and_not_begun_is_run_again() -> None:
    assert make_outcome(keep_going=False).todo([5, 6]) == [5, 6]


def test_a_failure_that_is_to_be_reported_does_not_keep_others_from_being_run() -> None:
    outcome = make_outcome(keep_going=True)
    outcome.note_exception(0, TypeError("failed"), 0, 0, 1, "worker 0")
    assert outcome.todo([5, 6]) == [5, 6]
