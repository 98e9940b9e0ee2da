"""What follows from failures and from the deaths of workers: events in, instructions out.

Arithmetic on chunk numbers alone, without processes, clocks or locks. `Outcome` has a `Recovery` for each map
and asks it behind its lock; `_team.roster` asks `pass_on` which calls the replacement of a dead worker gets.
The words and what must hold are in docs/design/worker-death.md, under "What follows".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from .._chunks import Mark, is_left

LOST_MAX = 1
"""How often a chunk is run again after it was lost with its worker, without being asked to. A chunk that
kills every worker it meets must not kill them all."""

DEATHS_MAX = 64
"""Deaths in one map after which it is given up, whatever the workers were at."""

EARLY_DEATHS_MAX = 3
"""The same for deaths in a row before any chunk was begun: loading the function may be what kills."""


class DeadWorker(NamedTuple):
    """What is known of a worker that died in a map."""

    rank: int
    pid: int
    tickets: range
    """Those it held."""
    inside: range
    """The chunk it was in, or those it went through as one; empty if it was in none."""
    has_successor: bool
    """Another worker takes its place in this map."""
    overdue: int | None = None
    """The chunk in which a call of the function took too long, for which the worker was ended."""
    drew_ns: int = 0
    """When it drew the tickets, by the monotonic clock."""


class Instructions(NamedTuple):
    """What follows from a worker's death."""

    lost: list[int]
    """Chunks that were begun and are not done."""
    not_to_begin: list[int]
    """Those that are to be marked LOST: the successor, which gets the same share, leaves them out."""
    again: dict[int, int]
    """Chunks that the successor is to do first, and how often each of them was begun before."""
    is_overdue: bool
    """It died of the call that took too long, and that chunk has failed."""
    stop_at: int | None = None
    """No chunk above this one is to be started any more. None: the map goes on."""
    resumes: bool = False
    """The map was stopped for a chunk that is done again, and for nothing else."""

    @property
    def is_given_up(self) -> bool:
        """Whether no worker is to get the call again."""
        return self.stop_at == -1


