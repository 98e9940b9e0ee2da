"""A part in a map: which chunks one worker or thread runs, in which order, and how many it draws at once.

Worker processes (`_worker.part`) and the threads of a caller (`_engines.local`) take part alike; what differs
is where their tickets come from, and whom they tell that the function has failed.

What must hold: the claim slot tells which tickets are held before any of them is begun, and which chunk is
begun before the function is called for it. So the caller knows after a death what is to be done again.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from .._wire import CHUNK, CLAIM, CLAIM_END, DREW, LAST_CHUNK
from .kernel import Kernel, Role, Seat, Words
from .ledger import Mark
from .recorder import FINE_S, HANDING_NS, Recorder

# A draw should take about this long. Where the function has filled the caches, all that goes with one takes
# 20 to 40 us, so 2 % at the most; what a draw holds is done again after a death.
DRAW_S = 2e-3
# A draw takes no more than this part of a worker's share of what is left. Items are many, and their costs
# differ most, often by neighbourhood.
REST, REST_OF_ITEMS = 2, 8
# But so many items as long as they take no longer than this, or the last draws cost more than what they
# hold. Not by time alone: where dear items follow cheap ones, a draw that looks short may take long, and
# eight items are the most that the others wait for.
LEAST_ITEMS, LEAST_S = 8, 1e-4
# What a draw takes by itself, whatever it holds: cheap items are not taken for dear ones because of that.
DRAWING_S = 1e-5
# Target time of chunks that are gone through as one. Longer: more work is lost with a worker, and a stop of
# the map takes effect later.
JOIN_S = 5e-4


def next_draw(k: int, speed: float, left: int, team: int, least: int | None) -> int:
    """How many tickets to draw after a draw of `k`, of which `speed` were done in a second.

    More at once the cheaper they are, but never so many that the others of the team could not make up for it
    if those that come turn out to be dear. `left` is an upper bound of what can be drawn; `least` the number
    of chunks that `LEAST_ITEMS` are in, None if the function takes whole chunks.
    """
    grow, fair = 4, left
    if team == 1:
        grow = 16  # nobody is kept waiting
    elif least is None:
        fair = left // (REST * team)
    else:
        fair = left // (REST_OF_ITEMS * team)
        fair = max(fair, min(least, int(speed * LEAST_S), left // team))
    return max(1, int(min(grow * k, speed * DRAW_S, fair, 1 << 16)))


class Source(Protocol):
    """What those who take part in a map have in common: the control block of a team, or a caller's own."""

    @property
    def limit(self) -> Words:
        """One word: the last chunk that may be started."""

    @property
    def ledger(self) -> Words:
        """The mark of each chunk."""

    def draw(self, k: int) -> int:
        """Draw `k` consecutive tickets; the first is returned."""

    def stop(self, at: int) -> None:
        """Let nobody start a chunk above `at`."""


