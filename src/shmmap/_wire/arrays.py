"""Arrays in pickles for workers: a shared one as its handle, a private one through a shared copy.

A private array is read-only on the other side, as a write to the copy would be lost.
"""

from __future__ import annotations

from typing import Literal

from .._interop.numpy_types import Array
from .._memory import (
    Handle,
    PortableHandle,
    SegmentHandle,
    handle_of,
    locate,
    packed_nbytes,
    place,
)
from .unpickling import frozen_array, open_array

Copies = dict[tuple[object, ...], tuple[Array, Array]]
"""Private arrays that were placed for one call, and the shared copies, by address and layout."""

# A private array smaller than this travels inside the pickle; larger ones through shared memory.
INLINE_NBYTES = 1 << 14


def key_of(a: Array) -> tuple[object, ...]:
    """What is the same for all arrays over the same items, as long as one of them lives."""
    return a.__array_interface__["data"][0], a.shape, a.strides, a.dtype


def order_of(a: Array) -> Literal["C", "F"]:
    """The order in which the bytes of an array travel."""
    return "F" if a.flags.fnc else "C"


def reduce_handle(handle: Handle) -> tuple[object, ...]:
    """What to pickle for an array that has a handle."""
    return open_array, (tuple(handle),)


class ArrayPacker:
    """What becomes of the arrays of one pickle."""

    __slots__ = ("_copies", "keep", "placed", "segments")

    def __init__(self, copies: Copies | None) -> None:
        self._copies = copies
        """None if no array is to go as a handle: who gets the pickle may have none of our memory."""
        self.segments: set[int] = set()
        """What must be attached where it is unpickled."""
        self.keep: list[Array] = []
        """What must stay alive until it was used."""
        self.placed = 0
        """Bytes that were copied into shared memory."""

    def reduce(self, a: Array) -> tuple[object, ...]:
        """What to pickle for an array."""
        handle = self.handle_of(a)
        if handle is not None:
            return reduce_handle(handle)
        order = order_of(a)
        return frozen_array, (a.tobytes(order), a.dtype, a.shape, order)

    def reduce_portable(self, portable: PortableHandle) -> object:
        """What to pickle for a public handle: its array as any other, where that is had from a segment."""
        found = portable.__reduce_for_worker__()
        if self._copies is None or found is None:
            return NotImplemented
        a, reduced = found
        return reduced if isinstance(handle_of(a), SegmentHandle) else NotImplemented

    def pack_buffer(self, a: Array) -> bytes | bytearray | tuple[object, ...]:
        """What stands for a buffer that is pickled out of band."""
        handle = self.handle_of(a)
        return a.tobytes() if handle is None else tuple(handle)

    def copy_of(self, a: Array) -> Array | None:
        """A shared copy of a private array; None if its bytes are to travel."""
        if self._copies is None or a.nbytes < INLINE_NBYTES:
            return None
        # By address: many views of one array, and one array in many pickles, are one copy.
        key = key_of(a)
        if key not in self._copies:
            self._copies[key] = a, place(a)
            if locate(self._copies[key][1]) is not None:
                self.placed += packed_nbytes(a)
        return self._copies[key][1]

    def handle_of(self, a: Array) -> Handle | None:
        """The handle of an array, or of a shared copy of it; None if its bytes are to travel."""
        if self._copies is None:
            return None
        handle = handle_of(a)
        if handle is None:
            copy = self.copy_of(a)
            if copy is None:
                return None
            a, handle = copy, handle_of(copy)
            assert handle is not None
        if isinstance(handle, SegmentHandle):
            self.segments.add(handle.segment)
            # Nobody else may hold it while a worker writes there.
            self.keep.append(a)
        return handle
