"""Nameless shared memory: where it comes from, and huge pages. The only importer of `shared_memory`.

What must always hold:

- No memory has a name once it holds anything: create, open, unlink, and only then reserve. SIGKILL of
  all processes therefore leaks nothing. A name that a kill left in between is empty, and is swept.
- Reserved before use (``posix_fallocate``), so that writing can never die of SIGBUS.
- A descriptor comes from ``open()``: only then is its offset atomic, see `_wire.control`.
"""

from __future__ import annotations

import errno
import mmap
import os
import sys
from collections.abc import Callable
from typing import Any

from .._errors.exceptions import SharedMemoryError
from .._system.imports import late_import
from .._system.interrupts import Uninterrupted
from .._system.kernel_files import read_kernel_file, start_time
from .._system.limits import address_space, available, file_size_limit
from .._system.witness import tag

# Asking what is available costs about 50 us; below this an allocation is not worth the question.
CHECK_NBYTES = 1 << 24
# Smaller than this, memory has no huge page.
HUGE_NBYTES = 1 << 21

SHM_FOLDER = "/dev/shm"
SHMEM_ENABLED = "/sys/kernel/mm/transparent_hugepage/shmem_enabled"
_MADV_POPULATE_WRITE = 23
_PREFIX = "shmmap-"

# What tells that one opener's memory is full, or may not be so large: the next one is tried.
_FULL = (errno.ENOSPC, errno.ENOMEM, errno.EFBIG, errno.EDQUOT)

_swept = False


class _Untracked:
    """Stands in for the tracker module that `shared_memory` calls, on Python before 3.13.

    The one documented shim of the library. There, ``SharedMemory`` has no ``track=False`` and starts
    the resource tracker, a process, for a name that is gone again some microseconds later. Only
    registrations of our own names are dropped; all others pass.
    """

    def __init__(self, tracker: Any) -> None:
        self._tracker = tracker

    def register(self, name: str, rtype: str) -> None:
        if not name.lstrip("/").startswith(_PREFIX):
            self._tracker.register(name, rtype)

    def unregister(self, name: str, rtype: str) -> None:
        if not name.lstrip("/").startswith(_PREFIX):
            self._tracker.unregister(name, rtype)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tracker, name)


def _sweep() -> None:
    """Remove names of ours whose owner died between creating and unlinking; such are empty."""
    for name in os.listdir(SHM_FOLDER):
        if not name.startswith(_PREFIX):
            continue
        path = os.path.join(SHM_FOLDER, name)
        try:
            pid, start = name[len(_PREFIX) :].split("-")[:2]
            if os.stat(path).st_uid != os.geteuid():
                continue
            try:
                alive = start_time(int(pid)) == start
            except OSError:
                alive = False
            if not alive:
                os.unlink(path)
        except (OSError, ValueError):
            continue


def _open_posix(nbytes: int) -> int:
    """Descriptor of a new, unlinked, unreserved POSIX shared memory object."""
    global _swept
    with late_import:
        from multiprocessing import shared_memory as module

    shared_memory: Any = module
    options: dict[str, object] = {}
    if sys.version_info >= (3, 13):
        options["track"] = False
    elif not isinstance(shared_memory.resource_tracker, _Untracked):
        shared_memory.resource_tracker = _Untracked(shared_memory.resource_tracker)
    if not _swept:
        _swept = True
        _sweep()
    pid = os.getpid()
    name = f"{_PREFIX}{pid}-{start_time(pid)}-{os.urandom(8).hex()}{tag()}"
    with Uninterrupted():  # or a Ctrl-C would leave the name
        shm = shared_memory.SharedMemory(name, create=True, size=nbytes, **options)
        path = os.path.join(SHM_FOLDER, name)
        try:
            # The umask may have taken bits that its owner needs to open it; it can only take.
            os.chmod(path, 0o600)
            return os.open(path, os.O_RDWR | os.O_CLOEXEC)
        finally:
            shm.unlink()
            shm.close()


