"""What caller and workers share besides arrays: claim slots, control blocks, records, pages.

Claim slots: one block per team, one slot of 16 words (int64) per rank.

====== ========= ========== ==========================================================
offset field     written by meaning
====== ========= ========== ==========================================================
0      RUNNING   worker     sequence number of the call it is in, 0 when parked
8      LEFT      worker     sequence number of the last call it has left
16     FIRST     worker     first ticket of its claim
24     STOP      worker     end of its claim; equal to FIRST when it holds none
32     INDEX     worker     index the function is called for (only with a timeout)
40     SINCE     worker     monotonic ns at which that call began, 0 outside one (likewise)
48     RELAYED   worker     number of messages it has put on its relay socket
56     CHUNK     worker     1 + number of the chunk it is in, 0 between chunks
64     LAST      worker     the same of the last one, where it goes through several as one; else 0
====== ========= ========== ==========================================================

Control block: one per open map, a nameless segment. Its *file offset* is the ticket counter: an lseek on
the shared open file description is an atomic fetch-and-add done by the kernel. Tickets begin at an offset
that no file of the user's is at: a descriptor that is not ours any more shows itself.

====== ========= ============== ======================================================
offset field     written by     meaning
====== ========= ============== ======================================================
0      STOP_AT   anyone, downwards  chunks above this number are not to be started; ABANDONED
                                if the caller does not wait for the map any more either;
                                upwards if who stopped the map died and told nobody why
8      OUTPUT_STATE     caller, or the KNOWN once the message that tells the output is sent;
                 worker with    UNTOLD if index 0 failed, was lost, or gave None
                 index 0
64     ledger    worker         a byte per chunk: PENDING, DONE, FAILED, HANDED, LOST, NOTHING
====== ========= ============== ======================================================

Leaving is counted in the same way, by the offset of a description of its own: whoever finds that it is
the last one to leave writes LEAVE, so that the caller is woken once, not once per worker. A dead worker
may have counted or not, so after a death the caller looks at LEFT in the claim slots instead.

*Requires*: a control block is used again only after the last worker has said so and nobody has died, so
that nobody draws a ticket of the next map, or counts as leaving it. *Guarantees*: a chunk is marked done
only when its result is in place, or in a page of which the caller was told; a ticket is drawn at most once,
whoever dies when. *On death*: between drawing and writing the claim the ticket is in nobody's claim, after
it in the dead worker's; either way the ledger shows the chunk not done.

A *record* on the map's completion pipe is 56 bytes, so written atomically. Its bulk, if it has one, lies
in a *page*: a segment of the worker's, which it fills and the caller takes from; a page whose records are
all taken is filled again.
"""

from __future__ import annotations

import errno
import mmap
import os
import select
import struct
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from .._memory import Segment, attach_segment, detach_segment, map_fd, new_segment_id, open_scratch

RUNNING, LEFT, FIRST, STOP, INDEX, SINCE, RELAYED, CHUNK, LAST = range(9)
SLOT_WORDS = 16
RANKS_MAX = 1024

STOP_AT, OUTPUT_STATE = 0, 1
# Values of OUTPUT_STATE.
UNKNOWN, KNOWN, UNTOLD = 0, 1, 2
# A value of STOP_AT, as it goes on from "start no chunk at all": nobody will look at what is handed over.
ABANDONED = -2
_LEDGER = 64
# Where tickets, and those who leave, are counted from.
_ORIGIN = 1 << 40
# Done means odd: DONE is in place, HANDED was given to the caller in a page, for NOTHING None was returned.
# LOST: begun by a worker that died.
PENDING, DONE, FAILED, HANDED, LOST, NOTHING = range(6)

# Kinds of record.
LEAVE, RESULTS, FORM, ERROR, KEPT, DIED, RELAY = range(7)

_RECORD = struct.Struct("<7q")
_HEAD = struct.Struct("<2q")  # what a record begins with
# Read from a pipe of records at once: whole ones only.
READ_NBYTES = 1024 * _RECORD.size
# Written at once: as many as a pipe takes with nothing of others in between.
WRITE_NBYTES = select.PIPE_BUF // _RECORD.size * _RECORD.size


def has_data(fd: int, patience_s: float = 0.0) -> bool:
    """Whether there is something to read, or the end, or will be within so many seconds."""
    poll = select.poll()  # `select.select` takes no descriptor above 1023
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(max(0.0, patience_s) * 1000))


def count_done(marks: bytes | bytearray) -> int:
    """Number of chunks done according to a ledger."""
    return marks.count(DONE) + marks.count(HANDED) + marks.count(NOTHING)


