"""A worker's part in a map: tickets from the control block, failures to its caller."""

from __future__ import annotations

import os
import time

from .._chunks import Kernel, Part, Recorder, share_of
from .._wire import CHUNK, DREW, Call, ControlBlock
from .reporter import Reporter
from .role import role


class WorkerPart(Part):
    """The part of this worker in one round. `attempts`: tickets are positions in it, if given."""

    source: ControlBlock
    slot: memoryview

    def __init__(
        self,
        call: Call,
        kernel: Kernel,
        control: ControlBlock,
        slot: memoryview,
        rank: int,
        reporter: Reporter,
        chunks: list[int] | None,
        recorder: Recorder | None,
    ) -> None:
        tickets = kernel.job.plan.chunks if chunks is None else len(chunks)
        share = share_of(tickets, rank, call.team) if call.is_static else None
        super().__init__(
            kernel,
            control,
            slot,
            role,
            team=call.team,
            chunks=chunks,
            share=share,
            recorder=recorder,
        )
        self._reporter = reporter

    def redo(self, chunks: dict[int, int]) -> None:
        """Do what a predecessor left undone; no claim, as the caller knows the list."""
        kernel, slot, recorder = self.kernel, self.slot, self._recorder
        kernel.note_attempts(chunks)
        for chunk, attempt in chunks.items():
            if chunk > self.source.limit[0]:
                return
            began = slot[DREW] = time.perf_counter_ns()
            slot[CHUNK] = chunk + 1
            try:
                kernel.run(chunk, chunk + 1)
                kernel.flush()
            except BaseException as exc:
                self.note_failure(exc)
            if recorder is not None:
                recorder.note_calls(chunk, chunk + 1, 1, began, 0.0, attempt)
            if role.is_stray:
                os._exit(0)
            slot[CHUNK] = 0

    def note_failure(self, exc: BaseException) -> None:
        if role.is_stray:
            os._exit(0)
        # Not the chunk just run, if a result that was kept has failed.
        chunk, index, start, stop = self.kernel.where_failed()
        if not self.kernel.job.keep_going:
            self.source.stop(chunk)
        # Only now: the caller is woken by this, and sees then that the others have a second left.
        self._reporter.error(exc, chunk, index, start, stop)
        if index >= 0:  # else that has marked it
            self._reporter.mark_failed(chunk)
