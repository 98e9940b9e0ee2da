"""What the engines share that collect results in this process: the ledger, rounds, progress, the end.

A map is run in rounds: all of its chunks, then those that are to be run again. In a round threads end, or
futures of an executor; the thread that waits for the map takes one end after the other from a queue, in
which cancelling the map makes an entry, too. So it polls only to tell of progress.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from queue import Empty, SimpleQueue
from typing import Any

from .._chunks import items_done, undone
from .base import TICK_S, Task


class RoundsWork(ABC):
    """A map under way, see `Work`.

    ========== ============================== ============== =========================================
    field      written by                     read by        what must hold
    ========== ============================== ============== =========================================
    ledger     each thread, its own chunks    any thread     a mark follows what it tells of
    _ended     any thread                     waiting thread an entry for each end, and for a cancel
    _cancelled any thread, once               waiting thread set before the entry is made
    outcome,   any thread that holds `lock`   waiting thread
    collector
    ========== ============================== ============== =========================================
    """

    in_steps: None = None

    def __init__(self, task: Task) -> None:
        self.task = task
        self.ledger = bytearray(task.begun or task.job.plan.chunks)
        self.lock = threading.Lock()
        self._ended: SimpleQueue[Future[Any] | None] = SimpleQueue()
        self._cancelled = False
        self._last_tick = 0.0

    def done(self) -> int:
        return items_done(self.ledger, self.task.job.plan)

    def marks(self) -> bytes:
        return bytes(self.ledger)

    def cancel(self) -> None:
        self._cancelled = True
        self._ended.put(None)

    @abstractmethod
    def wait(self) -> object:
        """See `Work`; `_run_rounds` in what holds while chunks are run, and `_finish` after it."""

    def _run_rounds(self) -> list[int]:
        """Run chunks, some of them again; those that are not done."""
        task = self.task
        chunks: Sequence[int] = range(task.job.plan.chunks)
        if task.begun is not None:
            chunks = task.outcome.take_up(task.begun)
        left: list[int] = []
        while chunks:
            self._check_cancelled()
            self._run_round(chunks)
            self._check_cancelled()
            if task.collector.failure is not None:
                raise task.collector.failure
            left = undone(self.ledger)
            chunks = task.outcome.next_round(left) if left else []
        return left

    def _finish(self, left: list[int]) -> object:
        task = self.task
        if task.tick is not None:
            task.tick(self.done)
        if task.log is not None:
            task.log.note_over(task.outcome.failed(left))
        return task.outcome.finish(left, bytes(self.ledger))

    @abstractmethod
    def _run_round(self, chunks: Sequence[int]) -> None:
        """Run these chunks, and return when all threads or futures have ended."""

    def note(
        self, exc: BaseException, chunk: int, index: int, start: int, stop: int, who: str
    ) -> None:
        """A chunk has failed, or the item `index` of it."""
        with self.lock:
            self.task.outcome.note_exception(chunk, exc, index, start, stop, who)

    def _check_cancelled(self) -> None:
        if self._cancelled:
            raise CancelledError

    def _wait_ended(self) -> Future[object] | None:
        """Wait until one more thread or future has ended; the future is returned."""
        while True:
            try:
                ended = self._ended.get(timeout=None if self.task.tick is None else TICK_S)
                break
            except Empty:
                self._tick()
        self._check_cancelled()
        self._tick()
        return ended

    def _tick(self) -> None:
        """Tell of progress, unless it was told just now."""
        if self.task.tick is not None and time.monotonic() - self._last_tick > TICK_S:
            self._last_tick = time.monotonic()
            self.task.tick(self.done)
