"""The line of a worker: submitted functions among messages, and what it puts off until later."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from shmmap._wire.claims import SLOT_WORDS, TAKEN
from shmmap._wire.messages import Call, News, Payload, wake_record
from shmmap._wire.records import Submitted
from shmmap._worker.line import Line, place_of


def call(seq: int) -> Call:
    return Call(
        control=1,
        job_id=0,
        job=None,
        func=None,
        digest=b"",
        by_value=True,
        is_static=False,
        team=1,
        seq=seq,
    )


@pytest.mark.parametrize(
    ("pending", "place"),
    [
        ([], 0),
        ([call(9)], 0),
        ([call(1), call(9)], 1),
        ([News(Payload(b"")), call(9)], 1),
        ([call(1), News(Payload(b"")), call(9)], 2),
        ([call(9), News(Payload(b""))], 0),
    ],
)
def test_after_what_it_needs_and_before_newer_calls(pending: list[Any], place: int) -> None:
    assert place_of(Submitted(5, 1, 0, False, b""), pending) == place


class Ends:
    """A line, and the caller's ends of it."""

    def __init__(self) -> None:
        wake, self.wake = os.pipe()
        functions, self.functions = os.pipe()
        os.set_blocking(functions, False)
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.line = Line(wake, theirs.detach(), (functions, self.functions))
        self.slot = memoryview(bytearray(SLOT_WORDS * 8)).cast("q")
        self.line.take_functions(self.slot)
        self.fds = wake, self.wake, functions, self.functions


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.socket.close()
    made.line._socket.close()
    made.line._parked.close()
    for fd in made.fds:
        os.close(fd)


def put(ends: Ends, number: int) -> None:
    os.write(ends.functions, Submitted(number, 1, 0, False, b"").pack())


def test_what_is_put_off_is_done_before_anything_else_begins(ends: Ends) -> None:
    called: list[str] = []
    ends.line.call_later(lambda: called.append("pending"))
    ends.line.pending.append(call(1))
    assert ends.line.next() == call(1) and called == ["pending"]
    ends.line.call_later(lambda: called.append("function"))
    put(ends, 5)
    assert ends.line.next() == Submitted(5, 1, 0, False, b"")
    assert called == ["pending", "function"] and ends.slot[TAKEN] == 5


def test_what_is_put_off_is_done_after_a_moment(ends: Ends) -> None:
    ends.line.call_later(lambda: put(ends, 6))
    assert ends.line.next() == Submitted(6, 1, 0, False, b"")


def test_a_newer_call_comes_after_a_function(ends: Ends) -> None:
    put(ends, 5)
    os.write(ends.wake, wake_record((1, b"f", False, False), 9, 1, 1))
    numbers = [getattr(each, "number", 9) for each in (ends.line.next(), ends.line.next())]
    assert numbers == [5, 9]


def test_for_an_older_call_a_function_is_put_back(ends: Ends) -> None:
    put(ends, 5)
    os.write(ends.wake, wake_record((1, b"f", False, False), 1, 1, 1))
    first = ends.line.next()
    assert isinstance(first, Call) and first.seq == 1 and ends.slot[TAKEN] == 0
    assert ends.line.next() == Submitted(5, 1, 0, False, b"")
