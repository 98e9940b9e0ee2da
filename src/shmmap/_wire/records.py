"""Records: what a worker says on the completion pipe of a call or on its shelf, and the pages of their bulk.

A record is 56 bytes, so written to a pipe atomically. Its bulk, if it has one, lies in a *page*: a segment
of the worker's, which it fills and the caller takes from; a page whose records are all taken is filled again.
"""

from __future__ import annotations

import select
import struct
import time
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from .._memory import Segment


class RecordKind(IntEnum):
    """What a record says."""

    LEAVE = 0
    """The last worker has left the call."""
    RESULTS = 1
    """Results of chunks, or of a submitted function."""
    FORM = 2
    """The form of index 0's result."""
    ERROR = 3
    KEPT = 4
    """The function kept a view of the segment `Record.first`."""
    WAKE = 5
    """Nothing: it wakes the thread that waits. It is the caller's own, or a worker's that has put results."""
    PLAIN = 6
    """Results of chunks that `pickle` reads by itself."""
    STACKS = 7
    """Where in its code the function was, and how often, in a map that is profiled."""


_RECORD = struct.Struct("<7q")
RECORD_NBYTES = _RECORD.size
_HEAD = struct.Struct("<2q")  # what a record begins with
_STRAYS = "a function wrote to file descriptors that are not its own"
# Read from a pipe of records at once: whole ones only.
READ_NBYTES = 1024 * RECORD_NBYTES
# Written at once: as many as a pipe takes with nothing of others in between.
WRITE_NBYTES = select.PIPE_BUF // RECORD_NBYTES * RECORD_NBYTES


class Record(NamedTuple):
    """What a worker says on a completion pipe."""

    seq: int
    """The call it concerns."""
    rank: int
    kind: int
    """A `RecordKind`."""
    first: int = 0
    """The first chunk it concerns; for `RecordKind.KEPT` the id of a segment."""
    stop: int = 0
    """The end of these chunks."""
    page: int = 0
    """Segment id of the page that holds the bulk, 0 if there is none."""
    offset: int = 0
    nbytes: int = 0

    def pack(self) -> bytes:
        """The 56 bytes that are written."""
        seq, rank, kind, *rest = self
        return _RECORD.pack(seq, rank << 8 | kind, *rest)


def unpack_records(data: bytes) -> Iterator[Record]:
    """The records in what was read from a pipe; whole ones, as each is written atomically.

    Raises RuntimeError if something else was written there.
    """
    if len(data) % RECORD_NBYTES:
        raise RuntimeError(_STRAYS)
    for seq, who, first, stop, page, offset, nbytes in _RECORD.iter_unpack(data):
        yield Record(seq, who >> 8, who & 255, first, stop, page, offset, nbytes)


def leave_record(seq: int) -> bytes:
    """That the last worker has left call `seq`; mostly it is all that is read of a map."""
    return _RECORD.pack(seq, RecordKind.LEAVE, 0, 0, 0, 0, 0)


# ---------------------------------------------------------------- submitted functions

# A function in the pipe that all idle workers read: see `Submitted`. The last number is how long its data is.
_FUNCTION = struct.Struct("<3q?7xq")
FUNCTION_NBYTES = 1024
FUNCTION_INLINE = FUNCTION_NBYTES - _FUNCTION.size
# What came of a function: a record, and its bulk beside it if that is small. `Record.first` is 1 if something
# is to be taken before, that it has said or announced.
FINISHED_NBYTES = 256
FINISHED_INLINE = FINISHED_NBYTES - RECORD_NBYTES
# Written at once, see `WRITE_NBYTES`.
FINISHED_WRITE_NBYTES = select.PIPE_BUF // FINISHED_NBYTES * FINISHED_NBYTES


