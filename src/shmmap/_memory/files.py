"""Memory-mapped files as outputs: what has to be known about them before anything is written.

Two memory maps of one file overlap although their addresses do not. And a file that was made larger, but
not written yet, has no space on the disk: whoever writes there through a mapping when the disk is full dies
of SIGBUS. So overlap is looked for in one mapping of the file, and space is reserved up front.
"""

from __future__ import annotations

import errno
import mmap
import os

import numpy as np

from .._interop.numpy_types import Array
from .handles import byte_bounds, find_memmap


def _place(a: Array) -> tuple[str, int] | None:
    """Path of the file that `a` lies in, and the position of its first element; None if there is none."""
    root = find_memmap(a)
    if root is None or root.filename is None:
        return None
    address = a.__array_interface__["data"][0]
    return os.fspath(root.filename), root.offset + address - root.__array_interface__["data"][0]


def on_one_mapping(one: Array, other: Array) -> tuple[Array, Array]:
    """The two arrays; if they lie in the same file, as views of a single mapping of it."""
    places = _place(one), _place(other)
    if places[0] is None or places[1] is None or not one.size or not other.size:
        return one, other
    try:
        if not os.path.samefile(places[0][0], places[1][0]):
            return one, other
        with open(places[0][0], "rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        views = [
            np.ndarray(a.shape, a.dtype, mapping, place[1], a.strides)
            for a, place in zip((one, other), places, strict=True)
            if place is not None
        ]
    except (OSError, ValueError, TypeError):
        return one, other  # removed or cut in the meantime: what is mapped there is told elsewhere
    return views[0], views[1]


def reserve_file(out: Array) -> None:
    """Make sure that an output in a file can be written without fail.

    Raises
    ------
    OSError
        If the disk is too full.
    ValueError
        If the file has become shorter than it was when it was mapped.
    """
    place = _place(out)
    root = find_memmap(out)
    if place is None or root is None or root.mode == "c" or not out.size:
        return
    path, position = place
    low, high = byte_bounds(out)
    first = position + low - out.__array_interface__["data"][0]
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