def _open_memfd(nbytes: int) -> int:
    """The same as a memfd, reopened: only descriptors from ``open()`` have atomic offsets."""
    raw = os.memfd_create("shmmap", os.MFD_CLOEXEC)
    try:
        os.fchmod(raw, 0o600)
        os.ftruncate(raw, nbytes)
        return os.open(f"/proc/self/fd/{raw}", os.O_RDWR | os.O_CLOEXEC)
    finally:
        os.close(raw)


def _open_file(nbytes: int) -> int:
    """The same as an unlinked temporary file: where there is neither of the others (macOS)."""
    import tempfile

    with tempfile.TemporaryFile() as file:
        if hasattr(os, "fchmod"):  # the umask may have taken bits that its owner needs to open it
            os.fchmod(file.fileno(), 0o600)
        os.ftruncate(file.fileno(), nbytes)
        return os.dup(file.fileno())


_Opener = Callable[[int], int]
_FOR_ARRAYS: tuple[_Opener, ...] = (_open_posix, _open_memfd, _open_file)
_FOR_OURSELVES: tuple[_Opener, ...] = (_open_memfd, _open_posix, _open_file)


def open_scratch(nbytes: int) -> int:
    """The same as `open_nameless`, for what the library itself keeps: tickets, claims, pages of results.

    Not by way of ``SharedMemory``, if it can be helped: importing that takes 17 ms and 5 MB, and neither a
    worker nor a map over a list has any other need of it.
    """
    return open_nameless(nbytes, _FOR_OURSELVES)


def open_nameless(nbytes: int, openers: tuple[_Opener, ...] = _FOR_ARRAYS) -> int:
    """Descriptor of new nameless shared memory of `nbytes`, reserved.

    Raises SharedMemoryError if it is not to be had anywhere; nothing is left allocated. Raises OSError if
    there are no descriptors left.
    """
    _check_limits(nbytes)
    failure: Exception | None = None
    for opener in openers:
        try:
            fd = opener(nbytes)
        except OSError as exc:
            if exc.errno in (errno.EMFILE, errno.ENFILE):
                raise OSError(
                    exc.errno,
                    "no file descriptor left for shared memory; drop arrays or raise the limit "
                    "(ulimit -n)",
                ) from None
            failure = exc.with_traceback(None)  # or it and this frame would refer to each other
            continue
        except (AttributeError, ImportError):  # not on this platform
            continue
        try:
            if nbytes >= HUGE_NBYTES and wants_advice(fd):
                populate(map_fd(fd, nbytes), 0, nbytes)
            if hasattr(os, "posix_fallocate"):
                reserve(fd, 0, nbytes)
            return fd
        except (OSError, SharedMemoryError) as exc:
            os.close(fd)
            if not isinstance(exc, OSError) or exc.errno not in _FULL:
                raise
            failure = exc.with_traceback(None)
    free, where = available()
    if room := shm_room():
        free, where = min((free, where), (room[0], SHM_FOLDER))
    raise SharedMemoryError(
        nbytes, free, where, "free some of it, or work on a memory-mapped file"
    ) from failure


def _check_limits(nbytes: int) -> None:
    """Refuse what a limit of this process, a memory cgroup or the machine does not allow."""
    if nbytes >= CHECK_NBYTES:
        free, where = available()
        if nbytes > free:
            raise SharedMemoryError(
                nbytes,
                free,
                where,
                "work on a memory-mapped file (shmmap.load(path, mmap_mode='r')) or in parts, or "
                "raise that limit",
            )
        left = address_space()
        if left is not None and nbytes > left:
            raise _cannot_map(nbytes, left)
    most = file_size_limit()
    if most is not None and nbytes > most:
        # Asked first: a process that goes beyond it is sent SIGXFSZ, and dies unless it ignores that.
        raise SharedMemoryError(
            nbytes,
            most,
            "this process's limit on the size of a file, which counts for shared memory too",
            "raise it (ulimit -f)",
        )


def shm_room() -> tuple[int, int] | None:
    """Bytes free in `SHM_FOLDER`, and those it has in all; None if there is no such folder."""
    try:
        stat = os.statvfs(SHM_FOLDER)
    except (AttributeError, OSError):
        return None
    return stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize


