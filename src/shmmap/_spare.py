"""Segments just released, kept for the next array: their pages need not be touched for the first time again.

First touch is the dearest thing in the library, and a loop that maps into a fresh output every time pays it
every time. So a little of what was released last stays for a moment: at most `SPARE_NBYTES` in all, for
`SPARE_S` seconds. Of a larger segment only the head stays.

Called by `_segment` alone, with its lock held. What must hold: a segment comes here only when nobody has a
view of it, in any process.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._segment import Segment

__all__ = ["SPARE_NBYTES", "SPARE_S", "Spares"]

SPARE_NBYTES = 1 << 28
SPARE_S = 2.0
# Each has a descriptor, here and in every worker a mapping.
_MOST = 16


class Spares:
    """The segments kept, oldest first."""

    def __init__(self) -> None:
        self._kept: list[tuple[float, Segment]] = []

    def put(self, segment: Segment) -> list[Segment]:
        """Keep a segment, or its head; those that had to make room are returned."""
        if segment.nbytes > SPARE_NBYTES:
            os.ftruncate(segment.fd, SPARE_NBYTES)
        segment.touched = min(segment.nbytes, SPARE_NBYTES)
        self._kept.append((time.monotonic() + SPARE_S, segment))
        evicted = []
        while len(self._kept) > _MOST or self.nbytes > SPARE_NBYTES:
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
                return segment
        return None

    def expire(self) -> list[Segment]:
        """Take out what has been here for long enough."""
        now = time.monotonic()
        expired = [segment for at, segment in self._kept if at <= now]
        del self._kept[: len(expired)]
        return expired

    def clear(self) -> list[Segment]:
        """Take out everything."""
        kept, self._kept = [segment for _, segment in self._kept], []
        return kept

    def next_expiry(self) -> float | None:
        """When `expire` will have something to do (``time.monotonic()``); None if there is nothing."""
        return self._kept[0][0] if self._kept else None
