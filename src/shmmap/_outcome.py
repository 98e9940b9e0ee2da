"""What became of a map's chunks: failures, losses, what is run again, and what the caller gets in the end.

The same for every engine. An engine reports failures and deaths, and the chunks the ledger shows as not
done; here it is decided which of those are run again, and whether the map returns or raises.

A chunk that was lost with its worker is run again by itself where that is *safe*: the map writes no output
that is one of its inputs, and its function returns something, which is taken to mean that it does not work
by writing into shared arrays (`Outcome.is_safe`, the one place that decides it). At most `LOST_MAX` times:
a chunk that kills every worker it meets must not kill them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ._collect import Collector
from ._errors import MapError, RemoteError, WorkerDied, describe_ranges
from ._kernel import Job
from ._messages import Report, describe_exception, restore_exception
from ._plan import Plan, merge_ranges

__all__ = ["LOST_MAX", "Failure", "Outcome"]

LOST_MAX = 1


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
        plan: Plan,
        collector: Collector,
        name: str,
        *,
        in_place: bool,
        on_error: str | Callable[[Exception, int, int], Any],
        retries: int,
        axis: Any,
    ) -> None:
        self._job = job
        self._plan = plan
        self._collector = collector
        self._name = name
        self._in_place = in_place
        self._on_error = on_error
        self._retries = retries
        self._axis = axis
        self._failures: dict[int, Failure] = {}
        """By chunk; what is known last counts."""
        self._attempts: dict[int, int] = {}
        self._losses: dict[int, int] = {}
        self._causes: list[str] = []

    # ------------------------------------------------ reports

    def describe(self, index: int, start: int, stop: int) -> str:
        """Where the function was, for a note."""
        what = "for index" if index >= 0 else "for indices"
        which = str(index) if index >= 0 else f"[{start}, {stop})"
        along = "" if self._axis is None else f" along axis {self._axis}"
        chunk = f" (chunk [{start}, {stop}))" if index >= 0 else ""
        return f"{what} {which}{along}{chunk}"

    def note_report(self, chunk: int, report: Report) -> None:
        """A worker process reports an exception; chunk -1 means before any chunk."""
        if chunk < 0:
            where = "before its first chunk"
        else:
            where = self.describe(report.position, report.start, report.stop)
        self._note(chunk, restore_exception(report, self._name, where))

    def note_exception(
        self, chunk: int, exc: BaseException, index: int, start: int, stop: int, who: str
    ) -> None:
        """A function run in this process raised."""
        if not isinstance(exc, Exception):
            name, text = describe_exception(exc)
            exc = RemoteError(f"{name}: {text}").with_traceback(exc.__traceback__)
        exc.add_note(f"raised by {self._name} {self.describe(index, start, stop)}, in {who}")
        self._note(chunk, exc)

    def _note(self, chunk: int, exc: Exception) -> None:
        start, stop = self._plan.limits(chunk) if chunk >= 0 else (0, self._plan.n)
        self._failures[chunk] = Failure(start, stop, exc)
        self._attempts[chunk] = self._attempts.get(chunk, 0) + 1

    def note_death(self, cause: str, current: int, lost: Iterable[int]) -> None:
        """A worker died in chunk `current`; of the chunks it had begun, `lost` are not done."""
        self._causes.append(cause)
        for chunk in lost:
            # The others had run well, and only their results are gone: no fault of theirs.
            if chunk == current or not self.is_safe():
                self._losses[chunk] = self._losses.get(chunk, 0) + 1

    # ------------------------------------------------ decisions

    @property
    def keeps_going(self) -> bool:
        """Whether a failed chunk leaves the others running."""
        return self._on_error != "raise" or self._retries > 0

    def is_safe(self) -> bool:
        """Whether a chunk that may have been begun can be run again without being asked to."""
        return (
            not self._in_place
            and self._job.verb != "ranges"
            and (self._job.gather or self._collector.kind is not None)
        )

    def gives_up_on(self, lost: Iterable[int]) -> bool:
        """Whether losing these chunks ends the map."""
        return self._on_error == "raise" and any(not self._again(chunk) for chunk in lost)

    def _again(self, chunk: int) -> bool:
        if -1 in self._failures:
            return False
        losses, attempts = self._losses.get(chunk, 0), self._attempts.get(chunk, 0)
        if attempts and chunk in self._failures:
            return attempts + losses <= self._retries
        if losses:
            allowed = max(self._retries, LOST_MAX) if self.is_safe() else self._retries
            return losses <= allowed
        return True  # drawn or not, it was never begun

    def todo(self, undone: list[int]) -> list[int]:
        """Which chunks are to be run (again) in another round."""
        if -1 in self._failures:
            return []
        if not self.keeps_going and self._failures:
            return []
        again = [chunk for chunk in undone if self._again(chunk)]
        if self._on_error == "raise" and len(again) < len(undone):
            return []  # something is lost for good: no use in going on
        for chunk in again:
            self._failures.pop(chunk, None)
        return again

    # ------------------------------------------------ the end

    def finish(self, undone: list[int]) -> Any:
        """The result, or the one exception the caller gets. `undone` is what the ledger says.

        Raises
        ------
        Exception
            The function's own; `WorkerDied`; `MapError`.
        """
        if -1 in self._failures:
            raise self._failures[-1].exception
        if not undone and not self._failures:
            return self._collector.finish()
        ordered = sorted(self._failures.items())
        lost = [chunk for chunk in undone if chunk not in self._failures]
        if self._on_error == "raise":
            if ordered:
                first = ordered[0][1]
                if len(ordered) > 1:
                    first.exception.add_note(f"{len(ordered) - 1} other chunks failed as well")
                raise first.exception
            raise self._make_death(lost, self._try_finish(undone))
        failures = [failure for _, failure in ordered]
        for start, stop in self._plan.ranges(lost):
            failures.append(Failure(start, stop, self._make_death(lost, None)))
        failures.sort(key=lambda failure: failure.start)
        if callable(self._on_error):
            return self._substitute(failures)
        failed = merge_ranges((failure.start, failure.stop) for failure in failures)
        raise MapError(
            f"{self._name} failed for {describe_ranges(failed)}",
            [failure.exception for failure in failures],
            failed,
            self._try_finish(sorted({*undone, *self._failures})),
        )

    def _try_finish(self, failed: list[int]) -> Any:
        try:
            return self._collector.finish(failed)
        except Exception:
            return None  # what there is does not even fit together

    def _make_death(self, lost: list[int], result: Any) -> WorkerDied:
        ranges = self._plan.ranges(lost)
        cause = "; ".join(dict.fromkeys(self._causes)) or "workers ended without a word"
        partly = (
            ". A range lost in place may be partly written"
            if self._in_place or self._job.out is not None
            else ""
        )
        return WorkerDied(
            f"{cause}. Not done by {self._name}: {describe_ranges(ranges)}{partly}", ranges, result
        )

    def _substitute(self, failures: list[Failure]) -> Any:
        assert callable(self._on_error)
        job, collector = self._job, self._collector
        values = [(f, self._on_error(f.exception, f.start, f.stop)) for f in failures]
        if job.gather:
            for failure, value in values:
                for k in range(failure.start // job.chunksize, -(-failure.stop // job.chunksize)):
                    start, stop = self._plan.limits(k)
                    single = job.verb != "items"
                    collector.pieces[k] = value if single else [value] * (stop - start)
            return collector.finish()
        undone = [
            k
            for f, _ in values
            for k in range(f.start // job.chunksize, -(-f.stop // job.chunksize))
        ]
        result = collector.finish(undone)
        if collector.columns is not None:
            for failure, value in values:
                cells = value if isinstance(value, tuple) else (value,) * len(collector.columns)
                for column, cell in zip(collector.columns, cells, strict=True):
                    column[failure.start : failure.stop] = cell
        return result