def reserve(fd: int, start: int, nbytes: int) -> None:
    """Have the system keep space for a part of a new file, so that no write to a mapping of it can fail.

    Raises OSError if there is not enough.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(fd, start, nbytes)
            return
        except OSError as exc:
            if exc.errno not in (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
    # A sandbox forbids it. Pages that have been written are there as well; it takes longer.
    zeros = bytes(min(nbytes, 1 << 20))
    for done in range(0, nbytes, len(zeros)):
        os.pwrite(fd, zeros[: nbytes - done], start + done)


def wants_advice(fd: int) -> bool:
    """Whether the system gives huge pages to this segment, but only where they are advised."""
    try:
        in_folder = os.fstat(fd).st_dev == os.stat(SHM_FOLDER).st_dev
    except OSError:
        in_folder = False
    known = _advice.get(in_folder)
    if known is None:
        setting = mount_setting() if in_folder else kernel_setting()
        known = _advice[in_folder] = setting == "advise"
    return known


_advice: dict[bool, bool] = {}
"""What `wants_advice` has found out, for segments in `SHM_FOLDER` and for others."""


def mount_setting() -> str:
    """What the mount of `SHM_FOLDER` says of huge pages; "never", its default, if it says nothing."""
    try:
        lines = read_kernel_file("/proc/self/mounts").splitlines()
        options = [line.split()[3] for line in lines if line.split()[1] == SHM_FOLDER]
    except (OSError, IndexError):
        return "never"
    found = [each for each in ",".join(options[-1:]).split(",") if each.startswith("huge=")]
    return found[-1].removeprefix("huge=") if found else "never"


def kernel_setting() -> str:
    """What the kernel says of huge pages for shared memory elsewhere; empty if it says nothing."""
    try:  # all values are listed, with the one in force in brackets
        return read_kernel_file(SHMEM_ENABLED).partition("[")[2].partition("]")[0]
    except OSError:
        return ""


def populate(mapping: mmap.mmap, start: int, nbytes: int) -> None:
    """Have the pages of a mapping allocated, as huge ones if it was advised and there are any.

    Reserving alone would not: ``fallocate`` knows of no advice, as that belongs to a mapping, and takes
    small pages for good. What is missing afterwards, reserving notices; here nothing fails.
    """
    start -= start % mmap.PAGESIZE
    try:
        mapping.madvise(_MADV_POPULATE_WRITE, start, nbytes)
    except (AttributeError, OSError, ValueError):
        pass  # Linux before 5.14; or not enough memory


def _cannot_map(nbytes: int, left: int | None) -> SharedMemoryError:
    """The error if memory is to be had, but not to be mapped; `left`: of a limited address space."""
    if left is not None and left < nbytes:
        where = "this process's address space"
        return SharedMemoryError(nbytes, left, where, "raise its limit (ulimit -v)")
    where = "this process's mappings"
    return SharedMemoryError(nbytes, 0, where, "raise their number (vm.max_map_count)")


class OwnMapping(mmap.mmap):
    """A mapping of this library's own memory: no file by which others could reach it."""


def map_fd(fd: int, nbytes: int, *, keeps_fd: bool = False) -> mmap.mmap:
    """Map all of `fd`; huge pages are advised always, which costs nothing where they are off.

    With `keeps_fd` the mapping has a descriptor of its own; before Python 3.13 it always has.

    Raises SharedMemoryError if this process may not map so much, or nothing more.
    """
    try:
        if sys.version_info >= (3, 13):
            mapping = OwnMapping(fd, nbytes, trackfd=keeps_fd)
        else:
            mapping = OwnMapping(fd, nbytes)
    except OSError as exc:
        if exc.errno != errno.ENOMEM:
            raise
        raise _cannot_map(nbytes, address_space()) from None
    if nbytes >= HUGE_NBYTES and hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            mapping.madvise(mmap.MADV_HUGEPAGE)
        except OSError:
            pass  # kernels without transparent huge pages
    return mapping
