"""Any ``concurrent.futures.Executor`` as engine: its workers get the chunks' values and return values."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    wait,
)
from typing import Any, NamedTuple

import numpy as np

from .._control import DONE, HANDED, PENDING
from .._current import running
from .._job import Form, Input, Job, Piece
from .._kernel import make_kernel
from .._packing import pack_by_value, pack_result, unpack
from .._reduction import read_only
from .._refusals import cannot_send, name_of
from .._reports import Report, report_exception
from .._rows import take_rows
from . import Task

__all__ = ["ExecutorEngine"]

# Chunks handed to the executor ahead of their turn, per worker.
AHEAD = 4


class _ValuePort:
    """Keeps everything: one chunk's results are what the remote call returns."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.reports: list[Report] = []
        self.first_index = 0

    def mark(self, first: int, stop: int, nothing: bool = False) -> None:
        if nothing:
            self.pieces.append((first, stop, (None, ())))

    def results(self, pieces: list[Piece]) -> None:
        self.pieces.extend(pieces)

    def propose(self, form: Form, at_once: bool) -> None:
        pass

    def wait_taken(self, nbytes: int) -> None:
        pass

    def make_room(self, nbytes: int) -> None:
        pass

    def error(self, exc: BaseException, chunk: int, index: int, start: int, stop: int) -> None:
        at = self.first_index
        report = report_exception(exc, index + at, start + at, stop + at, -1, 0)
        self.reports.append(report)

    def ways(self, columns: tuple[Any, ...]) -> tuple[()]:
        return ()

    def poll_output(self) -> None:
        return None

    def wait_output(self) -> None:
        return None


class _Carried(NamedTuple):
    """A value that is itself in this process, and is pickled by this library on its way to another one."""

    value: Any
    pack: Callable[[Any], bytes]

    def __reduce__(self) -> Any:
        return _uncarried, (self.pack(self.value),)


def _uncarried(data: bytes) -> _Carried:
    return _Carried(unpack(data), pack_result)


def run_chunk(func: bytes, part: _Carried, k: int, offset: int) -> _Carried:
    """Run one chunk, which is all of the job in `part`, wherever the executor's worker is."""
    return _Carried(_run_chunk(func, part.value, offset), pack_result)


def _run_chunk(func: bytes, job: Job, offset: int) -> tuple[list[Any], list[Report], bool]:
    port = _ValuePort()
    kernel = make_kernel(
        job._replace(inputs=tuple(map(_read_only, job.inputs))), unpack(func), port
    )
    kernel.first_index = job.first + offset
    port.first_index = offset
    try:
        with running(kernel.where, None):
            kernel.run(0, 1)
            kernel.finish()
    except KeyboardInterrupt:
        raise
    except BaseException as exc:
        _, index, start, stop = kernel.where_failed()
        index = -1 if index < 0 else index + offset
        return [], [report_exception(exc, index, start + offset, stop + offset, -1, 0)], False
    return [piece for _, _, piece in port.pieces], port.reports, True


def _read_only(entry: Input) -> Input:
    is_array = isinstance(entry.data, np.ndarray)
    return entry._replace(data=read_only(entry.data)) if is_array else entry


class _ExecutorWork:
    def __init__(self, executor: Executor, task: Task) -> None:
        self._executor = executor
        self._task = task
        try:
            self._func = pack_by_value(task.func)
        except Exception as exc:
            raise cannot_send(name_of(task.func), task.func, exc) from None
        self._done: dict[int, int] = {}
        """Marks of the chunks that are done, as in a ledger."""
        self._cancelled = False

    def done(self) -> int:
        return min(len(self._done) * self._task.plan.chunksize, self._task.plan.n)

    def marks(self) -> bytes:
        done = self._done
        return bytes(done.get(k, PENDING) for k in range(self._task.plan.chunks))

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
        trim = None if job.trim is None else job.trim._replace(offset=start)
        part = job._replace(
            n=stop - start,
            chunksize=stop - start,
            inputs=tuple(inputs),
            out=None,
            trim=trim,
            store="",
        )
        return self._executor.submit(run_chunk, self._func, _Carried(part, pack_by_value), k, start)

    def wait(self) -> Any:
        task = self._task
        todo = list(range(task.plan.chunks))
        while todo:
            self._run_round(todo)
            if self._cancelled:
                raise CancelledError
            undone = [k for k in range(task.plan.chunks) if k not in self._done]
            todo = task.outcome.todo(undone) if undone else []
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
            for future in pending:
                future.cancel()

    def _take(self, k: int, future: Future[Any]) -> bool:
        start, stop = self._task.plan.limits(k)
        try:
            pieces, reports, is_done = future.result().value
        except BaseException as exc:
            self._task.outcome.note_exception(k, exc, -1, start, stop, "the executor")
            return False
        for report in reports:
            self._task.outcome.note_report(k, report)
        if not is_done:
            return False
        if pieces:
            kept = self._keep(reports)
            try:
                self._task.collector.add([(k, k + 1, pieces[0])])
                for a, was in kept:
                    a[...] = was
            except (TypeError, ValueError) as exc:
                self._task.outcome.note_exception(k, exc, -1, start, stop, "the calling process")
                return False
            if self._task.collector.failure is not None:
                raise self._task.collector.failure
        self._done[k] = HANDED if pieces else DONE  # None, where results are objects
        return True

    def _keep(self, reports: list[Report]) -> list[tuple[Any, Any]]:
        """Parts of an output that the user gave, for items that failed, and what is there now."""
        job, columns = self._task.job, self._task.collector.columns
        if job.out is None or job.gather or job.store or not columns:
            return []
        parts = [column[r.start : r.stop] for r in reports for column in columns]
        return [(part, part.copy()) for part in parts]


class ExecutorEngine:
    """Hands chunks, as values, to an executor of the user's."""

    shares_memory = False
    in_process = False
    sees_caller = True
    can_replace_workers = False

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def warm_up(self, workers: int) -> None:
        """Nothing takes long to start."""

    def start(self, task: Task) -> _ExecutorWork:
        return _ExecutorWork(self._executor, task)
