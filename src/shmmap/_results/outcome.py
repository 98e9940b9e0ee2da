"""What became of a map's chunks: failures, losses, what is run again, and what the caller gets in the end.

The same for every engine. An engine reports failures and deaths, and the chunks the ledger shows as not
done; here it is decided which of those are run again, and whether the map returns or raises.

A chunk that was lost with its worker is run again by itself where that is *safe*: the map writes no output
that is one of its inputs, and its function returns something, which is taken to mean that it does not work
by writing into shared arrays (`Outcome.is_safe`, the one place that decides it). At most `LOST_MAX` times:
a chunk that kills every worker it meets must not kill them all. Chunks that were drawn and not begun are
run again in any case.

Two threads come here: the one that waits for the map, and the monitor, which hears of deaths. All state is
behind one door, a lock that each public method takes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from .._chunks import Job, merge_ranges, warn_of
from .._errors.exceptions import MapError, WorkerDied, describe_ranges
from .._wire import (
    Report,
    advise,
    describe_exception,
    name_of,
    raise_as_is,
    restore_exception,
    stand_in,
)
from .collect import Collector
from .stand_ins import StandIn, substitute

LOST_MAX = 1
"""How often a chunk is run again after it was lost with its worker, without being asked to."""


DEATHS_MAX = 64
"""Deaths in one map after which it is given up, whatever the workers were at."""

EARLY_DEATHS_MAX = 3
"""The same for deaths in a row before any chunk was begun."""


class Failure(NamedTuple):
    """One failed call of the function."""

    start: int
    stop: int
    exception: Exception


class Verdict(NamedTuple):
    """What follows from a worker's end."""

    stop_at: int | None
    """No chunk above this one is to be started any more; -1: the map is given up. None: it goes on."""
    again: list[int]
    """Chunks that the successor is to do first."""


