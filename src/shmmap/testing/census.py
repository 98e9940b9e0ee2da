"""What a program has: its processes, their descriptors and their shared memory, and names. For `testing`.

A program is this process, its descendants, and orphans that carry its token in their environment.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from .._memory import take_back_released
from .._system.kernel_files import read_kernel_file
from .._system.witness import NAME_PREFIXES

MEMORY_PATHS = ("/dev/shm/", "/memfd:", "/dev/zero (deleted)")

OWNED_NAME = re.compile(r"shmmap-(?P<pid>\d+)-(?P<started>\d+)-")
"""A name of this library, which says of which process it is, by pid and start time."""

_LOKY_NAME = re.compile(r"sem\.loky-(\d+)-")
"""A semaphore where loky has been imported, which renames those of `multiprocessing`; by pid."""


def waiting_per_core() -> float:
    """How many times longer than on a machine of its own this process takes for anything, at least 1.

    As many as there are processes that want a core, for each; a nice one gets still less than its share.
    """
    waiting = os.getloadavg()[0] / len(os.sched_getaffinity(0))
    return float(max(1.0, waiting * 1.25 ** max(0, os.nice(0))))


class Census:
    """What is there at one time, and how what is there later compares with it."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._fd = int(token.split("-")[1])
        self._told = os.fstat(self._fd).st_size
        self._things = _things_now(token)

    def new_things(self) -> dict[tuple[object, ...], str]:
        """What is there now and was not; names that belong to other programs are not ours."""
        new = {
            key: text for key, text in _things_now(self._token).items() if key not in self._things
        }
        if any(kind == "name" for kind, *_ in new):
            is_ours = self._owner()
            for kind, *where in list(new):
                # Names are often there for less than a millisecond: such a one is gone by now.
                if kind == "name" and not (is_ours(*where) and os.path.lexists("/".join(where))):
                    del new[kind, *where]
        return new

    def _owner(self) -> Callable[[str, str], bool]:
        """Tell of a folder and a name in it whether this program made it. What is in doubt is not ours."""
        living = _living()
        ours = _tree(self._token, living)
        told = os.pread(self._fd, os.fstat(self._fd).st_size, 0)
        made = set(told.split(b"\n"))
        told = told[self._told :]
        # Programs that do not import this library report nothing; there was at least one of them.
        were_silent = told.count(b"program\n") > told.count(b"hello\n")
        used: dict[bool, set[tuple[str, int]]] = {True: set(), False: set()}
        for pid in living:
            used[pid in ours].update(_files(str(pid)))
        tag = self._token.rpartition("-")[2]

        def is_ours(folder: str, name: str) -> bool:
            owner = OWNED_NAME.match(name)
            if owner:
                pid = int(owner["pid"])
                if pid in living and living[pid][1] == int(owner["started"]):
                    return pid in ours
            if tag in name or os.fsencode(f"name {folder}/{name}") in made:
                return True
            loky = _LOKY_NAME.match(name)
            if loky and b"pid " + loky[1].encode() in made:
                return True
            try:
                status = os.lstat(f"{folder}/{name}")
            except OSError:
                return False
            # By identity, not by path: a semaphore is opened under another name than its own.
            identity = _identity(status)
            if identity in used[False] or owner:
                return False
            return identity in used[True] or (were_silent and status.st_uid == os.geteuid())

        return is_ours


def _things_now(token: str) -> dict[tuple[Any, ...], str]:
    """Everything that could leak now: what identifies it, and a line that describes it."""
    take_back_released()
    things: dict[tuple[object, ...], str] = {}
    for folder in {"/dev/shm", tempfile.gettempdir()}:
        for name in os.listdir(folder):
            if name.startswith(NAME_PREFIXES):
                things["name", folder, name] = f"name {folder}/{name}"
    ours = processes_of(token)
    for (pid, started), text in ours.items():
        things["process", pid, started] = f"process {pid}: {text}"
    for number, target in _descriptors("self"):
        things["descriptor", number, target] = f"descriptor {number}: {target}"
    for process in ["self", *(str(pid) for pid, _ in ours)]:
        for device, inode, nbytes in memory_of(process):
            things["memory", device, inode] = f"shared memory: {nbytes} bytes, inode {inode}"
    return things


def _living() -> dict[int, tuple[int, int]]:
    """The parent and the start time of every process there is."""
    found = {}
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        with contextlib.suppress(OSError):
            # The command's name, in parentheses, may itself contain spaces and parentheses.
            fields = read_kernel_file(f"/proc/{pid}/stat").rpartition(")")[2].split()
            found[pid] = int(fields[1]), int(fields[19])
    return found


def _tree(token: str, living: dict[int, tuple[int, int]]) -> set[int]:
    """Of the living: this process, its descendants, and orphans that carry its token."""
    ours = {os.getpid()}
    for pid in living:
        with contextlib.suppress(OSError):
            if token in read_kernel_file(f"/proc/{pid}/environ"):
                ours.add(pid)
    while more := {pid for pid, (parent, _) in living.items() if parent in ours} - ours:
        ours |= more
    return ours


def processes_of(token: str) -> dict[tuple[int, int], str]:
    """Descendants of this process, and orphans that carry its token; by pid and start time."""
    living = _living()
    found = {}
    for pid in _tree(token, living) - {os.getpid()}:
        with contextlib.suppress(OSError):
            command = read_kernel_file(f"/proc/{pid}/cmdline").replace("\0", " ").strip()
            command = command.encode(errors="replace").decode()  # it is going to be printed
            found[pid, living[pid][1]] = command or "(ended, not waited for)"
    return found


def _files(pid: str) -> Iterator[tuple[str, int]]:
    """Device and inode of the files that a process has open or mapped."""
    with contextlib.suppress(OSError):
        for line in read_kernel_file(f"/proc/{pid}/maps").splitlines():
            _, _, _, device, inode, *_ = line.split(maxsplit=5)
            yield device, int(inode)
    for number, target in _descriptors(pid):
        if target.startswith("/"):
            with contextlib.suppress(OSError):
                yield _identity(os.stat(f"/proc/{pid}/fd/{number}"))


def _identity(status: os.stat_result) -> tuple[str, int]:
    """Device and inode, the first as in ``/proc/<pid>/maps``."""
    return f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}", status.st_ino


def _descriptors(pid: str) -> Iterator[tuple[int, str]]:
    """Open descriptors of a process, and what they refer to."""
    folder = f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):
        for number in os.listdir(folder):
            # The one that lists the folder is closed by now, so that its link is gone.
            with contextlib.suppress(OSError):
                yield int(number), os.readlink(f"{folder}/{number}")


def memory_of(pid: str) -> Iterator[tuple[str, int, int]]:
    """Shared memory that a process has mapped or holds open: device, inode, bytes."""
    with contextlib.suppress(OSError):
        for line in read_kernel_file(f"/proc/{pid}/maps").splitlines():
            limits, _, _, device, inode, *path = line.split(maxsplit=5)
            if path and path[0].startswith(MEMORY_PATHS):
                start, stop = (int(limit, 16) for limit in limits.split("-"))
                yield device, int(inode), stop - start
    for number, target in _descriptors(pid):
        if target.startswith(MEMORY_PATHS):
            with contextlib.suppress(OSError):
                status = os.stat(f"/proc/{pid}/fd/{number}")
                yield *_identity(status), status.st_size
