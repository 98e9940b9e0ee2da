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

from .._interop.numpy_types import Array, Bytes, DType, Memmap
from .._system.kernel_files import read_kernel_file
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


def _place(a: Array) -> tuple[Memmap, str, int] | None:
    """The array that owns the mapping of a file that `a` is a view of, the file's path, and where `a` begins.

    None if there is none, or the file has no name.
    """
    base: object = a
    while isinstance(base, np.ndarray):
        owner: object = base.base
        if isinstance(base, np.memmap) and isinstance(owner, mmap.mmap):
            if base.filename is None:
                return None
            return base, os.fspath(base.filename), base.offset + _address(a) - _address(base)
        base = owner
    return None


def handle_in_file(a: Array) -> FileHandle | None:
    """The handle of an array in a memory-mapped file; None if it is none, or can be had here only."""
    place = _place(a)
    if place is None:
        return None
    root, path, position = place
    try:
        stat = os.stat(path)
    except OSError:
        return None  # removed
    if not _is_still_there(root, path, stat):
        return None  # replaced, or removed and made anew
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
        dtype_code(a.dtype),
        a.flags.writeable,
    )


def _address(a: Array) -> int:
    address: int = a.__array_interface__["data"][0]
    return address


def _check_length(a: Array, path: str, position: int, size: int) -> None:
    """Refuse an array that lies beyond the end of its file."""
    stop = position + byte_bounds(a)[1] - _address(a)
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


_there: dict[int, tuple[weakref.ref[object], bool]] = {}


def _is_still_there(root: Memmap, path: str, stat: os.stat_result) -> bool:
    """Whether the file a memory-mapped array maps is still the one its path names.

    Asked of the kernel, whose list of mappings follows renamed and removed files. Once per mapping and
    file: an answer stands as long as the file under that path stays the same.
    """
    key = hash((id(root), stat.st_dev, stat.st_ino))
    known = _there.get(key)
    if known is not None and known[0]() is root:
        return known[1]
    answer = True
    try:
        address = _address(root)
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
    first, second = _place(one), _place(other)
    if first is None or second is None or not one.size or not other.size:
        return one, other
    try:
        if not os.path.samefile(first[1], second[1]):
            return one, other
        with open(first[1], "rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return (
            np.ndarray(one.shape, one.dtype, mapping, first[2], one.strides),
            np.ndarray(other.shape, other.dtype, mapping, second[2], other.strides),
        )
    except (OSError, ValueError, TypeError):
        return one, other  # removed or cut in the meantime: what is mapped there is told elsewhere


def reserve_file(out: Array) -> None:
    """Make sure that an output in a file can be written without fail.

    Raises OSError if the disk is too full, and ValueError if the file has become shorter than it was when
    it was mapped.
    """
    place = _place(out)
    if place is None or place[0].mode == "c" or not out.size:
        return
    _, path, position = place
    low, high = byte_bounds(out)
    first = position + low - _address(out)
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


# ---------------------------------------------------------------- .npy files


def read_npy_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, DType] | None:
    """Shape, whether in Fortran's order, and dtype of a ``.npy`` file, which is read up to its data.

    None for version 3.0 of the format, with names of fields in utf-8: it has no public header reader. Raises
    ValueError if it is no ``.npy`` file.
    """
    if file.read(6) != np.lib.format.MAGIC_PREFIX:
        raise ValueError(f"{os.fspath(file.name)!r} is not a .npy file")
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
    root = adopt_memory(os.dup(fd), offset + nbytes)
    return root[offset:].view(dtype).reshape(shape)
