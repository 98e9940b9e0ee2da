"""A chunk on its way to a worker of any executor, and what comes back.

Where its workers are, only the executor can tell: in processes of their own, on other machines, or in this
very process. So a chunk travels as a `SentChunk`, which is packed when it is pickled. An executor that does
not pickle, or a worker that finds on unpickling that it is in the caller, gets the map's own objects: the
function itself, whose globals are live, the caller's context, and private arrays read-only as on "threads".
"""

from __future__ import annotations

import contextvars
import os
import threading
import time
from contextlib import ExitStack
from itertools import count
from typing import NamedTuple

from .._chunks import (
    Form,
    Function,
    Job,
    Piece,
    Recorder,
    Reporter,
    Watch,
    frozen,
    make_kernel,
    running,
)
from .._errors.exceptions import name_of
from .._profile.answers import HOST
from .._profile.answers import Answer as Told
from .._system.blas import limited, limited_here
from .._system.interrupts import ShortLock
from .._wire import (
    Profiled,
    Report,
    RowLog,
    cannot_send,
    own_decimal_context,
    pack_by_value,
    pack_result,
    report_exception,
    thread_settings,
    unpack,
)
from .base import Task


class Failure(NamedTuple):
    """What the function raised, or a report of it from another process; counted within the chunk."""

    exception: BaseException | Report
    at: int
    """The index, -1 if it was the chunk as a whole."""
    start: int
    stop: int


class Answer(NamedTuple):
    """What came of a chunk."""

    pieces: list[object]
    failures: list[Failure]
    is_done: bool
    lost_writes: list[str]
    told: Told | None = None
    """When and where it was run, if the map is profiled."""


class _Carried(NamedTuple):
    """A value that is itself in this process, and is pickled by this library on its way to another one."""

    value: object

    def __reduce__(self) -> tuple[object, ...]:
        return _uncarried, (pack_result(self.value),)


def _uncarried(data: bytes) -> _Carried:
    return _Carried(unpack(data))


class _ValueReporter(Reporter):
    """Keeps everything: one chunk's results are what the remote call returns."""

    def __init__(self, in_caller: bool) -> None:
        self.pieces: list[Piece] = []
        self.failures: list[Failure] = []
        self._in_caller = in_caller

    def mark(self, first: int, stop: int, nothing: bool = False) -> None:
        if nothing:
            self.pieces.append((first, stop, (None, ())))

    def results(self, pieces: list[Piece]) -> None:
        self.pieces.extend(pieces)

    def tell_form(self, form: Form, at_once: bool) -> None:
        pass

    def error(self, exc: BaseException, chunk: int, index: int, start: int, stop: int) -> None:
        raised = exc if self._in_caller else report_exception(exc, index, start, stop, -1, 0)
        self.failures.append(Failure(raised, index, start, stop))


_ROWS_MOST = 64
"""A chunk has a row or two."""
_TOKEN = os.urandom(16)
_lock = ShortLock()
_keys = count()
_origins: dict[int, Origin] = {}
"""The maps of this process that are under way on executors."""


def _identity() -> tuple[int, bytes]:
    """What only this process has: a forked one has another pid, another interpreter another token."""
    return os.getpid(), _TOKEN


