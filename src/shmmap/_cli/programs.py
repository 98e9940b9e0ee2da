"""The user's programs, looked at from outside: what ``/proc`` lets one see of their teams and maps.

What must hold: nothing of a program is written or locked, and nothing of it is kept open from one look to the
next. It may end at any moment; then `look` says so by `Gone`.
"""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple, TypeVar

from .._wire.control import HEAD_NBYTES
from .._wire.header import CONTROL_MARK, HEADER_NBYTES, LAYOUT, Header, unpack_header
from .._wire.sight import (
    SLOTS_NBYTES,
    SeenMap,
    SeenWorker,
    ledger_end,
    read_map,
    read_workers,
)
from .errors import Refused

_PAGE_NBYTES = os.sysconf("SC_PAGE_SIZE")
_NONE = Header(b"", 0, 0, 0)

_T = TypeVar("_T")


class Gone(Exception):
    """The program has ended."""


class Snapshot(NamedTuple):
    """What a program was at, at one moment."""

    when_ns: int
    maps: list[SeenMap]
    """Open ones, and those that are over whose control block is kept."""
    teams: list[list[SeenWorker]]
    shared_nbytes: int
    """Its shared memory, all segments together."""
    private_nbytes: int
    """Of the program itself; see `Program.worker_nbytes` for its workers."""


class Program:
    """A process that may have teams. Raises Refused, or Gone, if it may not be looked at, or is not there."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._started = _start_time(pid)
        self.command = _command(pid)
        self._own_pid = _read_pids(pid)[-1]
        """As it knows itself: in a container it may have another number."""
        self._headers: dict[tuple[int, int], Header] = {}
        """Of its shared memory, by device and inode."""
        self._pids = _pids_of_namespace(pid)

    def look(self) -> Snapshot:
        """What it is at. Raises Gone, or Refused if it is another version of the library's."""
        when_ns = time.perf_counter_ns()
        maps: list[SeenMap] = []
        teams: list[list[SeenWorker]] = []
        seen: set[tuple[int, int]] = set()
        shared_nbytes = 0
        for path, status in self._shared_memory():
            key = status.st_dev, status.st_ino
            if key in seen:
                continue
            seen.add(key)
            shared_nbytes += status.st_blocks * 512
            if key not in self._headers:
                self._headers[key] = _read(path, _read_header) or _NONE
            header = self._headers[key]
            if header.pid != self._own_pid:
                continue
            if header.layout != LAYOUT:
                raise Refused(
                    f"process {self.pid} has another version of shmmap, whose memory is laid out otherwise: "
                    "use the top of that installation"
                )
            if header.mark == CONTROL_MARK:
                data = _read(path, _read_control)
                if data is not None:
                    maps.append(read_map(header.id, data))
            elif (data := _read(path, _read_slots)) is not None:
                teams.append(read_workers(data))
        self._headers = {key: self._headers[key] for key in seen}
        if _start_time(self.pid) != self._started:
            raise Gone
        maps.sort(key=lambda each: each.id)
        private_nbytes = _private_nbytes(self.pid) or 0
        return Snapshot(when_ns, maps, teams, shared_nbytes, private_nbytes)

    def has_team(self) -> bool:
        """Whether it has, or is about to have, workers of its own."""
        return any(header.pid == self._own_pid for header in self._headers.values())

    def caller(self) -> int | None:
        """The program whose worker this one is, if it is one, as that knows itself."""
        return next((header.pid for header in self._headers.values() if header.is_ours), None)

    def worker_pid(self, worker: SeenWorker) -> int:
        """A worker's process, as it is known here; 0 if it is not there."""
        if self._pids is None:
            return worker.pid
        if worker.pid not in self._pids:
            self._pids = _pids_of_namespace(self.pid) or {}
        return self._pids.get(worker.pid, 0)

    def worker_nbytes(self, worker: SeenWorker) -> int | None:
        """Private memory of a worker; None if it is not there any more."""
        pid = self.worker_pid(worker)
        return _private_nbytes(pid) if pid else None

    def _shared_memory(self) -> Iterator[tuple[str, os.stat_result]]:
        """Descriptors of shared memory of this library's, and what they are of."""
        for path in _descriptors(self.pid):
            try:
                name = os.readlink(path)
                if "shmmap" in name and name.endswith(" (deleted)"):
                    yield path, os.stat(path)
            except PermissionError:
                raise _refusal(self.pid) from None
            except OSError:
                pass  # closed meanwhile


