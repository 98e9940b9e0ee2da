"""Handles: what crosses the process border instead of an array's bytes.

A *handle* is segment, offset, shape, strides, dtype, and whether the array may be written. Which segment an
array lies in is found by looking its address up in the table of mapped blocks, so that any view counts.
Memory-mapped files have handles too: path and position in the file.
"""

from __future__ import annotations

import mmap
import os
import weakref
from typing import Any, NamedTuple

import numpy as np

from .._interop.numpy_types import Array, Bytes
from .._system.kernel_files import read_kernel_file
from .table import find_block, find_segment, get_segment, own_memory


class SegmentHandle(NamedTuple):
    """An array within a segment."""

    segment: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: Any
    writeable: bool


class FileHandle(NamedTuple):
    """An array within a memory-mapped file; device and inode make sure it is still the same file."""

    path: str
    device: int
    inode: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: Any
    writeable: bool


Handle = SegmentHandle | FileHandle


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


def _dtype_code(dtype: np.dtype[Any]) -> Any:
    """What stands for a dtype in a handle: its string where that says all, for speed."""
    return dtype.str if dtype.isbuiltin == 1 and dtype.metadata is None else dtype


def find_memmap(a: Array) -> np.memmap[Any, Any] | None:
    """The memory-mapped array that owns the mapping `a` is a view of, if there is one."""
    base: Any = a
    while isinstance(base, np.ndarray):
        owner: Any = base.base
        if isinstance(base, np.memmap) and isinstance(owner, mmap.mmap):
            return base
        base = owner
    return None


def handle_of(a: Array) -> Handle | None:
    """The handle of a shared array or memory-mapped array; None for a private one."""
    address = a.__array_interface__["data"][0]
    low = byte_bounds(a)[0] if a.ndim and min(a.strides) < 0 else address
    block = find_block(low)
    segment = block.segment if block is not None else find_segment(low)
    if segment is not None:
        return SegmentHandle(
            segment.id,
            address - segment.address,
            a.shape,
            a.strides,
            _dtype_code(a.dtype),
            a.flags.writeable,
        )
    root = find_memmap(a)
    if root is None or root.filename is None:
        return None
    path = os.fspath(root.filename)
    if not _is_still_there(root, path):
        return None  # the file was replaced or removed: what is mapped can be had here only
    stat = os.stat(path)
    position = root.offset + address - root.__array_interface__["data"][0]
    _check_length(a, path, position, stat.st_size)
    if root.mode == "c":
        return None
    return FileHandle(
        path,
        stat.st_dev,
        stat.st_ino,
        position,
        a.shape,
        a.strides,
        _dtype_code(a.dtype),
        a.flags.writeable,
    )


def from_handle(handle: Handle) -> Array:
    """The array a handle stands for, over this process's own mapping.

    Raises
    ------
    KeyError
        If the segment is not attached here.
    ValueError, TypeError
        If the handle does not fit what it names.
    """
    if isinstance(handle, FileHandle):
        return _from_file(handle)
    segment = get_segment(handle.segment)
    touched[handle.segment] = touched.get(handle.segment, 0) + 1
    root: Any = segment.root
    offset = handle.offset
    block = find_block(segment.address + offset)
    if block is not None and block.root is not None:
        # This process owns the array: the new view must count towards the block's life.
        root = block.root()
        offset -= block.offset
        if root is None:
            raise ValueError("the array was dropped while a view of it was under way")
    elif segment.fd >= 0:
        root = own_memory(segment)  # made by a worker, owned by whoever gets the result
    dtype = np.dtype(handle.dtype)
    if dtype.hasobject:
        raise ValueError("a handle of Python objects: their addresses mean nothing here")
    a: Array = np.ndarray(handle.shape, dtype, root, offset, handle.strides)
    if not handle.writeable:
        a.flags.writeable = False
    return a


