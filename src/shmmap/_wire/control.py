"""The control block: what the caller and the workers of one open map share besides arrays.

It is a nameless segment. Its *file offset* is the ticket counter, and that of a
second description counts those who have left.

====== ============ ============== ===================================================
offset field        written by     meaning
====== ============ ============== ===================================================
0      header       caller         see `header`
64     limit        anyone         chunks above this number are not to be started. It only
                                   becomes less; but for `ControlBlock.resume`, if the worker
                                   that stopped the map died and told nobody why
72     output state caller, or the TOLD once the output is told;
                    worker with    NONE if index 0 failed, was lost, or gave None
                    index 0
80     chunks       caller         how many chunks the map has
88     told         caller         how many bytes of the output area are told
96     awaited      caller; cleared 1 while the caller sleeps until results are put
                    by who rings
104    given        caller         how many bytes of the arguments are given
112    unattended   caller         1 while nobody waits for the map, nor takes what is put
120    relayed      workers        1 if one has printed, logged or warned something
128    items        caller         how many items the map has, for those who look (`sight`)
136    chunksize    caller         items in each chunk but the last, likewise
144    first        caller         index of its first item, in a map over an iterator
152    expected     caller         how many workers take part; it may become more, see `expect`
160    text         caller         verb and function, for those who look
416    output       caller         where results go, see `ControlBlock.tell_output`
4096   arguments    caller         what is this map's own, see `_chunks.arguments`
69632  ledger       worker         a byte for each chunk, see `_chunks.ledger`
after  shelves      workers        results that were put, see `shelves`
after  row banks    worker         what it notes of a map that is profiled, see `_wire.rows`
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
from .about import ABOUT_NBYTES, About
from .header import CONTROL_MARK, HEADER_NBYTES, pack_header
from .records import READ_NBYTES, RECORD_NBYTES, Record, unpack_records
from .rows import Profiled, RowBanks
from .shelves import Shelves

_LIMIT, _OUTPUT_STATE, _CHUNKS, _TOLD_NBYTES, _RESULTS_AWAITED = range(5)
_GIVEN_NBYTES, _UNATTENDED, _HAS_RELAYED, _ITEMS, _CHUNKSIZE, _FIRST, _EXPECTED = range(5, 12)
# Values of the output state.
_AWAITED, _TOLD, _NONE = range(3)
# A limit, as it goes on from -1, by which no chunk is started: nobody will look at what is handed over.
_ABANDONED = -2
_TEXT = HEADER_NBYTES + 8 * 12
_OUTPUT, _ARGUMENTS, _LEDGER = _TEXT + ABOUT_NBYTES, 4096, 4096 + (1 << 16)
HEAD_NBYTES = _LEDGER
"""Of a control block: all that stands before the ledger."""
OUTPUT_NBYTES, ARGUMENTS_NBYTES = _ARGUMENTS - _OUTPUT, _LEDGER - _ARGUMENTS
# Where tickets, and those who leave, are counted from.
_ORIGIN = 1 << 40


def has_data(fd: int, patience_s: float = 0.0) -> bool:
    """Whether there is something to read, or the end, or will be within so many seconds."""
    poll = select.poll()  # `select.select` takes no descriptor above 1023
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(max(0.0, patience_s) * 1000))


class MapHead(NamedTuple):
    """What a control block says of its map, as those read it who look from outside (`sight`)."""

    limit: int
    chunks: int
    items: int
    chunksize: int
    first: int
    text: bytes

    @classmethod
    def read(cls, data: bytes) -> MapHead:
        words = memoryview(data)[HEADER_NBYTES:_TEXT].cast("q")
        return cls(
            limit=words[_LIMIT],
            chunks=words[_CHUNKS],
            items=words[_ITEMS],
            chunksize=words[_CHUNKSIZE],
            first=words[_FIRST],
            text=data[_TEXT:_OUTPUT],
        )


class ControlBlock:
    """Tickets, ledger, shelves and completion pipe of one open map; see the table above."""

    def __init__(
        self,
        id: int,
        capacity: int,
        ranks: int,
        profiled: Profiled = 0,
        fds: tuple[int, ...] | None = None,
    ) -> None:
        self.id = id
        self.capacity = capacity
        """Most chunks the ledger can hold; a multiple of 8."""
        self.ranks = ranks
        """For how many workers it has shelves."""
        self.profiled = profiled
        shelves = _LEDGER + capacity
        banks = shelves + Shelves.nbytes(ranks)
        nbytes = banks + RowBanks.nbytes(ranks if profiled else 0)
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
        if fds is None:
            self._map[:HEADER_NBYTES] = pack_header(CONTROL_MARK, id)
        self._words = memoryview(self._map)[HEADER_NBYTES:_TEXT].cast("q")
        self._text = memoryview(self._map)[_TEXT:_OUTPUT]
        self._output = memoryview(self._map)[_OUTPUT:_ARGUMENTS]
        self._arguments = memoryview(self._map)[_ARGUMENTS:_LEDGER]
        self.limit = self._words[_LIMIT : _LIMIT + 1]
        """The last chunk that may be started, as a view of one word: a worker's loop looks there at every
        chunk. It is written here only."""
        self.ledger = memoryview(self._map)[_LEDGER:shelves]
        """The marks, for the worker that writes them at every chunk."""
        self.shelves = Shelves(memoryview(self._map)[shelves:banks], ranks)
        self.row_banks = RowBanks(memoryview(self._map)[banks:], ranks) if profiled else None
        """What workers note of a map that is profiled."""
        self._pipe_inode = os.fstat(self.pipe_write).st_ino
        self._poll: select.poll | None = None

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

    def begin(self, chunks: int, team: int, arguments: bytes, output: bytes, about: About) -> None:
        """Make ready for a map of that many chunks, in which `team` take part. Nobody may be drawing from it.

        Its arguments take `ARGUMENTS_NBYTES` or fewer; the output, if it is known already, `OUTPUT_NBYTES`.
        """
        words = self._words
        words[_ITEMS], words[_CHUNKSIZE], words[_FIRST], self._text[:] = about
        words[_GIVEN_NBYTES] = given = len(arguments)
        self._arguments[:given] = arguments
        words[_LIMIT] = words[_CHUNKS] = chunks
        words[_EXPECTED] = team
        self.shelves.clear_work()
        words[_OUTPUT_STATE] = _AWAITED
        words[_RESULTS_AWAITED] = words[_UNATTENDED] = words[_HAS_RELAYED] = 0
        if output:
            self.tell_output(output)
        self.ledger[:chunks] = bytes(chunks)
        if self.row_banks is not None:
            self.row_banks.clear()
        self._rewind()

    def take_up(self, marks: bytes) -> None:
        """After `begin`: the map begins with this ledger."""
        self.ledger[: len(marks)] = marks
        if marks[0] and self._words[_OUTPUT_STATE] == _AWAITED:
            self._words[_OUTPUT_STATE] = _NONE

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

    def leave(self) -> bool:
        """Count a worker as one that has left; whether it is the last. Raises as `draw` does."""
        count = os.lseek(self.leavers, 1, os.SEEK_CUR) - _ORIGIN
        if count < 0:
            raise _not_ours()
        return count >= self._words[_EXPECTED]

    def expect(self, team: int) -> None:
        """So many are about to take part; if they become more, one may be just saying that all have left."""
        self._words[_EXPECTED] = team

    def have_left(self) -> bool:
        """Whether as many have left as are expected."""
        return os.lseek(self.leavers, 0, os.SEEK_CUR) - _ORIGIN >= self._words[_EXPECTED]

    def arguments(self) -> bytes:
        """The arguments of the map."""
        return bytes(self._arguments[: self._words[_GIVEN_NBYTES]])

    # ------------------------------------------------ stopping

    def stop(self, at: int) -> None:
        """Let nobody draw any more, nor start a chunk above `at` that is drawn already."""
        words = self._words
        if at < words[_LIMIT]:
            words[_LIMIT] = at
        drawn = os.lseek(self.fd, 0, os.SEEK_CUR)
        if drawn >= _ORIGIN:  # else it is not ours any more
            os.lseek(self.fd, max(_ORIGIN + words[_CHUNKS], drawn), os.SEEK_SET)

    def cut(self, at: int) -> None:
        """Have no chunk above `at` started; nothing else changes, those below are still to be drawn."""
        words = self._words
        if at < words[_LIMIT]:
            words[_LIMIT] = at

    def drawn(self) -> int:
        """How many tickets were drawn."""
        return max(0, os.lseek(self.fd, 0, os.SEEK_CUR) - _ORIGIN)

    def abandon(self) -> None:
        """The same as `stop`; and nobody will look at what is handed over, nor tell the output."""
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

    # ------------------------------------------------ the shelves

    def await_results(self) -> bool:
        """Have the next worker that puts something ring; whether something was put just before."""
        self._words[_RESULTS_AWAITED] = 1
        return self.shelves.has_any()

    def is_to_ring(self) -> bool:
        """Whether the caller sleeps until results are put; who asks has to wake it."""
        is_awaited = self._words[_RESULTS_AWAITED] == 1
        if is_awaited:
            self._words[_RESULTS_AWAITED] = 0
        return is_awaited

    def note_attended(self, is_attended: bool) -> None:
        """Somebody waits for the map, or does not: a worker that needs the caller then tells the monitor."""
        self._words[_UNATTENDED] = not is_attended

    def is_attended(self) -> bool:
        return not self._words[_UNATTENDED]

    def note_relayed(self) -> None:
        """A worker has printed, logged or warned something, and is about to leave."""
        self._words[_HAS_RELAYED] = 1

    def has_relayed(self) -> bool:
        """Whether a worker that has left has printed, logged or warned something."""
        return self._words[_HAS_RELAYED] == 1

    # ------------------------------------------------ the pipe

    def has_records(self, patience_s: float) -> bool:
        """Whether there is something to read, or will be within so many seconds."""
        if self._poll is None:
            self._poll = select.poll()  # `select.select` takes no descriptor above 1023
            self._poll.register(self.pipe_read, select.POLLIN)
        return bool(self._poll.poll(patience_s * 1000))

    def drain(self, patience: float = 0.0) -> Iterator[Record]:
        """The records on the shelves and in the pipe, or that come within so many seconds of the one before.

        Whole ones, should something else be among them.
        """
        yield from unpack_records(self.shelves.take())
        while self.has_records(patience):
            data = os.read(self.pipe_read, READ_NBYTES)
            yield from unpack_records(data[: len(data) // RECORD_NBYTES * RECORD_NBYTES])

    def _make_doorbell(self) -> int:
        if os.path.exists("/proc/self/fd"):
            return os.open(
                f"/proc/self/fd/{self.pipe_write}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
            )
        return os.dup(self.pipe_write)

    def close(self) -> None:
        """Let go of memory and descriptors; see `_wire.claims.ClaimSlots.close`."""
        del (
            self._words,
            self._text,
            self._output,
            self._arguments,
            self.limit,
            self.ledger,
            self.row_banks,
            self._map,
        )
        del self.shelves
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
