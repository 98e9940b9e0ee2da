"""Memory of another process of the same user, opened through ``/proc``, and why it cannot be had.

Called by `_memory.locations` and `_memory.leases`. What must hold: nothing is opened before it is known to be
what was meant. A pid may be another process by now, which its start time tells; and a descriptor another
file, which its inode tells.
"""

from __future__ import annotations

import errno
import functools
import os
from contextlib import suppress
from typing import NamedTuple

from .._errors.exceptions import SharedMemoryError
from .._system.forks import at_fork
from .._system.kernel_files import read_kernel_file, start_time

Inode = tuple[int, int]
"""Device and number: the identity of a file, and of a segment, on one machine."""


class Process(NamedTuple):
    """A process, such that any other on any machine can tell whether it is one it can see."""

    machine: str
    """The kernel's id of this boot of the machine."""
    namespace: str
    """Of pids; containers have one each."""
    user: int
    pid: int
    started: str


def this_process() -> Process:
    """Raises OSError where there is no ``/proc``."""
    machine, namespace, started = _identity()
    return Process(machine, namespace, os.geteuid(), os.getpid(), started)


def process_of(pid: int) -> Process:
    """Another process of this machine and user. Raises OSError if there is none."""
    return this_process()._replace(pid=pid, started=start_time(pid))


def this_machine() -> str:
    """The kernel's id of this boot of the machine; empty where there is no ``/proc``."""
    try:
        return _identity()[0]
    except OSError:
        return ""


@functools.cache
def _identity() -> tuple[str, str, str]:
    machine = read_kernel_file("/proc/sys/kernel/random/boot_id").strip()
    return machine, os.readlink("/proc/self/ns/pid"), start_time(os.getpid())


at_fork(after_in_child=_identity.cache_clear)


def inode_of(fd: int) -> Inode:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def find_descriptor(inode: Inode) -> int:
    """A descriptor of this process for what has some inode; -1 if it has none."""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if inode_of(int(name)) == inode:
                return int(name)
    return -1


def open_of(owner: Process, fd: int, inode: Inode, flags: int) -> int:
    """A descriptor of our own for what another process has as `fd`.

    Raises OSError if it cannot be had, FileNotFoundError where it is not there any more.
    """
    if start_time(owner.pid) != owner.started:
        raise FileNotFoundError(errno.ENOENT, "another process by now")
    path = f"/proc/{owner.pid}/fd/{fd}"
    status = os.stat(path)  # opened before that is asked, a device might do something
    if (status.st_dev, status.st_ino) == inode:
        opened = os.open(path, flags | os.O_CLOEXEC)
        if inode_of(opened) == inode:
            return opened
        os.close(opened)
    raise FileNotFoundError(errno.ENOENT, "another file by now")


def open_memory(owner: Process, fd: int, inode: Inode, nbytes: int) -> int:
    """A descriptor of our own for a segment of another process.

    Raises SharedMemoryError or PermissionError with the reason if it cannot be had.
    """
    try:
        here = this_process()
    except OSError:
        where = "this process, which has no /proc to look into others"
        raise SharedMemoryError(nbytes, 0, where, _COPY) from None
    if owner.machine != here.machine:
        where = "this machine: the handle is of another one, or of before a restart"
        raise SharedMemoryError(nbytes, 0, where, _COPY)
    if owner.namespace != here.namespace:
        where = (
            f"this container: the handle is of process {owner.pid} of another one (pid namespace)"
        )
        raise SharedMemoryError(nbytes, 0, where, f"give both one namespace of pids, or {_COPY}")
    try:
        return open_of(owner, fd, inode, os.O_RDWR)
    except (FileNotFoundError, ProcessLookupError):
        if here.user not in (0, owner.user):
            raise _another_user(owner) from None  # who may not even be seen
        where = f"process {owner.pid}, which has {'dropped it' if is_running(owner) else 'ended'}"
        way_out = "keep the array there until its handle has arrived"
        raise SharedMemoryError(nbytes, 0, where, way_out) from None
    except PermissionError:
        if here.user != owner.user:
            raise _another_user(owner) from None
        raise PermissionError(
            f"process {owner.pid} lets nobody look into it, as it has changed its user or called "
            f"prctl(PR_SET_DUMPABLE, 0), so its shared memory cannot be reached; {_COPY}"
        ) from None
    except OSError as exc:
        if exc.errno in (errno.EMFILE, errno.ENFILE):
            exc.add_note("no file descriptor left: drop arrays or raise the limit (ulimit -n)")
        raise


_COPY = "send the array itself, which is a copy, or a file"


def _another_user(owner: Process) -> PermissionError:
    return PermissionError(
        f"process {owner.pid} belongs to another user (id {owner.user}), and shared memory is for processes "
        f"of one user; {_COPY}"
    )


def is_running(owner: Process) -> bool:
    """Whether a process of this machine and namespace is still there, and has not ended."""
    try:
        state = read_kernel_file(f"/proc/{owner.pid}/stat").rsplit(")", 1)[1].split()
        return state[19] == owner.started and state[0] not in "ZX"
    except OSError:
        return False
