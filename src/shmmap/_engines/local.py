"""The engines of the calling process: serial, and threads.

Kernels are those of the workers, and so are the draws: see `_chunks.part`.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Sequence

from .._chunks import (
    Destination,
    Form,
    Kernel,
    Mark,
    Part,
    Piece,
    Recorder,
    Reporter,
    frozen,
    make_kernel,
    running,
    share_of,
)
from .._system.blas import limited, limited_here
from .._system.interrupts import CleanUp
from .._wire import SLOT_WORDS, own_decimal_context
from .base import GRACE_S, Task
from .rounds import RoundsWork

_DONE, _NOTHING, _HANDED = (bytes([mark]) for mark in (Mark.DONE, Mark.NOTHING, Mark.HANDED))


class _LocalReporter(Reporter):
    """A kernel's way to the collector within one process; see `_chunks.kernel.Reporter`."""

    def __init__(self, work: _LocalWork, who: str) -> None:
        self._work = work
        self._who = who
        self._partly: set[int] = set()
        """Chunks in which items have failed."""

    def mark(self, first: int, stop: int, nothing: bool = False) -> None:
        self._enter(first, stop, _NOTHING if nothing else _DONE)

    def _enter(self, first: int, stop: int, mark: bytes) -> None:
        self._work.ledger[first:stop] = mark * (stop - first)
        for chunk in self._partly.intersection(range(first, stop)) if self._partly else ():
            self._work.ledger[chunk] = Mark.PARTLY

    def results(self, pieces: list[Piece]) -> None:
        self._work.add(pieces)
        for first, stop, _ in pieces:
            self._enter(first, stop, _HANDED)

    def tell_form(self, form: Form, at_once: bool) -> None:
        self._work.allocate_output(form)

    def error(self, exc: BaseException, chunk: int, index: int, start: int, stop: int) -> None:
        if isinstance(exc, KeyboardInterrupt):
            raise exc
        if index >= 0:
            self._partly.add(chunk)
        self._work.note(exc, chunk, index, start, stop, self._who)

    def poll_output(self) -> Destination | None:
        return self._work.output

    def wait_output(self) -> Destination | None:
        if self._work.is_told is not None:
            self._work.is_told.wait()
        return self._work.output