def _check_length(a: Array, path: str, position: int, size: int) -> None:
    """Refuse an array that lies beyond the end of its file: reading there would be a bus error."""
    stop = position + byte_bounds(a)[1] - a.__array_interface__["data"][0]
    if a.size == 0 or stop <= size:
        return
    gone = ""
    if a.ndim and a.strides[0] > 0:
        row = stop - position - (a.shape[0] - 1) * a.strides[0]
        first = max(0, (size - position - row) // a.strides[0] + 1)
        gone = f": of indices [0, {a.shape[0]}) along axis 0, [{first}, {a.shape[0]}) are gone"
    raise ValueError(
        f"the file {path!r} was cut short after it was mapped; it holds {size:,} bytes, and the array "
        f"ends at byte {stop:,}{gone}"
    )


_there: dict[int, tuple[weakref.ref[Any], bool]] = {}


def _is_still_there(root: np.memmap[Any, Any], path: str) -> bool:
    """Whether the file a memory-mapped array maps is still the one its path names.

    Asked of the kernel, whose list of mappings follows renamed and removed files. Once per mapping and
    file: an answer stands as long as the file under that path stays the same.
    """
    try:
        stat = os.stat(path)
    except OSError:
        return False
    key = hash((id(root), stat.st_dev, stat.st_ino))
    known = _there.get(key)
    if known is not None and known[0]() is root:
        return known[1]
    answer = True
    try:
        address = root.__array_interface__["data"][0]
        # Not `splitlines`: a path may hold what that takes for the end of a line.
        for line in read_kernel_file("/proc/self/maps").split("\n"):
            limits, _, _, _, inode, *name = line.split(maxsplit=5)
            low, high = (int(limit, 16) for limit in limits.split("-"))
            if low <= address < high:
                mapped = name[0].replace("\\012", "\n") if name else ""
                is_same = mapped == os.path.realpath(path)
                is_linked = int(inode) == stat.st_ino and not mapped.endswith(" (deleted)")
                answer = is_same or is_linked
                break
    except OSError:
        pass  # no /proc: taken on trust
    for old in [old for old, (ref, _) in _there.items() if ref() is None]:
        del _there[old]
    _there[key] = (weakref.ref(root), answer)
    return answer


touched: dict[int, int] = {}
"""Number of arrays made from handles in each segment since a worker's call began; see `_worker.worker`."""

_files: weakref.WeakValueDictionary[tuple[str, int, int, bool], Bytes] = (
    weakref.WeakValueDictionary()
)
"""Files mapped here for handles, as long as there are arrays over them."""


def _from_file(handle: FileHandle) -> Array:
    key = (handle.path, handle.device, handle.inode, handle.writeable)
    known = _files.get(key)
    if known is not None:
        try:
            return _over(known, handle)
        except (ValueError, TypeError):
            pass  # it has grown since
    fd = os.open(handle.path, (os.O_RDWR if handle.writeable else os.O_RDONLY) | os.O_CLOEXEC)
    try:
        stat = os.fstat(fd)
        if (stat.st_dev, stat.st_ino) != (handle.device, handle.inode):
            raise ValueError(f"{handle.path} was replaced by another file during the map")
        if stat.st_size == 0:
            raise ValueError(f"the file {handle.path!r} was cut short after it was mapped")
        access = mmap.ACCESS_WRITE if handle.writeable else mmap.ACCESS_READ
        root = np.frombuffer(mmap.mmap(fd, stat.st_size, access=access), np.uint8)
    finally:
        os.close(fd)
    _files[key] = root
    try:
        return _over(root, handle)
    except (ValueError, TypeError) as exc:
        raise ValueError(
            f"the file {handle.path!r} was cut short after it was mapped; it holds {root.size:,} bytes"
        ) from exc


def _over(root: Bytes, handle: FileHandle) -> Array:
    return np.ndarray(handle.shape, np.dtype(handle.dtype), root, handle.offset, handle.strides)
