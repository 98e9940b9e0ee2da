"""The functions submitted to a team: those that wait for a worker, and those that some worker has.

Owned by the team; everything here is done with the team's lock held, but for `resolve`. A submitted function
is a call of its own, sent to one worker, which says on the team's pipe what came of it and then that it has
left; what the function was given stays in place until both have been heard.

What must always hold: every future is resolved, whatever becomes of its worker or is raised by the user's own
classes and callbacks, once, and while no thread holds the team's lock; a function that may have begun is
never run again; no function waits behind another one that a worker is busy with.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from functools import partial
from typing import Any, NamedTuple

from .._code.watch import current_version
from .._errors.exceptions import WorkerDied
from .._memory import mark_kept
from .._system.user_code import GuardedFuture, guarded, settle
from .._wire import (
    Call,
    Packed,
    Record,
    RecordKind,
    Report,
    Surroundings,
    make_payload,
    restore_any,
)
from .inbox import Inbox
from .link import WorkerLink
from .run import Death, Needs
from .workers import Workers


class SubmittedFuture(GuardedFuture):
    on_cancel: Callable[[], object] | None = None
    """Told when it is cancelled before a worker has got its function."""

    def cancel(self) -> bool:
        """As `concurrent.futures` has it."""
        is_cancelled = super().cancel()
        on_cancel, self.on_cancel = self.on_cancel, None
        if is_cancelled and on_cancel is not None:
            on_cancel()
        return is_cancelled


class _Submission(NamedTuple):
    future: SubmittedFuture
    packed: Packed
    name: str
    surroundings: Surroundings
    """Those of the thread that has submitted it."""
    is_again: bool = False
    """A worker that had it died before it began: its future counts as running already."""


class Submissions:
    """The submitted functions of a team.

    =============================  =============================================  =========================
    field                          written by                                     read by
    =============================  =============================================  =========================
    `waiting`, `running`, `_held`  callers' threads as they submit or end a run,  the same; `is_idle` also
    `_leaving`, `left_at`          and the monitor; under the team's lock         without the lock
    `_outcomes`                    the same                                       monitor, without the lock
    `_untaken`, `_resolving`       monitor                                        all
    `_has_cancelled`               any thread, without the lock                   monitor and submitters
    =============================  =============================================  =========================

    What must hold: a function is in one of `waiting`, `running` and `_outcomes`, or its future is resolved;
    a rank is in `_held` from when its worker is sent a function until it has left that.
    """

    def __init__(self, workers: Workers, inbox: Inbox) -> None:
        self._workers = workers
        self._inbox = inbox
        self.waiting: deque[_Submission] = deque()
        """Those that no worker has."""
        self.running: dict[int, tuple[_Submission, int, tuple[object, ...]]] = {}
        """By the number of the call: those that a worker has, its rank, and what the message lies in."""
        self._held: dict[int, int] = {}
        """By rank: the call of the function that its worker has been sent and has not left."""
        self._untaken: set[int] = set()
        """Calls that are over and whose results are not unpickled yet."""
        self._leaving: dict[int, tuple[int, Packed, tuple[object, ...]]] = {}
        """What finished functions were given, until their workers have said whether they kept it."""
        self._outcomes: deque[Callable[[], object]] = deque()
        """What is to be called to resolve futures."""
        self._resolving: deque[None] = deque()
        """One entry per outcome that is being called."""
        self._has_cancelled = False
        """Some of those that wait may have been cancelled."""
        self.left_at = 0.0
        """When a worker left a function last (``time.monotonic()``)."""

    def is_idle(self) -> bool:
        """Whether all futures are resolved."""
        return not (self.waiting or self.running or self._outcomes or self._resolving)

    def open_calls(self) -> Iterator[int]:
        """Numbers of the calls of which something may still be taken."""
        yield from self.running
        yield from self._untaken

    # ------------------------------------------------ giving them out

    def put(
        self, future: SubmittedFuture, packed: Packed, name: str, surroundings: Surroundings
    ) -> None:
        """Take a function to run; `packed` is it with its arguments."""
        future.on_cancel = self._note_cancelled
        self.waiting.append(_Submission(future, packed, name, surroundings))
        self.dispatch()

    def _note_cancelled(self) -> None:
        # In any thread, without the lock. Those that wait for the future are to hear of it at once, and not
        # when its turn has come.
        self._has_cancelled = True
        self._workers.wake()

    def dispatch(self, behind_maps: bool = False) -> None:
        """Give functions to idle workers.

        `behind_maps`: also to those that are in a map. It cannot be known when a map ends, so this is for
        when all workers are in one, or when one has just ended: else a worker that is done with its
        function would be idle, while the next function waits for another worker's map.
        """
        if self._has_cancelled:
            self._has_cancelled = False
            for submission in [each for each in self.waiting if each.future.cancelled()]:
                self.waiting.remove(submission)
                self._withdraw(submission)
        while self.waiting:
            link = self._find_free(behind_maps)
            if link is None:
                return
            submission = self.waiting.popleft()
            submission.future.on_cancel = None
            try:
                if submission.is_again or submission.future.set_running_or_notify_cancel():
                    self._send(link, submission)
            except BaseException as exc:  # it cannot be sent; or the user has set a result
                self._outcomes.append(partial(settle, submission.future, error=exc))
                self._workers.wake()

    def _find_free(self, behind_maps: bool) -> WorkerLink | None:
        workers = self._workers
        links = [link for link in workers.links.values() if not link.gone]
        free = [link for link in links if link.rank not in self._held]
        if not free:
            return None
        best = min(free, key=lambda link: workers.roster.busy(link.rank))
        if behind_maps or len(free) == len(links) or not workers.roster.busy(best.rank):
            return best
        return None

    def _send(self, link: WorkerLink, submission: _Submission) -> None:
        workers = self._workers
        payload, root = make_payload(submission.packed.data)
        seq = workers.next_seq()
        call = Call(
            control=0,
            job_id=0,
            job=payload,
            func=None,
            digest=b"",
            by_value=True,
            is_static=False,
            team=1,
        )
        needs = Needs(
            control=None,
            segments=submission.packed.segments | payload.segments(),
            surroundings=submission.surroundings,
            modules=current_version(submission.packed.reaches),
            writes_main=True,
        )
        self.running[seq] = (submission, link.rank, (root,))
        self._held[link.rank] = seq
        self._inbox.begin_call(seq)
        workers.roster.assign(link.rank, seq, again=False)
        try:
            workers.send_call(link, seq, call, needs)
        except BaseException:
            link.known.is_unsure()
            del self._held[link.rank]
            workers.roster.end(seq)
            del self.running[seq]
            self._inbox.end_call(seq)
            raise

    # ------------------------------------------------ what comes of them

    def take(self, record: Record) -> None:
        """Take what a worker says."""
        link = self._workers.links.get(record.rank)
        if record.kind in (RecordKind.RESULTS, RecordKind.ERROR):
            if record.seq in self.running:
                submission = self._end(record.seq)
                self._untaken.add(record.seq)
                self._outcomes.append(partial(self._unpickle, submission, record))
            else:
                self._inbox.skip(record)
        elif record.kind == RecordKind.KEPT:
            mark_kept(record.first)
        elif record.kind == RecordKind.LEAVE and link is not None and record.seq:
            if self._held.get(record.rank) == record.seq:
                del self._held[record.rank]
            self._leaving.pop(record.seq, None)
            self._workers.roster.left(record.rank, record.seq)
            self.left_at = time.monotonic()

    def _end(self, seq: int) -> _Submission:
        submission, rank, roots = self.running.pop(seq)
        self._leaving[seq] = rank, submission.packed, roots
        return submission

    def _unpickle(self, submission: _Submission, record: Record) -> None:
        """Resolve a future by what its worker has sent; without the lock, as the classes are the user's."""
        value: Any = None
        error: BaseException | None = None
        try:
            value = self._inbox.take(record)
            if record.kind == RecordKind.ERROR:
                name = submission.name
                error = restore_any(Report(*value), name, "as a submitted function")
        except BaseException as exc:  # it does not unpickle here
            error = exc
        finally:
            self._untaken.discard(record.seq)
            self._inbox.end_call(record.seq)
        settle(submission.future, value, error)

    # ------------------------------------------------ when it fails

    def note_death(self, seq: int, death: Death) -> None:
        """The worker that had a function has died."""
        submission, _, _ = self.running[seq]
        if death.running == seq or death.is_broken_start:
            self.fail(seq, WorkerDied(f"{death.cause()}, running {submission.name}"))
        else:  # it never began: another worker takes it
            del self.running[seq]
            self._inbox.end_call(seq)
            self.waiting.appendleft(submission._replace(is_again=True))

    def forget(self, rank: int) -> None:
        """The worker on a rank is gone: it touches nothing any more of what it was given."""
        self._held.pop(rank, None)
        for seq in [seq for seq, (its, *_) in self._leaving.items() if its == rank]:
            del self._leaving[seq]

    def fail(self, seq: int, error: BaseException) -> None:
        """A function that a worker has fails."""
        self._outcomes.append(partial(settle, self._end(seq).future, error=error))
        self._inbox.end_call(seq)

    def fail_running(self, make_error: Callable[[], BaseException]) -> None:
        """The functions that workers have fail, each with an exception of its own."""
        for seq in list(self.running):
            self.fail(seq, make_error())
        self._held.clear()  # that some have left may be among what was lost

    def fail_waiting(self, make_error: Callable[[], BaseException]) -> None:
        """No worker will take those that wait: they fail, each with an exception of its own."""
        while self.waiting:
            submission = self.waiting.popleft()
            if submission.future.cancelled():
                self._withdraw(submission)
            else:
                submission.future.on_cancel = None
                self._outcomes.append(partial(settle, submission.future, error=make_error()))

    def fail_all(self, make_error: Callable[[], BaseException]) -> None:
        """Nothing will be heard of any of them any more."""
        self.fail_waiting(make_error)
        self.fail_running(make_error)

    def cancel_waiting(self) -> None:
        """Cancel those that no worker has."""
        while self.waiting:
            self._withdraw(self.waiting.popleft())

    def _withdraw(self, submission: _Submission) -> None:
        future = submission.future
        future.on_cancel = None
        if submission.is_again:
            self._outcomes.append(partial(settle, future, error=CancelledError()))
        else:
            self._outcomes.append(partial(_cancel, future))
        self._workers.wake()

    def resolve(self) -> None:
        """Resolve the futures of which it is known what came of them; the lock must not be held.

        By the monitor alone: one thread calls all callbacks, in the order in which functions ended.
        """
        while self._outcomes:
            self._resolving.append(None)  # first: until it is called, this is not idle
            try:
                guarded(self._outcomes.popleft())
            except IndexError:
                pass  # taken by the monitor before or after this one
            finally:
                self._resolving.pop()

    def validate(self) -> None:
        """Check, for tests, that a worker has one function at most, and that it is known which."""
        having = {rank: seq for seq, (_, rank, _) in self.running.items()}
        assert len(having) == len(self.running) and having.items() <= self._held.items()

    def clear(self) -> None:
        """All workers have ended."""
        self._leaving.clear()
        self._held.clear()


def _cancel(future: SubmittedFuture) -> None:
    if future.cancel():
        future.set_running_or_notify_cancel()
