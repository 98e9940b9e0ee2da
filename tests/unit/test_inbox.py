"""Pages and segments that workers made for results, as the caller takes and lets go of them. No process."""

from __future__ import annotations

import itertools
import os
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from shmmap._memory import attach_segment, get_segment
from shmmap._system.forks import make_lock
from shmmap._team.inbox import Inbox
from shmmap._team.known import Known
from shmmap._wire import Ask, Attach, Drop, Page, Ready, Record, RecordKind

NBYTES = Page.LEAST_NBYTES
_ids = itertools.count(1 << 40)


class Link:
    """A worker whose messages are put here by the test."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.known = Known()
        self.said: list[Any] = []
        self.told: list[bytes] = []
        self.dropped: list[int] = []

    def make(self, nbytes: int = NBYTES, seq: int = 0) -> int:
        """Make a segment, and announce it: a page, or one for results of a call."""
        fd = os.memfd_create("test")
        os.truncate(fd, nbytes)
        id = attach_segment(next(_ids), fd, nbytes, keep_fd=True).id
        self.known.has_segments([id])
        self.said.append(Attach(((id, nbytes),), seq))
        return id

    def receive(self) -> list[Any]:
        said, self.said = self.said, []
        return said

    def post(self, message: bytes) -> None:
        self.told.append(message)

    def drop(self, segments: list[int]) -> None:
        self.dropped.extend(self.known.loses(segments))


class Workers:
    def __init__(self) -> None:
        self.links: dict[int, Any] = {0: Link(0), 1: Link(1)}
        self.wakes = 0

    def wake(self) -> None:
        self.wakes += 1


@pytest.fixture
def workers() -> Workers:
    return Workers()


@pytest.fixture
def inbox(workers: Workers) -> Iterator[Inbox]:
    inbox = Inbox(make_lock(), workers)  # type: ignore[arg-type]
    yield inbox
    inbox.clear()


def put(page: int, value: Any, at: int = Page.HEADER) -> Record:
    """What a worker does: it writes into its page, and tells where."""
    data = pickle.dumps(value)
    with memoryview(get_segment(page).map) as view, view[: Page.HEADER].cast("q") as counts:
        view[at : at + len(data)] = data
        counts[0] += 1
    return Record(1, 0, RecordKind.RESULTS, page=page, offset=at, nbytes=len(data))


def is_there(id: int) -> bool:
    try:
        get_segment(id)
    except KeyError:
        return False
    return True


def test_a_page_is_read_before_the_monitor_has_heard_of_it(inbox: Inbox, workers: Workers) -> None:
    record = put(workers.links[0].make(), [1, 2])
    assert inbox.take(record) == [1, 2]
    assert not workers.links[0].said, "the thread that needs the line has read it"


def test_what_concerns_others_is_left_to_the_monitor(inbox: Inbox, workers: Workers) -> None:
    link = workers.links[0]
    link.said += [Ready(1), Ask("tracker")]
    record = put(link.make(), "it")
    link.said.append(Ready(1))
    assert inbox.take(record) == "it"
    assert [(who, type(message)) for who, message in inbox.messages] == [
        (link, Ready),
        (link, Ask),
        (link, Ready),
    ]
    assert workers.wakes >= 3


def test_a_page_that_never_came_is_an_error_that_says_why(inbox: Inbox) -> None:
    lost = Record(1, 0, RecordKind.RESULTS, page=next(_ids), offset=16, nbytes=1)
    with pytest.raises(OSError, match="descriptor"):
        inbox.take(lost)
    inbox.skip(lost)


def test_segments_of_results_stay_while_their_call_is_open(inbox: Inbox, workers: Workers) -> None:
    link = workers.links[0]
    inbox.begin_call(7)
    first, other = link.make(seq=7), link.make(seq=8)
    inbox.read_line(link)
    assert is_there(first) and not is_there(other), "call 8 is over, or was never open"
    late = link.make(seq=7)
    inbox.end_call(7)
    assert not is_there(first) and first not in link.known.segments
    assert link.dropped == [other, first], (
        "its worker keeps what it has handed over until it is told"
    )
    inbox.read_line(link)
    assert not is_there(late), "it was announced when the call was over"


def test_large_pages_go_once_they_are_idle(inbox: Inbox, workers: Workers) -> None:
    link = workers.links[0]
    small, large = link.make(), link.make(Page.KEPT_NBYTES * 2)
    inbox.read_line(link)
    now = inbox.next_trim()
    inbox.trim(now - Page.KEPT_S)
    assert not link.told and now < float("inf"), "it may be used again"
    inbox.trim(now + Page.KEPT_S)
    assert len(link.told) == 1 and inbox.next_trim() == float("inf")
    link.said.append(Drop((large,)))
    inbox.read_line(link)
    assert is_there(small) and not is_there(large) and large not in link.known.segments


def test_pages_of_the_dead_go_when_nothing_is_taken_from_them_any_more(
    inbox: Inbox, workers: Workers
) -> None:
    link = workers.links[0]
    done, told, untold = link.make(), link.make(), link.make()
    inbox.read_line(link)
    inbox.skip(put(done, 1))
    record = put(told, 2)
    put(untold, 3)  # it was killed before it could tell
    del workers.links[0]
    inbox.note_orphans()
    inbox.purge_orphans(last_seq=5, oldest_open=4)
    assert not is_there(done) and is_there(told) and is_there(untold) and inbox.has_orphans
    assert inbox.take(record) == 2
    inbox.purge_orphans(last_seq=6, oldest_open=5)
    assert not is_there(told) and is_there(untold)
    inbox.purge_orphans(last_seq=9, oldest_open=6)  # all calls are over that were open at its death
    assert not is_there(untold) and not inbox.has_orphans


def test_a_worker_that_waits_for_room_is_woken_when_something_is_taken(
    inbox: Inbox, workers: Workers
) -> None:
    link = workers.links[0]
    page = link.make()
    first, second = put(page, "a"), put(page, "b", at=1000)
    assert inbox.take(first) == "a"
    assert not link.told
    waiting = Page(get_segment(page))
    waiting.await_taken(True)
    assert inbox.take(second) == "b"
    assert [pickle.loads(message) for message in link.told] == [Attach(())]
    waiting.close()
