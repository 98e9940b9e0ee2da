"""What follows from deaths and failures: decided without a process, and gone through with made-up workers."""

from __future__ import annotations

import pytest

from shmmap._chunks.ledger import Mark
from shmmap._results.recovery import (
    DEATHS_MAX,
    EARLY_DEATHS_MAX,
    DeadWorker,
    Instructions,
    Recovery,
    pass_on,
)


def make(retries: int = 0, *, keep_going: bool = False, is_static: bool = False) -> Recovery:
    return Recovery(retries, keep_going=keep_going, is_static=is_static)


def die(
    recovery: Recovery,
    tickets: range = range(0),
    inside: range = range(0),
    marks: bytes = bytes(16),
    *,
    rank: int = 0,
    pid: int = 7,
    has_successor: bool = True,
    overdue: int | None = None,
    stopped_at: int | None = None,
    is_safe: bool = True,
) -> Instructions:
    dead = DeadWorker(rank, pid, tickets, inside, has_successor, overdue)
    return recovery.died(dead, marks, stopped_at, is_safe=is_safe)


def test_what_was_drawn_goes_to_the_successor_and_what_was_begun_is_lost() -> None:
    told = die(make(), range(2, 8), range(4, 5), bytes([0, 0, 1, 0] + [0] * 12))
    assert told.lost == [3, 4]
    assert told.again == {3: 1, 4: 1, 5: 0, 6: 0, 7: 0}
    assert told.stop_at is None and not told.not_to_begin


def test_all_chunks_that_are_gone_through_as_one_are_lost() -> None:
    told = die(make(), range(2, 8), range(2, 6))
    assert told.lost == [2, 3, 4, 5] and list(told.again) == [2, 3, 4, 5, 6, 7]


def test_a_chunk_that_kills_each_worker_it_meets_ends_the_map() -> None:
    recovery = make()
    assert die(recovery, range(2, 5), range(2, 3)).again == {2: 1, 3: 0, 4: 0}
    told = die(recovery, inside=range(2, 3), pid=8)  # the successor: it has claimed nothing yet
    assert told.stop_at == 2 and not told.again and recovery.is_doomed()


@pytest.mark.parametrize(("retries", "ends"), [(0, True), (1, False)])
def test_a_function_that_may_have_written_is_run_again_only_if_asked_to(
    retries: int, ends: bool
) -> None:
    told = die(make(retries), range(2, 5), range(3, 4), is_safe=False)
    assert (told.stop_at is not None) == ends
    assert list(told.again) == ([] if ends else [2, 3, 4])


def test_no_fault_of_chunks_whose_results_alone_are_gone() -> None:
    recovery = make()
    assert die(recovery, range(5), range(4, 5), has_successor=False).lost == [0, 1, 2, 3, 4]
    assert recovery.next_round([0, 1, 2, 3, 4], is_safe=True) == [0, 1, 2, 3, 4]
    assert recovery.attempts([0, 4]) == {0: 1, 4: 1}
    told = die(recovery, range(2), range(1, 2), pid=8)
    assert told.stop_at is None and told.again == {0: 2, 1: 2}


def test_a_further_round_has_chunks_of_its_own_at_its_tickets() -> None:
    recovery = make(keep_going=True)
    assert recovery.next_round([3, 9, 12], is_safe=True) == [3, 9, 12]
    told = die(recovery, range(1, 3), range(9, 10))
    assert told.again == {9: 1, 12: 0}


def test_a_share_of_its_own_is_gone_on_with_by_the_successor() -> None:
    """It draws by itself what was not begun; what was begun, it must not begin by itself."""
    told = die(make(is_static=True), range(2, 8), range(4, 5), bytes([0, 0, 1, 0] + [0] * 12))
    assert told.not_to_begin == [3, 4] and told.again == {3: 1, 4: 1}