class Submitted(NamedTuple):
    """A function that was submitted, as workers get it."""

    number: int
    settings: int
    """Number of the surroundings to run it in, as `messages.Settings` has told them."""
    split: int
    """Where in `data` the pickle of the function ends and that of its arguments begins; 0: they are one."""
    keeps: bool
    """The function may be kept for calls to come."""
    data: bytes
    """As `messages.fit` makes it."""

    def pack(self) -> bytes:
        *head, data = self
        return (_FUNCTION.pack(*head, len(data)) + data).ljust(FUNCTION_NBYTES, b"\0")

    @classmethod
    def unpack(cls, record: bytes) -> Submitted:
        number, settings, split, keeps, nbytes = _FUNCTION.unpack_from(record)
        data = record[_FUNCTION.size : _FUNCTION.size + nbytes]
        return cls(number, settings, split, keeps, data)


def numbers_in(data: bytes) -> list[int]:
    """The numbers of the functions in what was read from their pipe."""
    return [_HEAD.unpack_from(data, at)[0] for at in range(0, len(data), FUNCTION_NBYTES)]


def pack_finished(record: Record, inline: bytes = b"") -> bytes:
    """What is written of a function that is over; `inline` is the bulk if it lies in no page."""
    return (record.pack() + inline).ljust(FINISHED_NBYTES, b"\0")


def unpack_finished(data: bytes) -> list[tuple[Record, bytes]]:
    """The records in what was read, each with its bulk if that is inline.

    Raises RuntimeError if something else was written there.
    """
    if len(data) % FINISHED_NBYTES:
        raise RuntimeError(_STRAYS)
    found = []
    for at in range(0, len(data), FINISHED_NBYTES):
        seq, who, first, stop, page, offset, nbytes = _RECORD.unpack_from(data, at)
        at += RECORD_NBYTES
        inline = b"" if page else data[at : at + nbytes]
        record = Record(seq, who >> 8, who & 255, first, stop, page, offset, nbytes)
        found.append((record, inline))
    return found


# ---------------------------------------------------------------- pages


class Page:
    """Bulk of records: a header (records put, taken, whether the worker waits for that), then payload."""

    HEADER = 24
    LEAST_NBYTES = 1 << 16
    # Larger pages go when nothing has come in them for a while. Less memory kept, more of it touched anew.
    KEPT_NBYTES = 1 << 20
    KEPT_S = 2.0

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.bytes = memoryview(segment.map)
        self.counts = self.bytes[: self.HEADER].cast("q")
        self.filled = self.HEADER
        self.taken_at = time.monotonic()
        """When the caller took a record last; at first, when it saw the page."""
        self.is_asked_for = False
        """The worker was told to let go of it, and nothing has come in it since."""

    def is_to_go(self) -> bool:
        """Whether it is larger than what is kept, and the worker is to be told so."""
        return self.segment.nbytes > self.KEPT_NBYTES and not self.is_asked_for

    def is_idle(self, now: float) -> bool:
        """Whether nothing has come in it for a while."""
        return now - self.taken_at > self.KEPT_S and self.is_free()

    def is_free(self) -> bool:
        """Whether everything put was taken."""
        return self.counts[0] == self.counts[1]

    def await_taken(self, is_awaited: bool) -> None:
        """The worker begins or ends to wait until something is taken: it is to be woken by that."""
        self.counts[2] = is_awaited

    def is_awaited(self) -> bool:
        """Whether the worker is to be woken when something is taken."""
        return bool(self.counts[2])

    def ask_for(self) -> None:
        """Its worker is being told to let go of it."""
        self.is_asked_for = True

    def close(self) -> None:
        """Let go of the memory; see `_wire.claims.ClaimSlots.close`."""
        del self.counts, self.bytes

    def take(self) -> bool:
        """Count a record as taken, the only write of the caller here; whether somebody is to hear of it."""
        counts = self.counts
        counts[1] += 1
        was_asked_for = False
        if self.segment.nbytes > self.KEPT_NBYTES:
            self.taken_at = time.monotonic()
            was_asked_for, self.is_asked_for = self.is_asked_for, False
        return was_asked_for or counts[2] != 0