class Part(ABC):
    """One part in one round of a map."""

    def __init__(
        self,
        kernel: Kernel,
        source: Source,
        slot: Words,
        role: Role,
        *,
        team: int,
        chunks: Sequence[int] | None,
        share: tuple[int, int] | None,
        recorder: Recorder | None,
    ) -> None:
        job = kernel.job
        self.kernel = kernel
        self.source = source
        self.slot = slot
        self._role = role
        self._seat = Seat(slot, source.limit, source.ledger, role)
        self._team = team
        """How many take part."""
        self._chunks = chunks
        """Chunk of each ticket; None: tickets are chunk numbers."""
        self._tickets = job.plan.chunks if chunks is None else len(chunks)
        self._share = share
        """Static schedule: what is left of the tickets of this worker."""
        self._joins = kernel.joins and chunks is None and share is None
        self._is_single = kernel.runs_singles and chunks is None and share is None
        self._least = LEAST_ITEMS // job.plan.chunksize if job.verb == "items" else None
        self._recorder = recorder
        """Where it is noted what was run, if the map is profiled."""
        self._speed = 0.0
        """Tickets a second in the last draw."""
        self.work_ns = 0
        """How long what was drawn has taken."""

    @abstractmethod
    def note_failure(self, exc: BaseException) -> None:
        """What was run has failed: tell it, and stop the map unless it goes on after failures."""

    def has_drawn(self) -> None:
        """A draw is done."""
        return

    def run(self) -> None:
        """Draw tickets and run their chunks until none is left."""
        kernel, slot, recorder, now = self.kernel, self.slot, self._recorder, time.perf_counter_ns
        k = 1
        while True:
            first, stop = self._draw(k)
            if first >= stop:
                break
            slot[CLAIM] = first  # in this order: half a claim is an empty one
            slot[CLAIM_END] = stop
            kernel.reporter.send_form()
            began = slot[DREW] = now()
            if recorder is None:
                self._run_claim(first, stop)
            else:
                self._run_recorded(first, stop, recorder)
            try:
                kernel.flush()
            except BaseException as exc:
                self.note_failure(exc)
            ns = now() - began
            if recorder is not None and began + ns - recorder.ended >= HANDING_NS:
                recorder.note_handing()
            slot[CHUNK] = slot[LAST_CHUNK] = 0
            self.work_ns += ns
            took = ns * 1e-9 - kernel.aside_s
            kernel.aside_s = 0.0
            took = max(took - DRAWING_S, took / 4, 1e-9)
            self._speed = speed = (stop - first) / took
            self.has_drawn()
            k = next_draw(k, speed, self._tickets - stop, self._team, self._least)

    def _draw(self, k: int) -> tuple[int, int]:
        """The next `k` tickets, or as many as there are."""
        if self._share is None:
            first = self.source.draw(k)
            stop = first + k
            return first, stop if stop < self._tickets else self._tickets
        first, end = self._share
        if self.source.limit[0] < first:
            return end, end
        self._share = (min(first + k, end), end)
        return first, self._share[0]

    def _run_claim(self, first: int, stop: int) -> None:
        """Run the chunks of the tickets that were just drawn."""
        if self._is_single and first:
            try:
                self.kernel.run_singles(first, stop, self._seat)
            except BaseException as exc:
                self.note_failure(exc)
            if self._role.is_stray:
                os._exit(0)
            return
        chunks, is_shared_out, role = self._chunks, self._share is not None, self._role
        limit, ledger, slot = self.source.limit, self.source.ledger, self.slot
        run = self.kernel.run
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
                self.note_failure(exc)
            if role.is_stray:
                os._exit(0)

    def _run_recorded(self, first: int, stop: int, recorder: Recorder) -> None:
        """The same, and a row of each chunk, or of several if they are short."""
        kernel, slot = self.kernel, self.slot
        step = stop - first
        if self._chunks is not None:
            step = 1  # they are not neighbours
        elif self._speed * FINE_S < 1:
            step = max(1, int(self._speed * JOIN_S)) if self._joins else 1
        begun = 0
        for at in range(first, stop, step):
            end = min(at + step, stop)
            chunk = at if self._chunks is None else self._chunks[at]
            left = end - at
            if self._share is not None:  # a predecessor on this seat may have begun some
                marks = bytes(self.source.ledger[at:end])
                left = marks.count(Mark.PENDING)
                chunk += max(0, marks.find(Mark.PENDING))
            before = begun
            aside_s = kernel.aside_s
            began = time.perf_counter_ns()
            self._run_claim(at, end)
            begun = max(slot[CHUNK], slot[LAST_CHUNK])  # where what was begun last ends
            if begun <= before or not left:
                continue  # the map was stopped
            chunks = min(left, begun - chunk)
            aside_s = kernel.aside_s - aside_s
            recorder.note_calls(chunk, begun, chunks, began, aside_s, kernel.attempt_of(chunk))

    def finish(self) -> None:
        """No tickets are left: hand over what the kernel still has."""
        self.kernel.reporter.close()
        try:
            self.kernel.finish()
        except BaseException as exc:
            self.note_failure(exc)
        if self._recorder is not None:
            self._recorder.note_handing()
