"""Who is replaced, and what the replacement gets: decided without a process."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shmmap._team.roster import Roster


def make(size: int, limit: int = 8) -> Roster:
    roster = Roster(limit)
    assert roster.fill(size) == list(range(size))
    for rank in range(size):
        roster.ready(rank)
    return roster


def test_filling_starts_only_what_is_missing():
    roster = make(2)
    assert roster.fill(2) == []
    assert roster.fill(4) == [2, 3]
    assert roster.is_filled(4)


def test_a_replacement_gets_the_calls_that_are_not_over():
    roster = make(2)
    roster.assign(0, 7, again=True)
    roster.assign(0, 8, again=True)
    roster.left(0, 7)
    departure = roster.died(0)
    assert departure.again == (8,) and departure.lost == ()


def test_a_submitted_function_is_lost_with_its_worker():
    roster = make(1)
    roster.assign(0, 7, again=False)
    departure = roster.died(0)
    assert departure.lost == (7,) and not departure.again
    assert not roster.is_filled(1)


def test_an_idle_worker_is_not_replaced_until_it_is_needed():
    roster = make(2)
    assert not roster.died(1).again
    assert roster.fill(2) == [1]


def test_a_worker_killed_while_it_starts_is_replaced_once():
    roster = Roster()
    roster.fill(1)
    roster.assign(0, 1, again=True)
    assert roster.died(0).again == (1,)
    departure = roster.died(0)
    assert departure.is_broken_start and not departure.again and departure.lost == (1,)


def test_a_start_that_failed_is_not_repeated():
    roster = Roster()
    roster.fill(1)
    roster.assign(0, 1, again=True)
    departure = roster.died(0, failed=True)
    assert departure.is_broken_start and not departure.again and departure.lost == (1,)


def test_a_call_that_is_over_causes_no_replacement():
    roster = make(1)
    roster.assign(0, 1, again=True)
    roster.end(1)
    assert not roster.died(0).again


def test_replacements_are_bounded():
    roster = make(1, limit=3)
    roster.assign(0, 1, again=True)
    deaths = 0
    while roster.died(0).again:
        deaths += 1
        roster.ready(0)
        assert deaths <= 3
    assert deaths == 3


@given(
    st.lists(st.tuples(st.sampled_from("aldr"), st.integers(0, 3), st.integers(1, 9)), max_size=60)
)
def test_every_call_of_the_dead_is_either_passed_on_or_lost(events):
    roster = make(4)
    for kind, rank, seq in events:
        seat = roster.seats[rank]
        if kind == "a" and seat.state != "empty":
            roster.assign(rank, seq, again=seq % 2 == 0)
        elif kind == "l":
            roster.left(rank, seq)
            assert all(each > seq for each in seat.calls)
        elif kind == "r" and seat.state == "starting":
            roster.ready(rank)
        elif kind == "d" and seat.state != "empty":
            held = set(seat.calls)
            departure = roster.died(rank)
            assert set(departure.again) | set(departure.lost) == held
            assert not set(departure.again) & set(departure.lost)
            assert (seat.state != "empty") == bool(departure.again)
            assert set(seat.calls) == set(departure.again)
            assert all(each % 2 == 0 for each in departure.again)


def test_a_seat_for_which_nobody_could_be_started_is_empty() -> None:
    roster = Roster()
    assert roster.fill(2) == [0, 1] and roster.is_filled(2)
    roster.remove(1)
    assert not roster.is_filled(2) and roster.is_filled(1)
    assert roster.fill(2) == [1]
