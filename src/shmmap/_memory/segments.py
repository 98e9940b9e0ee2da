"""What this process knows of shared memory: segments, and the blocks of them that arrays were given.

A *segment* is a piece of OS memory that several processes map. A *block* is the part of it that one array
was given: all of it, or a slice of a *slab*, a segment that small arrays share. Data only; `_memory.table`
owns them all. What must hold: every field is written with the lock of the table held, but for those named
here.

| field | written by | what must hold |
| --- | --- | --- |
| `Segment.fd`, `pour_fd`, `used`; `Block.kept`, `ref` | `table` | one with a descriptor is in the table |
| `Segment.exported`, `is_handed_over` | `table` | see there |
| `Block.is_lent` | `handles.lend`, before any other thread has the block | |
| `Segment.touched` | `spares`, as it keeps the segment | no process has a view of it |
| `Segment.mapped` | `pages` | one thread per process maps pages: a worker has no other |
"""

from __future__ import annotations

import mmap
import weakref
from bisect import insort

import numpy as np

from .._interop.numpy_types import Array, Bytes


class Segment:
    """Memory mapped by this process: mapping, descriptor (-1 where only mapped), identity."""

    def __init__(
        self, id: int, fd: int, nbytes: int, map: mmap.mmap, *, is_own: bool = False
    ) -> None:
        self.id = id
        self.fd = fd
        self.nbytes = nbytes
        self.map = map
        self.root: Bytes = np.frombuffer(map, np.uint8)
        """All bytes. In a worker, every array of the segment refers to it (see `_memory.refcounts`)."""
        self.address: int = self.root.__array_interface__["data"][0]
        self.used = 0
        """Number of blocks in use."""
        self.is_own = is_own
        """Made here, for arrays of this process."""
        self.is_handed_over = False
        """In a worker: made here and handed to its caller, which says when it needs it here no more."""
        self.inode = (0, 0)
        """Device and number of the file it is, where that was asked for."""
        self.exported = False
        """Processes outside the team may have a view of it, as a handle of it was pickled or this process has
        forked. A worker tells its caller, to whom it belongs: what lies there now is not to be used again."""
        self.touched = 0
        """Bytes at its beginning that were used by an array before this one: they are not zero, and
        quickly written to."""
        self.pour_fd = -1
        """In a worker: a descriptor to write results to fresh pages with."""
        self.mapped = bytearray()
        """A byte for each `pages.MAP_NBYTES`: whether `map_pages` has entered it; empty at first."""


class Block:
    """A slice of a segment that one array was given."""

    __slots__ = (
        "address", "epoch", "is_lent", "kept", "nbytes", "offset", "ref", "root", "segment", "slab",
    )  # fmt: skip

    def __init__(
        self, segment: Segment, offset: int, nbytes: int, slab: Slab | None, epoch: int
    ) -> None:
        self.segment = segment
        self.offset = offset
        self.nbytes = nbytes
        self.slab = slab
        self.address = segment.address + offset
        self.epoch = epoch
        """Number of forks of this process before the block was made."""
        self.kept = False
        """Some other process may have a view, as a worker's function kept one or a handle of it was pickled:
        never to be used again."""
        self.is_lent = False
        """It is a copy that workers are lent: whoever gets it back gets a copy of it."""
        self.ref: BlockRef | None = None
        self.root: weakref.ref[Bytes] | None = None
        """The flat array all arrays over this block refer to; further ones must be made from it."""


class BlockRef(weakref.ref[object]):
    """A reference to what every array over a block refers to; its callback gets it, and so the block."""

    __slots__ = ("block",)
    block: Block


class Slab:
    """First-fit allocation of slices within one segment; neighbours merge when released."""

    __slots__ = ("free", "segment")

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.free = [(0, segment.nbytes)]

    def take(self, nbytes: int) -> int | None:
        """Offset of a free slice of `nbytes`, or None."""
        for i, (offset, size) in enumerate(self.free):
            if size >= nbytes:
                if size == nbytes:
                    del self.free[i]
                else:
                    self.free[i] = (offset + nbytes, size - nbytes)
                return offset
        return None

    def give(self, offset: int, nbytes: int) -> None:
        insort(self.free, (offset, nbytes))
        merged: list[tuple[int, int]] = []
        for start, size in self.free:
            if merged and merged[-1][0] + merged[-1][1] == start:
                merged[-1] = (merged[-1][0], merged[-1][1] + size)
            else:
                merged.append((start, size))
        self.free = merged


def byte_bounds(a: Array) -> tuple[int, int]:
    """Address of the first byte of `a`, and of the first one past it."""
    low = high = a.__array_interface__["data"][0]
    if a.size == 0:
        return low, low
    for length, stride in zip(a.shape, a.strides, strict=True):
        if stride < 0:
            low += (length - 1) * stride
        else:
            high += (length - 1) * stride
    return low, high + a.itemsize
