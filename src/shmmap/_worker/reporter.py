"""A worker's way to its caller, for the kernel it runs: marks, results, failures, and the output.

Results are put on the worker's shelf in the control block, which wakes nobody: the caller takes them when the
last worker has left, or when it is woken for anything else. Where it sleeps until there are some, it is rung.
All else goes on the pipe of the call, which wakes the caller; near the end of a call it is collected, and
goes out together with the record that the worker has left. The bulk of both lies in a page.

What must hold: a chunk is marked as done, or as failed, only after all that is to be told of it has been
told. So of a worker that dies, a chunk is either told and marked; or told and not marked, and done once more,
which is no harm; or neither.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable
from typing import Any

from .._chunks import Destination, Form, Mark, Piece, Stacks
from .._interop.numpy_types import Array
from .._memory import (
    PageWriter,
    SegmentHandle,
    from_handle,
    make_page_writer,
)
from .._wire import (
    WRITE_NBYTES,
    Call,
    ControlBlock,
    Record,
    RecordKind,
    Unattended,
    leave_record,
    pack_pieces,
    pack_result,
    read_fitted,
    report_exception,
)
from .line import Line
from .role import role

# How often a worker that waits for its caller looks whether its map was stopped, by whomever: that is a
# word in shared memory, which wakes nothing. More often: idle workers take time from others; less: a stop
# takes longer.
LOOK_S = 1e-2
# Bytes of results that are put before the caller is woken to take them. Less: it wakes more often; more:
# pages are larger.
QUIET_NBYTES = 1 << 16
# Records collected for the last write of a call.
TAIL_NBYTES = 2048
# With more workers, writing through a descriptor is slower than storing: the file's lock lets in one.
POUR_TEAM = 4
# As plain numbers, which are quicker where there is one for each chunk.
_DONE, _NOTHING, _HANDED, _FAILED, _PARTLY = map(
    int, (Mark.DONE, Mark.NOTHING, Mark.HANDED, Mark.FAILED, Mark.PARTLY)
)
_RESULTS, _PLAIN = int(RecordKind.RESULTS), int(RecordKind.PLAIN)


class Reporter:
    """What a kernel tells of its chunks by, within a worker process; see `_chunks.kernel.Reporter`.

    Used by the worker's main thread. It serves one call after the other.
    """

    def __init__(self, line: Line, rank: int, restore_limits: Callable[[], bool]) -> None:
        self._line = line
        self._outbox = line.outbox
        self._rank = rank
        self._restore_limits = restore_limits
        self._seq = 0
        self._team = 0
        self._control: ControlBlock | None = None
        self._pipe = -1
        self._tail = b""
        """Records that go out last, so that the caller is not woken for each."""
        self._failed: set[int] = set()
        """Chunks of whose failure the tail tells: nothing is known of it before that is written."""
        self._partly: set[int] = set()
        """Chunks in which items have failed, as was told before the chunks are done."""
        self._form = b""
        """Index 0's form, on its way: a map that is over at once has no need of it earlier."""
        self._is_closing = False
        self._quiet_nbytes = 0
        """Bytes of results that were put since the caller was woken for some."""
        self._has_called = False

    def begin(self, call: Call, control: ControlBlock) -> None:
        """Serve a call from now on."""
        self._seq = call.seq
        self._team = call.team
        self._control = control
        self._pipe = control.pipe_write
        self._tail = self._form = b""
        self._failed.clear()
        self._partly.clear()
        self._is_closing = self._has_called = False
        self._quiet_nbytes = 0
        self._ledger = control.ledger

    def send(self, kind: int, first: int, stop: int, payload: bytes) -> None:
        """Put a payload in place and tell the caller."""
        if role.is_stray:
            os._exit(0)
        if self._is_abandoned():
            return
        record = self._record(kind, first, stop, payload)
        if self._is_closing and len(self._tail) < TAIL_NBYTES:
            self._tail += record
        elif kind == RecordKind.FORM:
            self._form = record
        else:
            self._write(self._form + record)
            self._form = b""

    def _record(self, kind: int, first: int, stop: int, payload: bytes) -> bytes:
        """Put a payload in place; the record that tells of it."""
        return Record(self._seq, self._rank, kind, first, stop, *self.put(payload)).pack()

    def put(self, payload: bytes) -> tuple[int, int, int]:
        """Put a payload where the caller finds it, see `Outbox.put`."""
        try:
            return self._outbox.put(payload)
        except (OSError, MemoryError):
            if not self._restore_limits():  # a function may have lowered one
                raise
            return self._outbox.put(payload)

    def share(self, a: Any) -> Any:
        """Handle of a result that lies in shared memory; None if it has to be copied."""
        return self._line.share(a, self._seq)

    def _is_abandoned(self) -> bool:
        return self._control is not None and self._control.is_abandoned()

    def send_form(self) -> None:
        """The map goes on: the caller needs to know the form of index 0's result now."""
        if self._form:
            self._write(self._form)
            self._form = b""

    def close(self) -> None:
        """What is sent from now on may wait for the worker's leaving."""
        self._is_closing = True
        self._tail, self._form = self._form, b""

    def has_tail(self) -> bool:
        """Whether something still waits for the worker's leaving."""
        return bool(self._tail)

    def end(self, viewed: Iterable[int]) -> None:
        """Send what has waited for the worker's leaving, and which segments the function kept views of."""
        for id in viewed:
            self._tail += Record(self._seq, self._rank, RecordKind.KEPT, id).pack()
        self._write_tail()

    def tell_stacks(self, stacks: Stacks) -> None:
        """Tell where in its code the function was, how often, if that was looked at."""
        if stacks:
            self._is_closing = True
            self.send(RecordKind.STACKS, 0, 0, pack_result(stacks))

    def leave(self) -> None:
        """Tell the caller that the last worker has left the call."""
        self._write(leave_record(self._seq))

    def _write_tail(self) -> None:
        if self._tail:
            self._write(self._tail)
            self._tail = b""
        while self._failed:
            self._ledger[self._failed.pop()] = _FAILED

    def _write(self, records: bytes) -> None:
        """Put records on the pipe of the call, each of them whole."""
        try:
            for at in range(0, len(records), WRITE_NBYTES):
                os.write(self._pipe, records[at : at + WRITE_NBYTES])
        except BrokenPipeError:
            pass  # the caller has abandoned this map

    def mark(self, first: int, stop: int, nothing: bool = False) -> None:
        if role.is_stray:
            os._exit(0)
        mark = _NOTHING if nothing else _DONE
        if stop - first == 1 and not self._partly:  # most calls: without another one
            self._ledger[first] = mark
        else:
            self._enter(first, stop, mark)

    def _enter(self, first: int, stop: int, mark: int) -> None:
        """Enter chunks into the ledger."""
        if self._partly:
            for chunk in range(first, stop):
                self._ledger[chunk] = _PARTLY if chunk in self._partly else mark
        elif stop - first == 1:
            self._ledger[first] = mark
        else:
            self._ledger[first:stop] = bytes([mark]) * (stop - first)

    def results(self, pieces: list[Piece]) -> None:
        if role.is_stray:
            os._exit(0)
        if self._is_abandoned():
            return
        try:
            payload, is_plain = pack_pieces(pieces, self.share)
        except Exception as exc:
            raise TypeError(f"the function's result cannot be pickled: {exc}") from exc
        assert self._control is not None
        record = self._record(
            _PLAIN if is_plain else _RESULTS, pieces[0][0], pieces[-1][1], payload
        )
        self._quiet_nbytes += len(payload)
        is_quiet = self._quiet_nbytes <= QUIET_NBYTES
        if not (is_quiet and self._control.shelves.put(self._rank, record)):
            self._quiet_nbytes = 0
            self._call_for_caller()
            self._write(self._form + record)
            self._form = b""
        for first, stop, _ in pieces:
            self._enter(first, stop, _HANDED)
        if self._control.is_to_ring():
            self._ring()

    def _call_for_caller(self) -> None:
        """Have somebody wait for the map, if nobody does: the caller is needed to go on."""
        if not (self._has_called or self._control is None or self._control.is_attended()):
            self._has_called = True
            self._line.tell(Unattended(self._seq))

    def _ring(self) -> None:
        """Wake the caller, so that it takes what was put."""
        self._write(Record(self._seq, self._rank, RecordKind.WAKE).pack())

    def wait_taken(self, nbytes: int) -> None:
        self._wait_taken(lambda: self._outbox.waiting_nbytes() > nbytes)

    def make_room(self, nbytes: int) -> None:
        self._write_tail()  # or what is waited for might not have been told
        line, outbox = self._line, self._outbox
        self._wait_taken(lambda: not line.pending and outbox.waiting_nbytes() > nbytes)

    def _wait_taken(self, is_waiting: Callable[[], bool]) -> None:
        if is_waiting():
            self._outbox.await_taken(True)
            self._call_for_caller()
            self._ring()  # what is waited for may lie on the shelf, of which nobody was told
            self._wait_while(is_waiting)
            self._outbox.await_taken(False)

    def _wait_while(self, is_waiting: Callable[[], bool]) -> None:
        """Wait for the caller to do its part, unless the map is stopped, or was stopped altogether before."""
        assert self._control is not None
        limit = self._control.limit
        top = limit[0]
        while is_waiting() and limit[0] >= top >= 0:
            self._line.wait(LOOK_S)

    def tell_form(self, form: Form, at_once: bool) -> None:
        if form.kind is None and self._control is not None:
            # Nothing is returned, so nothing is to be allocated: what the ledger shows is enough.
            self._control.give_up_output()
            return
        self.send(RecordKind.FORM, 0, 0, pack_result(tuple(form)))
        if at_once:
            self.send_form()

    def error(self, exc: BaseException, chunk: int, index: int, start: int, stop: int) -> None:
        """Report an exception; with index -1 the chunk as a whole has failed, and is marked so."""
        report = report_exception(exc, index, start, stop, self._rank, os.getpid())
        self.send(RecordKind.ERROR, chunk, chunk + 1, pack_result(tuple(report)))
        if index < 0 <= chunk:
            self.mark_failed(chunk)
        elif chunk >= 0:
            self._partly.add(chunk)

    def mark_failed(self, chunk: int) -> None:
        """A chunk is over, as has been told: it is not lost if we die, nor begun again by a successor."""
        if self._tail:
            self._failed.add(chunk)
        else:
            self._ledger[chunk] = _FAILED

    def poll_output(self) -> Destination | None:
        assert self._control is not None
        told = self._control.output()
        if told is None:
            return None
        while True:
            try:
                return self._open_output(told)
            except KeyError:  # what it lies in is on its way, behind other messages perhaps
                if role.is_stray:
                    os._exit(0)  # or this child would take the worker's message
                self._line.keep_next()

    def wait_output(self) -> Destination | None:
        assert self._control is not None
        self._write_tail()  # what tells the form may be among it: the caller would never tell the output
        self.send_form()
        self._wait_while(self._control.is_output_awaited)
        return self.poll_output()

    def _open_output(self, told: bytes) -> Destination:
        """The output that was told. Raises KeyError if a segment it lies in is not attached."""
        kind, handles, fresh, is_guess = pickle.loads(read_fitted(told))
        columns = tuple([from_handle(SegmentHandle(*handle)) for handle in handles])
        if self._team > POUR_TEAM or is_guess:
            return Destination(kind, columns, self.page_writers(columns), is_guess)
        writers = _if_any(map(make_page_writer, columns, fresh))
        return Destination(kind, columns, writers, is_guess)

    def page_writers(self, columns: tuple[Array, ...]) -> tuple[PageWriter | None, ...]:
        return _if_any(map(make_page_writer, columns))


def _if_any(writers: Iterable[PageWriter | None]) -> tuple[PageWriter | None, ...]:
    found = tuple(writers)
    return found if any(found) else ()
