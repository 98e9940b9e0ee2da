"""What caller and workers share besides arrays: claim slots and control blocks.

Claim slots: one block per team, one slot of 16 words (int64) per rank. The caller asks by the methods of
`ClaimSlots`; a worker writes the words of its own slot.

====== ============ ========== =======================================================
offset field        written by meaning
====== ============ ========== =======================================================
0      RUNNING      worker     sequence number of the call it is in, 0 when parked
8      LEFT         worker     sequence number of the last call it has left
16     CLAIM        worker     first ticket of its claim
24     CLAIM_END    worker     end of its claim; equal to CLAIM when it holds none
32     INDEX        worker     index the function is called for (only with a timeout)
40     SINCE        worker     monotonic ns at which that call began, 0 outside one (likewise)
48     RELAYED      worker     number of messages it has put on its relay socket
56     CHUNK        worker     1 + number of the chunk it is in, 0 between chunks
64     LAST_CHUNK   worker     the same of the last one, where it goes through several as one; else 0
====== ============ ========== =======================================================

Control block: one per open map, a nameless segment. Its *file offset* is the ticket counter, and that of a
second description counts those who have left.

====== ============ ============== ===================================================
offset field        written by     meaning
====== ============ ============== ===================================================
0      limit        anyone         chunks above this number are not to be started. It only
                                   becomes less; but for `ControlBlock.resume`, if the worker
                                   that stopped the map died and told nobody why
8      output state caller, or the TOLD once the output is told;
                    worker with    NONE if index 0 failed, was lost, or gave None
                    index 0
16     chunks       caller         how many chunks the map has
24     told         caller         how many bytes of the output area are told
64     output       caller         where results go, see `ControlBlock.tell_output`
4096   ledger       worker         a byte for each chunk, see `_chunks.ledger`
====== ============ ============== ===================================================

What it requires and guarantees, and what a death leaves, is in docs/design/control-block.md.
"""

from __future__ import annotations

import errno
import mmap
import os
import select
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .._memory import map_fd, open_scratch
from .records import READ_NBYTES, RECORD_NBYTES, Record, unpack_records

RUNNING, LEFT, CLAIM, CLAIM_END, INDEX, SINCE, RELAYED, CHUNK, LAST_CHUNK = range(9)
SLOT_WORDS = 16
RANKS_MAX = 1024

_LIMIT, _OUTPUT_STATE, _CHUNKS, _TOLD_NBYTES = range(4)
# Values of the output state.
_AWAITED, _TOLD, _NONE = range(3)
# A limit, as it goes on from -1, by which no chunk is started: nobody will look at what is handed over.
_ABANDONED = -2
_OUTPUT, _LEDGER = 64, 4096
OUTPUT_NBYTES = _LEDGER - _OUTPUT
_BLANK = memoryview(bytes(SLOT_WORDS * 8)).cast("q")
# Where tickets, and those who leave, are counted from.
_ORIGIN = 1 << 40


def has_data(fd: int, patience_s: float = 0.0) -> bool:
    """Whether there is something to read, or the end, or will be within so many seconds."""
    poll = select.poll()  # `select.select` takes no descriptor above 1023
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(max(0.0, patience_s) * 1000))


class Claim(NamedTuple):
    """What a worker's claim slot says of where it is."""

    running: int
    """The call it is in, 0 if none."""
    left: int
    """The last call it has left."""
    tickets: range
    """Those it holds."""
    chunks: range
    """The chunk it is in, or those it goes through as one; empty if it is in none."""


