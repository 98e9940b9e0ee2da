"""What became of a map's chunks: failures and losses, and what the caller gets in the end.

The same for every engine, which reports failures, deaths, and the chunks the ledger shows as not done.
`recovery` decides which of those are run again; here lie the exceptions, and it is decided what the map
returns or raises, and what is *safe* to run again (see docs/design/worker-death.md). Two threads come here:
the one that waits for the map, and the monitor, which hears of deaths. All state is under one lock, which
each public method takes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

from .._chunks import Job, merge_ranges, undone, warn_of
from .._errors.exceptions import MapError, WorkerDied, describe_ranges, describe_shortly, name_of
from .._system.forks import make_lock
from .._wire import Report, advise, describe_exception, raise_as_is, restore_exception, stand_in
from .collect import Collector
from .recovery import DeadWorker, Instructions, Recovery
from .stand_ins import StandIn, substitute

_lock = make_lock()
"""One for all maps: few fail, and nobody waits or calls the function while holding it."""


class Failure(NamedTuple):
    """One failed call of the function."""

    start: int
    stop: int
    exception: Exception


class Outcome:
    """Failures and losses of one map."""

    def __init__(
        self,
        job: Job,
        collector: Collector,
        func: Callable[..., object],
        *,
        on_error: str | Callable[[Exception, int, int], object],
        axis: object,
    ) -> None:
        self._job = job
        self._plan = job.plan
        self._collector = collector
        self._func = func
        self._on_error = on_error
        self._axis = axis
        self._first = job.first
        self._failures: dict[int, Failure] = {}
        """By first index; one per range."""
        self._fatal: Exception | None = None
        """Raised before any chunk: the function did not unpickle, say."""
        self._causes: list[str] = []
        """One per death."""
        self._lost_writes: dict[str, None] = {}
        """Captured variables that the function has changed where they are copies."""

    @functools.cached_property
    def _recovery(self) -> Recovery:
        """Made when something fails or dies, which is in few maps."""
        job = self._job
        return Recovery(
            job.retries, keep_going=job.keep_going, is_static=job.plan.schedule == "static"
        )

    # ------------------------------------------------ reports

    @property
    def _name(self) -> str:
        return name_of(self._func)

    def describe(self, index: int, start: int, stop: int) -> str:
        """Where the function was, for a note."""
        along = "" if self._axis is None else f" along axis {self._axis}"
        if index < 0:
            return f"for indices {describe_ranges(self._shown([(start, stop)]))}{along}"
        chunk = self._plan.limits(index // self._plan.chunksize)
        return f"for index {self._first + index}{along} (chunk {describe_ranges(self._shown([chunk]))})"

    def _shown(self, ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
        """Index ranges as the user knows them."""
        return tuple((self._first + start, self._first + stop) for start, stop in ranges)

    def note_report(self, chunk: int, report: Report) -> bool:
        """A worker process reports an exception; chunk -1 means before any chunk. Whether it counts."""
        if chunk < 0:
            with _lock:
                self._fatal = restore_exception(report, self._name, "before its first chunk")
                self._recovery.broken()
            return True
        where = self.describe(report.position, report.start, report.stop)
        exc = restore_exception(report, self._name, where)
        with _lock:
            if self._recovery.is_superseded(report.pid, chunk):
                return False
            self._note(chunk, report.start, report.stop, exc)
            return True

    def note_exception(
        self, chunk: int, exc: BaseException, index: int, start: int, stop: int, who: str
    ) -> None:
        """A function run in this process raised, or its result does not fit."""
        if not isinstance(exc, Exception):
            exc = stand_in(*describe_exception(exc)).with_traceback(exc.__traceback__)
        exc.add_note(f"raised by {self._name} {self.describe(index, start, stop)}, in {who}")
        advise(exc)
        self._note(chunk, start, stop, exc)

    def _note(self, chunk: int, start: int, stop: int, exc: Exception) -> None:
        """`start` and `stop` tell an item, if the rest of the chunk is done all the same; else the chunk."""
        if not self._job.keep_going:
            start, stop = self._plan.limits(chunk)
        if self._job.seed is not None and type(exc) is TypeError and "argument 'rng'" in str(exc):
            exc.add_note(
                "rng= gives the function a numpy.random.Generator as keyword argument 'rng'"
            )
        with _lock:
            self._forgive(start, stop)
            self._failures[start] = Failure(start, stop, exc)
            self._recovery.failed(chunk, is_whole=(start, stop) == self._plan.limits(chunk))

    def _forgive(self, start: int, stop: int) -> None:
        """Forget the failures in a range."""
        failures = self._failures
        if stop - start < len(failures):  # whichever is less: items fail by the hundred thousand
            found = [index for index in range(start, stop) if index in failures]
        else:
            found = [index for index in failures if start <= index < stop]
        for index in found:
            del failures[index]

    def note_death(
        self,
        dead: DeadWorker,
        cause: str,
        who: str,
        marks: bytes,
        *,
        stopped_at: int | None,
        overdue: int | None,
    ) -> Instructions:
        """A worker process died; see `Recovery.died`. `overdue`: index of the call that took too long."""
        chunk = None if overdue is None else overdue // self._plan.chunksize
        ranges = self._shown(self._plan.ranges(dead.inside))
        where = f" in indices {describe_ranges(ranges)}" if ranges else ""
        with _lock:
            self._collector.note_nothing(marks)
            told = self._recovery.died(
                dead._replace(overdue=chunk), marks, stopped_at, is_safe=self.is_safe()
            )
            if overdue is not None and told.is_overdue:
                self._note_overdue(overdue, who)
            else:
                self._causes.append(cause + where)
            self._forgive_chunks(told.again)
        return told

    def _note_overdue(self, index: int, who: str) -> None:
        """A call of the function took too long, for which its worker was ended."""
        start, stop = self._plan.limits(index // self._plan.chunksize)
        exc = TimeoutError(f"one call of {self._name} took longer than {self._job.timeout} s")
        shown = index if self._job.verb == "items" else -1
        exc.add_note(f"raised by {self._name} {self.describe(shown, start, stop)}, in {who}")
        self._forgive(start, stop)
        self._failures[start] = Failure(start, stop, exc)

    def note_loss(self, cause: str) -> None:
        """Chunks were lost elsewhere, and are not run again there."""
        with _lock:
            self._causes.append(cause)

    def note_lost_writes(self, names: Iterable[str]) -> None:
        """A worker has found captured variables changed that are copies there."""
        self._lost_writes.update(dict.fromkeys(names))

    # ------------------------------------------------ decisions

    def is_doomed(self) -> bool:
        with _lock:
            return self._recovery.is_doomed()

    def is_safe(self) -> bool:
        """Whether a chunk that may have been begun can be run again without being asked to."""
        return (
            not self._job.in_place
            and self._job.verb != "ranges"
            and (self._job.gather or not self._collector.returns_nothing)
        )

    def take_up(self, marks: bytes) -> list[int]:
        """The chunks that are left of a map that begins with this ledger, which are its first round."""
        left = undone(marks)
        self._recovery.take_up(left)
        return left

    def next_round(self, undone: list[int]) -> list[int]:
        """Which of the chunks that are not done are run in another round, which begins; see `Recovery`."""
        with _lock:
            again = self._recovery.next_round(undone, is_safe=self.is_safe())
            self._forgive_chunks(again)
        return again

    def _forgive_chunks(self, chunks: Iterable[int]) -> None:
        """Forget the failures of chunks that are run again."""
        for chunk in chunks if self._failures else ():
            self._forgive(*self._plan.limits(chunk))

    def attempts(self, chunks: Iterable[int]) -> dict[int, int]:
        return self._recovery.attempts(chunks)

    # ------------------------------------------------ the end

    def failed(self, undone: list[int]) -> list[tuple[int, int, str]]:
        """Ranges of items that failed or were lost, and by what, for a report."""
        if not (undone or self._failures):  # most maps
            return []
        with _lock:
            failures = sorted(self._failures.values(), key=lambda failure: failure.start)
            causes = "; ".join(dict.fromkeys(self._causes))
            lost = self._plan.ranges(self._lost(undone)) if causes else ()
        found = [(each.start, each.stop, describe_shortly(each.exception)) for each in failures]
        return sorted([*found, *((start, stop, causes) for start, stop in lost)])

    def finish(self, undone: list[int], marks: bytes) -> object:
        """The result, or the one exception the caller gets; `undone` and `marks` are of the ledger.

        That exception is the function's own, `WorkerDied` or `MapError`.
        """
        if not undone and not self._failures and self._fatal is None:  # most maps
            self._collector.take_marks(marks)
            result = self._collector.finish()
            return self._with_warning(result) if self._lost_writes else result
        with _lock:
            error = self._fatal
            failures = [self._failures[start] for start in sorted(self._failures)]
        try:
            if error is None:
                self._collector.note_nothing(marks)
                self._collector.confirm_output(marks)
                if not undone and not failures:
                    return self._with_warning(self._collector.finish())
                if callable(self._on_error):
                    return self._with_warning(self._substitute(undone, failures, self._on_error))
                error = self._make_error(undone, failures)
            raise_as_is(error)
        finally:
            # The traceback refers to this frame and those above: nothing in them may refer to the exception,
            # or all that they refer to would wait for the garbage collector.
            self._fatal = error = None
            self._failures.clear()
            failures.clear()

    def _with_warning(self, result: object) -> object:
        """The result, having warned of writes that were lost."""
        if self._lost_writes:
            warn_of(self._func, self._lost_writes)
        return result

    def _make_error(self, undone: list[int], failures: list[Failure]) -> Exception:
        lost = self._lost(undone)
        if not self._job.keep_going:
            ranges = self._plan.ranges(undone)
            if failures:
                first = failures[0].exception
                if len(failures) > 1:
                    others = len(failures) - 1
                    chunks = "chunk" if others == 1 else "chunks"
                    first.add_note(f"{others} other {chunks} failed as well")
                return first
            return self._make_death(lost, self._try_finish(ranges))
        self._add_losses(lost, failures)
        failed = merge_ranges((failure.start, failure.stop) for failure in failures)
        shown = self._shown(failed)
        return MapError(
            f"{self._name} failed for {describe_ranges(shown)}",
            [failure.exception for failure in failures],
            shown,
            self._try_finish(failed),
        )

    def _substitute(
        self,
        undone: list[int],
        failures: list[Failure],
        on_error: Callable[[Exception, int, int], object],
    ) -> object:
        """The result, with what `on_error` returns in the place of what failed."""
        lost = self._lost(undone)
        self._add_losses(lost, failures)
        first = self._first
        stand_ins = [
            StandIn(start, stop, on_error(exc, first + start, first + stop))
            for start, stop, exc in failures
        ]
        substitute(self._collector, stand_ins)
        return self._collector.finish()

    def _lost(self, undone: list[int]) -> list[int]:
        """Those of the chunks that are not done of which no failure was reported."""
        return [chunk for chunk in undone if not self._recovery.has_failed(chunk)]

    def _add_losses(self, lost: list[int], failures: list[Failure]) -> None:
        """Add the losses to the failures, in the place of those of single items there."""
        gone = set(lost)
        failures[:] = [each for each in failures if each.start // self._plan.chunksize not in gone]
        for start, stop in self._plan.ranges(lost):
            failures.append(Failure(start, stop, self._make_death(lost, None)))
        failures.sort(key=lambda failure: failure.start)

    def _try_finish(self, failed: tuple[tuple[int, int], ...]) -> object:
        try:
            return self._collector.finish(failed)
        except Exception:
            return None  # what there is does not even fit together

    def _make_death(self, lost: list[int], result: object) -> WorkerDied:
        ranges = self._shown(self._plan.ranges(lost))
        cause = "; ".join(dict.fromkeys(self._causes)) or "workers ended without a word"
        partly = (
            ". A range lost in place may be partly written"
            if self._job.in_place or self._job.out is not None
            else ""
        )
        return WorkerDied(
            f"{cause}. Not done by {self._name}: {describe_ranges(ranges)}{partly}", ranges, result
        )
