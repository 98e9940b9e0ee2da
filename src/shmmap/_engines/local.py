"""The engines of the calling process: serial, and threads. The kernels are those of the workers."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count

from .._chunks import (
    Destination,
    Form,
    Mark,
    Piece,
    Reporter,
    frozen,
    make_kernel,
    running,
    share_of,
)
from .._system.blas import limited, limited_here
from .._system.interrupts import CleanUp
from .._wire import own_decimal_context
from .base import GRACE_S, Task
from .rounds import RoundsWork

_DONE, _NOTHING, _HANDED = (bytes([mark]) for mark in (Mark.DONE, Mark.NOTHING, Mark.HANDED))


class _LocalReporter(Reporter):
    """A kernel's way to the collector within one process; see `_chunks.kernel.Reporter`."""

    def __init__(self, work: _LocalWork, who: str) -> None:
        self._work = work
        self._who = who

    def mark(self, first: int, stop: int, nothing: bool = False) -> None:
        self._work.ledger[first:stop] = (_NOTHING if nothing else _DONE) * (stop - first)

    def results(self, pieces: list[Piece]) -> None:
        self._work.add(pieces)
        for first, stop, _ in pieces:
            self._work.ledger[first:stop] = _HANDED * (stop - first)

    def tell_form(self, form: Form, at_once: bool) -> None:
        self._work.allocate_output(form)

    def error(self, exc: BaseException, chunk: int, index: int, start: int, stop: int) -> None:
        if isinstance(exc, KeyboardInterrupt):
            raise exc
        self._work.note(exc, chunk, index, start, stop, self._who)

    def poll_output(self) -> Destination | None:
        return self._work.output

    def wait_output(self) -> Destination | None:
        self._work.is_told.wait()
        return self._work.output


class _LocalWork(RoundsWork):
    """A map in this process.

    ============= =========================== ============== ========================================
    field         written by                  read by        what must hold
    ============= =========================== ============== ========================================
    output        the thread with index 0     any thread     set once
    is_told       any thread                  any thread     set once the output is known, or not
                                                             going to be told in this round
    _limit        any thread, downwards; the  any thread     chunks above it are not to be started
                  waiting one between rounds
    ============= =========================== ============== ========================================
    """

    def __init__(self, task: Task, threads: int, *, is_serial: bool = False) -> None:
        super().__init__(task)
        self._is_serial = is_serial
        self._threads = threads
        self._caller = threading.get_ident()
        self._context_vars = contextvars.copy_context()
        self.output: Destination | None = None
        self.is_told = threading.Event()
        self._limit = task.job.plan.chunks

    def cancel(self) -> None:
        super().cancel()
        self._stop(-1)

    @contextmanager
    def _context(self) -> Iterator[None]:
        task = self.task
        with limited(task.blas_threads), frozen(task.func, *task.given, stores=not self._is_serial):
            yield

    def _stop(self, at: int) -> None:
        """Start no chunk above this one any more, and let no thread wait for the output."""
        self._limit = min(self._limit, at)
        self.is_told.set()

    # ------------------------------------------------ for kernels

    def add(self, pieces: list[Piece]) -> None:
        """Take results that have been handed over."""
        collector = self.task.collector
        with self.lock:
            collector.add(pieces)
            has_failed = collector.failure is not None
        if has_failed:
            self._stop(-1)

    def allocate_output(self, form: Form) -> None:
        """Index 0 has told the form of its result."""
        with self.lock:
            self.output = (*self.task.collector.allocate_output(form), ())
        self.is_told.set()

    def note(
        self, exc: BaseException, chunk: int, index: int, start: int, stop: int, who: str
    ) -> None:
        super().note(exc, chunk, index, start, stop, who)
        if chunk == 0:
            self.is_told.set()  # it may have told nothing

    # ------------------------------------------------ a round

    def _run_round(self, chunks: Sequence[int]) -> None:
        if 0 not in chunks:
            self.is_told.set()
        if self._threads == 1 and threading.get_ident() == self._caller:
            self._draw(chunks, count(), "the calling process", 0, serial=True)
        else:
            self._run_threads(chunks)
        # For the next one, if there is any.
        self._limit = self.task.job.plan.chunks
        if self.output is None:
            self.is_told.clear()

    def _run_threads(self, chunks: Sequence[int]) -> None:
        tickets = count()  # next() is atomic
        plan = self.task.job.plan
        has_shares = plan.schedule == "static" and len(chunks) == plan.chunks
        threads = []
        for i in range(self._threads):
            mine = range(*share_of(plan.chunks, i, self._threads)) if has_shares else chunks
            counter = count() if has_shares else tickets
            who = "the calling process" if self._threads == 1 else f"thread {i}"
            thread = threading.Thread(
                target=self._context_vars.copy().run,
                args=(self._run_thread, mine, counter, who, i),
                name=f"shmmap-{i}",
                daemon=True,
            )
            threads.append(thread)
        try:
            for thread in threads:
                try:
                    thread.start()
                except RuntimeError:  # too many, or the interpreter is about to end
                    thread.run()
            for _ in threads:
                self._wait_ended()
        except BaseException as exc:
            self._stop(-1)
            deadline = time.monotonic() + GRACE_S
            with CleanUp(exc):
                for thread in threads:
                    if thread.ident is not None:
                        thread.join(max(0.0, deadline - time.monotonic()))
            raise

    def _run_thread(
        self, chunks: Sequence[int], tickets: Iterable[int], who: str, rank: int
    ) -> None:
        try:
            own_decimal_context()
            self._draw(chunks, tickets, who, rank)
        finally:
            self._ended.put(None)

    def _draw(
        self,
        chunks: Sequence[int],
        tickets: Iterable[int],
        who: str,
        rank: int,
        serial: bool = False,
    ) -> None:
        """Draw tickets and run their chunks until none is left."""
        task = self.task
        kernel = make_kernel(task.job, task.func, _LocalReporter(self, who))

        def guard(step: Callable[..., None], *args: int) -> None:
            try:
                step(*args)
            except BaseException as exc:
                if serial and isinstance(exc, KeyboardInterrupt):
                    raise
                chunk, index, start, stop = kernel.where_failed()
                self.note(exc, chunk, index, start, stop, who)
                if not task.job.keep_going:
                    self._stop(chunk)

        with limited_here(task.blas_threads), running(kernel.where, rank):
            for ticket in tickets:
                if ticket >= len(chunks) or chunks[ticket] > self._limit:
                    break
                guard(kernel.run, chunks[ticket], chunks[ticket] + 1)
                guard(kernel.flush)
                if serial:
                    self._tick()
            guard(kernel.finish)


class SerialEngine:
    """Everything in the calling thread, chunk after chunk."""

    shares_memory = True
    in_process = True
    sees_caller = True
    can_replace_workers = False

    def warm_up(self, workers: int) -> None:
        """Nothing takes long to start."""

    def start(self, task: Task) -> _LocalWork:
        return _LocalWork(task, 1, is_serial=True)


class ThreadsEngine(SerialEngine):
    """Threads of the calling process: for functions that release the GIL."""

    def start(self, task: Task) -> _LocalWork:
        return _LocalWork(task, max(1, min(task.workers, task.job.plan.chunks)))
