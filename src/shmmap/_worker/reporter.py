"""A worker's way to its caller, for the kernel it runs: marks, results, failures, and the output.

Records go on the pipe of the call, which wakes the caller; what is larger lies in a page. Near the end of a
call they are collected, to go out with the worker's leaving.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING, Any

from .._chunks import Form, Mark, Piece
from .._memory import PageWriter, make_way
from .._wire import (
    ABANDONED,
    DONE_WITH,
    KNOWN,
    OUTPUT_STATE,
    STOP_AT,
    UNKNOWN,
    UNTOLD,
    WRITE_NBYTES,
    Call,
    ControlBlock,
    Output,
    Record,
    RecordKind,
    has_data,
    pack_result,
    read_payload,
    report_exception,
    unpack,
)
from .role import role

if TYPE_CHECKING:
    from .worker import Worker

# How often a worker whose results the caller has yet to write looks whether it may go on.
TAKEN_S = 1e-3
# Records collected for the last write of a call.
TAIL_NBYTES = 2048
# With more workers, writing through a descriptor is slower than storing: the file's lock lets in one.
POUR_TEAM = 4


class Reporter:
    """A kernel's way to the collector from within a worker process; see `_chunks.kernels.Reporter`."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._seq = 0
        self._control: ControlBlock | None = None
        self._pipe = -1
        self.tail = b""
        """Records that go out last, so that the caller is not woken for each."""
        self._waiting: dict[int, int] = {}
        """Marks of chunks of which the tail tells: nothing is known of them before it is written."""
        self._spec = b""
        """Index 0's form, on its way: a map that is over at once has no need of it earlier."""
        self._closing = False

    def begin(self, call: Call, control: ControlBlock | None, pipe: int) -> None:
        """Serve a call from now on."""
        self._seq = call.seq
        self._team = call.team
        self._control = control
        self._pipe = pipe
        self.tail = self._spec = b""
        self._waiting.clear()
        self._closing = False
        if control is not None:
            self._ledger = control.ledger

    def send(self, kind: int, first: int, stop: int, payload: bytes) -> None:
        """Put a payload in place and tell the caller."""
        if role.is_stray:
            os._exit(0)
        if self._is_abandoned():
            return
        where = self._worker.put(payload)
        record = Record(self._seq, self._worker.rank, kind, first, stop, *where)
        if self._closing and len(self.tail) < TAIL_NBYTES:
            self.tail += record.pack()
        elif kind == RecordKind.FORM:
            self._spec = record.pack()
        else:
            self.write(self._spec + record.pack())
            self._spec = b""

    def _is_abandoned(self) -> bool:
        """Whether nobody waits for the map any more: what came now would only take memory."""
        return self._control is not None and self._control.words[STOP_AT] == ABANDONED

    def release_spec(self) -> None:
        """The map goes on: the caller needs to know the form of index 0's result now."""
        if self._spec:
            self.write(self._spec)
            self._spec = b""

    def close(self) -> None:
        """What is sent from now on may wait for the worker's leaving."""
        self._closing = True
        self.tail, self._spec = self._spec, b""

    def write_tail(self) -> None:
        """Send what has waited for the worker's leaving."""
        if self.tail:
            self.write(self.tail)
            self.tail = b""
        for k, mark in self._waiting.items():
            self._ledger[k] = mark
        self._waiting.clear()

    def _mark_told(self, chunks: Iterable[int], mark: int) -> None:
        """Enter chunks into the ledger of which has been told: not before, as we may die in between."""
        if self.tail:
            self._waiting.update(dict.fromkeys(chunks, mark))
            return
        for k in chunks:
            self._ledger[k] = mark

    def write(self, records: bytes) -> None:
        """Put records on the pipe of the call, each of them whole."""
        try:
            for at in range(0, len(records), WRITE_NBYTES):
                os.write(self._pipe, records[at : at + WRITE_NBYTES])
        except BrokenPipeError:
            pass  # the caller has abandoned this map

    def mark(self, first: int, stop: int, nothing: bool = False) -> None:
        if role.is_stray:
            os._exit(0)
        if stop - first == 1:
            self._ledger[first] = Mark.NOTHING if nothing else Mark.DONE
        else:
            self._ledger[first:stop] = bytes([Mark.NOTHING if nothing else Mark.DONE]) * (
                stop - first
            )

    def results(self, pieces: list[Piece]) -> None:
        if role.is_stray:
            os._exit(0)
        if self._is_abandoned():
            return
        try:
            payload = pack_result(pieces, self._worker.share)
        except Exception as exc:
            raise TypeError(f"the function's result cannot be pickled: {exc}") from exc
        self.send(RecordKind.RESULTS, pieces[0][0], pieces[-1][1], payload)
        handed = chain.from_iterable(range(first, stop) for first, stop, _ in pieces)
        self._mark_told(handed, Mark.HANDED)

    def wait_taken(self, nbytes: int) -> None:
        control, outbox = self._control, self._worker.outbox
        assert control is not None
        top = control.words[STOP_AT]  # below 0 if the map was stopped before this began
        while outbox.waiting_nbytes() > nbytes and control.words[STOP_AT] == top >= 0:
            time.sleep(TAKEN_S)

    def make_room(self, nbytes: int) -> None:
        control, worker = self._control, self._worker
        assert control is not None
        self.write_tail()  # or what is waited for might not have been told
        top = control.words[STOP_AT]
        while worker.outbox.waiting_nbytes() > nbytes and control.words[STOP_AT] == top >= 0:
            if worker.pending or has_data(worker.wake, TAKEN_S):
                return

    def propose(self, form: Form, at_once: bool) -> None:
        if form.kind is None and self._control is not None:
            # Nothing is returned, so nothing is to be allocated: what the ledger shows is enough.
            self._control.words[OUTPUT_STATE] = UNTOLD
            return
        self.send(RecordKind.FORM, 0, 0, pack_result(tuple(form)))
        if at_once:
            self.release_spec()

    def error(self, exc: BaseException, chunk: int, index: int, start: int, stop: int) -> None:
        """Report an exception; with index -1 the chunk as a whole has failed, and is marked so."""
        report = report_exception(exc, index, start, stop, self._worker.rank, os.getpid())
        self.send(RecordKind.ERROR, chunk, chunk + 1, pack_result(tuple(report)))
        if index < 0 <= chunk:
            self.mark_failed(chunk)

    def mark_failed(self, chunk: int) -> None:
        """A chunk is over, as has been told: it is not lost if we die, nor begun again by a successor."""
        self._mark_told((chunk,), Mark.FAILED)

    def poll_output(self) -> Any:
        assert self._control is not None
        if role.is_stray:
            os._exit(0)  # or this child would take the worker's message
        if self._control.words[OUTPUT_STATE] != KNOWN:
            return None
        return self._receive_output()

    def wait_output(self) -> Any:
        control = self._control
        assert control is not None
        self.write_tail()  # what tells the output's form may be among it: nobody would tell the output
        self.release_spec()
        top = max(0, control.words[STOP_AT])  # below 0 if the map was stopped before this began
        while control.words[OUTPUT_STATE] == UNKNOWN:
            if control.words[STOP_AT] < top:
                return None
            if has_data(self._worker.wake, 0.01):
                # Taken, or the next wait would end at once: it may be about a later call.
                message = self._worker.receive_one()
                if message is None:
                    os._exit(0)
                if message is not DONE_WITH:
                    self._worker.pending.append(message)
        return self.poll_output()

    def _receive_output(self) -> Any:
        pending = self._worker.pending
        for i, message in enumerate(pending):
            if isinstance(message, Output) and message.seq == self._seq:
                del pending[i]
                return self._make_output(message)
        while True:
            message = self._worker.receive()
            if message is None:
                os._exit(0)
            if isinstance(message, Output) and message.seq == self._seq:
                return self._make_output(message)
            # Another call, or where the results of one go that waits here: other workers are in it.
            pending.append(message)

    def _make_output(self, message: Output) -> Any:
        kind, columns, fresh = unpack(read_payload(message.payload))
        if self._team > POUR_TEAM:
            return kind, columns, self.ways(columns)
        return kind, columns, _if_any(map(make_way, columns, fresh))

    def ways(self, columns: tuple[Any, ...]) -> tuple[PageWriter | None, ...]:
        return _if_any(map(make_way, columns))


def _if_any(ways: Iterable[PageWriter | None]) -> tuple[PageWriter | None, ...]:
    found = tuple(ways)
    return found if any(found) else ()
