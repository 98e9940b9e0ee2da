"""A map as its team sees it: what is told of workers that die, and what the map does about it.

The monitor of the team calls `MapRun.note_death`, in its own thread and with the team's lock held. What
follows is decided by `_results.recovery`; here it is done, in the control block and on the team.
"""

from __future__ import annotations

from .._chunks import Mark, items_done
from .._errors.exceptions import WorkerDied
from .._team import Death, Posting, Run, WorkerTeam
from .._wire import restore_exception
from .base import Task


class MapRun(Run):
    """The run of a map.

    ============ ============== ============== =====================================================
    field        written by     read by        what must hold
    ============ ============== ============== =====================================================
    _overdue     waiting thread monitor        an entry is there before the worker is killed, and the
                                               monitor takes it; there is none as a round begins
    _last_marks  waiting thread any thread     set before the control block is given back
    fatal        monitor        waiting thread set before the run is rung
    is_cancelled any thread     waiting thread set before the map is stopped, and never back
    ============ ============== ============== =====================================================

    What is inherited is written with the team's lock held, but for `keep`.
    """

    def __init__(self, team: WorkerTeam, task: Task) -> None:
        super().__init__(0 if task.log is None else task.log.profiled)
        self._team = team
        self._task = task
        self._overdue: dict[int, int] = {}
        """By rank: the index of the call that took too long, for which the worker is ended."""
        self.fatal: Exception | None = None
        """Why the map cannot go on at all."""
        self.is_cancelled = False
        self._last_marks = task.begun or bytes(task.job.plan.chunks)
        """The ledger, once it is with no control block any more."""

    # ------------------------------------------------ any thread

    def done(self) -> int:
        return items_done(self.marks(), self._task.job.plan)

    def marks(self) -> bytes:
        marks = self._team.marks_of(self)
        return self._last_marks if marks is None else marks

    def cancel(self) -> None:
        """Have no chunk started any more, and wake the thread that waits. From any thread."""
        self.is_cancelled = True
        self._team.stop_run(self)

    # ------------------------------------------------ the thread that waits

    def keep_marks(self, marks: bytes) -> None:
        """Nothing changes in the ledger any more: so it is, also once the control block is given back."""
        self._last_marks = marks

    def begin(self, seq: int, posting: Posting) -> None:
        if self._overdue:
            self._overdue.clear()
        super().begin(seq, posting)

    def kill_overdue(self, rank: int, since: int, index: int) -> None:
        """End a worker for a call of the function that began at `since`, unless it has just gone on."""
        if rank not in self._overdue:
            self._overdue[rank] = index  # before the kill: the monitor looks it up
            if not self._team.kill(rank, self.seq, since):
                self._overdue.pop(rank, None)

    # ------------------------------------------------ the monitor

    def give_up_output(self) -> None:
        """Index 0 will not tell the output in this round: no worker is to wait for it."""
        if self.control is not None and not self._task.collector.columns:
            self.control.give_up_output()

    def note_death(self, death: Death) -> dict[int, int]:
        """See `Run`: decide what becomes of what a dead worker held."""
        outcome, control = self._task.outcome, self.control
        if control is None:
            return {}
        if death.is_broken_start:
            self.fatal = self._explain_start(death)
            return {}
        # The dead worker may have been the one to tell the form of index 0's result. If that is told all the
        # same, so is the output.
        self.give_up_output()
        if self._task.log is not None:
            worker = death.worker
            self._task.log.note_death(
                worker.rank, worker.pid, worker.inside, worker.drew_ns, death.cause()
            )
        told = outcome.note_death(
            death.worker,
            death.cause(),
            death.who,
            control.marks(),
            stopped_at=control.stopped_at(),
            overdue=self._overdue.pop(death.worker.rank, None),
        )
        control.mark(told.not_to_begin, Mark.LOST)
        if told.is_given_up:
            self._team.disown(self)
        if told.stop_at is not None:
            control.stop(told.stop_at)
        elif told.resumes and (at := control.stopped_at()) in told.again:
            # The dead worker has stopped the map and did not live to tell why.
            assert at is not None
            control.resume()
            if outcome.is_doomed():  # the waiting thread has heard of another failure meanwhile
                control.stop(at)
        return told.again

    def _explain_start(self, death: Death) -> Exception:
        if self.failed_start is not None:
            return restore_exception(self.failed_start, "the initializer", "as a worker started")
        return WorkerDied(f"{death.cause()}, while it started", ((0, self._task.job.plan.n),))
