"""How the caller waits for one round of a map, in the thread that called.

It blocks in one read of the run's completion pipe, until the last worker says that all have left. Which ones
have left is in the claim slots as well, so that a wait in which a worker died still ends. Whatever else
happens to the map, the monitor and other threads wake it by a record on the same pipe. Results lie on the
shelves in the control block: it takes them whenever it wakes, and only where somebody wants to have them as
they come, it is woken for them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError

from .._chunks import Form, undone
from .._errors.exceptions import WorkerDied
from .._memory import mark_kept
from .._team import Posting, WorkerTeam, emit
from .._wire import (
    LOST_WRITE,
    READ_NBYTES,
    ControlBlock,
    Record,
    RecordKind,
    Report,
    leave_record,
    unpack,
    unpack_records,
)
from .base import GRACE_S, TICK_S, Task
from .map_run import MapRun
from .posting import pack_output

# How often the claim slots are asked who has left, once a worker has died.
DOUBT_S = 0.01
# Where results are wanted as they come: so long they gather before the first one put wakes the caller. Less:
# it wakes more often, each time at the cost of some 10 us of a worker's core; more: they come later.
GATHER_S = 0.001
# If few have begun: so long they are waited for before the others are invited as well.
INVITE_S = 1e-3
# As plain numbers, which are quicker where there are many records.
_LEAVE, _WAKE = int(RecordKind.LEAVE), int(RecordKind.WAKE)
_RESULTS, _PLAIN = int(RecordKind.RESULTS), int(RecordKind.PLAIN)


class Round:
    """The wait for a round.

    All its state is the waiting thread's own. What other threads have to say stands in the `MapRun`, and in
    the control block, which is given back only after the wait.
    """

    def __init__(
        self,
        team: WorkerTeam,
        task: Task,
        run: MapRun,
        control: ControlBlock,
        posting: Posting,
        *,
        is_reusable: bool,
    ) -> None:
        self._team = team
        self._task = task
        self._run = run
        self._control = control
        self._channels = team.workers.channels
        self._posting = posting
        self._ranks = range(posting.first)
        """Those that take part."""
        self._waits_to_invite = posting.first < posting.team
        """Others may take part, if it takes long."""
        self._has_invited = False
        self._remaining = set(self._ranks)
        """Those that are waited for."""
        self.is_reusable = is_reusable
        """Whether the control block may serve another map: no worker can still come to it."""
        # What is to outlive the program is taken soon, and not only when a shelf is full.
        is_kept = task.collector.keeper is not None
        self._ticks = task.tick is not None or task.job.timeout is not None or is_kept
        self._untaken: list[Record] = []
        """Records that were read and not looked at yet, latest first."""
        self._deadline: float | None = None
        """Until when workers have time to leave a map that was stopped."""
        self._is_over = False
        """The last worker says that all have left."""

    @property
    def is_whole(self) -> bool:
        """Whether no worker is inside. Else, after it was over, it was broken off."""
        return not self._remaining

    def step(self) -> bool:
        """Take records until the round is over, or results have come that are wanted as they come.

        Whether it is over: every participant has left, or need not be waited for any more. Or it was broken
        off: it had been stopped, and some worker is still inside.
        """
        run, control = self._run, self._control
        leave = leave_record(run.seq)
        while self._remaining:
            data = self._read()
            if data == leave or self._take_records(data):
                # The last one of those before others were invited may have said so as these came.
                self._is_over = not self._has_invited or control.have_left()
            if run.deaths or run.vacated:
                self._strike_off()
            elif self._is_over:
                self._remaining.clear()
            has_results = control.shelves.has_any()  # only now: of those struck off, all are there
            if has_results:
                self._take_records(control.shelves.take())
            self._heed_run()
            # Not before it is known why: the worker that stopped it may be saying so, or have died over it.
            if self._remaining and self._deadline is None and self._is_stopped():
                self._deadline = time.monotonic() + GRACE_S
            if self._deadline is not None and time.monotonic() > self._deadline:
                self.is_reusable = False
                break
            if has_results and self._remaining and self._task.collector.is_listened_to:
                return False
        if not self._is_over:
            self.is_reusable = False  # some worker may be about to count as the last one
        if not self.is_reusable:  # and may have done so in this round for the one before
            self._take_records(control.shelves.take())
            while control.has_records(0):
                self._take_records(os.read(control.pipe_read, READ_NBYTES))
        if control.has_relayed() or not self.is_reusable:  # who died has not said so
            self._team.take_relayed(self._ranks)
        if run.relayed:
            self._emit_relayed()
        return True

    def _read(self) -> bytes:
        """What comes on the pipe next; or nothing, if there is something else to be looked at."""
        control, pipe = self._control, self._control.pipe_read
        if self._task.collector.is_listened_to and not control.has_records(GATHER_S):
            if control.shelves.has_any() or control.await_results():
                self._tick()
                return b""
        if self._waits_to_invite and not control.has_records(INVITE_S):
            self._invite()
            return b""
        # After a death, no worker may turn out to be the last one: the claim slots are asked instead.
        is_doubtful = self._is_over or self._run.deaths > 0
        if not (is_doubtful or self._ticks or self._deadline is not None):
            return os.read(pipe, READ_NBYTES)
        data = b""
        if control.has_records(DOUBT_S if is_doubtful else TICK_S):
            data = os.read(pipe, READ_NBYTES)
        self._tick()
        return data

    def _invite(self) -> None:
        """It takes long: have all workers take part that may."""
        self._waits_to_invite = False
        few, self._ranks = self._ranks, range(self._posting.team)
        # First: whatever becomes of sending it, these workers may have got it.
        self._remaining.update(self._ranks[len(few) :])
        self._has_invited = True
        if not self._team.invite(self._run):
            self._ranks = few
            self._remaining.intersection_update(few)

    def _tick(self) -> None:
        """Show progress, and end workers that are in a call of the function for too long."""
        task, run, slots = self._task, self._run, self._channels.slots
        if task.tick is not None:
            task.tick(run.done)
        if task.job.timeout is None or slots is None:
            return
        now = time.monotonic_ns()
        for rank in self._ranks:
            since, index = slots.call_of_function(rank)
            if since and now - since > task.job.timeout * 1e9 and slots.running(rank) == run.seq:
                run.kill_overdue(rank, since, index)

    def _strike_off(self) -> None:
        """After a death: wait no more for those that have left, by what is known now."""
        run, remaining = self._run, self._remaining
        remaining -= {rank for rank in remaining if self._channels.has_left(rank, run.seq)}
        while run.vacated:
            remaining.discard(run.vacated.popleft())

    def _heed_run(self) -> None:
        """Do what other threads have left to this one."""
        run = self._run
        if run.fatal is not None:
            raise run.fatal
        if run.relayed:
            self._emit_relayed()
        if run.broken is not None:
            error = run.broken()
            if isinstance(error, WorkerDied):  # all is lost that is not done
                error.failed = self._task.job.plan.ranges(undone(run.marks()))
            raise error
        if run.is_cancelled:
            raise CancelledError

    def _emit_relayed(self) -> None:
        """Print, log or warn what workers did."""
        relayed = self._run.relayed
        while relayed:
            kind, payload, decoders = relayed.popleft()
            if kind == LOST_WRITE:
                self._task.outcome.note_lost_writes(unpack(payload))
            else:
                emit(kind, payload, decoders)

    def _is_stopped(self) -> bool:
        """Whether no chunk is to be started any more, for a reason that is known here."""
        return self._control.stopped_at() is not None and self._task.outcome.is_doomed()

    # ------------------------------------------------ what workers say

    def _take_records(self, data: bytes) -> bool:
        """Take what was read from the pipe; whether it says that the last worker has left."""
        try:
            self._untaken = list(unpack_records(data))[::-1]
        except RuntimeError:
            self._team.open_maps.distrust_pipes()
            raise
        is_over, pieces = False, []
        untaken, inbox, seq = self._untaken, self._team.inbox, self._run.seq
        try:
            while untaken:
                record = untaken.pop()
                kind = record.kind
                if kind == _WAKE:
                    continue
                if record.seq != seq:
                    self._team.open_maps.note_late(record)
                elif kind == _PLAIN or kind == _RESULTS:
                    pieces += inbox.take(record)
                elif kind == _LEAVE:
                    is_over = True
                else:
                    self._take(record)
        except (OSError, AttributeError):
            self._heed_run()  # all workers may have been ended, and what they had put is gone with them
            raise
        if pieces:
            self._task.collector.add(pieces)
            if self._task.collector.failure is not None:
                raise self._task.collector.failure
        return is_over

    def _take(self, record: Record) -> None:
        inbox = self._team.inbox
        if record.kind == RecordKind.FORM:
            self._take_form(Form(*inbox.take(record)))
        elif record.kind == RecordKind.ERROR:
            self._take_failure(record, Report(*inbox.take(record)))
        elif record.kind == RecordKind.KEPT:
            mark_kept(record.first)
        elif record.kind == RecordKind.STACKS:
            stacks = inbox.take(record)
            if self._task.log is not None:
                self._task.log.add_stacks(stacks)

    def _take_failure(self, record: Record, report: Report) -> None:
        chunk = record.first
        counts = self._task.outcome.note_report(chunk, report)
        if chunk == 0:
            self._run.give_up_output()
        if chunk < 0:
            self._team.distrust(record.rank)
        if chunk < 0 or (counts and not self._task.job.keep_going):
            # Its worker has done so; but `MapRun.note_death` may have taken that back meanwhile.
            self._control.stop(max(chunk, -1))

    def _take_form(self, form: Form) -> None:
        """Allocate the output by the form of index 0's result, and tell the workers that are inside."""
        collector = self._task.collector
        if collector.columns is None:
            try:
                collector.allocate_output(form)
                if self._task.log is not None:
                    self._task.log.note_output()
            except (TypeError, ValueError) as exc:
                limits = self._task.job.plan.limits(0)
                self._task.outcome.note_exception(0, exc, 0, *limits, "the calling process")
                self._control.stop(-1)
                return
        seq, channels = self._run.seq, self._channels
        if not collector.columns:
            self._run.give_up_output()  # nothing is returned, so far as index 0 can tell
        elif inside := [rank for rank in self._remaining if not channels.has_left(rank, seq)]:
            self.tell_output(inside)

    def tell_output(self, ranks: Iterable[int] | None = None) -> None:
        """Tell participants where results go."""
        run = self._run
        told, segments, root = pack_output(self._task.collector)
        run.keep.append(root)
        self._team.tell_output(run, self._ranks if ranks is None else ranks, told, segments)

    # ------------------------------------------------ the end

    def drain(self, patience: float) -> None:
        """Let go of what came, or comes within so many seconds, as it will not be looked at."""
        note_late = self._team.open_maps.note_late
        while self._untaken:  # what was read together with the record that ended the map
            note_late(self._untaken.pop())
        for record in self._control.drain(patience):
            note_late(record)

    def leave(self, *, is_urgent: Callable[[], bool]) -> None:
        """After the map was abandoned: give the workers that are inside a moment to leave it."""
        deadline = time.monotonic() + GRACE_S
        while time.monotonic() < deadline and self._inside() and not is_urgent():
            self.drain(0.02)

    def _inside(self) -> list[int]:
        return [rank for rank in self._ranks if self._channels.is_inside(rank, self._run.seq)]

    def end_workers(self) -> None:
        """End the workers that are still inside."""
        run, team = self._run, self._team
        if all(self._channels.has_left(rank, run.seq) for rank in self._ranks):
            return
        team.disown(run)
        for rank in self._inside():
            team.kill(rank, run.seq)
