"""A worker's part in a map: which chunks it runs, in which order, and how many tickets it draws at once.

What must hold: the claim slot tells which tickets are held before any of them is begun, and which chunk is
begun before the function is called for it. So the caller knows after a death what is to be done again.
"""

from __future__ import annotations

import os
import time

from .._chunks import Kernel, Mark, share_of
from .._wire import CHUNK, CLAIM, CLAIM_END, LAST_CHUNK, Call, ControlBlock
from .reporter import Reporter
from .role import role

# A draw should take about this long. Where the function has filled the caches, all that goes with one takes
# 20 to 40 us, so 2 % at the most; what a draw holds is done again after a death.
DRAW_S = 2e-3
# A draw takes no more than this part of a worker's share of what is left. Items are many, and their costs
# differ most, often by neighbourhood.
REST, REST_OF_ITEMS = 2, 8
# Target time of chunks that are gone through as one. Longer: more work is lost with a worker, and a stop of
# the map takes effect later.
JOIN_S = 5e-4


class Part:
    """The part of this worker in one round of a map. `attempts`: tickets are positions in it, if given."""

    def __init__(
        self,
        call: Call,
        kernel: Kernel,
        control: ControlBlock,
        slot: memoryview,
        rank: int,
        reporter: Reporter,
        chunks: list[int] | None,
    ) -> None:
        job = kernel.job
        self._kernel = kernel
        self._control = control
        self._slot = slot
        self._reporter = reporter
        self._chunks = chunks
        """Chunk of each ticket; None: tickets are chunk numbers."""
        self._tickets = job.plan.chunks if chunks is None else len(chunks)
        self._share = share_of(self._tickets, rank, call.team) if call.is_static else None
        """Static schedule: what is left of the tickets of this worker."""
        self._joins = kernel.joins and chunks is None and self._share is None
        self._speed = 0.0
        """Tickets a second in the last draw."""
        self._least_left = (REST_OF_ITEMS if job.verb == "items" else REST) * call.team

    def run(self) -> None:
        """Draw tickets and run their chunks until none is left."""
        slot, now = self._slot, time.perf_counter
        k = 1
        while True:
            first, stop = self._draw(k)
            if first >= stop:
                break
            slot[CLAIM] = first  # in this order: half a claim is an empty one
            slot[CLAIM_END] = stop
            self._reporter.send_form()
            began = now()
            self._run_claim(first, stop)
            try:
                self._kernel.flush()
            except BaseException as exc:
                self._note_failure(exc)
            slot[CHUNK] = slot[LAST_CHUNK] = 0
            self._speed = speed = (stop - first) / max(now() - began, 1e-9)
            # More tickets at once the cheaper they are, but never so many that the other workers could not
            # make up for it if those that come turn out to be dear.
            rest = (self._tickets - stop) // self._least_left
            k = max(1, int(min(4 * k, speed * DRAW_S, rest, 1 << 16)))

    def _draw(self, k: int) -> tuple[int, int]:
        """The next `k` tickets, or as many as there are."""
        if self._share is None:
            first = self._control.draw(k)
            return first, min(first + k, self._tickets)
        first, end = self._share
        if self._control.limit[0] < first:
            return end, end
        self._share = (min(first + k, end), end)
        return first, self._share[0]

    def _run_claim(self, first: int, stop: int) -> None:
        """Run the chunks of the tickets that were just drawn."""
        chunks, is_shared_out = self._chunks, self._share is not None
        limit, ledger, slot = self._control.limit, self._control.ledger, self._slot
        run = self._kernel.run
        step = max(1, int(self._speed * JOIN_S)) if self._joins else 1
        for ticket in range(first, stop, step):
            chunk = ticket if chunks is None else chunks[ticket]
            if chunk > limit[0]:
                break
            if is_shared_out and ledger[chunk] != Mark.PENDING:
                continue  # a predecessor on this seat has done or begun it
            last = chunk + 1
            # First of the two: what is told in between is true of the first chunk.
            slot[CHUNK] = last
            if step > 1:
                last = slot[LAST_CHUNK] = min(chunk + step, stop)
            try:
                run(chunk, last)
            except BaseException as exc:
                self._note_failure(exc)
            if role.is_stray:
                os._exit(0)

    def redo(self, chunks: dict[int, int]) -> None:
        """Do what a predecessor left undone; no claim, as the caller knows the list."""
        kernel, slot = self._kernel, self._slot
        kernel.note_attempts(chunks)
        for chunk in chunks:
            if chunk > self._control.limit[0]:
                return
            slot[CHUNK] = chunk + 1
            try:
                kernel.run(chunk, chunk + 1)
                kernel.flush()
            except BaseException as exc:
                self._note_failure(exc)
            if role.is_stray:
                os._exit(0)
            slot[CHUNK] = 0

    def finish(self) -> None:
        """No tickets are left: hand over what the kernel still has."""
        self._reporter.close()
        try:
            self._kernel.finish()
        except BaseException as exc:
            self._note_failure(exc)

    def _note_failure(self, exc: BaseException) -> None:
        if role.is_stray:
            os._exit(0)
        # Not the chunk just run, if a result that was kept has failed.
        chunk, index, start, stop = self._kernel.where_failed()
        if not self._kernel.job.keep_going:
            self._control.stop(chunk)
        # Only now: the caller is woken by this, and sees then that the others have a second left.
        self._reporter.error(exc, chunk, index, start, stop)
        if index >= 0:  # else that has marked it
            self._reporter.mark_failed(chunk)
