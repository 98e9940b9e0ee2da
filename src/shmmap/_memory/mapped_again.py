"""Arrays in files, for handles from other processes: over the mapping that this process has, if it has one.

Called by `_memory.locations`. A worker of a team gets plain arrays over mappings of its own, see `files`.
"""

from __future__ import annotations

import mmap
import os
import weakref

import numpy as np

from .._interop.numpy_types import Array
from .files import FileHandle
from .mappings import address_of, owner_of

_mappings: weakref.WeakValueDictionary[tuple[int, int, bool], mmap.mmap] = (
    weakref.WeakValueDictionary()
)
"""By device, inode and whether it can be written to."""
_starts: weakref.WeakKeyDictionary[mmap.mmap, int] = weakref.WeakKeyDictionary()
"""Where in its file each of them begins."""


def note_mapping(a: Array, handle: FileHandle) -> None:
    """An array in a file leaves for other processes: if it comes back, it is to be over the same mapping."""
    mapping = owner_of(a)
    if isinstance(mapping, mmap.mmap):
        whole = np.frombuffer(mapping, np.uint8)
        start = handle.offset - (address_of(a) - address_of(whole))
        _note(handle, mapping, start, bool(whole.flags.writeable))


def _note(handle: FileHandle, mapping: mmap.mmap, start: int, writeable: bool) -> None:
    _mappings[handle.device, handle.inode, writeable] = mapping
    _starts[mapping] = start


def map_again(handle: FileHandle, is_memmap: bool) -> Array:
    """The array a handle stands for; of the class `numpy.memmap` if it was.

    Raises FileNotFoundError or ValueError if its file is not there any more, or has been cut short.
    """
    for writeable in {handle.writeable, True}:
        known = _mappings.get((handle.device, handle.inode, writeable))
        if known is not None:
            try:
                return _over(known, handle, is_memmap)
            except (ValueError, TypeError):
                pass  # it maps another part
    mapping, nbytes = _map(handle)
    try:
        a = _over(mapping, handle, is_memmap)
    except (ValueError, TypeError):
        raise ValueError(
            f"the file {handle.path!r} was cut short after it was mapped; it holds {nbytes:,} bytes"
        ) from None
    return a


def _map(handle: FileHandle) -> tuple[mmap.mmap, int]:
    """Map all of a file; how long it is."""
    where = f"the file {handle.path!r}, in which the array of a handle lies,"
    try:
        fd = os.open(handle.path, (os.O_RDWR if handle.writeable else os.O_RDONLY) | os.O_CLOEXEC)
    except FileNotFoundError:
        raise FileNotFoundError(f"{where} was removed") from None
    try:
        status = os.fstat(fd)
        if (status.st_dev, status.st_ino) != (handle.device, handle.inode):
            raise FileNotFoundError(f"{where} was replaced by another one")
        if not status.st_size:
            raise ValueError(f"{where} was cut short")
        access = mmap.ACCESS_WRITE if handle.writeable else mmap.ACCESS_READ
        mapping = mmap.mmap(fd, 0, access=access)
    finally:
        os.close(fd)
    _note(handle, mapping, 0, handle.writeable)
    return mapping, status.st_size


def _over(mapping: mmap.mmap, handle: FileHandle, is_memmap: bool) -> Array:
    dtype = np.dtype(handle.dtype)
    if dtype.hasobject:
        raise ValueError("a handle of Python objects: their addresses mean nothing here")
    kind = np.memmap if is_memmap else np.ndarray
    offset = handle.offset - _starts[mapping]
    a: Array = np.ndarray.__new__(kind, handle.shape, dtype, mapping, offset, handle.strides)
    if isinstance(a, np.memmap):
        a.filename, a.offset = handle.path, handle.offset
        a.mode = "r+" if handle.writeable else "r"
    if not handle.writeable:
        a.flags.writeable = False
    return a