def is_left(mark: int) -> bool:
    """Whether a chunk has neither been done nor failed, according to its mark in a ledger."""
    return mark == PENDING or mark == LOST


class ClaimSlots:
    """The claim slots of a team; a view on `words` is what its users index."""

    def __init__(self, fd: int | None = None) -> None:
        nbytes = RANKS_MAX * SLOT_WORDS * 8
        self.fd = open_scratch(nbytes) if fd is None else fd
        try:
            self._map = map_fd(self.fd, nbytes)
        except BaseException:
            os.close(self.fd)
            raise
        self.words = memoryview(self._map).cast("q")

    def slot(self, rank: int) -> memoryview:
        """The words of one rank."""
        return self.words[rank * SLOT_WORDS : (rank + 1) * SLOT_WORDS]

    def close(self) -> None:
        """Let go of memory and descriptor; a view somebody still has keeps the mapping until it goes."""
        del self.words, self._map
        os.close(self.fd)


class ControlBlock:
    """Tickets, ledger and completion pipe of one open map; see the table above."""

    def __init__(self, id: int, capacity: int, fds: tuple[int, ...] | None = None) -> None:
        self.id = id
        self.capacity = capacity
        """Most chunks the ledger can hold."""
        nbytes = _LEDGER + capacity
        self.fd = self.leavers = self.pipe_read = self.pipe_write = self.doorbell = -1
        try:
            if fds is None:
                self.fd = open_scratch(nbytes)
                self.leavers = open_scratch(1)
                """Its offset is the number of workers that have left."""
                self.pipe_read, self.pipe_write = os.pipe()
                self.doorbell = self._make_doorbell()
                """A write end of its own description, non-blocking, for the caller's own use."""
            else:
                self.fd, self.pipe_write, self.leavers = fds
            self._map: mmap.mmap = map_fd(self.fd, nbytes)
        except BaseException:
            self._close_fds()
            raise
        self.words = memoryview(self._map)[:_LEDGER].cast("q")
        self.ledger = memoryview(self._map)[_LEDGER:]
        self._pipe_inode = os.fstat(self.pipe_write).st_ino

    def shared_fds(self) -> tuple[int, int, int]:
        """The descriptors that a worker needs, as its own `ControlBlock` takes them."""
        return self.fd, self.pipe_write, self.leavers

    def is_intact(self) -> bool:
        """Whether the descriptors are still ours: user code closes descriptors.

        Once for every call, so with as few system calls as do: who leaves finds out about `leavers`.
        """
        try:
            return (
                os.lseek(self.fd, 0, os.SEEK_CUR) >= _ORIGIN
                and os.fstat(self.pipe_write).st_ino == self._pipe_inode
            )
        except OSError:
            return False

    def reset(self, chunks: int) -> None:
        """Make ready for a map of that many chunks. Nobody may be drawing from it."""
        self.words[STOP_AT] = chunks
        self.words[OUTPUT_STATE] = UNKNOWN
        self.ledger[:chunks] = bytes(chunks)
        self.rewind()

    def rewind(self) -> None:
        """Start the tickets from 0 again; nobody has left."""
        os.lseek(self.fd, _ORIGIN, os.SEEK_SET)
        os.lseek(self.leavers, _ORIGIN, os.SEEK_SET)

    def draw(self, k: int) -> int:
        """Draw `k` consecutive tickets; the first of them is returned.

        Raises
        ------
        OSError
            EBADF, if the descriptor is not ours any more.
        """
        first = os.lseek(self.fd, k, os.SEEK_CUR) - _ORIGIN - k
        if first < 0:
            raise _not_ours()
        return first

    def leave(self) -> int:
        """Count a worker as one that has left; how many have by now. Raises as `draw` does."""
        count = os.lseek(self.leavers, 1, os.SEEK_CUR) - _ORIGIN
        if count < 0:
            raise _not_ours()
        return count

    def stop(self, chunks: int, at: int) -> None:
        """Let nobody draw any more, nor start a chunk above `at` that is drawn already."""
        if at < self.words[STOP_AT]:
            self.words[STOP_AT] = at
        drawn = os.lseek(self.fd, 0, os.SEEK_CUR)
        if drawn >= _ORIGIN:  # else it is not ours any more
            os.lseek(self.fd, max(_ORIGIN + chunks, drawn), os.SEEK_SET)

    def drain(self, patience: float = 0.0) -> Iterator[Record]:
        """The records that wait in the pipe, or come within so many seconds of the one before.

        Whole ones, should something else be among them.
        """
        while has_data(self.pipe_read, patience):
            data = os.read(self.pipe_read, READ_NBYTES)
            yield from unpack_records(data[: len(data) // _RECORD.size * _RECORD.size])

    def _make_doorbell(self) -> int:
        if os.path.exists("/proc/self/fd"):
            return os.open(
                f"/proc/self/fd/{self.pipe_write}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
            )
        return os.dup(self.pipe_write)

    def close(self) -> None:
        """Let go of memory and descriptors; see `ClaimSlots.close`."""
        del self.words, self.ledger, self._map
        self._close_fds()

    def close_in_child(self) -> None:
        """Let go of the descriptors in a forked child, where no frame is left that would use them."""
        self._close_fds()

    def _close_fds(self) -> None:
        fds = self.fd, self.leavers, self.pipe_read, self.pipe_write, self.doorbell
        # Forgotten first: a forked child closes what is noted.
        self.fd = self.leavers = self.pipe_read = self.pipe_write = self.doorbell = -1
        for fd in fds:
            if fd >= 0:
                os.close(fd)


def _not_ours() -> OSError:
    return OSError(errno.EBADF, "a function closed file descriptors that are not its own")


class Record(NamedTuple):
    """What a worker says on a completion pipe."""

    seq: int
    """The call it concerns."""
    rank: int
    kind: int
    first: int
    """First chunk it concerns; its meaning depends on the kind."""
    stop: int
    page: int
    """Segment id of the page that holds the bulk, 0 if there is none."""
    offset: int
    nbytes: int

    def pack(self) -> bytes:
        """The 56 bytes that are written."""
        seq, rank, kind, *rest = self
        return _RECORD.pack(seq, rank << 8 | kind, *rest)


def unpack_records(data: bytes) -> Iterator[Record]:
    """The records in what was read from a pipe; whole ones, as each is written atomically.

    Raises
    ------
    RuntimeError
        If something else was written there.
    """
    if len(data) % _RECORD.size:
        raise RuntimeError("a function wrote to file descriptors that are not its own")
    for seq, who, first, stop, page, offset, nbytes in _RECORD.iter_unpack(data):
        yield Record(seq, who >> 8, who & 255, first, stop, page, offset, nbytes)


def says_left(data: bytes, seq: int) -> bool:
    """Whether this is all that was read of a map: that the last worker has left call `seq`. Mostly it is."""
    if len(data) != _RECORD.size:
        return False
    its_seq, who = _HEAD.unpack_from(data)
    return bool(its_seq == seq and who & 255 == LEAVE)


class Page:
    """Bulk of records: 16 bytes of header (records put, records taken), then payload."""

    HEADER = 16
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

    def close(self) -> None:
        """Let go of the memory; see `ClaimSlots.close`."""
        del self.counts, self.bytes

    def take(self) -> bool:
        """Count a record as taken, the only write of the caller here; whether to ask for the page again."""
        self.counts[1] += 1
        self.taken_at = time.monotonic()
        was_asked_for, self.is_asked_for = self.is_asked_for, False
        return was_asked_for


class Outbox:
    """A worker's pages: payloads outlive the worker, and no worker waits for the caller to read.

    *Requires*: used by one thread. *Guarantees*: a payload stays in place until the caller took it.
    """

    def __init__(self, announce: Callable[[Segment], None]) -> None:
        self._announce = announce
        self._pages: list[Page] = []

    def trim(self, ids: tuple[int, ...], lost: bool) -> tuple[int, ...]:
        """Let go of those of these pages that are free, or `lost` to the caller; their ids."""
        gone = [p for p in self._pages if p.segment.id in ids and (lost or p.is_free())]
        for page in gone:
            self._pages.remove(page)
            page.close()
            detach_segment(page.segment.id)
        return tuple(page.segment.id for page in gone)

    def waiting_nbytes(self) -> int:
        """Bytes in pages of which something has not been taken."""
        return sum(page.filled for page in self._pages if not page.is_free())

    def put(self, payload: bytes) -> tuple[int, int, int]:
        """Put a payload in place: ``page id, offset, nbytes`` for its record."""
        nbytes = len(payload)
        for page in self._pages:
            if page.is_free():
                page.filled = Page.HEADER
            if page.filled + nbytes <= page.segment.nbytes:
                break
        else:
            least = 2 * self._pages[-1].segment.nbytes if self._pages else Page.LEAST_NBYTES
            size = max(min(least, 1 << 24), nbytes + Page.HEADER)
            fd = open_scratch(size)
            segment = attach_segment(new_segment_id(), fd, size, keep_fd=True)
            self._announce(segment)
            page = Page(segment)
            self._pages.append(page)
        offset = page.filled
        page.bytes[offset : offset + nbytes] = payload
        page.filled = -(-(offset + nbytes) // 8) * 8
        page.counts[0] += 1
        return page.segment.id, offset, nbytes
