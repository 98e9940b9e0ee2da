"""Who is alive and holds what: a pure state machine. Events in, decisions out; no process, no socket.

A *seat* is a rank of the team and whoever sits on it now. A worker that dies leaves its seat with its
calls; the decision made here, and only here, is whether the seat is filled again, and which calls the
replacement gets. It gets every call that others are still in, with nothing but the chance to draw: what
the dead worker had drawn is in the ledger, and the map decides about it.

What must always hold: a seat whose worker said that it cannot start, or that died twice before it was
ready, is not filled again for the same calls (a broken start would repeat for ever), and a call causes a
bounded number of replacements.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from .._results import pass_on

# A worker may be killed from outside while it starts; one that dies twice cannot start at all.
FALSE_STARTS_MAX = 1

EMPTY, STARTING, READY = "empty", "starting", "ready"


@dataclass(slots=True)
class Seat:
    """One rank of a team."""

    rank: int
    state: str = EMPTY
    false_starts: int = 0
    """Workers in a row that died before they were ready."""
    calls: dict[int, bool] = field(default_factory=dict)
    """Calls not left yet, in order; whether a replacement is to get the call again."""


@dataclass(frozen=True, slots=True)
class Departure:
    """What a worker's death means."""

    is_broken_start: bool
    """It cannot start: its initializer failed, or it died while starting for the second time."""
    again: tuple[int, ...]
    """Calls that its replacement gets. It is replaced if there are any."""
    lost: tuple[int, ...]
    """Calls that it held and nobody gets again."""


class Roster:
    """The seats of a team."""

    def __init__(self, limit: int = 8) -> None:
        self.seats: dict[int, Seat] = {}
        self._limit = limit
        """Replacements that one call may cause, per seat."""
        self._filled = 0
        """All ranks below it are taken."""
        self._replaced: dict[int, int] = {}

    def fill(self, size: int) -> list[int]:
        """Ranks to start so that ranks 0 to `size` - 1 are taken; they count as starting."""
        started = []
        for rank in range(size):
            seat = self.seats.setdefault(rank, Seat(rank))
            if seat.state == EMPTY:
                seat.state = STARTING
                started.append(rank)
        self._filled = max(self._filled, size)
        return started

    def is_filled(self, size: int) -> bool:
        """Whether `fill` would start nobody."""
        return size <= self._filled  # a number, as every call asks

    def has_started(self, size: int) -> bool:
        """Whether there are workers on the first `size` ranks that have said that they have started."""
        for rank in range(size):
            seat = self.seats.get(rank)
            if seat is None or seat.state != READY:
                return False
        return True

    def _empty(self, seat: Seat) -> None:
        """Nobody sits on it any more."""
        seat.state = EMPTY
        self._filled = min(self._filled, seat.rank)

    def remove(self, rank: int) -> None:
        """The worker that `fill` asked for could not be started."""
        self._empty(self.seats.pop(rank))

    def ready(self, rank: int) -> None:
        """A worker says it has started."""
        self.seats[rank].state = READY
        self.seats[rank].false_starts = 0

    def assign(self, rank: int, seq: int, again: bool) -> None:
        """A worker is given a call."""
        self.seats[rank].calls[seq] = again

    def assign_all(self, ranks: Iterable[int], seq: int) -> None:
        """The workers on these ranks are given a call, as are those that replace them."""
        seats = self.seats
        for rank in ranks:
            seats[rank].calls[seq] = True

    def left(self, rank: int, seq: int) -> None:
        """A worker has left all its calls up to `seq`."""
        calls = self.seats[rank].calls
        for each in [each for each in calls if each <= seq]:
            del calls[each]

    def end(self, seq: int) -> list[int]:
        """A call is over: nobody needs to get it again. Ranks that hold others are returned."""
        if self._replaced:
            self._replaced.pop(seq, None)
        waiting = []
        for rank, seat in self.seats.items():
            if seq in seat.calls:
                del seat.calls[seq]
            if seat.calls:
                waiting.append(rank)
        return waiting

    def died(self, rank: int, failed: bool = False) -> Departure:
        """A worker has died; `failed` if it said that it could not start."""
        seat = self.seats[rank]
        if seat.state != READY:
            seat.false_starts += 1
        broken = failed or seat.false_starts > FALSE_STARTS_MAX
        most = self._limit * len(self.seats)
        again = [] if broken else pass_on(seat.calls, self._replaced, most)
        for seq in again:
            self._replaced[seq] = self._replaced.get(seq, 0) + 1
        lost = tuple(seq for seq in seat.calls if seq not in again)
        seat.calls = dict.fromkeys(again, True)
        if again:
            seat.state = STARTING
        else:
            self._empty(seat)
        if broken:
            seat.false_starts = 0
        return Departure(broken, tuple(again), lost)

    def unfilled(self, rank: int, departure: Departure) -> Departure:
        """The replacement could not be started, for want of descriptors, say: what follows from that."""
        seat = self.seats[rank]
        self._empty(seat)
        seat.calls.clear()
        return replace(departure, again=(), lost=(*departure.again, *departure.lost))

    def vacate(self) -> None:
        """All workers have ended."""
        self.seats.clear()
        self._replaced.clear()
        self._filled = 0
