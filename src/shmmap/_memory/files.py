"""Memory-mapped files, as inputs and as outputs, and the header of ``.npy`` files.

A mapping says nothing of what becomes of its file: it may be replaced, removed or cut short. Workers map the
file themselves, so before anything runs it has to be the same one still, and long enough: to read beyond its
end is a bus error. Two mappings of one file overlap although their addresses do not. And a file that was made
larger, but not written yet, has no space on the disk: a process that writes there through a mapping when the
disk is full dies of SIGBUS. So space is reserved up front.
"""

from __future__ import annotations

import errno
import mmap
import os
import weakref
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from .._interop.numpy_types import Array, Bytes, DType
from .mappings import WORTH_A_LOOK, FilePlace, address_of, is_unwritten, place_in_file
from .nameless import reserve
from .segments import byte_bounds
from .table import adopt_memory


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


def dtype_code(dtype: DType) -> str | DType:
    """What stands for a dtype in a handle: its string where that says all, for speed."""
    return dtype.str if dtype.isbuiltin == 1 and dtype.metadata is None else dtype


def handle_in_file(a: Array) -> FileHandle | None:
    """The handle of an array in a mapped file; None if it is in none, or can be had here only."""
    place = place_in_file(a)
    if place is None:
        return None
    _check_length(a, place)
    return None if place.is_private else _handle(a, place, a.flags.writeable)


def as_in_file(a: Array) -> Array | None:
    """A copy-on-write array by the file itself, read-only; None if anything was written to it."""
    if a.nbytes < WORTH_A_LOOK:
        return None
    place = place_in_file(a)
    if place is None or not place.is_private or not is_unwritten(a):
        return None
    try:
        return array_in_file(_handle(a, place, False))
    except (OSError, ValueError, TypeError):
        return None  # it can be read no more, or has changed just now


def _handle(a: Array, place: FilePlace, writeable: bool) -> FileHandle:
    return FileHandle(
        path=place.path,
        device=place.device,
        inode=place.inode,
        offset=place.position,
        shape=a.shape,
        strides=a.strides,
        dtype=dtype_code(a.dtype),
        writeable=writeable,
    )


