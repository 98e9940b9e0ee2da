"""The functions submitted to a team: those that wait for room in the pipe, and those that workers may take.

Owned by the team; everything here is done with the team's lock held, unless it says otherwise. All idle
workers read one pipe, and each function in it is read by one of them, which tells in one write what came of
it and that it has left. So nobody hands functions out, and nobody but a worker knows who has which, until it
dies: docs/design/0043-one-pipe-for-all.md.

What must always hold: every future is resolved, whatever becomes of its worker or is raised by the user's own
classes and callbacks, once, and while no thread holds the team's lock; a function that may have begun is
never run again; no function waits behind another one that a worker is busy with.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from .._errors.exceptions import WorkerDied, name_of
from .._memory import mark_kept
from .._system.interrupts import Uninterrupted, is_inside, refuse_reentry
from .._system.user_code import guarded, settle
from .._wire import (
    READING,
    Bundle,
    Record,
    RecordKind,
    Report,
    restore_any,
    unpack_finished,
)
from .inbox import Inbox
from .link import WorkerLink
from .resolving import Outcome, Resolving
from .run import Death
from .submitted import Submission, SubmittedFuture
from .whereabouts import after_death
from .workers import Workers


class Submissions:
    """The submitted functions of a team.

    ====================  ====================================================  ============================
    field                 written by                                            read by
    ====================  ====================================================  ============================
    `waiting`, `given`,   callers' threads as they submit, cancel, or wait for  the same; `is_idle` and
    `_most`, `left_at`    a future, and the monitor; under the team's lock      `is_taken` without the lock
    `is_in_doubt`         monitor, and a thread that is interrupted as it       monitor
                          submits
    `_abandoned`          monitor                                               monitor
    `_unheard`            the thread that takes results, the monitor; under     monitor
                          the lock
    `_tells_when_idle`    the thread that ends the team; never set back         the thread that resolves
    ====================  ====================================================  ============================

    What must hold: a function is in one of `waiting`, `given` and `_resolving`, or its future is resolved; it
    is in `given` exactly if its record is in the pipe, with a worker, or told to be over.
    """

    def __init__(
        self, lock: Any, workers: Workers, inbox: Inbox, distrust: Callable[[], None]
    ) -> None:
        self._lock = lock
        self._workers = workers
        self._inbox = inbox
        self._distrust = distrust
        """Called when something else than records was in the pipe of results."""
        self.waiting: dict[int, Submission] = {}
        """By number: those that are not in the pipe."""
        self.given: dict[int, Submission] = {}
        """By number: those that were put into the pipe."""
        self._most: float = math.inf
        """How many may be in the pipe. Few, once one of many was cancelled: all are taken out for each."""
        self._resolving = Resolving()
        self._unheard: set[int] = set()
        """Ranks that have said something before what they told last, which is not taken yet."""
        self._abandoned: set[int] = set()
        """Numbers of functions that nobody wants any more: who takes one is ended."""
        self.is_in_doubt = False
        """It is to be looked again where functions are: a worker may not have noted yet which one it has."""
        self._tells_when_idle = False
        """The monitor is to be woken when all futures are resolved."""
        self.left_at = 0.0
        """When a function was over last (``time.monotonic()``)."""
        workers.when_started = self._equip

    def is_idle(self) -> bool:
        """Whether all futures are resolved."""
        return not (self.waiting or self.given) and self._resolving.is_empty()

    def tell_when_idle(self) -> None:
        """Have the monitor woken once all futures are resolved."""
        self._tells_when_idle = True

    def open_calls(self) -> Iterator[int]:
        """Numbers of the functions of which something may still be taken."""
        return iter((*self.given, *self._resolving.numbers()))

    def is_taken(self, number: int) -> bool:
        """Whether some worker has this function; from any thread, without the lock."""
        return number in self._workers.channels.taken([*self._workers.links]).values()

    def lacks_workers(self) -> bool:
        """Whether there are functions that no worker has."""
        words = self._workers.channels.taken(self._workers.links).values()
        return len(self.waiting) + len(self.given) > sum(word > 0 for word in words)

    def settings_in_use(self) -> set[int]:
        """Numbers of the surroundings that these are run in."""
        return {each.equipment.settings for each in (*self.given.values(), *self.waiting.values())}

    # ------------------------------------------------ giving them out

    def put(self, submission: Submission) -> None:
        """Take a function to run."""
        number = submission.submitted.number
        self._inbox.begin_call(number)
        try:
            self._workers.equip(submission.equipment)
        except Exception as exc:  # no descriptors left, say
            self._fail(submission, exc)
            return
        if not self.waiting:
            try:
                self.given[number] = submission
                if self._workers.channels.put_function(submission.submitted.pack()):
                    return
                del self.given[number]
            except BaseException:  # a Ctrl-C, and it may be in the pipe or not
                self.is_in_doubt = True
                self._workers.wake()
                raise
        self.waiting[number] = submission

    def _equip(self, link: WorkerLink) -> None:
        """A worker is about to be started: it may take any of these."""
        for each in (*self.given.values(), *self.waiting.values()):
            self._workers.equip_one(link, each.equipment)

    def dispatch(self) -> None:
        """Put functions into the pipe, as many as it takes."""
        channels, waiting = self._workers.channels, self.waiting
        while waiting and len(self.given) < self._most:
            number = next(iter(waiting))
            if not channels.put_function(waiting[number].submitted.pack()):
                return
            self.given[number] = waiting.pop(number)
        if not waiting:
            self._most = math.inf

    def _take_back(self, first: Iterable[int] = ()) -> None:
        """Have those wait again that no worker has read, and before them those that are named."""
        back = [*first, *self._workers.channels.take_back()]
        if back:
            again = {number: self.given.pop(number) for number in back if number in self.given}
            self.waiting = {**again, **self.waiting}

    def withdraw(self, future: SubmittedFuture) -> bool:
        """Take a function back if no worker has it; whether that is so. To be called without the lock."""
        refuse_reentry(self._lock)
        number = future.number
        with self._lock:
            if number not in self.waiting:
                self._take_back()
                self._most = 2 * self._workers.size
            submission = self.waiting.pop(number, None)
            self.dispatch()
        if submission is not None:
            self._inbox.end_call(number)
        return submission is not None

    def note_resolved(self, future: SubmittedFuture) -> None:
        """A future has its result, by whomever; the thread that reads for it need not wait any more."""
        number = future.number
        if (number in self.given or number in self.waiting) and not is_inside(self._lock):
            self.withdraw(future)  # the user has set it: the function need not run
        if self._workers.channels.reader is future:
            self._workers.channels.ring()
        if self._tells_when_idle:
            self._workers.wake()

    # ------------------------------------------------ what comes of them

    def take_results(self) -> None:
        """Take what workers have told."""
        data = self._workers.channels.read_results()
        if not data:
            return
        try:
            records = unpack_finished(data)
        except RuntimeError as exc:
            self._distrust()
            self.fail_running(partial(RuntimeError, *exc.args))
            return
        for record, inline in records:
            if record.kind == RecordKind.KEPT:
                mark_kept(record.first)
            else:
                self._note_end(record, inline)
        self.left_at = time.monotonic()
        if self.waiting:
            self.dispatch()

    def _note_end(self, record: Record, inline: bytes) -> None:
        if (submission := self.given.pop(record.seq, None)) is None:
            self._inbox.skip(record)
            return
        if record.first:
            self._unheard.add(record.rank)
        is_plain = record.kind == RecordKind.PLAIN and not (record.page or record.first)
        resolve = partial(self._unpickle, submission, record, inline)
        future = submission.future
        self._resolving.add(future, Outcome(resolve, is_plain and not future.has_callbacks))

    def _unpickle(self, submission: Submission, record: Record, inline: bytes) -> None:
        """Resolve a future by what its worker has told; without the lock, as the classes are the user's."""
        value: Any = None
        error: BaseException | None = None
        try:
            value = self._inbox.take(record, inline)
            if record.kind == RecordKind.ERROR:
                name = name_of(submission.func)
                error = restore_any(Report(*value), name, "as a submitted function")
        except BaseException as exc:  # it does not unpickle here
            error = exc
        self._inbox.end_call(record.seq)
        settle(submission.future, value, error)

    # ------------------------------------------------ when it fails

    def note_death(self, taken: int, death: Death | None) -> None:
        """A worker has died, whose words are these; or None, and it is looked again where functions are."""
        slots, running = self._workers.channels.slots, 0 if death is None else death.running
        assert slots is not None
        others = list(self._workers.links)
        returns = list(map(slots.returns, others))
        self._take_back()  # in this order, see `after_death`
        words = list(map(slots.taken, others))
        self.take_results()
        has_moved = any(n & 1 for n in returns) or returns != list(map(slots.returns, others))
        verdict = after_death(self.given.keys(), words, taken, running, has_moved=has_moved)
        if verdict.lost and death is not None:
            submission = self.given.pop(verdict.lost)
            name = name_of(submission.func)
            self._fail(submission, WorkerDied(f"{death.cause()}, running {name}"))
        self._take_back(verdict.again)
        self.is_in_doubt = verdict.is_in_doubt
        self._end_abandoned()
        self.dispatch()

    def abandon(self, bundle: Bundle) -> None:
        """Cancel the functions of a bundle that no worker has, and end the workers that have the others."""
        each_place = (*self.given.items(), *self.waiting.items())
        self._abandoned.update(number for number, each in each_place if each.bundle is bundle)
        self._take_back()
        self._end_abandoned()
        self.dispatch()

    def _end_abandoned(self) -> None:
        if self._abandoned:
            self._cancel([number for number in self.waiting if number in self._abandoned])
            self._abandoned.intersection_update(self.given)
            for rank, number in self._workers.channels.taken(self._workers.links).items():
                if number in self._abandoned:
                    self._workers.kill(rank, number)
            self.is_in_doubt |= bool(self._abandoned)  # they may be going from hand to hand

    def _fail(self, submission: Submission, error: BaseException) -> None:
        self._inbox.end_call(submission.submitted.number)
        self._settle_later(submission.future, partial(settle, submission.future, error=error))

    def _settle_later(self, future: SubmittedFuture, call: Callable[[], object]) -> None:
        self._resolving.add(future, Outcome(call))
        self._workers.wake()

    def fail_running(self, make_error: Callable[[], BaseException]) -> None:
        """The functions that workers have fail, each with an exception of its own."""
        self._take_back()
        for number in list(self.given):
            self._fail(self.given.pop(number), make_error())
        self.dispatch()

    def fail_waiting(self, make_error: Callable[[], BaseException]) -> None:
        """No worker will take those that wait: they fail, each with an exception of its own."""
        self._take_back()
        for number in list(self.waiting):
            self._fail(self.waiting.pop(number), make_error())

    def fail_all(self, make_error: Callable[[], BaseException]) -> None:
        """Nothing will be heard of any of them any more."""
        self.fail_waiting(make_error)
        self.fail_running(make_error)

    def cancel_waiting(self) -> None:
        """Cancel those that no worker has."""
        self._take_back()
        self._cancel(list(self.waiting))

    def _cancel(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            future = self.waiting.pop(number).future
            self._inbox.end_call(number)
            self._settle_later(future, future.cancel_withdrawn)

    def clear(self) -> None:
        """All workers have ended, and what they had said is taken."""
        self._unheard.clear()
        self._abandoned.clear()
        self.is_in_doubt = False

    # ------------------------------------------------ resolving futures; the lock must not be held

    def unheard(self) -> list[int]:
        """Ranks of which has to be taken what they have said; for `to_resolve`, with the lock held."""
        ranks, self._unheard = list(self._unheard), set()
        return ranks

    def to_resolve(self) -> list[SubmittedFuture]:
        """Futures of which it is known what came of them, once all is heard; with the lock held."""
        return [] if self._unheard else list(self._resolving.waiting)

    def resolve(self, futures: Iterable[SubmittedFuture]) -> None:
        """Resolve futures, in the monitor: one thread calls all callbacks, as functions have ended."""
        for future in futures:
            with self._lock:
                outcome = self._resolving.claim(future)
            if outcome is not None:
                self._workers.channels.expect(False)
                guarded(self._resolving.finish, future, outcome)

    def read_for(self, future: SubmittedFuture, deadline: float | None) -> None:
        """Read results in the thread that waits for a future, if no other one does so, and resolve that one.

        Else, and after the deadline (``time.monotonic()``), the monitor resolves it; also if code of the
        user's has to be called for that, in which a Ctrl-C might come.
        """
        if is_inside(self._lock):  # a signal handler, or a finalizer
            return
        channels, known = self._workers.channels, self._resolving.waiting
        words, fds, outer = None, (-1, -1), None
        try:
            with self._lock:
                slots = channels.slots
                if slots is not None and channels.may_read() and not future.is_resolved:
                    fds, words = channels.reading, slots.team
                    outer = channels.begin_reading(future)
                    words[READING] = 1
            while words is not None and not future.is_resolved:
                if future not in known:
                    left = None if deadline is None else max(0.0, deadline - time.monotonic())
                    if not channels.wait_for_results(left, outer is not None):
                        break
                with (
                    Uninterrupted()
                ):  # or what was read could be lost, or others wait for the future
                    with self._lock:
                        if channels.reading != fds:
                            break  # the workers have been ended
                        if future not in known:
                            self.take_results()
                        if future not in known:
                            if known:
                                self._workers.wake()
                            continue
                        words[READING], words = outer is not None, None
                        outcome = self._end_reading(future, fds, outer)
                    if outcome is not None:
                        channels.expect(True)
                        self._resolving.finish(future, outcome)
                        if self._tells_when_idle:
                            self._workers.wake()
        finally:
            if words is not None:
                words[READING] = outer is not None  # before anything that a Ctrl-C could come in
                try:
                    self._end_reading(None, fds, outer)
                except BaseException:
                    self._end_reading(None, fds, outer)
                    raise

    def _end_reading(
        self, future: SubmittedFuture | None, fds: tuple[int, int], outer: object
    ) -> Outcome | None:
        """Read no more in this thread; what becomes of a future, if it is to be resolved here."""
        with self._lock:
            self._workers.channels.end_reading(fds, outer)
            if self.given:  # what was told meanwhile has rung nobody
                self.take_results()
            outcome = None if future is None else self._resolving.claim_plain(future)
            if self._resolving.waiting:
                self._workers.wake()
        return outcome

    def validate(self) -> None:
        """Check, for tests, that each function is in one place."""
        places = (self.waiting.keys(), self.given.keys(), set(self._resolving.numbers()))
        assert len(set().union(*places)) == sum(map(len, places))