class Recovery:
    """What was begun, failed or lost in one map.

    `keep_going`: chunks that fail or are lost do not end the map. `is_static`: in the first round each worker
    has its own share of the chunks.
    """

    def __init__(self, retries: int, *, keep_going: bool, is_static: bool) -> None:
        self._retries = retries
        self._keep_going = keep_going
        self._is_static = is_static
        self._round: Sequence[int] | None = None
        """Chunk of each ticket; None: tickets are chunk numbers."""
        self._given: dict[int, Iterable[int]] = {}
        """What the worker on a rank was to do first in the place of its predecessor."""
        self._begun: dict[int, int] = {}
        """How often a chunk was begun by a worker that did not live to hand it over."""
        self._losses: dict[int, int] = {}
        """How often a chunk was lost, or overdue."""
        self._failed: set[int] = set()
        """Chunks that have failed as a whole, so that nothing else is to be told of them."""
        self._overdue: set[int] = set()
        """Those of them whose last failure is that a call took too long."""
        self._superseded: set[tuple[int, int]] = set()
        """Dead workers' pids and chunks that are done again: what those have said of these is ignored."""
        self._deaths = 0
        self._early_deaths = 0
        """Deaths in a row in no chunk."""
        self._is_cut_short = False
        """A chunk is lost for good, or nothing can be done at all, so that the map is to end."""
        self._is_broken = False

    # ------------------------------------------------ events

    def broken(self) -> None:
        """The function cannot be called at all."""
        self._is_broken = self._is_cut_short = True

    def failed(self, chunk: int, *, is_whole: bool) -> None:
        """The function has failed in a chunk; `is_whole`: and nothing else is to be told of that."""
        if is_whole:
            self._failed.add(chunk)
        self._overdue.discard(chunk)

    def is_superseded(self, pid: int, chunk: int) -> bool:
        """Whether what a worker has said of a chunk is to be ignored."""
        return (pid, chunk) in self._superseded

    def died(
        self, dead: DeadWorker, marks: bytes, stopped_at: int | None, *, is_safe: bool
    ) -> Instructions:
        """A worker has died. `marks`: the ledger; `stopped_at`: the last chunk to start, if it was stopped.

        `is_safe`: a chunk that was begun can be run again without being asked to.
        """
        claim = self._chunks_of(dead.tickets)
        inside = dead.inside
        # The rest of what it had drawn is as good as not drawn.
        begun = list(claim[: claim.index(inside[-1]) + 1]) if inside and inside[-1] in claim else []
        held, not_to_begin = claim, []
        if self._is_static and self._round is None:
            held = begun  # its successor gets the same share, and does the rest
            not_to_begin = [chunk for chunk in begun if marks[chunk] == Mark.PENDING]
        given = self._given.pop(dead.rank, ())
        begun += [chunk for chunk in inside if chunk in given]
        left = [chunk for chunk in dict.fromkeys([*given, *held]) if is_left(marks[chunk])]
        lost = [chunk for chunk in begun if is_left(marks[chunk])]
        overdue = dead.overdue
        if overdue is not None and is_left(marks[overdue]):  # else it had just gone on
            lost = sorted({overdue, *lost})
            inside = range(overdue, overdue + 1)
            self._failed.add(overdue)
            self._overdue.add(overdue)
        else:
            overdue = None
            self._deaths += 1
            self._early_deaths = 0 if inside else self._early_deaths + 1
        self._count(lost, inside, is_safe)
        told = Instructions(lost, not_to_begin, {}, overdue is not None)
        if self._is_given_up():
            self._is_cut_short = True
            return told._replace(stop_at=-1)
        if not self._keep_going and any(not self._may_run(chunk, is_safe) for chunk in lost):
            self._is_cut_short = True
            return told._replace(stop_at=min(lost))
        again = [chunk for chunk in dict.fromkeys([*left, *lost]) if self._may_run(chunk, is_safe)]
        self._superseded.update((dead.pid, chunk) for chunk in again)
        again = [chunk for chunk in again if chunk in left] if dead.has_successor else []
        self._forgive(again)
        if again:
            self._given[dead.rank] = again
        resumes = stopped_at in again and not self.is_doomed()
        return told._replace(again=self.attempts(again), resumes=resumes)

    def take_up(self, left: Sequence[int]) -> None:
        """Before any other event: only these chunks are run in the first round."""
        self._round = left

    def next_round(self, undone: Collection[int], *, is_safe: bool) -> list[int]:
        """Which of the chunks that are not done are run in another round, which begins; none: the map ends.

        *Requires*: all workers have left the round before, and nothing of it is read any more.
        """
        if self._is_broken or self._is_given_up():
            return []
        if not self._keep_going:
            if not self._failed.issubset(undone):
                return []
            if not all(self._may_run(chunk, is_safe) for chunk in undone):
                return []  # something has failed or is lost for good: no use in going on
        again = [chunk for chunk in undone if self._may_run(chunk, is_safe)]
        self._forgive(again)
        if again:
            self._round = again
            self._given.clear()
            self._superseded.clear()
        return again

    # ------------------------------------------------ questions

    def is_doomed(self) -> bool:
        """Whether it is known by now why the map is to end, where it does not go on in any case."""
        return self._is_cut_short or bool(self._failed)

    def has_failed(self, chunk: int) -> bool:
        """Whether a chunk has failed as a whole."""
        return chunk in self._failed

    def attempts(self, chunks: Iterable[int]) -> dict[int, int]:
        """How often each of these chunks was begun before."""
        return {chunk: self._begun.get(chunk, 0) for chunk in chunks}

    # ------------------------------------------------ decisions

    def _chunks_of(self, tickets: range) -> Sequence[int]:
        return tickets if self._round is None else [self._round[ticket] for ticket in tickets]

    def _count(self, lost: list[int], inside: range, is_safe: bool) -> None:
        for chunk in lost:
            self._begun[chunk] = self._begun.get(chunk, 0) + 1
            # The others had run well, and only their results are gone: no fault of theirs.
            if chunk in inside or not is_safe:
                self._losses[chunk] = self._losses.get(chunk, 0) + 1

    def _is_given_up(self) -> bool:
        """Whether too many workers have died to go on."""
        return self._early_deaths > EARLY_DEATHS_MAX or self._deaths > DEATHS_MAX

    def _may_run(self, chunk: int, is_safe: bool) -> bool:
        """Whether a chunk that is not done is to be run (again)."""
        allowed = self._retries
        if chunk in self._failed:
            if chunk not in self._overdue:
                return False  # it was tried as often as `retries` says, before that was told
        elif is_safe:
            allowed = max(allowed, LOST_MAX)
        return self._losses.get(chunk, 0) <= allowed

    def _forgive(self, chunks: Iterable[int]) -> None:
        self._failed.difference_update(chunks)
        self._overdue.difference_update(chunks)


def pass_on(calls: Mapping[int, bool], replaced: Mapping[int, int], most: int) -> list[int]:
    """Which calls of a dead worker its replacement gets. It is replaced if there are any.

    `calls`: for each that it had not left, whether a replacement is to get it again; `replaced`: how often
    that has happened for each. A call causes `most` replacements.
    """
    return [seq for seq, again in calls.items() if again and replaced.get(seq, 0) < most]
