"""Segments just released, kept for the next array: their pages need not be touched for the first time again.

First touch is the dearest thing in the library, and a loop that maps into a fresh output every time pays it
every time. So a little of what was released last stays for a moment: at most `SPARE_NBYTES` in all, for
`SPARE_S` seconds. Of a larger segment only the head stays; unless the rest turns out to be missed. From then
on, and until something is kept in vain, such segments stay whole, if they take no more than the
`SPARE_SHARE`-th part of the memory that is free.

Called by `_segment` alone, with its lock held. What must hold: a segment comes here only when nobody has a
view of it, in any process.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from ._memory import UNLIMITED, available

if TYPE_CHECKING:
    from ._segment import Segment

__all__ = ["SPARE_NBYTES", "SPARE_S", "Spares"]

SPARE_NBYTES = 1 << 28
SPARE_SHARE = 8
SPARE_S = 2.0
# Each has a descriptor, here and in every worker a mapping.
_MOST = 16


class Spares:
    """The segments kept, oldest first."""

    def __init__(self) -> None:
        self._kept: list[tuple[float, Segment]] = []
        self._missed = 0
        """Size of the largest segment that was asked for again when but its head was left."""
        self._most = SPARE_NBYTES
        """Bytes that may be kept in all."""

    def put(self, segment: Segment) -> list[Segment]:
        """Keep a segment, or its head; those that had to make room are returned."""
        segment.touched = min(segment.nbytes, SPARE_NBYTES)
        if SPARE_NBYTES < segment.nbytes <= self._missed:
            free, _ = available()
            share = free // SPARE_SHARE if free < UNLIMITED else 0
            self._most = max(SPARE_NBYTES, share)
            segment.touched = min(segment.nbytes, self._most)
        if segment.touched < segment.nbytes:
            os.ftruncate(segment.fd, segment.touched)
        self._kept.append((time.monotonic() + SPARE_S, segment))
        evicted = []
        while len(self._kept) > _MOST or self.nbytes > self._most:
            evicted.append(self._kept.pop(0)[1])
        return evicted

    @property
    def nbytes(self) -> int:
        """Bytes kept in all."""
        return sum(segment.touched for _, segment in self._kept)

    def take(self, nbytes: int) -> Segment | None:
        """A segment for an array of `nbytes`, at most a quarter too large; the latest such."""
        for i, (_, segment) in reversed(list(enumerate(self._kept))):
            if nbytes <= segment.nbytes <= nbytes + nbytes // 4:
                del self._kept[i]
                if segment.touched < segment.nbytes:
                    self._missed = max(self._missed, segment.nbytes)
                return segment
        return None

    def expire(self) -> list[Segment]:
        """Take out what has been here for long enough."""
        now = time.monotonic()
        expired = [segment for at, segment in self._kept if at <= now]
        del self._kept[: len(expired)]
        if any(segment.touched > SPARE_NBYTES for segment in expired):
            self._forget_misses()
        return expired

    def clear(self) -> list[Segment]:
        """Take out everything."""
        kept, self._kept = [segment for _, segment in self._kept], []
        self._forget_misses()
        return kept

    def next_expiry(self) -> float | None:
        """When `expire` will have something to do (``time.monotonic()``); None if there is nothing."""
        return self._kept[0][0] if self._kept else None

    def _forget_misses(self) -> None:
        self._missed, self._most = 0, SPARE_NBYTES
