"""Ways into large outputs: how a worker writes to pages that are fresh, or not its own yet."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np

from .._interop.numpy_types import Array, any_numpy
from .table import Segment, find_block, find_segment, map_pages

# Results from here on are written through a descriptor where pages are fresh, and elsewhere not before those
# they take are entered into the page table: less is not worth a call of the system.
POUR_NBYTES = 1 << 16
NOT_FRESH = 1 << 62
"""In the place of a position from which on pages are fresh, where there is none."""


class PageWriter(NamedTuple):
    """How a worker writes into a large output.

    Whole pages that are fresh are poured: written through the descriptor, they are neither cleared nor
    entered into the page table of this process. Into others it is quicker to store, once they are entered.
    """

    segment: Segment
    offset: int
    """Position of the array in the segment."""
    stride: int
    """Bytes from one index to the next."""
    fresh: int
    """Position from which on pages are fresh."""

    def pour(self, part: Array, start: int) -> bool:
        """Write the part of the array that begins at index `start`, unless it is to be stored."""
        nbytes = part.nbytes
        if nbytes < POUR_NBYTES:
            return False
        at = self.offset + start * self.stride
        if at + nbytes <= self.fresh or not part.flags.c_contiguous:
            map_pages(self.segment, at, nbytes)
            return False
        data = memoryview(any_numpy.asarray(part.reshape(-1).view(np.uint8)))
        done = 0
        while done < nbytes:
            done += os.pwrite(self.segment.pour_fd, data[done:], at + done)
        return True

    def make_ready(self, start: int, stop: int) -> None:
        """Have the indices ``[start, stop)`` entered, unless each of them is going to be poured."""
        at, nbytes = self.offset + start * self.stride, (stop - start) * self.stride
        if nbytes >= POUR_NBYTES and (self.stride < POUR_NBYTES or at + nbytes <= self.fresh):
            map_pages(self.segment, at, nbytes)


def fresh_from(a: Array) -> int:
    """Position in its segment from which on the pages under a new array are fresh."""
    block = find_block(a.__array_interface__["data"][0])
    if block is None or block.slab is not None or not a.flags.c_contiguous:
        return NOT_FRESH
    return block.segment.touched


def make_way(a: Array, fresh: int = NOT_FRESH) -> PageWriter | None:
    """The way into an output, in a worker; None if it is small, or not contiguous."""
    segment = find_segment(a.__array_interface__["data"][0])
    if segment is None or segment.pour_fd < 0 or not a.flags.c_contiguous or not a.size:
        return None
    offset = a.__array_interface__["data"][0] - segment.address
    return PageWriter(segment, offset, a.strides[0], fresh)
