"""The engine of worker processes: a map on a team, round by round, and its end.

What is sent lies in `posting`, the wait for a round in `waiting`, and what follows from a worker's death in
`map_run`, which is what the team knows of a map.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

from .._chunks import private_arrays, undone
from .._system.interrupts import CleanUp, Uninterrupted
from .._team import WorkerTeam
from .._wire import refuse_open_files
from .._worker.role import role
from .base import Task
from .map_run import MapRun
from .posting import MapPosting
from .waiting import Round


class ProcessWork:
    """A map on a team, that can be waited for in steps.

    `inherited`: the key of what its workers were forked with, by a team that is this map's only. All state is
    the waiting thread's; what other threads ask or want is in `MapRun`.
    """

    def __init__(self, team: WorkerTeam, task: Task, inherited: bytes | None = None) -> None:
        team.enter()
        self._team = team
        self._task = task
        self._inherited = inherited
        self._run = run = MapRun(team, task)
        self._round: Round | None = None
        """The round that was posted last."""
        self._left: list[int] = []
        """Chunks that are not done, when it is over."""
        self._marks = b""
        """The ledger, when it is over."""
        self._has_ended = False
        self._is_first = True
        """Tickets are chunk numbers: it is the first round, of all chunks."""
        self._posting = MapPosting(task, inherited)
        run.keep += self._posting.keep
        try:
            if team.open_run(run, task.job.plan.chunks):
                self._post(None)
        except BaseException as exc:
            with CleanUp(exc) as clean_up:
                self._abandon(clean_up)
            raise

    def done(self) -> int:
        return self._run.done()

    def marks(self) -> bytes:
        return self._run.marks()

    def cancel(self) -> None:
        self._run.cancel()

    def cut(self, choose: Callable[[int], int | None]) -> int | None:
        """See `WorkerTeam.cut_run`: only while it is in its first round. From any thread.

        Whoever asks sees to it that the others are missed by nobody: see `_nodes.parts`.
        """
        return self._team.cut_run(
            self._run, lambda drawn: choose(drawn) if self._is_first else None
        )

    def _post(self, chunks: list[int] | None) -> None:
        """Begin a round: all chunks, or those that are to be run again."""
        task, run, control = self._task, self._run, self._run.control
        assert control is not None
        posting = self._posting
        is_first = chunks is None
        self._is_first = is_first and task.begun is None
        if chunks is None:
            control.begin(
                task.job.plan.chunks,
                posting.first,
                posting.arguments,
                posting.output,
                posting.about,
            )
            if task.log is not None and control.row_banks is not None:
                task.log.follow(control.row_banks.rows)
                task.log.is_cold = not self._team.has_started(posting.team)
            if task.begun is not None:
                control.take_up(task.begun)
                chunks = task.outcome.take_up(task.begun)
        else:
            control.begin_again(chunks)
        if chunks is not None:
            posting = posting.again(task.workers, task.outcome.attempts(chunks))
            control.expect(posting.team)
            run.keep += posting.keep
        is_reusable = self._round is None or self._round.is_reusable
        # First: whatever becomes of sending it, these workers may have got it.
        self._round = Round(self._team, task, run, control, posting, is_reusable=is_reusable)
        self._team.post_run(run, posting)
        if not is_first and task.job.out is None and task.collector.columns:
            self._round.tell_output()

    @property
    def in_steps(self) -> ProcessWork:
        return self

    def be_attended(self, attend: Callable[[], object]) -> None:
        self._run.be_attended(attend)

    def wait(self) -> Any:
        while not self.step():
            pass
        return self.finish()

    def step(self) -> bool:
        """See `SteppedWork`."""
        task, run = self._task, self._run
        try:
            if self._round is None:
                self._wait_for_turn()
            round, control = self._round, run.control
            assert round is not None and control is not None
            is_listened_to = task.collector.is_listened_to
            if is_listened_to:
                control.note_attended(True)
            is_over = round.step()
            if is_over:
                if run.is_cancelled:
                    raise CancelledError
                self._marks = control.marks()
                self._left = left = undone(self._marks)
                # Never another round while some worker may still draw in this one.
                if left and round.is_whole and (again := task.outcome.next_round(left)):
                    self._post(again)
                    is_over = False
            if is_over:
                self._end_well(round)
            elif is_listened_to:
                control.note_attended(False)
            return is_over
        except BaseException as exc:
            with CleanUp(exc) as clean_up:
                self._abandon(clean_up)
            raise

    def _wait_for_turn(self) -> None:
        """Begin as soon as fewer maps are open."""
        run = self._run
        assert run.admitted is not None
        run.admitted.wait()
        if run.is_cancelled:
            raise CancelledError
        if run.refusal is not None:
            raise run.refusal
        self._post(None)

    def _end_well(self, round: Round) -> None:
        """No further round follows."""
        run = self._run
        if self._task.tick is not None:
            self._task.tick(run.done)
        if not round.is_reusable:
            round.end_workers()
            self._marks = run.marks()
        run.keep_marks(self._marks)
        assert run.control is not None
        self._posting.note_work(run.control.shelves.work_ns() * 1e-9)
        if round.is_reusable:
            self._close(is_reusable=True)
        else:
            with Uninterrupted():
                self._close(is_reusable=False)

    def finish(self) -> Any:
        """See `SteppedWork`."""
        if self._task.log is not None:
            self._task.log.note_over(self._task.outcome.failed(self._left))
        result = self._task.outcome.finish(self._left, self._marks)
        self._posting.note_form()
        return result

    # ------------------------------------------------ the end

    def _abandon(self, clean_up: CleanUp) -> None:
        """Any exception in the waiting thread: stop, wait a little, end the workers still inside."""
        if not self._team.is_ours:
            return  # a callback has forked, and this is the child: its parent sees to all of that
        if self._run.control is None or self._run.posting is None or self._round is None:
            if self._run.control is not None:
                self._run.control.abandon()  # or it would look as if it waited for workers
            self._close(is_reusable=True)  # it was sent to no worker, so none is to leave it
            return
        self._team.stop_run(self._run, abandons=True)
        try:
            self._round.leave(is_urgent=lambda: clean_up.is_urgent)
        finally:
            self._round.end_workers()
            self._run.keep_marks(self._run.marks())
            self._close(is_reusable=False)

    def _close(self, is_reusable: bool) -> None:
        """Give everything back. A Ctrl-C may come anywhere if it is reusable: then it is called again."""
        if self._has_ended:
            return
        if not is_reusable and self._run.control is not None and self._round is not None:
            self._round.drain(0)
        if self._task.log is not None:
            self._task.log.keep_rows()
        self._team.end_run(self._run, is_reusable)
        if self._inherited is not None:
            role.inherited.pop(self._inherited, None)
            self._team.end()
        self._has_ended = True


class ProcessEngine:
    """Workers of a team."""

    name = "processes"
    shares_memory = True
    in_process = False
    sees_caller = False
    can_replace_workers = True
    writes_stores = True

    def __init__(self, team: WorkerTeam) -> None:
        self.team = team

    def warm_up(self, workers: int) -> None:
        """Start the workers that are missing: a clean interpreter takes 100 ms to import NumPy."""
        self.team.warm_up(workers)

    def start(self, task: Task) -> ProcessWork:
        return ProcessWork(self.team, task)


class ForkEngine:
    """Workers forked for this one map: they see the caller's private arrays as they are."""

    name = "fork"
    shares_memory = True
    in_process = False
    sees_caller = True
    can_replace_workers = True
    writes_stores = True

    def warm_up(self, workers: int) -> None:
        """Nothing: its workers are to have what they are forked with."""

    def start(self, task: Task) -> ProcessWork:
        refuse_open_files(task.func)
        key = os.urandom(16)
        workers = max(1, min(task.workers, task.job.plan.chunks))
        team = WorkerTeam(workers, start="fork", blas_threads=task.blas_threads, idle_timeout=None)
        # The caller's own arrays stay as they are: the flag is set in the copies that workers have.
        arrays = private_arrays(task.func, *task.given)
        role.inherited[key] = (task.func, task.job, arrays)
        try:
            return ProcessWork(team, task, key)
        except BaseException:
            role.inherited.pop(key, None)
            team.end()
            raise
