"""Handles: what crosses the process border instead of an array's bytes. See docs/design/memory.md.

Arrays in memory-mapped files have handles too (see `_memory.files`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .._interop.numpy_types import Array, Bytes
from .files import FileHandle, array_in_file, handle_in_file
from .nameless import OwnMapping
from .segments import byte_bounds
from .table import by_mapping, find_block, find_segment, get_segment, own_memory


class SegmentHandle(NamedTuple):
    """An array within a segment."""

    segment: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: Any
    writeable: bool


Handle = SegmentHandle | FileHandle


class PortableHandle:
    """Base of what `shmmap.handle` returns, by which picklers know that without importing it."""

    __slots__ = ()

    def __reduce_for_worker__(self) -> tuple[Array, tuple[object, ...]] | None:
        """The array, and what to pickle if that goes as others do to workers; None if it cannot."""
        return None


touched: dict[int, int] = {}
"""Number of arrays made from handles in each segment since a worker's call began; see `_worker.cache`."""


def locate(a: Array) -> tuple[int, int] | None:
    """Segment of an array, and where in it the first element lies; None if it is in none."""
    owner: Any = a.base
    while (kind := type(owner)) is np.ndarray or kind is memoryview:
        owner = owner.base if kind is np.ndarray else owner.obj
    if owner is None or kind is bytes:
        return None  # it has memory of its own: most results
    address = low = a.__array_interface__["data"][0]
    segment = by_mapping.get(id(owner)) if kind is OwnMapping else None
    if segment is not None and segment.map is owner:  # nearly always
        return segment.id, address - segment.address
    # It refers to its memory in another way, as a window of NumPy's ``as_strided`` does.
    if not a.flags.c_contiguous and a.ndim and min(a.strides) < 0:
        low = byte_bounds(a)[0]
    segment = find_segment(low)
    return None if segment is None else (segment.id, address - segment.address)


def layout_of(a: Array) -> tuple[Any, tuple[int, ...], tuple[int, ...], bool]:
    """What a `SegmentHandle` says of an array besides its place."""
    dtype = a.dtype
    code = dtype.str if dtype.isbuiltin == 1 and dtype.metadata is None else dtype
    return code, a.shape, a.strides, a.flags.writeable


def handle_of(a: Array) -> Handle | None:
    """The handle of a shared array or memory-mapped array; None for a private one."""
    place = locate(a)
    if place is None:
        return handle_in_file(a)
    dtype, shape, strides, writeable = layout_of(a)
    return SegmentHandle(*place, shape, strides, dtype, writeable)


def lend(a: Array) -> None:
    """What comes back of this array, which lies in a block of its own, is to be a copy."""
    block = find_block(a.__array_interface__["data"][0])
    assert block is not None
    block.is_lent = True


def from_handle(handle: Handle) -> Array:
    """The array a handle stands for, over a mapping of this process.

    Raises KeyError if the segment is not attached here, and ValueError or TypeError if the handle does not
    fit what it names.
    """
    if isinstance(handle, FileHandle):
        return array_in_file(handle)
    segment = get_segment(handle.segment)
    touched[handle.segment] = touched.get(handle.segment, 0) + 1
    root: Bytes | None = segment.root
    offset = handle.offset
    block = find_block(segment.address + offset)
    if block is not None and block.root is not None:
        # This process owns the array: the new view must count towards the block's life.
        root = block.root()
        offset -= block.offset
        if root is None:
            raise ValueError("the array was dropped while a view of it was under way")
    elif segment.fd >= 0:
        root = own_memory(segment)  # made by a worker, owned by the process that gets the result
    a = view_over(root, offset, handle)
    return a.copy("K") if block is not None and block.is_lent else a


def view_over(root: Bytes | None, offset: int, handle: SegmentHandle) -> Array:
    """The array a handle stands for, over the bytes that hold it; in these it begins at `offset`.

    Raises ValueError or TypeError if it does not fit.
    """
    dtype = np.dtype(handle.dtype)
    if dtype.hasobject:
        raise ValueError("a handle of Python objects: their addresses mean nothing here")
    a: Array = np.ndarray(handle.shape, dtype, root, offset, handle.strides)
    if not handle.writeable:
        a.flags.writeable = False
    return a
