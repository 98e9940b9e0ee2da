"""Slabs: segments that small arrays share, as two descriptors for each small array would exhaust them.

Called by `_memory.table` and `_memory.blocks`, with the lock of the table held.
"""

from __future__ import annotations

from .segments import Block, Segment, Slab

SLAB_NBYTES = 1 << 22


class Slabs:
    """The slabs of this process. An empty one stays for the next small array, but no second one."""

    def __init__(self) -> None:
        self._slabs: list[Slab] = []

    def add(self, segment: Segment) -> None:
        self._slabs.append(Slab(segment))

    def take(self, nbytes: int) -> tuple[Slab, int] | None:
        """A slab and the offset of a free slice in it; None if none has so much."""
        for slab in self._slabs:
            offset = slab.take(nbytes)
            if offset is not None:
                return slab, offset
        return None

    def find(self, segment: Segment) -> Slab | None:
        """The slab that a segment is; None if it is none of this process's."""
        return next((slab for slab in self._slabs if slab.segment is segment), None)

    def is_only(self, slab: Slab) -> bool:
        return self._slabs == [slab]

    def give(self, block: Block, is_clean: bool) -> list[Segment]:
        """Take the slice of a block back; only a clean one serves again. Returns the segment to let go."""
        slab = block.slab
        assert slab is not None
        if is_clean:
            slab.give(block.offset, block.nbytes)
        if slab.segment.used:
            return []
        # One in which a slice is lost to a kept view does not stay.
        is_whole = slab.free == [(0, slab.segment.nbytes)]
        if is_whole and [each for each in self._slabs if not each.segment.used] == [slab]:
            return []
        if slab in self._slabs:  # it is not in a forked child, whose slabs are its parent's
            self._slabs.remove(slab)
        return [slab.segment]

    def take_empty(self) -> list[Segment]:
        """Take out the slabs that no array uses."""
        empty = [slab.segment for slab in self._slabs if not slab.segment.used]
        self._slabs = [slab for slab in self._slabs if slab.segment.used]
        return empty

    def clear(self) -> None:
        """Forget all slabs: they are another process's."""
        self._slabs.clear()
