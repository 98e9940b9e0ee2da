"""What caller and workers share besides arrays: claim slots and control blocks.

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
64     ledger    worker         a byte per chunk, see `_chunks.ledger`
====== ========= ============== ======================================================

Leaving is counted in the same way, by the offset of a description of its own: whoever finds that it is
the last one to leave writes LEAVE, so that the caller is woken once, not once per worker. A dead worker
may have counted or not, so after a death the caller looks at LEFT in the claim slots instead.

*Requires*: a control block is used again only after the last worker has said so and nobody has died, so
that nobody draws a ticket of the next map, or counts as leaving it. *Guarantees*: a chunk is marked done
only when its result is in place, or in a page of which the caller was told; a ticket is drawn at most once,
whoever dies when. *On death*: between drawing and writing the claim the ticket is in nobody's claim, after
it in the dead worker's; either way the ledger shows the chunk not done.
"""

from __future__ import annotations

import errno
import mmap
import os
import select
from collections.abc import Iterator

from .._memory import map_fd, open_scratch
from .records import READ_NBYTES, RECORD_NBYTES, Record, unpack_records

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

# Written at once: as many as a pipe takes with nothing of others in between.
WRITE_NBYTES = select.PIPE_BUF // RECORD_NBYTES * RECORD_NBYTES


def has_data(fd: int, patience_s: float = 0.0) -> bool:
    """Whether there is something to read, or the end, or will be within so many seconds."""
    poll = select.poll()  # `select.select` takes no descriptor above 1023
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(max(0.0, patience_s) * 1000))


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
            yield from unpack_records(data[: len(data) // RECORD_NBYTES * RECORD_NBYTES])

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
