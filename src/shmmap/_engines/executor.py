"""Any ``concurrent.futures.Executor`` as engine: its workers get the chunks' values and return values.

Where its workers are, only they can tell: in processes of their own, on other machines, or in this very
process. So a chunk travels as a `_Parcel`, which is packed by whoever pickles it. An executor that does
not pickle, or a worker that finds on unpickling that it is at home, gets the map's own objects: the function
itself, whose globals are live, the caller's context, and private arrays read-only as on "threads".
"""

from __future__ import annotations

import contextvars
import os
import time
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from contextlib import ExitStack
from itertools import count
from typing import Any, NamedTuple

from .._chunks import Form, Input, Job, Mark, Piece, Plan, Watch, frozen, make_kernel, running
from .._interop.rows import take_rows
from .._system.blas import limited, limited_here
from .._system.interrupts import ShortLock
from .._team import finish_before
from .._wire import (
    Report,
    cannot_send,
    name_of,
    own_decimal_context,
    pack_by_value,
    pack_result,
    report_exception,
    thread_settings,
    unpack,
)
from .base import Task

# Chunks handed to the executor ahead of their turn, per worker.
AHEAD = 4
# After a Ctrl-C or a cancellation, chunks under way in this process get this long.
GRACE_S = 1.0


class _Failure(NamedTuple):
    """What the function raised, or a report of it if that was in another process; by index in the map."""

    exception: BaseException | Report
    at: int
    start: int
    stop: int


class _Answer(NamedTuple):
    """What came of a chunk."""

    pieces: list[Any]
    failures: list[_Failure]
    is_done: bool
    lost_writes: list[str]


class _Carried(NamedTuple):
    """A value that is itself in this process, and is pickled by this library on its way to another one."""

    value: Any

    def __reduce__(self) -> Any:
        return _uncarried, (pack_result(self.value),)


def _uncarried(data: bytes) -> _Carried:
    return _Carried(unpack(data))


class _ValuePort:
    """Keeps everything: one chunk's results are what the remote call returns."""

    def __init__(self, offset: int, is_home: bool) -> None:
        self.pieces: list[Piece] = []
        self.failures: list[_Failure] = []
        self._offset = offset
        self._is_home = is_home

    def mark(self, first: int, stop: int, nothing: bool = False) -> None:
        if nothing:
            self.pieces.append((first, stop, (None, ())))

    def results(self, pieces: list[Piece]) -> None:
        self.pieces.extend(pieces)

    def tell_form(self, form: Form, at_once: bool) -> None:
        pass

    def wait_taken(self, nbytes: int) -> None:
        pass

    def make_room(self, nbytes: int) -> None:
        pass

    def error(self, exc: BaseException, chunk: int, index: int, start: int, stop: int) -> None:
        at = self._offset
        where = (index if index < 0 else index + at, start + at, stop + at)
        raised = exc if self._is_home else report_exception(exc, *where, -1, 0)
        self.failures.append(_Failure(raised, *where))

    def page_writers(self, columns: tuple[Any, ...]) -> tuple[()]:
        return ()

    def poll_output(self) -> None:
        return None

    def wait_output(self) -> None:
        return None


_TOKEN = os.urandom(16)
_lock = ShortLock()
_keys = count()
_homes: dict[int, _Home] = {}
"""The maps of this process that are under way on executors."""


def _identity() -> tuple[int, bytes]:
    """What only this process has: a forked one has another pid, another interpreter another token."""
    return os.getpid(), _TOKEN


class _Home:
    """A map in the caller's process: the originals of what its parcels hold."""

    def __init__(self, task: Task, packs: bool) -> None:
        self.func = task.func
        self.parcels: dict[int, _Parcel] = {}
        """Those under way, by number of the chunk."""
        self.key = next(_keys)
        self.context = contextvars.copy_context()
        self.held: ExitStack | None = None
        """What is undone when the map is over; None if no chunk of it was run in this process."""
        self._task = task
        self._packed: bytes | None = None
        self._is_over = False
        self._settings = thread_settings()
        if packs:  # now: later the function and its globals may be others
            self._packed = pack_by_value((task.func, self._settings))

    def pack(self) -> bytes:
        """The function and the settings of the thread that called the map, pickled."""
        if self._packed is None:
            try:
                self._packed = pack_by_value((self.func, self._settings))
            except Exception as exc:
                raise cannot_send(name_of(self.func), self.func, exc) from None
        return self._packed

    def enter(self) -> None:
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

    def close(self) -> None:
        """The map is over."""
        _homes.pop(self.key, None)
        with _lock.held():
            self._is_over = True
        if self.held is not None:
            self.held.close()


