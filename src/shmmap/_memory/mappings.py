"""Which file an array's memory is a mapping of, and whether the array still is what the file holds.

NumPy maps files (`numpy.memmap`); astropy and others do so by a plain `mmap`. All are recognised alike, by
the kernel's list of mappings: it follows files that were renamed or removed, and says which mappings are
copy-on-write. What is written through one of those stays in this process; the kernel also tells which pages
that are.
"""

from __future__ import annotations

import mmap
import os
import stat
import weakref
from typing import NamedTuple

import numpy as np

from .._interop.numpy_types import Array
from .._system.kernel_files import read_kernel_file
from .nameless import OwnMapping
from .segments import byte_bounds

# To copy a smaller array takes less time than to find out whether it may be had from its file.
WORTH_A_LOOK = 1 << 20


class FilePlace(NamedTuple):
    """Where in which file an array lies."""

    path: str
    device: int
    inode: int
    size: int
    position: int
    """Of the array's first element, in bytes."""
    is_private: bool
    """What is written there stays in this process: the mapping is copy-on-write."""


class _Mapped(NamedTuple):
    """What the kernel says of a mapping; the path is empty if others cannot open the file by one."""

    low: int
    high: int
    offset: int
    is_private: bool
    path: str
    identity: tuple[int, int]


_mapped: weakref.WeakKeyDictionary[mmap.mmap, _Mapped] = weakref.WeakKeyDictionary()
"""By the mapping; an answer stands as long as the same file is found under its path."""


def address_of(a: Array) -> int:
    """The address of an array's first element."""
    address: int = a.__array_interface__["data"][0]
    return address


def owner_of(a: Array) -> object:
    """What holds the mapping that an array may be a view of: a `mmap`, or a buffer of Arrow; or None."""
    owner: object = a.base
    while owner is not None:
        if isinstance(owner, np.ndarray):
            owner = owner.base
        elif type(owner) is memoryview:
            owner = owner.obj
        elif isinstance(owner, mmap.mmap):
            return None if isinstance(owner, OwnMapping) else owner
        else:
            is_of_arrow = type(owner).__module__ == "pyarrow.lib"
            return owner if is_of_arrow and a.nbytes >= WORTH_A_LOOK else None
    return None


def place_in_file(a: Array) -> FilePlace | None:
    """Where in which file an array lies; None if it is in none, or others cannot open that by its name."""
    owner = owner_of(a)
    if owner is None:
        return None
    address = address_of(a)
    known = _mapped.get(owner) if isinstance(owner, mmap.mmap) else None
    for _ in range(2):
        if known is None or not known.low <= address <= known.high:
            known = _look_up(a, address)
            if isinstance(owner, mmap.mmap):
                _mapped[owner] = known
        if not known.path:
            return None
        try:
            status = os.stat(known.path)
        except OSError:
            status = None
        if status is not None and (status.st_dev, status.st_ino) == known.identity:
            return FilePlace(
                path=known.path,
                device=status.st_dev,
                inode=status.st_ino,
                size=status.st_size,
                position=known.offset + address - known.low,
                is_private=known.is_private,
            )
        known = None  # renamed, replaced or removed since
    return None


def _look_up(a: Array, address: int) -> _Mapped:
    nowhere = _Mapped(0, 1 << 64, 0, True, "", (0, 0))
    try:
        # Not `splitlines`: a path may hold what that takes for the end of a line.
        lines = read_kernel_file("/proc/self/maps").split("\n")
    except OSError:
        return _as_numpy_says(a) or nowhere  # another system than Linux
    for line in lines:
        limits, _, rest = line.partition(" ")
        low, _, high = limits.partition("-")
        if high and int(low, 16) <= address < int(high, 16):
            break
    else:
        return nowhere  # an empty array, which may begin anywhere
    access, offset, _, inode, *name = rest.split(maxsplit=4)
    path = name[0].replace("\\012", "\n") if name else ""
    identity = _identity_of(path) if path.startswith("/") else None
    # A file may be called so, too.
    if identity is None or (path.endswith(" (deleted)") and identity[1] != int(inode)):
        return nowhere
    return _Mapped(int(low, 16), int(high, 16), int(offset, 16), "p" in access, path, identity)


def _identity_of(path: str) -> tuple[int, int] | None:
    """Device and inode of a regular file; None if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None


def _as_numpy_says(a: Array) -> _Mapped | None:
    """What a `numpy.memmap` knows of its own file, where no kernel can be asked."""
    root: object = a
    while isinstance(root, np.ndarray) and not isinstance(root.base, mmap.mmap):
        root = root.base
    if not isinstance(root, np.memmap) or root.filename is None:
        return None
    path = os.fspath(root.filename)
    identity = _identity_of(path)
    if identity is None:
        return None
    low = address_of(root)
    return _Mapped(low, low + root.nbytes, root.offset, root.mode == "c", path, identity)


# ---------------------------------------------------------------- copy-on-write

# In an entry of /proc/self/pagemap: the page is in memory, or swapped; it is one of the file's own.
_HAS_PAGE, _IS_OF_FILE = np.uint64(0b11 << 62), np.uint64(1 << 61)
_ENTRIES = 1 << 16


def is_unwritten(a: Array) -> bool:
    """Whether nothing was written to the pages of an array in a copy-on-write mapping.

    False also where the kernel does not tell.
    """
    low, high = byte_bounds(a)
    first, stop = low // mmap.PAGESIZE, -(-high // mmap.PAGESIZE)
    try:
        fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        while first < stop:
            read = os.pread(fd, min(_ENTRIES, stop - first) * 8, first * 8)
            entries = np.frombuffer(read, np.uint64)
            if (
                not entries.size
                or (((entries & _HAS_PAGE) != 0) & ((entries & _IS_OF_FILE) == 0)).any()
            ):
                return False
            first += entries.size
    except (OSError, ValueError):
        return False
    finally:
        os.close(fd)
    return True
