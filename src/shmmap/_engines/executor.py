"""Any ``concurrent.futures.Executor`` as engine: its workers get the chunks' values and return values.

Each chunk is a job of its own, which `sent_chunks` carries to a worker; a few are handed over ahead of
their turn. What comes back goes to the collector here, in the thread that waits for the map.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from typing import Any

from .._chunks import Input, Job, Mark, Plan, make_slicer
from .._team import finish_before
from .._wire import Report
from .base import GRACE_S, Task
from .rounds import RoundsWork
from .sent_chunks import Answer, Failure, Origin, SentChunk, run_chunk

# Chunks handed to the executor ahead of their turn, per worker.
AHEAD = 4


def _make_origin(executor: Executor, task: Task) -> Origin:
    origin = Origin(task)
    if not isinstance(executor, ThreadPoolExecutor):
        try:
            origin.pack()  # now: later the function and its globals may be others
        except Exception:
            if isinstance(executor, ProcessPoolExecutor):
                raise
            # Any other executor may not have to pickle it.
    return origin


class _ExecutorWork(RoundsWork):
    """A map on an executor. All but `cancel` is called by the thread that waits for it."""

    def __init__(self, executor: Executor, task: Task) -> None:
        super().__init__(task)
        self._executor = executor
        self._origin = _make_origin(executor, task)
        # Always as whole chunks, which become the inputs of a job of their own.
        self._slicers = [make_slicer(entry, "chunks") for entry in task.job.inputs]
        self._is_stopping = False

    def wait(self) -> object:
        with self._origin:
            left = self._run_rounds()
        return self._finish(left)

    def _run_round(self, chunks: Sequence[int]) -> None:
        queue = iter(chunks)
        pending: dict[Future[object], int] = {}
        self._is_stopping = False
        try:
            while True:
                self._submit_ahead(queue, pending)
                if not pending:
                    return
                future = self._wait_ended()
                assert future is not None
                self._take(pending.pop(future), future)
        finally:
            under_way = [future for future in pending if not future.cancel()]
            if under_way and self._origin.held is not None:
                # While they run here, private arrays are to be read-only.
                wait(under_way, timeout=GRACE_S)

    # ------------------------------------------------ there

    def _submit_ahead(self, queue: Iterator[int], pending: dict[Future[Any], int]) -> None:
        """Give the executor the next chunks, as many as it is to have ahead of their turn."""
        while not self._is_stopping and len(pending) < AHEAD * self.task.workers:
            k = next(queue, None)
            if k is None:
                return
            sent = self._origin.chunks[k] = SentChunk(self._origin, k, self._job_of(k))
            try:
                future = self._executor.submit(run_chunk, sent)
            except BrokenExecutor as exc:
                self._note_chunk(k, exc, "the executor")
                continue
            pending[future] = k
            future.add_done_callback(self._ended.put)

    def _job_of(self, k: int) -> Job:
        """A chunk as a job of its own."""
        job = self.task.job
        start, stop = job.plan.limits(k)
        inputs = [
            _as_input(entry, slicer(k, start, stop))
            for entry, slicer in zip(job.inputs, self._slicers, strict=True)
        ]
        return job._replace(
            inputs=tuple(inputs),
            out=None,
            plan=Plan(stop - start, stop - start),
            first=job.first + start,
            store="",
            template=None,
        )

    # ------------------------------------------------ and back

    def _take(self, k: int, future: Future[Any]) -> None:
        try:
            answer: Answer = future.result().value
        except BaseException as exc:
            self._note_chunk(k, exc, "the executor")
            return
        finally:
            sent = self._origin.chunks.pop(k).sent
        if self.task.log is not None and answer.told is not None:
            self.task.log.note_answer(k, sent, answer.told)
        self.task.outcome.note_lost_writes(answer.lost_writes)
        start, _ = self.task.job.plan.limits(k)
        failures = [_shifted(each, start) for each in answer.failures]
        for raised, at, first, last in failures:
            if isinstance(raised, Report):
                self.task.outcome.note_report(k, raised)
            else:
                self.note(raised, k, at, first, last, "the calling process")
        if not answer.is_done:
            self._is_stopping = not self.task.job.keep_going
        elif not answer.pieces:
            self.ledger[k] = Mark.DONE  # None, where results are objects
        elif self._add(k, answer.pieces[0], failures):
            self.ledger[k] = Mark.PARTLY if failures else Mark.HANDED

    def _add(self, k: int, results: object, failures: list[Failure]) -> bool:
        """Give a chunk's results to the collector; but items that failed stay as they are in the output."""
        columns = () if self.task.job.store else self.task.collector.columns or ()
        parts = [column[each.start : each.stop] for each in failures for column in columns]
        kept = [part.copy() for part in parts]
        try:
            self.task.collector.add([(k, k + 1, results)])
            for part, was in zip(parts, kept, strict=True):
                part[...] = was
        except (TypeError, ValueError) as exc:
            self._note_chunk(k, exc, "the calling process")
            return False
        if self.task.collector.failure is not None:
            raise self.task.collector.failure
        return True

    def _note_chunk(self, k: int, exc: BaseException, who: str) -> None:
        """A chunk as a whole has failed."""
        self.note(exc, k, -1, *self.task.job.plan.limits(k), who)
        self._is_stopping = not self.task.job.keep_going


def _as_input(entry: Input, data: object) -> Input:
    """What a chunk gets of an input, as the input of a job of its own."""
    if entry.stencil is not None:
        return Input("whole", data)
    return Input("array" if entry.kind == "stored" else entry.kind, data, entry.axis)


def _shifted(failure: Failure, by: int) -> Failure:
    """A failure counted from the beginning of the map."""
    raised, index, start, stop = failure
    where = (index if index < 0 else index + by, start + by, stop + by)
    if isinstance(raised, Report):
        raised = raised._replace(position=where[0], start=where[1], stop=where[2])
    return Failure(raised, *where)


class ExecutorEngine:
    """Hands chunks, as values, to an executor of the user's."""

    shares_memory = False
    in_process = False
    sees_caller = True
    can_replace_workers = False
    writes_stores = False

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.name = type(executor).__name__
        finish_before(type(executor))

    def warm_up(self, workers: int) -> None:
        """Nothing takes long to start."""

    def start(self, task: Task) -> _ExecutorWork:
        return _ExecutorWork(self._executor, task)