def own_programs() -> list[Program]:
    """Programs of this user that have teams."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            if os.stat(f"/proc/{name}").st_uid != os.geteuid():
                continue
            program = Program(int(name))
            program.look()
        except (OSError, Refused, Gone):
            continue
        if program.has_team():
            found.append(program)
    return sorted(found, key=lambda each: each.pid)


def open_program(pid: int) -> Program:
    """A program that somebody wants to look at. Raises Refused if it is none that has a team."""
    try:
        program = Program(pid)
        program.look()
    except Gone:
        raise Refused(f"there is no process {pid}") from None
    if program.has_team():
        return program
    caller = program.caller()
    if caller is not None:
        raise Refused(f"process {pid} is a worker: look at its program, shmmap top {caller}")
    raise Refused(
        f"process {pid} has no team of workers; maps of the engines serial and threads, and those of "
        "executors, cannot be seen from outside"
    )


# ------------------------------------------------------------------------------- /proc


def _descriptors(pid: int) -> list[str]:
    folder = f"/proc/{pid}/fd"
    try:
        return [f"{folder}/{name}" for name in os.listdir(folder)]
    except (FileNotFoundError, ProcessLookupError):
        raise Gone from None
    except PermissionError:
        raise _refusal(pid) from None


def _refusal(pid: int) -> Refused:
    """Why a process may not be looked at."""
    try:
        owner = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        raise Gone from None
    if owner != os.geteuid():
        return Refused(
            f"process {pid} belongs to {_user(owner)}: only that user, or root, may look at it"
        )
    return Refused(
        f"process {pid} may not be looked at: it is in another container, or has rights of its own"
    )


def _user(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read().decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        raise Gone from None


def _start_time(pid: int) -> str:
    """When it started: with its number, its identity. Raises Gone also for one that has not been reaped."""
    if not os.path.isdir("/proc/self"):
        raise Refused("there is no /proc here, where programs could be looked at")
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if fields[0] in "ZX":
        raise Gone
    return fields[19]


def _command(pid: int) -> str:
    words = _text(f"/proc/{pid}/cmdline").split("\0")
    return " ".join([os.path.basename(words[0]), *words[1:]]).strip()


def _read_pids(pid: int) -> list[int]:
    """Its numbers, from the outermost namespace that is seen here to its own."""
    for line in _text(f"/proc/{pid}/status").splitlines():
        if line.startswith("NSpid:"):
            return [int(word) for word in line.split()[1:]]
    return [pid]


def _pids_of_namespace(pid: int) -> dict[int, int] | None:
    """In another namespace of process numbers: those here by those there. None if it is the same one."""
    try:
        namespace = os.readlink(f"/proc/{pid}/ns/pid")
        if namespace == os.readlink("/proc/self/ns/pid"):
            return None
    except OSError:  # not to be looked at: nor is the rest, and that says why
        return None
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError, Gone):
            if os.readlink(f"/proc/{name}/ns/pid") == namespace:
                found[_read_pids(int(name))[-1]] = int(name)
    return found


def _private_nbytes(pid: int) -> int | None:
    """Memory that is a process's own; None if that has ended."""
    try:
        resident, shared = _text(f"/proc/{pid}/statm").split()[1:3]
    except (Gone, OSError):
        return None
    return (int(resident) - int(shared)) * _PAGE_NBYTES or None


def _read(path: str, read: Callable[[int], _T]) -> _T | None:
    """What is read of a descriptor of another process; None if that has just been closed."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return read(fd)
    except OSError:
        return None
    finally:
        os.close(fd)


def _read_header(fd: int) -> Header:
    header = unpack_header(os.pread(fd, HEADER_NBYTES, 0))
    return header if header.is_ours else _NONE


def _read_control(fd: int) -> bytes | None:
    head = os.pread(fd, HEAD_NBYTES, 0)
    if len(head) < HEAD_NBYTES:
        return None
    return os.pread(fd, ledger_end(head), 0)


def _read_slots(fd: int) -> bytes:
    return os.pread(fd, SLOTS_NBYTES, 0)