def test_what_a_successor_was_given_goes_on_to_the_next_one() -> None:
    recovery = make()
    die(recovery, range(2, 6), range(2, 3))
    told = die(recovery, inside=range(3, 4), pid=8, marks=bytes([0, 0, 1] + [0] * 13))
    assert told.lost == [3] and told.again == {3: 1, 4: 0, 5: 0}


def test_without_a_successor_nothing_is_given_and_the_next_round_has_it() -> None:
    recovery = make()
    assert not die(recovery, range(2, 5), range(2, 3), has_successor=False).again
    assert recovery.next_round([2, 3, 4], is_safe=True) == [2, 3, 4]


def test_a_map_that_its_dead_worker_has_stopped_is_resumed_unless_another_chunk_has_failed() -> (
    None
):
    recovery = make()
    assert die(recovery, range(2, 5), range(2, 3), stopped_at=2).resumes
    recovery.failed(4, is_whole=True)
    assert not die(recovery, range(6, 8), range(6, 7), stopped_at=6, pid=8).resumes
    assert not die(make(), range(2, 5), range(2, 3), stopped_at=0).resumes  # another has


def test_early_deaths_in_a_row_and_many_deaths_end_the_map() -> None:
    recovery = make(keep_going=True)
    for k in range(8):  # of chunks that have failed, say: these are no early ones
        assert die(recovery, inside=range(k, k + 1), pid=k).stop_at is None
    verdicts = [die(recovery, pid=20 + k).is_given_up for k in range(EARLY_DEATHS_MAX + 1)]
    assert verdicts == [False] * EARLY_DEATHS_MAX + [True]
    assert recovery.next_round([1], is_safe=True) == []
    recovery = make(100, keep_going=True)
    verdicts = [die(recovery, inside=range(1, 2), pid=k).is_given_up for k in range(DEATHS_MAX + 1)]
    assert verdicts == [False] * DEATHS_MAX + [True]


def test_a_call_that_takes_too_long_is_tried_again_as_retries_say() -> None:
    recovery = make(1)
    told = die(recovery, range(2, 4), range(2, 3), overdue=2)
    assert told.is_overdue and told.again == {2: 1, 3: 0} and not recovery.is_doomed()
    told = die(recovery, inside=range(2, 3), overdue=2, pid=8)
    assert told.stop_at == 2 and recovery.is_doomed()


def test_a_worker_that_had_gone_on_as_it_was_killed_for_a_call_died_like_any_other() -> None:
    marks = bytes([0, 0, Mark.DONE] + [0] * 13)
    told = die(make(), range(2, 4), range(3, 4), marks, overdue=2)
    assert not told.is_overdue and told.again == {3: 1}


@pytest.mark.parametrize("has_successor", [True, False])
def test_a_report_of_an_attempt_that_is_forgiven_is_ignored_if_it_is_read_late(
    has_successor: bool,
) -> None:
    """Also where the next round does the chunk again, and not a successor."""
    recovery = make(keep_going=True)
    die(recovery, range(2, 5), range(2, 3), has_successor=has_successor)
    assert recovery.is_superseded(7, 2) and not recovery.is_superseded(8, 2)
    assert recovery.next_round([2, 3, 4], is_safe=True) == [2, 3, 4]
    assert not recovery.is_superseded(7, 2)  # the next round reads nothing of the one before


def test_a_report_of_a_chunk_that_is_lost_for_good_counts() -> None:
    recovery = make(keep_going=True)
    die(recovery, range(2, 5), range(2, 3), is_safe=False)
    assert not recovery.is_superseded(7, 2)


def test_a_function_that_cannot_be_called_ends_the_map() -> None:
    recovery = make(keep_going=True)
    recovery.broken()
    assert recovery.is_doomed() and recovery.next_round([1], is_safe=True) == []


def test_calls_are_passed_on_a_bounded_number_of_times() -> None:
    assert pass_on({1: True, 2: False, 3: True}, {3: 4}, 4) == [1]
