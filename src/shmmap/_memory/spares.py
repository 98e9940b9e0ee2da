"""Segments just released, kept for the next array: their pages need not be touched for the first time again.

How much is kept, and for how long, is in docs/design/0029-released-segments-serve-again.md. Called by
`_memory.table` and `_memory.blocks`, with the lock of the table held. What must hold: a segment comes here
only when no process has a view of it.
"""

from __future__ import annotations

import os
import time

from .._system.limits import UNLIMITED
from .segments import Segment

SPARE_NBYTES = 1 << 28
SPARE_SHARE = 8
SPARE_S = 2.0
# Each has a descriptor, here and in every worker a mapping.
_MOST = 16


class Spares:
    """The segments kept, oldest first."""

    def __init__(self) -> None:
        self._kept: list[tuple[float, Segment]] = []
        self._missed = self._room = 0
        """Size of the last array for which only a head was kept; bytes that such segments may take in all."""

    def put(self, segment: Segment) -> list[Segment]:
        """Keep a segment, or its head; those that had to make room are returned, and are to be let go."""
        large = [each for _, each in self._kept if each.touched > SPARE_NBYTES]
        is_missed = _serves(segment, self._missed)
        if segment.nbytes <= SPARE_NBYTES or (
            is_missed and segment.nbytes + sum(each.nbytes for each in large) <= self._room
        ):
            segment.touched = segment.nbytes
        else:
            segment.touched = SPARE_NBYTES
            os.ftruncate(segment.fd, SPARE_NBYTES)
        self._kept.append((time.monotonic() + SPARE_S, segment))
        evicted = []
        small = [item for item in self._kept if item[1].touched <= SPARE_NBYTES]
        while len(small) > _MOST or sum(each.touched for _, each in small) > SPARE_NBYTES:
            self._kept.remove(small[0])
            evicted.append(small.pop(0)[1])
        return evicted

    def note_miss(self, nbytes: int, free: int) -> None:
        """For an array of `nbytes` only the head of a segment was kept; `free`: the memory left after it."""
        self._missed = nbytes
        self._room = free // SPARE_SHARE if free < UNLIMITED else 0

    @property
    def nbytes(self) -> int:
        return sum(segment.touched for _, segment in self._kept)

    def take(self, nbytes: int) -> Segment | None:
        """A segment for an array of `nbytes`, at most a quarter too large; the latest such."""
        for i, (_, segment) in reversed(list(enumerate(self._kept))):
            if _serves(segment, nbytes):
                del self._kept[i]
                return segment
        return None

    def expire(self) -> list[Segment]:
        """Take out what has been here for long enough."""
        now = time.monotonic()
        expired = [segment for at, segment in self._kept if at <= now]
        del self._kept[: len(expired)]
        if any(segment.touched > SPARE_NBYTES for segment in expired):
            self._missed = 0
        return expired

    def clear(self) -> list[Segment]:
        kept, self._kept = [segment for _, segment in self._kept], []
        self._missed = 0
        return kept

    def next_expiry(self) -> float | None:
        """When `expire` will have something to do (``time.monotonic()``); None if there is nothing."""
        return self._kept[0][0] if self._kept else None


def _serves(segment: Segment, nbytes: int) -> bool:
    """Whether a segment does for an array of `nbytes`: it is at most a quarter too large."""
    return nbytes <= segment.nbytes <= nbytes + nbytes // 4