class _Parcel:
    """A chunk on its way to a worker, wherever that is: a job of its own."""

    __slots__ = ("first", "home", "job", "number")

    def __init__(self, home: _Home, number: int, job: Job, first: int) -> None:
        self.home = home
        self.number = number
        self.job = job
        self.first = first
        """Its index in the map."""

    def __reduce__(self) -> Any:
        home = self.home
        data = home.pack(), pack_by_value(self.job), self.first
        return _deliver, (_identity(), home.key, self.number, data)


_Copy = tuple[bytes, bytes, int]
"""Function and settings, job, and first index of a parcel."""


def _deliver(identity: Any, key: int, number: int, data: _Copy) -> _Parcel | _Copy | None:
    """What a parcel is where it is unpickled: itself at home, else what it takes to run it."""
    if identity != _identity():
        return data
    home = _homes.get(key)
    return None if home is None else home.parcels.get(number)


def run_chunk(parcel: _Parcel | _Copy | None) -> _Carried:
    """Run one chunk, wherever the executor's worker is."""
    if parcel is None:
        raise RuntimeError("the map that this chunk belongs to is over")
    if isinstance(parcel, tuple):
        (func, settings), job = unpack(parcel[0]), unpack(parcel[1])
        watch = Watch(func)
        with settings.applied():
            answer = _run(func, job, parcel[2], is_home=False)
        return _Carried(answer._replace(lost_writes=watch.changed()))
    home = parcel.home
    home.enter()

    def run() -> _Answer:
        own_decimal_context()
        with limited_here(1):
            return _run(home.func, parcel.job, parcel.first, is_home=True)

    return _Carried(home.context.copy().run(run))


def _run(func: Any, job: Job, offset: int, is_home: bool) -> _Answer:
    port = _ValuePort(offset, is_home)
    kernel = make_kernel(job, func, port)
    try:
        with running(kernel.where, None):
            kernel.run(0, 1)
            kernel.finish()
    except KeyboardInterrupt:
        raise
    except BaseException as exc:
        port.error(exc, *kernel.where_failed())
        return _Answer([], port.failures[-1:], False, [])
    return _Answer([piece for _, _, piece in port.pieces], port.failures, True, [])