class _LocalWork(RoundsWork):
    """A map in this process.

    ============= =========================== ============== ========================================
    field         written by                  read by        what must hold
    ============= =========================== ============== ========================================
    output        the thread with index 0     any thread     set once
    is_told       any thread                  any thread     set once the output is known, or not
                                                             going to be told in this round; None
                                                             with one thread, which has no one to
                                                             wait for
    limit         any thread, downwards; the  any thread     chunks above it are not to be started
                  waiting one between rounds
    _drawn        any thread, with `lock`;    any thread     tickets below it are drawn
                  the waiting one between
                  rounds
    ============= =========================== ============== ========================================
    """

    def __init__(self, task: Task, threads: int, *, is_serial: bool = False) -> None:
        super().__init__(task)
        self._is_serial = is_serial
        self.threads = threads
        self._caller = threading.get_ident()
        self._context_vars = contextvars.copy_context()
        self.output: Destination | None = None
        self.is_told = threading.Event() if threads > 1 else None
        self.limit = [task.job.plan.chunks]
        self._drawn = 0
        collector = task.collector
        if task.begun is not None and task.job.out is None and collector.columns is not None:
            self.output = Destination(collector.kind, collector.columns)

    def cancel(self) -> None:
        super().cancel()
        self.stop(-1)

    def wait(self) -> object:
        task = self.task
        with limited(task.blas_threads), frozen(task.func, *task.given, stores=not self._is_serial):
            left = self._run_rounds()
        return self._finish(left)

    # ------------------------------------------------ for those who take part

    def draw(self, k: int) -> int:
        """Draw `k` consecutive tickets; the first is returned."""
        with self.lock:
            first = self._drawn
            self._drawn = first + k
        return first

    def stop(self, at: int) -> None:
        """Start no chunk above this one any more, and let no thread wait for the output."""
        self.limit[0] = min(self.limit[0], at)
        self._tell()

    def _tell(self) -> None:
        """The output is known, or not going to be told in this round."""
        if self.is_told is not None:
            self.is_told.set()

    # ------------------------------------------------ for kernels

    def add(self, pieces: list[Piece]) -> None:
        """Take results that have been handed over."""
        collector = self.task.collector
        with self.lock:
            collector.add(pieces)
            has_failed = collector.failure is not None
        if has_failed:
            self.stop(-1)

    def allocate_output(self, form: Form) -> None:
        """Index 0 has told the form of its result."""
        with self.lock:
            self.output = Destination(*self.task.collector.allocate_output(form))
        if self.task.log is not None:
            self.task.log.note_output()
        self._tell()

    def note(
        self, exc: BaseException, chunk: int, index: int, start: int, stop: int, who: str
    ) -> None:
        super().note(exc, chunk, index, start, stop, who)
        if chunk == 0:
            self._tell()  # it may have told nothing

    # ------------------------------------------------ a round

    def _run_round(self, chunks: Sequence[int]) -> None:
        if 0 not in chunks:
            self._tell()
        self._drawn = 0
        again = None if len(chunks) == len(self.ledger) else chunks
        if self.threads == 1 and threading.get_ident() == self._caller:
            self._take_part(again, "the calling process", 0, self._tick)
        else:
            self._run_threads(again)
        # For the next one, if there is any.
        self.limit[0] = self.task.job.plan.chunks
        if self.output is None and self.is_told is not None:
            self.is_told.clear()

    def _run_threads(self, chunks: Sequence[int] | None) -> None:
        threads: list[threading.Thread] = []
        try:
            for i in range(self.threads):
                if i and self._is_drawn(chunks):
                    break  # what is left takes no longer than it takes to start a thread
                who = "the calling process" if self.threads == 1 else f"thread {i}"
                thread = threading.Thread(
                    target=self._context_vars.copy().run,
                    args=(self._run_thread, chunks, who, i),
                    name=f"shmmap-{i}",
                    daemon=True,
                )
                threads.append(thread)
                try:
                    thread.start()
                except RuntimeError:  # too many, or the interpreter is about to end
                    thread.run()
            for _ in threads:
                self._wait_ended()
        except BaseException as exc:
            self.stop(-1)
            deadline = time.monotonic() + GRACE_S
            with CleanUp(exc):
                for thread in threads:
                    if thread.ident is not None:
                        thread.join(max(0.0, deadline - time.monotonic()))
            raise

    def _is_drawn(self, chunks: Sequence[int] | None) -> bool:
        """Whether no ticket is left, where tickets are not shared out beforehand."""
        plan = self.task.job.plan
        tickets = plan.chunks if chunks is None else len(chunks)
        return self._drawn >= tickets and plan.schedule == "dynamic"

    def _run_thread(self, chunks: Sequence[int] | None, who: str, rank: int) -> None:
        try:
            own_decimal_context()
            self._take_part(chunks, who, rank)
        finally:
            self._ended.put(None)

    def _take_part(
        self,
        chunks: Sequence[int] | None,
        who: str,
        rank: int,
        tick: Callable[[], None] | None = None,
    ) -> None:
        """Draw tickets and run their chunks until none is left; `tick` as `_LocalPart` has it."""
        task, plan = self.task, self.task.job.plan
        kernel = make_kernel(task.job, task.func, _LocalReporter(self, who))
        share = None
        if plan.schedule == "static" and chunks is None:
            share = share_of(plan.chunks, rank, self.threads)
        recorder = None if task.log is None else task.log.recorder(rank)
        part = _LocalPart(self, kernel, who, chunks, share, recorder, tick)
        try:
            with limited_here(task.blas_threads), running(kernel.where, rank):
                part.run()
                part.finish()
        finally:
            if recorder is not None and task.log is not None:
                task.log.add_stacks(recorder.close())


class _Caller:
    """What this process is to its own map."""

    is_stray = False


class _LocalPart(Part):
    """The part of the calling thread, or of a thread of the map's own, in a round.

    `tick` is called after each draw of the calling thread, which a Ctrl-C ends at once; None in others.
    """

    def __init__(
        self,
        work: _LocalWork,
        kernel: Kernel,
        who: str,
        chunks: Sequence[int] | None,
        share: tuple[int, int] | None,
        recorder: Recorder | None,
        tick: Callable[[], None] | None,
    ) -> None:
        super().__init__(
            kernel,
            work,
            [0] * SLOT_WORDS,
            _Caller(),
            team=work.threads,
            chunks=chunks,
            share=share,
            recorder=recorder,
        )
        self._work = work
        self._who = who
        self._tick = tick

    def note_failure(self, exc: BaseException) -> None:
        if self._tick is not None and isinstance(exc, KeyboardInterrupt):
            raise exc
        chunk, index, start, stop = self.kernel.where_failed()
        self._work.note(exc, chunk, index, start, stop, self._who)
        if not self.kernel.job.keep_going:
            self._work.stop(chunk)

    def has_drawn(self) -> None:
        if self._tick is not None:
            self._tick()


class SerialEngine:
    """Everything in the calling thread, chunk after chunk."""

    name = "serial"
    shares_memory = True
    in_process = True
    sees_caller = True
    can_replace_workers = False
    writes_stores = True

    def warm_up(self, workers: int) -> None:
        """Nothing takes long to start."""

    def start(self, task: Task) -> _LocalWork:
        return _LocalWork(task, 1, is_serial=True)


class ThreadsEngine(SerialEngine):
    """Threads of the calling process: for functions that release the GIL."""

    name = "threads"

    def start(self, task: Task) -> _LocalWork:
        return _LocalWork(task, max(1, min(task.workers, task.job.plan.chunks)))
