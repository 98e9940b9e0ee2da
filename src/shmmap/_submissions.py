"""The functions submitted to a team: those that wait for a worker, and those that some worker has.

Owned by the team; everything here is done with the team's lock held, but for `resolve`. A submitted function
is a call of its own, sent to one worker, which says on the team's pipe what came of it and then that it has
left; what the function was given stays in place until both have been heard.

What must always hold: every future is resolved, whatever becomes of its worker, once, and while nobody holds
the team's lock, as its callbacks are the user's; a function that may have begun is never run again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any, NamedTuple

from . import _segment
from ._control import ERROR, KEPT, LEAVE, RESULTS, Record
from ._crew import Crew
from ._errors import WorkerDied
from ._messages import make_payload
from ._packing import Packed
from ._reports import Report, restore_exception
from ._run import CallSpec, Death
from ._shelf import Shelf
from ._surroundings import snapshot

__all__ = ["Submissions"]

# Submitted functions a worker holds: one it runs, and one so that it need not wait for the next.
SUBMITTED_MAX = 2


class _Submission(NamedTuple):
    future: Future[Any]
    packed: Packed
    name: str


class Submissions:
    """The submitted functions of a team."""

    def __init__(self, crew: Crew, shelf: Shelf) -> None:
        self._crew = crew
        self._shelf = shelf
        self.waiting: deque[_Submission] = deque()
        """Those that no worker has."""
        self.running: dict[int, tuple[_Submission, int, tuple[Any, ...]]] = {}
        """By the number of the call: those that a worker has, its rank, and what the message lies in."""
        self._leaving: dict[int, tuple[int, Packed, tuple[Any, ...]]] = {}
        """What finished functions were given, until their workers have said whether they kept it."""
        self._outcomes: deque[Callable[[], object]] = deque()
        """What is to be called to resolve futures."""
        self.left_at = 0.0
        """When a worker left a function last (``time.monotonic()``)."""

    # ------------------------------------------------ giving them out

    def put(self, future: Future[Any], packed: Packed, name: str) -> None:
        """Take a function to run; `packed` is it with its arguments."""
        self.waiting.append(_Submission(future, packed, name))
        self.dispatch()

    def dispatch(self) -> None:
        """Give functions to members that have room."""
        crew = self._crew
        while self.waiting:
            free = [
                member
                for member in crew.members.values()
                if member.submitted < SUBMITTED_MAX and not member.gone
            ]
            if not free:
                return
            member = min(free, key=lambda m: (m.submitted, crew.roster.busy(m.rank)))
            submission = self.waiting.popleft()
            if not submission.future.set_running_or_notify_cancel():
                continue
            seq = crew.next_seq()
            payload, root = make_payload(submission.packed.data)
            segments = submission.packed.segments | payload.segments()
            spec = CallSpec(
                None,
                0,
                payload,
                None,
                b"",
                True,
                None,
                False,
                1,
                segments,
                snapshot(),
                None,
                True,
            )
            self.running[seq] = (submission, member.rank, (root,))
            member.submitted += 1
            crew.roster.assign(member.rank, seq, again=False)
            crew.send_call(member, seq, spec)

    # ------------------------------------------------ what comes of them

    def take(self, record: Record) -> None:
        """Take what a worker says."""
        member = self._crew.members.get(record.rank)
        if record.kind in (RESULTS, ERROR):
            if record.seq in self.running:
                self._end(record.seq, record, None)
            else:
                self._shelf.skip(record)
        elif record.kind == KEPT:
            _segment.mark_kept(record.first)
        elif record.kind == LEAVE and member is not None and record.seq:
            member.submitted = max(0, member.submitted - 1)
            self._leaving.pop(record.seq, None)
            self._crew.roster.left(record.rank, record.seq)
            self.left_at = time.monotonic()

    def _end(self, seq: int, record: Record | None, error: BaseException | None) -> None:
        submission, rank, roots = self.running.pop(seq)
        self._leaving[seq] = rank, submission.packed, roots
        value: Any = None
        if record is not None:
            try:
                value = self._shelf.take(record)
                if record.kind == ERROR:
                    report = Report(*value)
                    error = restore_exception(report, submission.name, "as a submitted function")
            except Exception as exc:  # it does not unpickle here
                error = exc
        if error is None:
            self._outcomes.append(partial(submission.future.set_result, value))
        else:
            self._outcomes.append(partial(submission.future.set_exception, error))
        self._shelf.purge(seq)

    # ------------------------------------------------ when it fails

    def note_death(self, seq: int, death: Death) -> None:
        """The worker that had a function has died."""
        submission, _, _ = self.running[seq]
        if death.running == seq or death.is_broken_start:
            self.fail(seq, WorkerDied(f"{death.cause()}, running {submission.name}"))
        else:  # it never began: somebody else takes it
            self.running.pop(seq)
            retry: Future[Any] = Future()
            _chain(retry, submission.future)
            self.waiting.appendleft(_Submission(retry, submission.packed, submission.name))

    def forget(self, rank: int) -> None:
        """The worker on a rank is gone: it touches nothing any more of what it was given."""
        for seq in [seq for seq, (its, *_) in self._leaving.items() if its == rank]:
            del self._leaving[seq]

    def fail(self, seq: int, error: BaseException) -> None:
        """A function that a worker has fails."""
        self._end(seq, None, error)

    def fail_running(self, error: BaseException) -> None:
        """All that workers have said may be lost: the functions they have fail."""
        for seq in list(self.running):
            self.fail(seq, error)
        for member in self._crew.members.values():
            member.submitted = 0  # who has left was among the records lost

    def fail_waiting(self, make_error: Callable[[], BaseException]) -> None:
        """No worker will take those that wait: they fail, each with an exception of its own."""
        while self.waiting:
            submission = self.waiting.popleft()
            if submission.future.set_running_or_notify_cancel():
                self._outcomes.append(partial(submission.future.set_exception, make_error()))

    def fail_all(self, make_error: Callable[[], BaseException]) -> None:
        """Nobody will hear of any of them any more."""
        self.fail_waiting(make_error)
        while self.running:
            _, (submission, *_) = self.running.popitem()
            self._outcomes.append(partial(submission.future.set_exception, make_error()))

    def cancel_waiting(self) -> None:
        """Cancel those that no worker has."""
        self._outcomes.extend(submission.future.cancel for submission in self.waiting)
        self.waiting.clear()

    def resolve(self) -> None:
        """Resolve the futures of which it is known what came of them; the lock must not be held.

        By the attendant alone: one thread calls all callbacks, in the order in which functions ended.
        """
        while self._outcomes:
            self._outcomes.popleft()()

    def clear(self) -> None:
        """All workers have ended."""
        self._leaving.clear()


def _chain(retry: Future[Any], future: Future[Any]) -> None:
    def done(retry: Future[Any]) -> None:
        error = CancelledError() if retry.cancelled() else retry.exception()
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(retry.result())

    retry.add_done_callback(done)
