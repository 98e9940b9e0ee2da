"""The engine of worker processes: opens a run on a team, waits for it, decides about the dead.

The waiting thread blocks in one read of the run's completion pipe, until the last worker says that all
have left. What is done is in the ledger, and who has left in the claim slots, so that a wait that was
interrupted, or in which somebody died, can still find out what is to be waited for or ended.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from concurrent.futures import CancelledError
from typing import Any

import numpy as np

from .._chunks import Form, Mark, count_done, items_done, private_arrays, told_kind, undone
from .._code.watch import current_version
from .._errors.exceptions import WorkerDied
from .._memory import fresh_from, mark_kept
from .._results import DeadWorker
from .._system.interrupts import CleanUp, Uninterrupted
from .._team import Death, Needs, Run, WorkerTeam, emit
from .._wire import (
    LOST_WRITE,
    READ_NBYTES,
    Call,
    Output,
    Payload,
    Record,
    RecordKind,
    Report,
    cannot_send,
    dumps_message,
    has_data,
    is_sendable,
    make_payload,
    pack,
    pack_function,
    pack_plain,
    refuse_open_files,
    restore_exception,
    says_left,
    snapshot,
    unpack,
    unpack_records,
)
from .._worker.role import role
from .base import Task

# After an error, a Ctrl-C or a cancellation, chunks under way get this long before their worker is ended.
GRACE_S = 1.0
# How often the claim slots are asked who has left, once a worker has died.
DOUBT_S = 0.01
# How often progress and time limits are looked at.
TICK_S = 0.05


class _ProcessWork(Run):
    """A map on a team."""

    def __init__(
        self, team: WorkerTeam, task: Task, inherited: bytes | None, own_team: bool
    ) -> None:
        super().__init__()
        team.enter()
        self._team = team
        self._task = task
        self._own_team = own_team
        self._workers = max(1, min(task.workers, task.plan.chunks))
        self._cancelled = False
        self._is_reusable = True
        """Whether the control block may serve another map: no worker can still come to it."""
        self._untaken: list[Record] = []
        """Records that were read and not looked at yet, latest first."""
        self._timed_out: dict[int, int] = {}
        self._fatal: Exception | None = None
        self._ranks: list[int] = []
        self._ended = False
        self._marks_at_end = bytes(task.plan.chunks)
        self._inherited = inherited
        self._func: Payload | None = None
        if inherited is None:
            func, self._digest, self._by_value = pack_function(task.func)
            self._modules = current_version(func.reaches) if func.reaches else 0
            payload, func_root = make_payload(func.data)
            self._func = payload
            self._job_id, self._job, self._segments, self._writes_main, keep = self._pack_job(task)
            if func.segments or func_root is not None:
                self._segments |= func.segments | payload.segments()
            self.keep += [func_root, func.keep, keep, task]
        else:
            self._digest, self._by_value = inherited, False
            self._job_id, self._job, self._writes_main = 0, Payload(b""), False
            self._segments = frozenset()
            self._modules = 0
            self.keep.append(task)
        self._surroundings = snapshot()
        try:
            if team.open_run(self, task.plan.chunks):
                self._post(None)
        except BaseException as exc:
            with CleanUp(exc) as clean_up:
                self._abandon(clean_up)
            raise

    # ------------------------------------------------ starting

    def _pack_job(self, task: Task) -> tuple[int, Payload, frozenset[int], bool, Any]:
        """Job id, job, the segments it needs, whether it writes into ``__main__`` there, what to keep.

        As they were, if it has come before.
        """
        memo = task.job.memo
        if memo is not None and memo.packed is not None:
            return memo.job_id, *memo.packed, None
        inputs = task.job.inputs
        is_plain = all(
            entry.kind in ("stored", "items") or type(entry.data) in (range, np.ndarray, np.memmap)
            for entry in inputs
        )
        try:
            packed = (pack_plain if is_plain else pack)(task.job.to_plain())
        except Exception as exc:
            for position, entry in enumerate(inputs):
                if entry.kind == "whole" and not is_sendable(entry.data):
                    raise cannot_send(f"input {position}", entry.data, exc) from None
            raise
        versions = [entry.modules for entry in inputs]
        self._modules = max(self._modules, current_version(packed.reaches), *versions)
        payload, root = make_payload(packed.data)
        segments = packed.segments | payload.segments()
        segments = segments.union(*(entry.segments for entry in inputs))
        writes_main = packed.by_value or any(entry.by_value for entry in inputs)
        if memo is not None and root is None:
            memo.packed = payload, segments, writes_main
            return memo.job_id, payload, segments, writes_main, None
        return 0, payload, segments, writes_main, (root, packed.keep)

    def _post(self, todo: list[int] | None) -> None:
        """Begin a round: all chunks, or those that are to be run again."""
        plan, control = self._task.plan, self.control
        assert control is not None
        if todo is None:
            control.begin(plan.chunks)
        else:
            control.begin_again(todo)
        workers = self._workers if todo is None else min(self._workers, len(todo))
        chunks, root, segments = None, None, self._segments
        if todo is not None:
            chunks, root = make_payload(pack_plain(self._task.outcome.attempts(todo)).data)
            segments |= chunks.segments()
        self.output = None
        key = None
        if self._job_id and self._digest and todo is None and not self._writes_main:
            key = (
                control.id,
                self._job_id,
                self._digest,
                self._by_value,
                self._surroundings,
                self._modules,
            )
        call = Call(
            control=control.id,
            job_id=self._job_id,
            job=self._job,
            func=self._func,
            digest=self._digest,
            by_value=self._by_value,
            is_static=plan.schedule == "static" and todo is None,
            team=workers,
            chunks=chunks,
        )
        needs = Needs(
            control=control,
            segments=segments,
            surroundings=self._surroundings,
            modules=self._modules,
            writes_main=self._writes_main,
            key=key,
        )
        self.keep.append(root)
        self._timed_out.clear()
        # First: whatever becomes of sending it, these may have got it.
        self._ranks = list(range(workers))
        self._team.post_run(self, call, needs)
        if self._task.job.out is None and self._task.collector.columns:
            self._publish(self._ranks)

    def _publish(self, ranks: Iterable[int]) -> None:
        collector, control = self._task.collector, self.control
        assert control is not None
        fresh = tuple(map(fresh_from, collector.columns or ()))
        packed = pack_plain((told_kind(collector.kind), collector.columns, fresh))
        payload, root = make_payload(packed.data)
        self.keep.append(root)
        message = dumps_message(Output(self.seq, payload))
        self._team.publish_output(self, ranks, message, packed.segments | payload.segments())
        control.tell_output()

    # ------------------------------------------------ waiting

    def wait(self) -> Any:
        """See `Work`."""
        task = self._task
        try:
            if self.admitted is not None:
                self.admitted.wait()
                if self._cancelled:
                    raise CancelledError
                if self.refusal is not None:
                    raise self.refusal
                self._post(None)
            while True:
                is_whole = self._wait_round()
                if self._cancelled:
                    raise CancelledError
                marks = self.marks()
                left: list[int] = []
                if count_done(marks) < task.plan.chunks:
                    left = undone(marks)
                # Never another round while somebody may still draw in this one.
                todo = task.outcome.next_round(left) if left and is_whole else []
                if not todo:
                    break
                self._post(todo)
            if task.tick is not None:
                task.tick(self.done)
            if not self._is_reusable:
                self._end_round()
                marks = self.marks()
            self._marks_at_end = marks
            self._close()
        except BaseException as exc:
            with CleanUp(exc) as clean_up:
                self._abandon(clean_up)
            raise
        return task.outcome.finish(left, self._marks_at_end)

    def _wait_round(self) -> bool:
        """Take records until every participant has left, or need not be waited for any more.

        False if it was broken off: it had been stopped, and somebody is still inside.
        """
        control, task, channels = self.control, self._task, self._team.workers.channels
        assert control is not None
        pipe = control.pipe_read
        remaining = set(self._ranks)
        ticking = task.tick is not None or task.job.timeout is not None
        deadline: float | None = None
        is_over = False
        while remaining:
            # After a death nobody may turn out to be the last one: the claim slots are asked instead.
            is_doubtful = is_over or self.deaths > 0
            if ticking or is_doubtful or deadline is not None:
                data = b""
                if has_data(pipe, DOUBT_S if is_doubtful else TICK_S):
                    data = os.read(pipe, READ_NBYTES)
                self._tick()
            else:
                data = os.read(pipe, READ_NBYTES)
            if says_left(data, self.seq) or self._take_records(data, remaining):
                is_over = True
            if is_over and not self.deaths:
                remaining.clear()
            elif self.deaths:
                remaining -= {rank for rank in remaining if channels.has_left(rank, self.seq)}
            while self.vacated:
                remaining.discard(self.vacated.popleft())
            if self._fatal is not None:
                raise self._fatal
            if self.relayed:
                self._emit_relayed()
            if self.broken is not None:
                raise self._name_lost(self.broken())
            if self._cancelled:
                raise CancelledError
            # Not before it is known why: who stopped it may be busy saying so, or have died over that.
            if deadline is None and self._is_stopped():
                deadline = time.monotonic() + GRACE_S
            if deadline is not None and time.monotonic() > deadline:
                self._is_reusable = False
                break
        if not is_over:
            self._is_reusable = False  # somebody may be about to count as the last one
        if not self._is_reusable:  # and may have in this round for the one before
            while has_data(pipe):
                self._take_records(os.read(pipe, READ_NBYTES), remaining)
        self._team.take_relayed(self._ranks)
        if self.relayed:
            self._emit_relayed()
        return not remaining

    def _name_lost(self, error: BaseException) -> BaseException:
        """An error by which all is lost that is not done, which it names."""
        if isinstance(error, WorkerDied):
            error.failed = self._task.plan.ranges(undone(self.marks()))
        return error

    def _emit_relayed(self) -> None:
        """Print, log or warn what workers did."""
        while self.relayed:
            kind, payload, decoders = self.relayed.popleft()
            if kind == LOST_WRITE:
                self._task.outcome.note_lost_writes(unpack(payload))
            else:
                emit(kind, payload, decoders)

    def _is_stopped(self) -> bool:
        """Whether no chunk is to be started any more, for a reason that is known here."""
        control = self.control
        assert control is not None
        return control.stopped_at() is not None and self._task.outcome.is_doomed()

    def _take_records(self, data: bytes, remaining: set[int]) -> bool:
        """Take what was read from the pipe; whether it says that the last worker has left."""
        try:
            self._untaken = list(unpack_records(data))[::-1]
        except RuntimeError:
            self._team.open_maps.distrust_pipes()
            raise
        is_over = False
        while self._untaken:
            record = self._untaken.pop()
            if record.seq != self.seq:
                self._team.open_maps.note_late(record)
            elif record.kind == RecordKind.LEAVE:
                is_over = True
            else:
                self._take(record, remaining)
        return is_over

    def _take(self, record: Record, remaining: set[int]) -> None:
        team, collector = self._team, self._task.collector
        if record.kind == RecordKind.RESULTS:
            collector.add(team.inbox.take(record))
            if collector.failure is not None:
                raise collector.failure
        elif record.kind == RecordKind.FORM:
            self._take_form(Form(*team.inbox.take(record)), remaining)
        elif record.kind == RecordKind.ERROR:
            control, chunk = self.control, record.first
            assert control is not None
            counts = self._task.outcome.note_report(chunk, Report(*team.inbox.take(record)))
            if chunk == 0:
                self._let_hand_over()
            if chunk < 0:
                self._team.distrust(record.rank)
            if chunk < 0 or (counts and not self._task.job.keep_going):
                # Its worker has done so; but see `note_death`, which may have taken that back meanwhile.
                control.stop(max(chunk, -1))
        elif record.kind == RecordKind.KEPT:
            mark_kept(record.first)

    def _take_form(self, form: Form, remaining: set[int]) -> None:
        """Allocate the output by the form of index 0's result, and tell those who are at work."""
        team, collector = self._team, self._task.collector
        if collector.columns is None:
            try:
                collector.allocate_output(form)
            except (TypeError, ValueError) as exc:
                assert self.control is not None
                limits = self._task.plan.limits(0)
                self._task.outcome.note_exception(0, exc, 0, *limits, "the calling process")
                self.control.stop(-1)
                return
        waiting = [rank for rank in remaining if not team.workers.channels.has_left(rank, self.seq)]
        if not collector.columns:
            self._let_hand_over()  # nothing is returned, so far as index 0 can tell
        elif waiting:
            self._publish(waiting)

    def _let_hand_over(self) -> None:
        """Index 0 will not tell the output in this round: nobody is to wait for it."""
        control = self.control
        if control is not None and not self._task.collector.columns:
            control.give_up_output()

    def note_death(self, death: Death) -> dict[int, int]:
        """See `Run`: decide what becomes of what a dead worker held."""
        task, control = self._task, self.control
        if control is None:
            return {}
        if death.is_broken_start:
            if self.failed_start is not None:
                self._fatal = restore_exception(
                    self.failed_start, "the initializer", "as a worker started"
                )
            else:
                everything = ((0, task.plan.n),)
                self._fatal = WorkerDied(f"{death.cause()}, while it started", everything)
            return {}
        # Whoever was to tell the form of index 0's result may have been the dead one: nobody is to wait for
        # it. If it is told all the same, so is the output.
        self._let_hand_over()
        told = task.outcome.note_death(
            DeadWorker(death.rank, death.pid, death.tickets, death.chunks, death.replaced),
            death.cause(),
            f"worker {death.rank} (pid {death.pid})",
            control.marks(),
            stopped_at=control.stopped_at(),
            overdue=self._timed_out.pop(death.rank, None),
        )
        control.mark(told.not_to_begin, Mark.LOST)
        if told.is_given_up:
            self._team.disown(self)
        if told.stop_at is not None:
            control.stop(told.stop_at)
        elif told.resumes and (at := control.stopped_at()) in told.again:
            # Its worker has stopped the map and did not live to tell why.
            assert at is not None
            control.resume()
            if (
                task.outcome.is_doomed()
            ):  # the waiting thread has heard of another failure meanwhile
                control.stop(at)
        return told.again

    def _tick(self) -> None:
        task = self._task
        if task.tick is not None:
            task.tick(self.done)
        if task.job.timeout is None:
            return
        slots = self._team.workers.channels.slots
        if slots is None:
            return
        now = time.monotonic_ns()
        for rank in self._ranks:
            since, index = slots.call_of_function(rank)
            late = since and now - since > task.job.timeout * 1e9
            if late and slots.running(rank) == self.seq and rank not in self._timed_out:
                self._timed_out[rank] = index  # before the kill: the monitor looks it up
                if not self._team.kill(rank, self.seq, since):
                    self._timed_out.pop(rank, None)

    def done(self) -> int:
        """See `Work`."""
        return items_done(self.marks(), self._task.plan)

    def marks(self) -> bytes:
        """See `Work`."""
        marks = self._team.marks_of(self)
        return self._marks_at_end if marks is None else marks

    def cancel(self) -> None:
        """See `Work`."""
        self._cancelled = True
        self._team.stop_run(self)

    # ------------------------------------------------ the end

    def _end_round(self) -> None:
        """End workers that are still inside this map."""
        team = self._team
        late = [rank for rank in self._ranks if not team.workers.channels.has_left(rank, self.seq)]
        if not late:
            return
        team.disown(self)
        for rank in late:
            if team.workers.channels.is_inside(rank, self.seq):
                team.kill(rank, self.seq)

    def _abandon(self, clean_up: CleanUp) -> None:
        """Any exception in the waiting thread: stop, wait a little, end those still inside."""
        if not self._team.is_ours:
            return  # a callback has forked, and this is the child: its parent sees to all of that
        control = self.control
        if control is None:
            self._close()
            return
        self._team.stop_run(self, abandons=True)
        if self.call is None:
            self._ranks = []  # it was not sent to anybody, so nobody is to leave it
        else:
            self._is_reusable = False
        deadline = time.monotonic() + GRACE_S
        try:
            while time.monotonic() < deadline and self._has_any_inside():
                if clean_up.is_urgent:
                    break
                self._drain(0.02)
        finally:
            self._end_round()
            self._close()

    def _has_any_inside(self) -> bool:
        channels = self._team.workers.channels
        return any(channels.is_inside(rank, self.seq) for rank in self._ranks)

    def _drain(self, patience: float) -> None:
        """Let go of what came and nobody will look at."""
        assert self.control is not None
        while self._untaken:  # what was read together with the record that ended the map
            self._team.open_maps.note_late(self._untaken.pop())
        for record in self.control.drain(patience):
            self._team.open_maps.note_late(record)

    def _close(self) -> None:
        with Uninterrupted():  # or a control block could be with nobody, or with two
            if not self._ended:
                self._close_at_once()

    def _close_at_once(self) -> None:
        if not self._is_reusable and self.control is not None:
            self._drain(0)
        self._team.end_run(self, self._is_reusable)
        self._ended = True
        if self._inherited is not None:
            role.inherited.pop(self._inherited, None)
        if self._own_team:
            self._team.end()


