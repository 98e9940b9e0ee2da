"""What becomes of a range of chunks on its node: where it is cut, what it gives, what of it has failed.

A range is a map of its own there, and its results and failures are the caller's to put together. So its
outcome raises nothing but gathers, and what its collector has is told in pieces, as it came, so that dtypes
meet in the caller as they do on one machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

from .._chunks import Job, Mark, Piece, is_done
from .._results import Collector, DeadWorker, Fold, Folding, Instructions, Outcome
from .._system.forks import make_lock
from .._wire import Report, report_exception


class Answer(NamedTuple):
    """What came of a range; chunks and items are counted from the beginning of the map."""

    stop: int
    """The chunk at which it has ended: less than was asked for if it was cut."""
    marks: bytes
    """Of each chunk below."""
    pieces: list[Piece]
    failures: list[tuple[int, Report]]
    """By chunk; the report says which item."""
    causes: list[str]
    """Why chunks are lost of which no failure is told."""
    lost_writes: list[str]
    fatal: Report | None = None
    """Why the map cannot go on."""


class _Cut(Protocol):
    """A map on a team, see `_engines.processes`."""

    def cut(self, choose: Callable[[int], int | None]) -> int | None:
        """Start no chunk above the one that `choose` says; how many were drawn before that was in force."""


# | field         | written by     | read by        | what must hold
# | _limit        | cutting thread | all            | under `_lock`, taken before that of the team; it never
# |               |                |                | grows, and is not below `_top`; read without it, too
# | _top          | the map        | cutting thread | under `_lock`
# | _is_starting, | the map, once  | cutting thread | under `_lock`
# | _work         |                |                |
class Limit:
    """Where a range ends, which may be said while it runs; chunks are counted from its beginning."""

    def __init__(self, chunks: int) -> None:
        self._lock = make_lock()
        self._limit = chunks
        self._top = 0
        """Above all chunks whose results were taken."""
        self._work: _Cut | None = None
        self._is_starting = False

    @property
    def at(self) -> int:
        return self._limit

    def start(self) -> int:
        """It is about to be run: how many chunks of it. Until it is known what has begun, it is not cut."""
        with self._lock:
            self._is_starting = True
            return self._limit

    def started(self, work: _Cut) -> None:
        """It runs."""
        with self._lock:
            self._work = work

    def end(self) -> int | None:
        """Keep what has begun, if anything has."""
        return self.cut(0.0, has_begun=True)

    def cut(self, keep: float, *, has_begun: bool = False) -> int | None:
        """Keep that part of what is not begun yet; where it ends now, None if as before.

        `has_begun`: only if anything is.
        """
        with self._lock:
            limit = wanted = self._limit

            def choose(drawn: int) -> int | None:
                nonlocal wanted
                if has_begun and not drawn:
                    return None
                wanted = drawn + math.ceil((limit - drawn) * keep)
                return wanted - 1 if wanted < limit else None

            if self._work is None and self._is_starting:
                return None
            if self._work is None:
                drawn = None if choose(0) is None else 0
            else:
                drawn = self._work.cut(choose)
            if drawn is None:
                return None
            # What was drawn meanwhile may have begun. What of it has not is run in a further round.
            at = max(wanted, drawn, self._top)
            if at >= limit:
                return None
            self._limit = at
            return at

    def settled(self) -> int:
        """Where it ends, in the thread that waits for it: no cut is being made just now."""
        with self._lock:
            return self._limit

    def admit(self, pieces: list[Piece]) -> list[Piece]:
        """Those pieces, of one chunk each, that are below; it is not cut below them any more."""
        with self._lock:
            below = [piece for piece in pieces if piece[0] < self._limit]
            self._top = max([self._top, *[last for _, last, _ in below]])
        return below


class PartOutcome(Outcome):
    """Failures and losses of a range. Instead of a result it gives an `Answer`."""

    def __init__(
        self,
        job: Job,
        collector: Collector,
        func: Callable[..., object],
        limit: Limit,
        first: int,
        host: str,
    ) -> None:
        super().__init__(job, collector, func, on_error="raise", axis=None)
        self._limit = limit
        self._first_chunk = first
        self._host = host
        self._reports: dict[int, Report] = {}
        """By identity of the exception that was made of it."""
        self._taking: Report | None = None

    def note_report(self, chunk: int, report: Report) -> bool:
        """Keep it as it came, too: from the exception that is made of it no equal one could be made."""
        self._taking = report
        try:
            return super().note_report(chunk, report)
        finally:
            self._taking = None

    def _note(self, chunk: int, start: int, stop: int, exc: Exception) -> None:
        if self._taking is not None:
            self._reports[id(exc)] = self._taking
        super()._note(chunk, start, stop, exc)

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
        """See `Outcome`; that the range was cut is nothing to be taken back."""
        if stopped_at == self._limit.at - 1:
            stopped_at = None
        return super().note_death(dead, cause, who, marks, stopped_at=stopped_at, overdue=overdue)

    def next_round(self, undone: list[int]) -> list[int]:
        at = self._limit.settled()
        return super().next_round([chunk for chunk in undone if chunk < at])

    def finish(self, undone: list[int], marks: bytes) -> Answer:
        """What to tell the caller."""
        collector, at, first = self._collector, self._limit.settled(), self._first_chunk
        if self._fatal is not None:
            raise self._fatal
        collector.note_nothing(marks)
        collector.confirm_output(marks)
        marks = marks[:at]
        failures = [
            (first + failure.start // self._plan.chunksize, self._report(failure.exception, *span))
            for span in sorted((each.start, each.stop) for each in self._failures.values())
            for failure in (self._failures[span[0]],)
            if failure.start < at * self._plan.chunksize
        ]
        told = {chunk - first for chunk, _ in failures}
        is_whole = all(is_done(mark) or chunk in told for chunk, mark in enumerate(marks))
        causes = [] if is_whole else list(dict.fromkeys(self._causes))
        return Answer(
            stop=first + at,
            marks=_as_handed(marks, self._job),
            pieces=[(a + first, b + first, piece) for a, b, piece in self._pieces(marks)],
            failures=failures,
            causes=[f"{cause}, on {self._host}" for cause in causes],
            lost_writes=list(self._lost_writes),
        )

    def _report(self, exc: Exception, start: int, stop: int) -> Report:
        """A failure as the caller is told of it, by indices of the whole map."""
        report = self._reports.get(id(exc))
        by = self._job.first - self._first_index
        if report is None:
            exc.add_note(f"on {self._host}")
            report = report_exception(exc, -1, start, stop, -1, 0)._replace(is_noted=True)
        else:
            start, stop = report.start, report.stop
        position = report.position if report.position < 0 else report.position + by
        return report._replace(position=position, start=start + by, stop=stop + by, host=self._host)

    @property
    def _first_index(self) -> int:
        """Of the map, which may itself be a window of an iterator."""
        return self._job.first - self._first_chunk * self._plan.chunksize

    def _pieces(self, marks: bytes) -> list[Piece]:
        """What was handed over, and what is in place: clipped to where the range has ended."""
        collector, job, at, size = self._collector, self._job, len(marks), self._plan.chunksize
        if isinstance(collector, PartFolding):
            return collector.parts()
        kept = [(first, last, piece) for first, (last, piece) in collector.pieces.in_order()]
        pieces = [clipped(piece, at, job) for piece in kept if piece[0] < at]
        if job.gather:
            return pieces
        if job.store or collector.columns is None:
            return pieces
        elsewhere = {chunk for a, b, _ in pieces for chunk in range(a, b)}
        runs: list[list[int]] = []
        for chunk, mark in enumerate(marks):
            if not is_done(mark) or mark == Mark.NOTHING or chunk in elsewhere:
                continue
            if runs and runs[-1][1] == chunk:
                runs[-1][1] = chunk + 1
            else:
                runs.append([chunk, chunk + 1])
        for a, b in runs:
            columns = tuple([c[a * size : b * size] for c in collector.columns])
            pieces.append((a, b, (collector.kind, columns)))
        return sorted(pieces, key=lambda piece: piece[0])


def _as_handed(marks: bytes, job: Job) -> bytes:
    """The marks as the caller's ledger has them: what was in place here is handed over there."""
    if job.gather or job.store:
        return marks
    return marks.replace(bytes([Mark.DONE]), bytes([Mark.HANDED]))


class PartFolding(Folding):
    """Puts partials together as far as they stand for complete subtrees of the whole map's tree."""

    def __init__(self, job: Job, fold: Fold, limit: Limit, first: int, leaves: int) -> None:
        super().__init__(job, fold, leaves, first)
        self._limit = limit

    def add(self, pieces: list[Piece]) -> None:
        super().add(self._limit.admit(pieces))

    def parts(self) -> list[Piece]:
        """What there is: partials of subtrees, with their chunks counted from the beginning of the range."""
        first = self._first_leaf
        return [(a - first, b - first, value) for a, b, value in self._tree.parts()]


def clipped(piece: Piece, stop: int, job: Job) -> Piece:
    """What of a piece lies below a chunk. A partial is of one subtree, and never cut."""
    first, last, results = piece
    if last <= stop:
        return piece
    rows = (stop - first) * job.plan.chunksize
    if job.gather:
        return first, stop, results[:rows]
    kind, columns = results
    return first, stop, (kind, tuple([column[:rows] for column in columns]))