class _ExecutorWork:
    def __init__(self, executor: Executor, task: Task) -> None:
        self._executor = executor
        self._task = task
        self._home = self._make_home(executor, task)
        self._done: dict[int, int] = {}
        """Marks of the chunks that are done, as in a ledger."""
        self._cancelled = False

    @staticmethod
    def _make_home(executor: Executor, task: Task) -> _Home:
        if isinstance(executor, ThreadPoolExecutor):
            return _Home(task, packs=False)
        try:
            return _Home(task, packs=True)
        except Exception as exc:
            if isinstance(executor, ProcessPoolExecutor):
                raise cannot_send(name_of(task.func), task.func, exc) from None
            return _Home(task, packs=False)  # it may not have to be pickled

    def done(self) -> int:
        return min(len(self._done) * self._task.plan.chunksize, self._task.plan.n)

    def marks(self) -> bytes:
        done = self._done
        return bytes(done.get(k, Mark.PENDING) for k in range(self._task.plan.chunks))

    def cancel(self) -> None:
        self._cancelled = True

    def _submit(self, k: int) -> Future[Any]:
        job = self._task.job
        start, stop = self._task.plan.limits(k)
        inputs = []
        for entry in job.inputs:
            data = entry.data
            if entry.stencil is not None:
                data = entry.stencil.cut(data, start, stop)
                entry = Input("whole", data)
            elif entry.kind in ("array", "stored"):
                data = data[(slice(None),) * entry.axis + (slice(start, stop),)]
                entry = entry._replace(kind="array")
            elif entry.kind == "sequence":
                data = data[start:stop]
            elif entry.kind == "rows":
                data = take_rows(data, start, stop)
            inputs.append(entry._replace(data=data))
        part = job._replace(
            inputs=tuple(inputs),
            out=None,
            plan=Plan(stop - start, stop - start),
            first=job.first + start,
            store="",
            memo=None,
        )
        parcel = self._home.parcels[k] = _Parcel(self._home, k, part, start)
        return self._executor.submit(run_chunk, parcel)

    def wait(self) -> Any:
        task = self._task
        todo = list(range(task.plan.chunks))
        _homes[self._home.key] = self._home
        try:
            while todo:
                if not self._cancelled:
                    self._run_round(todo)
                if self._cancelled:
                    raise CancelledError
                undone = [k for k in range(task.plan.chunks) if k not in self._done]
                todo = task.outcome.next_round(undone) if undone else []
        finally:
            self._home.close()
        if task.tick is not None:
            task.tick(self.done)
        undone = [k for k in range(task.plan.chunks) if k not in self._done]
        return task.outcome.finish(undone, self.marks())

    def _run_round(self, todo: list[int]) -> None:
        task = self._task
        queue = iter(todo)
        pending: dict[Future[Any], int] = {}
        stopping = False
        last_tick = 0.0
        try:
            while True:
                while not stopping and len(pending) < AHEAD * task.workers:
                    k = next(queue, None)
                    if k is None:
                        break
                    try:
                        pending[self._submit(k)] = k
                    except BrokenExecutor as exc:
                        limits = task.plan.limits(k)
                        task.outcome.note_exception(k, exc, -1, *limits, "the executor")
                        stopping = not task.job.keep_going
                if not pending:
                    return
                ready, _ = wait(pending, timeout=0.1, return_when=FIRST_COMPLETED)
                for future in ready:
                    k = pending.pop(future)
                    if not self._take(k, future) and not task.job.keep_going:
                        stopping = True
                if self._cancelled:
                    return
                if task.tick is not None and time.monotonic() - last_tick > 0.05:
                    last_tick = time.monotonic()
                    task.tick(self.done)
        finally:
            running = [future for future in pending if not future.cancel()]
            if running and self._home.held is not None:
                # While they run here, private arrays are to be read-only.
                wait(running, timeout=GRACE_S)

    def _take(self, k: int, future: Future[Any]) -> bool:
        start, stop = self._task.plan.limits(k)
        outcome = self._task.outcome
        try:
            pieces, failures, is_done, lost_writes = future.result().value
        except BaseException as exc:
            outcome.note_exception(k, exc, -1, start, stop, "the executor")
            return False
        finally:
            self._home.parcels.pop(k, None)
        outcome.note_lost_writes(lost_writes)
        for raised, index, first, last in failures:
            if isinstance(raised, Report):
                outcome.note_report(k, raised)
            else:
                outcome.note_exception(k, raised, index, first, last, "the calling process")
        if not is_done:
            return False
        if pieces:
            kept = self._keep(failures)
            try:
                self._task.collector.add([(k, k + 1, pieces[0])])
                for a, was in kept:
                    a[...] = was
            except (TypeError, ValueError) as exc:
                outcome.note_exception(k, exc, -1, start, stop, "the calling process")
                return False
            if self._task.collector.failure is not None:
                raise self._task.collector.failure
        self._done[k] = Mark.HANDED if pieces else Mark.DONE  # None, where results are objects
        return True

    def _keep(self, failures: list[_Failure]) -> list[tuple[Any, Any]]:
        """Parts of an output that the user gave, for items that failed, and what is there now."""
        job, columns = self._task.job, self._task.collector.columns
        if job.out is None or job.gather or job.store or not columns:
            return []
        parts = [column[each.start : each.stop] for each in failures for column in columns]
        return [(part, part.copy()) for part in parts]


class ExecutorEngine:
    """Hands chunks, as values, to an executor of the user's."""

    shares_memory = False
    in_process = False
    sees_caller = True
    can_replace_workers = False

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        finish_before(type(executor))

    def warm_up(self, workers: int) -> None:
        """Nothing takes long to start."""

    def start(self, task: Task) -> _ExecutorWork:
        return _ExecutorWork(self._executor, task)