class ProcessEngine:
    """Workers of a team."""

    shares_memory = True
    in_process = False
    sees_caller = False
    can_replace_workers = True

    def __init__(self, team: WorkerTeam) -> None:
        self.team = team

    def warm_up(self, workers: int) -> None:
        """Start the workers that are missing: a clean interpreter takes 100 ms to import NumPy."""
        self.team.warm_up(workers)

    def start(self, task: Task) -> _ProcessWork:
        return _ProcessWork(self.team, task, None, own_team=False)


class ForkEngine:
    """Workers forked for this one map: they see the caller's private arrays as they are."""

    shares_memory = True
    in_process = False
    sees_caller = True
    can_replace_workers = True

    def warm_up(self, workers: int) -> None:
        """Nothing: its workers are to have what they are forked with."""

    def start(self, task: Task) -> _ProcessWork:
        refuse_open_files(task.func)
        key = os.urandom(16)
        workers = max(1, min(task.workers, task.plan.chunks))
        team = WorkerTeam(workers, start="fork", blas_threads=task.blas_threads, idle_timeout=None)
        # The caller's own arrays stay as they are: the flag is set in the copies that workers have.
        arrays = private_arrays(task.func, *task.given)
        role.inherited[key] = (task.func, task.job, arrays)
        try:
            return _ProcessWork(team, task, key, own_team=True)
        except BaseException:
            role.inherited.pop(key, None)
            team.end()
            raise