class ClaimSlots:
    """The claim slots of a team."""

    def __init__(self, fd: int | None = None) -> None:
        nbytes = RANKS_MAX * SLOT_WORDS * 8
        self.fd = open_scratch(nbytes) if fd is None else fd
        try:
            self._map = map_fd(self.fd, nbytes)
        except BaseException:
            os.close(self.fd)
            raise
        self._words = memoryview(self._map).cast("q")

    def slot(self, rank: int) -> memoryview:
        """The words of one rank, for the worker that has it to write."""
        return self._words[rank * SLOT_WORDS : (rank + 1) * SLOT_WORDS]

    def clear(self, rank: int) -> None:
        """Make a slot ready for another worker."""
        self._words[rank * SLOT_WORDS : (rank + 1) * SLOT_WORDS] = _BLANK

    def running(self, rank: int) -> int:
        """The call that the worker on a rank is in, 0 if none."""
        return self._words[rank * SLOT_WORDS + RUNNING]

    def left(self, rank: int) -> int:
        """The last call that the worker on a rank has left."""
        return self._words[rank * SLOT_WORDS + LEFT]

    def relayed(self, rank: int) -> int:
        """How many messages the worker on a rank has put on its relay socket."""
        return self._words[rank * SLOT_WORDS + RELAYED]

    def call_of_function(self, rank: int) -> tuple[int, int]:
        """Since when the worker on a rank is in a call of the function (0: in none), and for which index."""
        slot = self.slot(rank)
        return slot[SINCE], slot[INDEX]

    def claim(self, rank: int) -> Claim:
        """Where the worker on a rank is."""
        slot = self.slot(rank)
        first, last = slot[CHUNK], max(slot[CHUNK], slot[LAST_CHUNK])
        return Claim(
            running=slot[RUNNING],
            left=slot[LEFT],
            tickets=range(slot[CLAIM], slot[CLAIM_END]),
            chunks=range(first - 1, last) if first else range(0),
        )

    def close(self) -> None:
        """Let go of memory and descriptor; a view somebody still has keeps the mapping until it goes."""
        del self._words, self._map
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
            self.close_in_child()
            raise
        self._words = memoryview(self._map)[:_OUTPUT].cast("q")
        self._output = memoryview(self._map)[_OUTPUT:_LEDGER]
        self.limit = self._words[_LIMIT : _LIMIT + 1]
        """The last chunk that may be started, as a view of one word: a worker's loop looks there at every
        chunk. It is written here only."""
        self.ledger = memoryview(self._map)[_LEDGER:]
        """The marks, for the worker that writes them at every chunk."""
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

    # ------------------------------------------------ rounds

    def begin(self, chunks: int) -> None:
        """Make ready for a map of that many chunks. Nobody may be drawing from it."""
        words = self._words
        words[_LIMIT] = words[_CHUNKS] = chunks
        words[_OUTPUT_STATE] = _AWAITED
        self.ledger[:chunks] = bytes(chunks)
        self._rewind()

    def begin_again(self, chunks: list[int]) -> None:
        """Make ready for a further round of the same map, in which these chunks are done."""
        words = self._words
        words[_LIMIT] = words[_CHUNKS]
        words[_OUTPUT_STATE] = _AWAITED if 0 in chunks else _NONE
        self.mark(chunks, 0)
        self._rewind()

    def _rewind(self) -> None:
        """Start the tickets from 0 again; nobody has left."""
        os.lseek(self.fd, _ORIGIN, os.SEEK_SET)
        os.lseek(self.leavers, _ORIGIN, os.SEEK_SET)

    def draw(self, k: int) -> int:
        """Draw `k` consecutive tickets; the first is returned. Raises EBADF if the descriptor is not ours."""
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

    # ------------------------------------------------ stopping

    def stop(self, at: int) -> None:
        """Let nobody draw any more, nor start a chunk above `at` that is drawn already."""
        words = self._words
        if at < words[_LIMIT]:
            words[_LIMIT] = at
        drawn = os.lseek(self.fd, 0, os.SEEK_CUR)
        if drawn >= _ORIGIN:  # else it is not ours any more
            os.lseek(self.fd, max(_ORIGIN + words[_CHUNKS], drawn), os.SEEK_SET)

    def abandon(self) -> None:
        """The same; and nobody will look at what is handed over, nor tell the output."""
        self.stop(_ABANDONED)
        self.give_up_output()

    def resume(self) -> None:
        """Take back that the map was stopped. What was skipped meanwhile gets a round of its own."""
        self._words[_LIMIT] = self._words[_CHUNKS]

    def stopped_at(self) -> int | None:
        """The last chunk that may be started, if the map was stopped."""
        at = self._words[_LIMIT]
        return at if at < self._words[_CHUNKS] else None

    def is_abandoned(self) -> bool:
        """Whether nobody waits for the map any more: what is handed over would only take memory."""
        return self._words[_LIMIT] == _ABANDONED

    # ------------------------------------------------ the output

    def tell_output(self, data: bytes) -> None:
        """Tell where results go, in `OUTPUT_NBYTES` or fewer; what they name is on its way to the workers."""
        self._output[: len(data)] = data
        self._words[_TOLD_NBYTES] = len(data)
        self._words[_OUTPUT_STATE] = _TOLD  # last: half an output is none

    def give_up_output(self) -> None:
        """Unless it was told, the output will not be, in this round: nobody is to wait for it."""
        if self._words[_OUTPUT_STATE] == _AWAITED:
            self._words[_OUTPUT_STATE] = _NONE

    def output(self) -> bytes | None:
        """What was told of the output; None if it is not told."""
        if self._words[_OUTPUT_STATE] != _TOLD:
            return None
        return bytes(self._output[: self._words[_TOLD_NBYTES]])

    def is_output_awaited(self) -> bool:
        """Whether it is open if the output will be told."""
        return self._words[_OUTPUT_STATE] == _AWAITED

    # ------------------------------------------------ the ledger

    def mark(self, chunks: Iterable[int], mark: int) -> None:
        ledger = self.ledger
        for chunk in chunks:
            ledger[chunk] = mark

    def marks(self) -> bytes:
        """What has become of each chunk. Raises AttributeError once it is closed."""
        return bytes(self.ledger[: self._words[_CHUNKS]])

    # ------------------------------------------------ the pipe

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
        del self._words, self._output, self.limit, self.ledger, self._map
        self.close_in_child()

    def close_in_child(self) -> None:
        """Let go of the descriptors: in a forked child no frame is left that would use the memory."""
        fds = self.fd, self.leavers, self.pipe_read, self.pipe_write, self.doorbell
        # Forgotten first: a forked child closes what is noted.
        self.fd = self.leavers = self.pipe_read = self.pipe_write = self.doorbell = -1
        for fd in fds:
            if fd >= 0:
                os.close(fd)


def _not_ours() -> OSError:
    return OSError(errno.EBADF, "a function closed file descriptors that are not its own")
