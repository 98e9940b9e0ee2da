"""Which maps are open and which wait, and what becomes of their control blocks. No process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from shmmap._system.forks import make_lock
from shmmap._team import open_maps
from shmmap._team.known import Known
from shmmap._team.open_maps import OPEN_MAX, OpenMaps
from shmmap._team.run import Posting, Run
from shmmap._wire import Record, RecordKind


class Link:
    """A worker that notes what it is sent."""

    def __init__(self) -> None:
        self.rank = 0
        self.known = Known()
        self.told: list[bytes] = []

    def post(self, message: bytes) -> None:
        self.told.append(message)


class Workers:
    """One worker, that has left the calls up to `left`."""

    def __init__(self) -> None:
        self.size = 2
        self.links = {0: Link()}
        self.channels = SimpleNamespace(slots=object())
        self.left = 0
        self.distrusted: list[int] = []

    def wake(self) -> None: ...

    def is_through(self, link: Link, seq: int) -> bool:
        return self.left >= seq

    def distrust(self, rank: int) -> None:
        self.distrusted.append(rank)


class Inbox:
    """Notes which calls are open, and what was let go unread."""

    def __init__(self) -> None:
        self.open: set[int] = set()
        self.skipped: list[Record] = []

    def begin_call(self, seq: int) -> None:
        self.open.add(seq)

    def end_call(self, seq: int) -> None:
        self.open.discard(seq)

    def skip(self, record: Record) -> None:
        self.skipped.append(record)


class House:
    def __init__(self) -> None:
        self.workers, self.inbox = Workers(), Inbox()
        self.maps = OpenMaps(make_lock(), self.workers, self.inbox)  # type: ignore[arg-type]
        self.seq = 0
        self.begun: list[Run] = []

    def begin(self, chunks: int = 10) -> Run:
        run = Run()
        self.begun.append(run)
        if self.maps.open(run, chunks):
            self.next_round(run)
        return run

    def next_round(self, run: Run) -> None:
        self.seq += 1
        posting = Posting()
        posting.first = posting.team = 1
        self.maps.begin(run, self.seq, posting)


@pytest.fixture
def house() -> Iterator[House]:
    house = House()
    yield house
    house.workers.left = house.seq
    for run in reversed(house.begun):  # those that wait first
        house.maps.close(run, True)
    house.maps.clear()


def test_a_control_block_serves_the_next_map_if_it_is_large_enough(house: House) -> None:
    first = house.begin()
    control: Any = first.control
    house.maps.close(first, True)
    assert first.control is None and first.doorbell == -1
    assert house.begin(control.capacity + 1).control is not control
    assert house.begin(control.capacity).control is control


def test_what_was_given_up_lingers_until_its_last_worker_has_left(house: House) -> None:
    run, link = house.begin(), house.workers.links[0]
    control: Any = run.control
    run.keep.append("what messages refer to")
    link.known.has_control(control.id)
    os.write(run.doorbell, Record(run.seq, 0, RecordKind.ERROR, first=-1).pack())
    house.maps.close(run, False)
    assert run.keep and not house.maps.let_go()
    assert house.workers.distrusted == [0], "what it said late is heard"
    assert list(house.maps.open_calls()) == [run.seq]
    house.workers.left = run.seq
    assert house.maps.let_go() and not run.keep
    assert len(link.told) == 1 and not link.known.controls, "the worker lets go of it, too"
    assert not list(house.maps.open_calls()) and house.begin().control is not control


def test_late_words_are_let_go_unread(house: House) -> None:
    house.maps.note_late(Record(1, 3, RecordKind.ERROR, first=-1))
    house.maps.note_late(Record(1, 4, RecordKind.ERROR, first=0))
    assert house.workers.distrusted == [3], "it could not load what it was sent"
    assert len(house.inbox.skipped) == 2


def test_a_further_round_has_a_number_of_its_own(house: House) -> None:
    run = house.begin()
    run.vacated.append(0)
    house.next_round(run)
    assert house.maps.runs == {2: run} and house.inbox.open == {2} and not run.vacated
    house.maps.close(run, True)
    assert not house.maps.runs and not house.inbox.open


def test_maps_beyond_the_limit_wait_and_are_admitted_in_order(house: House) -> None:
    first, *_ = [house.begin() for _ in range(OPEN_MAX)]
    second, third, fourth = (house.begin() for _ in range(3))
    assert [run.control for run in (second, third, fourth)] == [None] * 3
    house.maps.close(third, True)  # it was cancelled
    house.maps.close(first, True)
    assert second.admitted is not None and second.admitted.is_set() and second.control is not None
    assert fourth.admitted is not None and not fourth.admitted.is_set()
    house.maps.refuse_waiting(lambda: RuntimeError("no"))
    assert fourth.admitted.is_set() and str(fourth.refusal) == "no" and fourth.control is None


def test_a_map_whose_turn_has_come_is_one_before_its_call_is_sent(house: House) -> None:
    """Its own thread sends that; until then the team is not idle, or its end would come first."""
    assert house.maps.is_empty()
    runs = [house.begin() for _ in range(OPEN_MAX + 1)]
    for run in runs[:-1]:
        house.maps.close(run, True)
    assert not house.maps.runs and not house.maps.waiting and not house.maps.is_empty()
    house.maps.close(runs[-1], True)
    assert house.maps.is_empty()


def test_what_opening_fails_by_is_its_own_callers(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *_ = [house.begin() for _ in range(OPEN_MAX)]
    waits = house.begin(1 << 20)  # for which no control block is large enough

    def fail(*args: Any) -> None:
        raise OSError(24, "too many")

    monkeypatch.setattr("shmmap._team.open_maps.ControlBlock", fail)
    house.maps.close(first, True)
    assert waits.admitted is not None and waits.admitted.is_set()
    assert isinstance(waits.refusal, OSError) and waits.control is None


def test_nothing_is_kept_once_the_workers_have_ended(house: House) -> None:
    run = house.begin()
    control: Any = run.control
    house.workers.channels.slots = None
    house.maps.close(run, True)
    assert house.begin().control is not control


def interrupted_at(line: int, call: Callable[[], object]) -> bool:
    """Whether a KeyboardInterrupt came before that many lines of the module under test were done."""
    seen = count(1)

    def trace(frame: Any, event: str, arg: object) -> Any:
        if frame.f_code.co_filename != open_maps.__file__:
            return None
        if event == "line" and next(seen) == line:
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("cuts_open", [True, False])
def test_what_a_ctrl_c_has_cut_off_is_made_good_by_a_second_end(
    house: House, cuts_open: bool
) -> None:
    house.maps.close(house.begin(), True)
    used = set()
    for line in count(1):
        run = Run()
        if cuts_open:
            is_cut = interrupted_at(line, lambda run=run: house.maps.open(run, 10))  # type: ignore[misc]
        else:
            house.maps.open(run, 10)
            house.next_round(run)
            used.add(id(run.control))
            is_cut = interrupted_at(line, lambda run=run: house.maps.close(run, True))  # type: ignore[misc]
        house.maps.close(run, True)
        assert run.control is None and house.maps.is_empty() and not house.inbox.open
        house.maps.validate()
        if not is_cut:
            break
    assert line > 5
    assert cuts_open or len(used) == 1, "it is with nobody in between, and not lost"