class Outcome:
    """Failures and losses of one map."""

    def __init__(
        self,
        job: Job,
        collector: Collector,
        func: Callable[..., Any],
        *,
        on_error: str | Callable[[Exception, int, int], Any],
        axis: Any,
    ) -> None:
        self._job = job
        self._plan = job.plan
        self._collector = collector
        self._func = func
        self._on_error = on_error
        self._axis = axis
        self._first = job.first
        self._door = threading.RLock()
        self._failures: dict[int, Failure] = {}
        """By first index; one per range."""
        self._fatal: Exception | None = None
        """Raised before any chunk: the function did not unpickle, say."""
        self._losses: dict[int, int] = {}
        """How often a chunk was lost, or stuck."""
        self._begun: dict[int, int] = {}
        """How often a chunk was begun by a worker that did not live to hand it over."""
        self._stuck: set[int] = set()
        """Chunks whose last failure is that a call in them took too long."""
        self._is_cut_short = False
        """Something was lost for good, so that the map is to end."""
        self._early_deaths = 0
        """Deaths in a row in no chunk: loading the function may be what kills."""
        self._causes: list[str] = []
        """One per death."""
        self._lost_writes: dict[str, None] = {}
        """Captured variables that the function has changed where they are copies."""
        self._void: set[tuple[int, int]] = set()
        """Dead workers' pids and the chunks that others do again: what those still say of them is out of
        date, however late it is read."""

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
            with self._door:
                self._fatal = restore_exception(report, self._name, "before its first chunk")
            return True
        where = self.describe(report.position, report.start, report.stop)
        exc = restore_exception(report, self._name, where)
        with self._door:
            if (report.pid, chunk) in self._void:
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
        with self._door:
            self._forgive(start, stop)
            self._failures[start] = Failure(start, stop, exc)
            self._stuck.discard(chunk)

    def _forgive(self, start: int, stop: int) -> None:
        """Forget the failures in a range."""
        failures = self._failures
        if stop - start < len(failures):  # whichever is less: items fail by the hundred thousand
            found = [index for index in range(start, stop) if index in failures]
        else:
            found = [index for index in failures if start <= index < stop]
        for index in found:
            del failures[index]

    def _has_failed(self, chunk: int) -> bool:
        """Whether a chunk has failed as a whole, so that nothing else is to be told of it."""
        start, stop = self._plan.limits(chunk)
        failure = self._failures.get(start)
        return failure is not None and failure.stop == stop

    def note_stuck(
        self,
        chunk: int,
        index: int,
        exc: Exception,
        who: str,
        lost: Sequence[int],
        pid: int,
        undone: list[int],
    ) -> Verdict:
        """A call took too long, and its worker was ended; `lost` and `undone` as for `note_death`."""
        start, stop = self._plan.limits(chunk)
        exc.add_note(f"raised by {self._name} {self.describe(index, start, stop)}, in {who}")
        with self._door:
            lost = sorted({chunk, *lost})
            self._count(lost, range(chunk, chunk + 1))
            self._forgive(start, stop)
            self._failures[start] = Failure(start, stop, exc)
            self._stuck.add(chunk)
            return self._judge(lost, pid, undone)

    def note_death(
        self, cause: str, current: range, lost: Sequence[int], pid: int, undone: list[int]
    ) -> Verdict:
        """A worker died in one of the chunks `current`; of those it had begun, `lost` are not done.

        `undone`: what it leaves in all.
        """
        ranges = self._shown(self._plan.ranges(current))
        where = f" in indices {describe_ranges(ranges)}" if ranges else ""
        with self._door:
            self._early_deaths = 0 if current else self._early_deaths + 1
            self._causes.append(cause + where)
            self._count(lost, current)
            return self._judge(lost, pid, undone)

    def _count(self, lost: Sequence[int], current: range) -> None:
        """Count what was begun and lost by a worker that was in one of the chunks `current`."""
        for chunk in lost:
            self._begun[chunk] = self._begun.get(chunk, 0) + 1
            # The others had run well, and only their results are gone: no fault of theirs.
            if chunk in current or not self.is_safe():
                self._losses[chunk] = self._losses.get(chunk, 0) + 1

    def note_lost_writes(self, names: Iterable[str]) -> None:
        """A worker has found captured variables changed that are copies there."""
        self._lost_writes.update(dict.fromkeys(names))

    # ------------------------------------------------ decisions

    def is_doomed(self) -> bool:
        """Whether it is known by now why the map is to end, where it does not go on in any case."""
        with self._door:
            return self._is_cut_short or bool(self._failures) or self._fatal is not None

    def is_safe(self) -> bool:
        """Whether a chunk that may have been begun can be run again without being asked to."""
        return (
            not self._job.in_place
            and self._job.verb != "ranges"
            and (self._job.gather or not self._collector.returns_nothing)
        )

    def _judge(self, lost: Sequence[int], pid: int, undone: list[int]) -> Verdict:
        if self._is_given_up():
            self._is_cut_short = True
            return Verdict(-1, [])
        if not self._job.keep_going and any(not self._again(chunk) for chunk in lost):
            self._is_cut_short = True
            return Verdict(min(lost), [])
        again = self._select(undone)
        self._void.update((pid, chunk) for chunk in again)
        return Verdict(None, again)

    def _is_given_up(self) -> bool:
        """Whether too many workers have died to go on."""
        return self._early_deaths > EARLY_DEATHS_MAX or len(self._causes) > DEATHS_MAX

    def _again(self, chunk: int) -> bool:
        allowed = self._job.retries
        if self._has_failed(chunk):
            if chunk not in self._stuck:
                return False  # it was tried as often as `retries` says, before that was told
        elif self.is_safe():
            allowed = max(allowed, LOST_MAX)
        return self._losses.get(chunk, 0) <= allowed

    def todo(self, undone: list[int]) -> list[int]:
        """Which chunks are to be run (again) in another round."""
        with self._door:
            if self._fatal is not None or self._is_given_up():
                return []
            if not self._job.keep_going:
                failed = {start // self._plan.chunksize for start in self._failures}
                if not failed.issubset(undone) or not all(map(self._again, undone)):
                    return []  # something has failed or is lost for good: no use in going on
            return self._select(undone)

    def _select(self, undone: list[int]) -> list[int]:
        """Those of the chunks that are to be run (again), whose failures are forgiven."""
        again = [chunk for chunk in undone if self._again(chunk)]
        for chunk in again if self._failures else ():
            self._forgive(*self._plan.limits(chunk))
        return again

    def attempts(self, chunks: Iterable[int]) -> dict[int, int]:
        """How often each of these chunks was begun before."""
        return {chunk: self._begun.get(chunk, 0) for chunk in chunks}

    # ------------------------------------------------ the end

    def finish(self, undone: list[int], marks: bytes) -> Any:
        """The result, or the one exception the caller gets; `undone` and `marks` are of the ledger.

        Raises
        ------
        Exception
            The function's own; `WorkerDied`; `MapError`.
        """
        if not undone and not self._failures and self._fatal is None:  # most maps
            self._collector.note_nothing(marks)
            self._collector.check_handed(marks)
            return self._with_warning(self._collector.finish())
        with self._door:
            error = self._fatal
            failures = [self._failures[start] for start in sorted(self._failures)]
        try:
            if error is None:
                self._collector.note_nothing(marks)
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

    def _with_warning(self, result: Any) -> Any:
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
        on_error: Callable[[Exception, int, int], Any],
    ) -> Any:
        """The result, with what `on_error` returns in the place of what failed."""
        lost = self._lost(undone)
        self._add_losses(lost, failures)
        first = self._first
        stand_ins = [
            StandIn(start, stop, on_error(exc, first + start, first + stop))
            for start, stop, exc in failures
        ]
        if not self._job.gather:
            self._collector.settle()
        substitute(self._collector, stand_ins)
        return self._collector.finish()

    def _lost(self, undone: list[int]) -> list[int]:
        """Chunks that nobody has said to have failed."""
        return [chunk for chunk in undone if not self._has_failed(chunk)]

    def _add_losses(self, lost: list[int], failures: list[Failure]) -> None:
        """Add the losses to the failures, in the place of those of single items there."""
        gone = set(lost)
        failures[:] = [each for each in failures if each.start // self._plan.chunksize not in gone]
        for start, stop in self._plan.ranges(lost):
            failures.append(Failure(start, stop, self._make_death(lost, None)))
        failures.sort(key=lambda failure: failure.start)

    def _try_finish(self, failed: tuple[tuple[int, int], ...]) -> Any:
        try:
            return self._collector.finish(failed)
        except Exception:
            return None  # what there is does not even fit together

    def _make_death(self, lost: list[int], result: Any) -> WorkerDied:
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