def _check_length(a: Array, place: FilePlace) -> None:
    """Refuse an array that lies beyond the end of its file."""
    position, size = place.position, place.size
    stop = position + byte_bounds(a)[1] - address_of(a)
    if a.size == 0 or stop <= size:
        return
    gone = ""
    if a.ndim and a.strides[0] > 0:
        row = stop - position - (a.shape[0] - 1) * a.strides[0]
        first = max(0, (size - position - row) // a.strides[0] + 1)
        gone = f": of indices [0, {a.shape[0]}) along axis 0, [{first}, {a.shape[0]}) are gone"
    raise ValueError(
        f"the file {place.path!r} was cut short after it was mapped; it holds {size:,} bytes, and the "
        f"array ends at byte {stop:,}{gone}"
    )


_files: weakref.WeakValueDictionary[tuple[str, int, int, bool], Bytes] = (
    weakref.WeakValueDictionary()
)
"""Files mapped here for handles, as long as there are arrays over them."""


def array_in_file(handle: FileHandle) -> Array:
    """The array a handle stands for, over a mapping of this process.

    Raises ValueError or TypeError if the handle does not fit what it names.
    """
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


# ---------------------------------------------------------------- outputs


def on_one_mapping(one: Array, other: Array) -> tuple[Array, Array]:
    """The two arrays; if they lie in the same file, as views of a single mapping of it."""
    first, second = place_in_file(one), place_in_file(other)
    if first is None or second is None or not one.size or not other.size:
        return one, other
    try:
        if (first.device, first.inode) != (second.device, second.inode):
            return one, other
        with open(first.path, "rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return (
            np.ndarray(one.shape, one.dtype, mapping, first.position, one.strides),
            np.ndarray(other.shape, other.dtype, mapping, second.position, other.strides),
        )
    except (OSError, ValueError, TypeError):
        return one, other  # removed or cut in the meantime: what is mapped there is told elsewhere


def reserve_file(out: Array) -> None:
    """Make sure that an output in a file can be written without fail.

    Raises OSError if the disk is too full, and ValueError if the file has become shorter than it was when
    it was mapped.
    """
    place = place_in_file(out)
    if place is None or place.is_private or not out.size:
        return
    path = place.path
    low, high = byte_bounds(out)
    first = place.position + low - address_of(out)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return  # renamed or removed: the mapping is all there is
    try:
        stat = os.fstat(fd)
        if stat.st_size < first + high - low:
            raise ValueError(f"{path} has become shorter since it was mapped: map it again")
        if stat.st_blocks * 512 >= stat.st_size or not hasattr(os, "posix_fallocate"):
            return
        os.posix_fallocate(fd, first, high - low)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return  # a file system that cannot reserve
        if error.errno == errno.EFBIG:
            raise OSError(
                error.errno,
                f"{high - low:,} bytes wanted for out are more than a file may have here (ulimit -f)",
                path,
            ) from None
        free = os.fstatvfs(fd)
        raise OSError(
            error.errno,
            f"{error.strerror}: {high - low:,} bytes wanted for out, {free.f_bavail * free.f_frsize:,} free",
            path,
        ) from None
    finally:
        os.close(fd)


def sync_file(path: str) -> None:
    """Wait until a file or folder is on the disk, what was written by mappings included."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# ---------------------------------------------------------------- .npy files


def read_npy_header(
    file: BinaryIO, name: str | None = None
) -> tuple[tuple[int, ...], bool, DType] | None:
    """Shape, whether in Fortran's order, and dtype of a ``.npy`` file, which is read up to its data.

    None for version 3.0 of the format, with names of fields in utf-8: it has no public header reader. Raises
    ValueError if it is no ``.npy`` file.
    """
    if file.read(6) != np.lib.format.MAGIC_PREFIX:
        raise ValueError(f"{name or os.fspath(file.name)!r} is not a .npy file")
    file.seek(0)
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    return None


def create_npy(fd: int, shape: tuple[int, ...], dtype: DType) -> Array:
    """Make a new file a ``.npy`` file of zeros, all of its space reserved; its array is writable.

    Workers get the array by the descriptor: nothing looks the file up by its name. Raises OSError if the disk
    is too full.
    """
    nbytes = dtype.itemsize * int(np.prod(shape, dtype=object))
    if nbytes == 0:  # nothing to map
        out: Array = np.empty(shape, dtype)
        with open(os.dup(fd), "wb") as file:
            np.lib.format.write_array(file, out)
        return out
    path = f"/dev/fd/{fd}"  # the very same file, whatever has become of its name
    offset = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape).offset
    reserve(fd, offset, nbytes)
    return _over_npy(fd, offset, shape, dtype)


def open_npy(fd: int, name: str) -> Array:
    """The array of a ``.npy`` file that `create_npy` has made, writable. Raises ValueError if it is none."""
    with open(os.dup(fd), "rb") as file:
        file.seek(0)
        header = read_npy_header(file, name)
        offset = file.tell()
    if header is None or header[1]:
        raise ValueError(f"{name!r} is another kind of .npy file than was written")
    shape, _, dtype = header
    nbytes = dtype.itemsize * int(np.prod(shape, dtype=object))
    if os.fstat(fd).st_size < offset + nbytes:
        raise ValueError(f"{name!r} is cut short: {nbytes} bytes of data expected")
    return _over_npy(fd, offset, shape, dtype) if nbytes else np.empty(shape, dtype)


def _over_npy(fd: int, offset: int, shape: tuple[int, ...], dtype: DType) -> Array:
    nbytes = dtype.itemsize * int(np.prod(shape, dtype=object))
    root = adopt_memory(os.dup(fd), offset + nbytes)
    return root[offset:].view(dtype).reshape(shape)