class Origin:
    """A map in the caller's process: the originals of what its chunks hold. A context while it runs."""

    def __init__(self, task: Task) -> None:
        self.func: Function = task.func
        self.chunks: dict[int, SentChunk] = {}
        """Those under way, by number of the chunk."""
        self.key = next(_keys)
        self.context = contextvars.copy_context()
        self.held: ExitStack | None = None
        """What is undone when the map is over; None if no chunk of it was run in this process."""
        self._task = task
        self.profiled: Profiled = 0 if task.log is None else task.log.profiled
        self._packed: bytes | None = None
        self._is_over = False
        self._settings = thread_settings()

    def pack(self) -> bytes:
        """The function and the settings of the thread that called the map, pickled."""
        if self._packed is None:
            try:
                self._packed = pack_by_value((self.func, self._settings))
            except Exception as exc:
                raise cannot_send(name_of(self.func), self.func, exc) from None
        return self._packed

    def hold(self) -> None:
        """Before a chunk is run in this process: from now on, bound BLAS and hold private arrays."""
        if self.held is None:
            held = ExitStack()
            held.enter_context(limited(self._task.blas_threads))
            held.enter_context(frozen(self.func, *self._task.given, stores=True))
            with _lock.held():
                if self.held is None and not self._is_over:
                    self.held, held = held, ExitStack()
            held.close()  # another chunk was quicker
        if self._is_over:
            raise RuntimeError("the map that this chunk belongs to is over")

    def __enter__(self) -> None:
        _origins[self.key] = self

    def __exit__(self, *exc: object) -> None:
        """The map is over."""
        _origins.pop(self.key, None)
        with _lock.held():
            self._is_over = True
        if self.held is not None:
            self.held.close()


class SentChunk:
    """A chunk on its way to a worker, wherever that is: a job of its own."""

    __slots__ = ("job", "number", "origin", "sent")

    def __init__(self, origin: Origin, number: int, job: Job) -> None:
        self.origin = origin
        self.number = number
        self.job = job
        self.sent = time.perf_counter_ns()
        """When, in nanoseconds."""

    def __reduce__(self) -> tuple[object, ...]:
        origin = self.origin
        data = origin.pack(), pack_by_value((self.job, origin.profiled))
        return _deliver, (_identity(), origin.key, self.number, data)


_Copy = tuple[bytes, bytes]
"""Function and settings, and the job of a chunk."""


def _deliver(identity: object, key: int, number: int, data: _Copy) -> SentChunk | _Copy | None:
    """What a chunk is where it is unpickled: itself in the caller, else what it takes to run it."""
    if identity != _identity():
        return data
    origin = _origins.get(key)
    return None if origin is None else origin.chunks.get(number)


def run_chunk(chunk: SentChunk | _Copy | None) -> _Carried:
    """Run one chunk, wherever the executor's worker is."""
    if chunk is None:
        raise RuntimeError("the map that this chunk belongs to is over")
    if isinstance(chunk, tuple):
        (func, settings), (job, profiled) = unpack(chunk[0]), unpack(chunk[1])
        watch = Watch(func)
        with settings.applied():
            answer = _run(func, job, profiled, in_caller=False)
        return _Carried(answer._replace(lost_writes=watch.changed()))
    origin = chunk.origin
    origin.hold()

    def run() -> Answer:
        own_decimal_context()
        with limited_here(1):
            return _run(origin.func, chunk.job, origin.profiled, in_caller=True)

    return _Carried(origin.context.copy().run(run))


def _run(func: Function, job: Job, profiled: Profiled, *, in_caller: bool) -> Answer:
    if not profiled:
        return _run_chunk(func, job, in_caller)
    rows = RowLog.in_own_memory(os.getpid(), _ROWS_MOST)
    recorder = Recorder(rows, profiled, is_alone=False)
    began = time.perf_counter_ns()
    answer = _run_chunk(func, job, in_caller)
    recorder.note_calls(0, 1, 1, began, 0.0, 0)
    stacks = recorder.close()
    told = Told(
        host=HOST,
        pid=os.getpid(),
        thread=threading.get_ident(),
        rows=rows.rows(),
        stacks=stacks,
    )
    return answer._replace(told=told)


def _run_chunk(func: Function, job: Job, in_caller: bool) -> Answer:
    reporter = _ValueReporter(in_caller)
    kernel = make_kernel(job, func, reporter)
    try:
        with running(kernel.where, None):
            kernel.run(0, 1)
            kernel.finish()
    except KeyboardInterrupt:
        raise
    except BaseException as exc:
        reporter.error(exc, *kernel.where_failed())
        return Answer([], reporter.failures[-1:], False, [])
    return Answer([piece for _, _, piece in reporter.pieces], reporter.failures, True, [])
