"""The engines of the calling process: serial, and threads. The kernels are those of the workers."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any

from .._chunks import Form, Kernel, Mark, Piece, frozen, items_done, make_kernel, running, undone
from .._system.blas import limited, limited_here
from .._system.interrupts import CleanUp
from .._wire import own_decimal_context
from .base import Task

# After a Ctrl-C or a cancellation, chunks under way get this long; then they are left to themselves.
GRACE_S = 1.0
TICK_S = 0.1
_DONE, _NOTHING, _HANDED = (bytes([mark]) for mark in (Mark.DONE, Mark.NOTHING, Mark.HANDED))


class _Port:
    """A kernel's way to the collector within one process; see `_chunks.kernel.Reporter`."""

    def __init__(self, work: _LocalWork, who: str) -> None:
        self._work = work
        self._who = who

    def mark(self, first: int, stop: int, nothing: bool = False) -> None:
        self._work.ledger[first:stop] = (_NOTHING if nothing else _DONE) * (stop - first)

    def results(self, pieces: list[Piece]) -> None:
        with self._work.lock:
            self._work.task.collector.add(pieces)
            if self._work.task.collector.failure is not None:
                self._work.stop_at = -1
        for first, stop, _ in pieces:
            self._work.ledger[first:stop] = _HANDED * (stop - first)

    def tell_form(self, form: Form, at_once: bool) -> None:
        work = self._work
        with work.lock:
            work.output = (*work.task.collector.allocate_output(form), ())
        work.output_known.set()

    def wait_taken(self, nbytes: int) -> None:
        pass

    def make_room(self, nbytes: int) -> None:
        pass

    def error(self, exc: BaseException, chunk: int, index: int, start: int, stop: int) -> None:
        if isinstance(exc, KeyboardInterrupt):
            raise exc
        with self._work.lock:
            self._work.task.outcome.note_exception(chunk, exc, index, start, stop, self._who)

    def page_writers(self, columns: tuple[Any, ...]) -> tuple[()]:
        return ()

    def poll_output(self) -> Any:
        return self._work.output

    def wait_output(self) -> Any:
        work = self._work
        while not work.output_known.wait(0.05):
            if work.stop_at < work.task.plan.chunks:
                return None
        return work.output


class _LocalWork:
    """A map in this process."""

    def __init__(self, task: Task, threads: int, *, is_serial: bool = False) -> None:
        self.task = task
        self._is_serial = is_serial
        self.lock = threading.Lock()
        self.ledger = bytearray(task.plan.chunks)
        self.output: Any = None
        self.output_known = threading.Event()
        self.stop_at = task.plan.chunks
        self._threads = threads
        self._caller = threading.get_ident()
        self._context = contextvars.copy_context()
        self._ended: SimpleQueue[None] = SimpleQueue()
        """An entry for each thread that has ended, and one if the map is cancelled."""
        self._cancelled = False
        self._last_tick = 0.0

    def done(self) -> int:
        return items_done(self.ledger, self.task.plan)

    def marks(self) -> bytes:
        return bytes(self.ledger)

    def cancel(self) -> None:
        self._cancelled = True
        self.stop_at = -1
        self._ended.put(None)

    def wait(self) -> Any:
        task = self.task
        todo: list[int] | None = None
        with limited(task.blas_threads), frozen(task.func, *task.given, stores=not self._is_serial):
            while True:
                self._run_round(todo)
                if self._cancelled:
                    raise CancelledError
                if task.collector.failure is not None:
                    raise task.collector.failure
                left = undone(self.ledger)
                todo = task.outcome.next_round(left) if left else []
                if not todo:
                    break
                self.stop_at = task.plan.chunks
        if task.tick is not None:
            task.tick(self.done)
        return task.outcome.finish(left, bytes(self.ledger))

    def _run_round(self, todo: list[int] | None) -> None:
        chunks = range(self.task.plan.chunks) if todo is None else todo
        if self._threads == 1 and threading.get_ident() == self._caller:
            self._draw(chunks, count(), "the calling process", 0, serial=True)
            return
        tickets = count()  # next() is atomic
        shares = None
        if self.task.plan.schedule == "static" and todo is None:
            shares = self.task.plan.shares(self._threads)
        threads = []
        for i in range(self._threads):
            mine = chunks if shares is None else range(*shares[i])
            counter = tickets if shares is None else count()
            who = "the calling process" if self._threads == 1 else f"thread {i}"
            thread = threading.Thread(
                target=self._context.copy().run,
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
            self.stop_at = -1
            deadline = time.monotonic() + GRACE_S
            with CleanUp(exc):
                for thread in threads:
                    if thread.ident is not None:
                        thread.join(max(0.0, deadline - time.monotonic()))
            raise

    def _wait_ended(self) -> None:
        """Wait until one more thread has ended."""
        tick = self.task.tick
        while True:
            try:
                self._ended.get(timeout=None if tick is None else TICK_S)
                break
            except Empty:
                assert tick is not None
                tick(self.done)
        if self._cancelled:
            raise CancelledError

    def _run_thread(self, *args: Any) -> None:
        try:
            own_decimal_context()
            self._draw(*args)
        finally:
            self._ended.put(None)

    def _draw(self, chunks: Any, tickets: Any, who: str, rank: int, serial: bool = False) -> None:
        task = self.task
        kernel = make_kernel(task.job, task.func, _Port(self, who))
        with limited_here(task.blas_threads), running(kernel.where, rank):
            self._draw_with(kernel, chunks, tickets, who, serial)

    def _draw_with(self, kernel: Kernel, chunks: Any, tickets: Any, who: str, serial: bool) -> None:
        task = self.task
        tick = task.tick if serial else None

        def guard(step: Callable[[], None]) -> None:
            try:
                step()
            except BaseException as exc:
                if serial and isinstance(exc, KeyboardInterrupt):
                    raise
                chunk, index, start, stop = kernel.where_failed()
                with self.lock:
                    task.outcome.note_exception(chunk, exc, index, start, stop, who)
                if not task.job.keep_going:
                    self.stop_at = min(self.stop_at, chunk)

        for ticket in tickets:
            if ticket >= len(chunks):
                break
            chunk = chunks[ticket]
            if chunk > self.stop_at:
                break
            guard(lambda chunk=chunk: kernel.run(chunk, chunk + 1))  # type: ignore[misc]
            guard(kernel.flush)
            if tick is not None and time.monotonic() - self._last_tick > 0.05:
                self._last_tick = time.monotonic()
                tick(self.done)
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


class ThreadsEngine:
    """Threads of the calling process: for functions that release the GIL."""

    shares_memory = True
    in_process = True
    sees_caller = True
    can_replace_workers = False

    def warm_up(self, workers: int) -> None:
        """Nothing takes long to start."""

    def start(self, task: Task) -> _LocalWork:
        return _LocalWork(task, max(1, min(task.workers, task.plan.chunks)))
