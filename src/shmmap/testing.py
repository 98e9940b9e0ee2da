"""Tools for testing code that uses shmmap: a leak guard, and faults with names.

`leak_guard` checks that a block of code gave back all it took: names, processes, descriptors and
shared memory. A *fault* is a function to map that misbehaves at one index, and returns its first
argument at every other; map it over ``numpy.arange(n)``, whose items are their own indices.

>>> import numpy as np, shmmap
>>> from shmmap.testing import Raise, leak_guard
>>> with leak_guard():
...     try:
...         shmmap.pmap(Raise(KeyError("seven"), at=7), np.arange(10), engine="serial")
...     except KeyError as error:
...         print(error)
'seven'

This module stands on the public interface and on the standard library alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import faulthandler
import gc
import os
import re
import secrets
import signal as signals
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from typing import Any, NoReturn

import shmmap
from shmmap import _segment

__all__ = [
    "BadStr",
    "CannotUnpickle",
    "ChangeDirectory",
    "CloseDescriptors",
    "ExitNow",
    "Fault",
    "Flood",
    "ForkAndLinger",
    "ForkAndReturn",
    "HoldGil",
    "HugeError",
    "IgnoreSignals",
    "KillSelf",
    "KillWhenPickled",
    "KillWhenUnpickled",
    "Leak",
    "LibcExit",
    "Raise",
    "StartThread",
    "StopSelf",
    "UnpicklableError",
    "leak_guard",
    "wait_until",
]

GRACE_S = 5.0
"""How long a leak may take to go: longer hides slow clean-up, shorter fails on busy machines."""

NAME_PREFIXES = ("shmmap", "psm_", "sem.", "pymp-")
"""Names that this library, or the parts of `multiprocessing` it might use, would leave behind."""

MARK = "SHMMAP_LEAK_GUARD"
"""Environment variable by which processes that lost their parent are still recognized as ours."""

MEMORY_PATHS = ("/dev/shm/", "/memfd:", "/dev/zero (deleted)")

OWNED_NAME = re.compile(r"shmmap-(?P<pid>\d+)-(?P<started>\d+)-")
"""A name of this library, which says whose it is: a process, by its pid and its start time."""


class Leak(AssertionError):
    """Something that was not there before the block is still there after it."""


@contextlib.contextmanager
def leak_guard() -> Iterator[None]:
    """Check that the block leaves nothing behind.

    New names in ``/dev/shm`` or the temporary folder, new processes (also those whose parent has
    died), new open descriptors and new shared memory are leaks. What is still there when the block
    ends gets a chance: cycles are collected, then `shmmap.shutdown` ends the default team, which is
    allowed to stay warm; whatever remains some seconds later is reported. A block that raises is
    not checked, as its traceback keeps arrays alive.

    Only what belongs to this process counts, so several programs may guard themselves at once:
    processes that descend from it or were started below it, their memory, and names but those that
    a living process of another program made, has open or has mapped.

    Raises
    ------
    Leak
        With one line for each thing that was left behind.

    Examples
    --------
    >>> with leak_guard():
    ...     held = shmmap.zeros(3)
    ...     del held
    """
    token = _mark_children()
    # What stays for as long as the program lives must not first appear inside the block: the
    # tracker of `multiprocessing`, and the shared memory that is kept for the next small array.
    resource_tracker.ensure_running()
    shmmap.zeros(1)
    before = _things(token)
    yield
    gc.collect()
    left = _new_things(token, before)
    if left:
        shmmap.shutdown()
        with contextlib.suppress(TimeoutError):
            grace_s = GRACE_S * _waiting_per_core()
            wait_until(lambda: not _new_things(token, before), grace_s, interval_s=0.01)
        left = _new_things(token, before)
    if left:
        raise Leak("left behind:\n" + "\n".join(f"  {text}" for text in sorted(left.values())))


def wait_until(
    condition: Callable[[], Any], timeout_s: float = 5.0, *, interval_s: float = 0.001
) -> None:
    """Wait until a condition holds.

    Parameters
    ----------
    condition : callable
        Called without arguments until it returns something true.
    timeout_s : float
        Seconds after which to give up.
    interval_s : float
        Seconds between two calls.

    Raises
    ------
    TimeoutError
        When the condition does not hold in time.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"still waiting for {condition} after {timeout_s} s")
        time.sleep(interval_s)


def _waiting_per_core() -> float:
    """How many times longer than on a machine of its own this process takes for anything, at least 1.

    As many as there are processes that want a core, for each; a nice one gets still less than its share.
    """
    waiting = os.getloadavg()[0] / len(os.sched_getaffinity(0))
    return float(max(1.0, waiting * 1.25 ** max(0, os.nice(0))))


# --- what is there ------------------------------------------------------------------------------


def _mark_children() -> str:
    """Have every process started from now on carry a token of this one; return the token."""
    tokens = os.environ.get(MARK, "").split(":")
    mine = f"{os.getpid()}-"
    for token in tokens:
        if token.startswith(mine):
            return token
    token = mine + secrets.token_hex(8)
    os.environ[MARK] = ":".join([*filter(None, tokens), token])
    return token


def _new_things(token: str, before: dict[tuple[Any, ...], str]) -> dict[tuple[Any, ...], str]:
    """Compare what is there now with before; names that belong to other programs are not ours."""
    new = {key: text for key, text in _things(token).items() if key not in before}
    if any(kind == "name" for kind, *_ in new):
        others = _belongs_elsewhere(token)
        for kind, *where in list(new):
            # Other programs make names for less than a millisecond: such a one is gone by now.
            if kind == "name" and (others(*where) or not os.path.lexists(os.path.join(*where))):
                del new[kind, *where]
    return new


def _things(token: str) -> dict[tuple[Any, ...], str]:
    """Everything that could leak now: what identifies it, and a line that describes it."""
    _segment.reap()
    things: dict[tuple[Any, ...], str] = {}
    for folder in {"/dev/shm", tempfile.gettempdir()}:
        for name in os.listdir(folder):
            if name.startswith(NAME_PREFIXES):
                things["name", folder, name] = f"name {folder}/{name}"
    ours = _processes(token)
    for (pid, started), text in ours.items():
        things["process", pid, started] = f"process {pid}: {text}"
    for number, target in _descriptors("self"):
        things["descriptor", number, target] = f"descriptor {number}: {target}"
    for process in ["self", *(str(pid) for pid, _ in ours)]:
        for device, inode, nbytes in _memory(process):
            things["memory", device, inode] = f"shared memory: {nbytes} bytes, inode {inode}"
    return things


def _living() -> dict[int, tuple[int, int]]:
    """The parent and the start time of every process there is."""
    found = {}
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        with contextlib.suppress(OSError):
            # The command's name, in parentheses, may itself contain spaces and parentheses.
            fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
            found[pid] = int(fields[1]), int(fields[19])
    return found


def _tree(token: str, living: dict[int, tuple[int, int]]) -> set[int]:
    """Of the living: this process, its descendants, and orphans that carry its token."""
    ours = {os.getpid()}
    for pid in living:
        with contextlib.suppress(OSError):
            if token in _read(f"/proc/{pid}/environ"):
                ours.add(pid)
    while more := {pid for pid, (parent, _) in living.items() if parent in ours} - ours:
        ours |= more
    return ours


def _processes(token: str) -> dict[tuple[int, int], str]:
    """Descendants of this process, and orphans that carry its token; by pid and start time."""
    living = _living()
    found = {}
    for pid in _tree(token, living) - {os.getpid()}:
        with contextlib.suppress(OSError):
            command = _read(f"/proc/{pid}/cmdline").replace("\0", " ").strip()
            found[pid, living[pid][1]] = command or "(ended, not waited for)"
    return found


def _belongs_elsewhere(token: str) -> Callable[[str, str], bool]:
    """Tell of a folder and a name in it whether a living process of another program has it."""
    living = _living()
    ours = _tree(token, living)
    others = {pid: started for pid, (_, started) in living.items() if pid not in ours}
    used: set[tuple[str, int]] = set()
    for pid in others:
        used.update(_files(str(pid)))

    def belongs_elsewhere(folder: str, name: str) -> bool:
        # Between creating and opening a segment, the owner in its name is all there is to see.
        owner = OWNED_NAME.match(name)
        if owner and others.get(int(owner["pid"])) == int(owner["started"]):
            return True
        # By identity, not by path: a semaphore is opened under another name than its own.
        with contextlib.suppress(OSError):
            return _identity(os.stat(f"{folder}/{name}")) in used
        return False

    return belongs_elsewhere


def _files(pid: str) -> Iterator[tuple[str, int]]:
    """Device and inode of the files that a process has open or mapped."""
    with contextlib.suppress(OSError):
        for line in _read(f"/proc/{pid}/maps").splitlines():
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


def _memory(pid: str) -> Iterator[tuple[str, int, int]]:
    """Shared memory that a process has mapped or holds open: device, inode, bytes."""
    with contextlib.suppress(OSError):
        for line in _read(f"/proc/{pid}/maps").splitlines():
            limits, _, _, device, inode, *path = line.split(maxsplit=5)
            if path and path[0].startswith(MEMORY_PATHS):
                start, stop = (int(limit, 16) for limit in limits.split("-"))
                yield device, int(inode), stop - start
    for number, target in _descriptors(pid):
        if target.startswith(MEMORY_PATHS):
            with contextlib.suppress(OSError):
                status = os.stat(f"/proc/{pid}/fd/{number}")
                yield *_identity(status), status.st_size


def _read(path: str) -> str:
    # Without `open`, whose buffer and decoder take longer than the file: a guard reads hundreds.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = list(iter(lambda: os.read(fd, 1 << 16), b""))
    finally:
        os.close(fd)
    return b"".join(parts).decode(errors="replace")


# --- functions that misbehave -------------------------------------------------------------------


@dataclasses.dataclass
class Fault:
    """A function that misbehaves at one index and returns its first argument elsewhere.

    It serves every verb: `pmap` calls it with an item, `pmap_chunks` and `preduce` with a chunk,
    `pmap_ranges` with ``start, stop``.

    Parameters
    ----------
    at : int, optional
        The item to strike at; every item if ``None``.
    """

    at: int | None = dataclasses.field(default=None, kw_only=True)

    def __call__(self, *args: Any) -> Any:
        """Strike if it is time, and return the first argument."""
        if self._is_due(args):
            self.strike()
        return args[0]

    def _is_due(self, args: tuple[Any, ...]) -> bool:
        if self.at is None:
            return True
        if len(args) == 2:
            return bool(args[0] <= self.at < args[1])
        hit = args[0] == self.at
        return bool(hit.any() if hasattr(hit, "any") else hit)

    def strike(self) -> None:
        """Misbehave."""
        raise NotImplementedError


@dataclasses.dataclass
class Raise(Fault):
    """Raise an exception, `SystemExit` and `KeyboardInterrupt` included."""

    error: BaseException

    def strike(self) -> NoReturn:
        """Raise it."""
        raise self.error


@dataclasses.dataclass
class KillSelf(Fault):
    """Die of a signal."""

    signal: int = signals.SIGKILL

    def strike(self) -> None:
        """Send the signal to the own process, without a dump if `faulthandler` is on."""
        faulthandler.disable()
        os.kill(os.getpid(), self.signal)


@dataclasses.dataclass
class StopSelf(Fault):
    """Stop as by SIGSTOP: alive, and deaf to every other signal but SIGKILL and SIGCONT."""

    def strike(self) -> None:
        """Stop the own process."""
        os.kill(os.getpid(), signals.SIGSTOP)


@dataclasses.dataclass
class ExitNow(Fault):
    """Leave by `os._exit`: no clean-up, no report."""

    code: int = 0

    def strike(self) -> NoReturn:
        """Leave."""
        os._exit(self.code)


@dataclasses.dataclass
class LibcExit(Fault):
    """Leave by the C library's ``exit``, as Fortran's ``STOP`` does: no clean-up by Python."""

    code: int = 0

    def strike(self) -> None:
        """Leave."""
        ctypes.CDLL(None).exit(self.code)


@dataclasses.dataclass
class ForkAndLinger(Fault):
    """Fork a child that lives on with every inherited descriptor, then die of SIGKILL.

    The child writes its pid into the file `path`, and ends by itself after half a minute.
    """

    path: str

    def strike(self) -> None:
        """Fork, wait for the child to say that it lives, and die."""
        if not _fork():
            signals.alarm(30)
            with open(f"{self.path}.part", "w") as file:
                file.write(str(os.getpid()))
            os.rename(f"{self.path}.part", self.path)
            signals.pause()
            os._exit(0)
        wait_until(lambda: os.path.exists(self.path))
        os.kill(os.getpid(), signals.SIGKILL)


@dataclasses.dataclass
class ForkAndReturn(Fault):
    """Fork, and return in both processes: the child must not go on in the worker's place."""

    def strike(self) -> None:
        """Fork."""
        _fork()


@dataclasses.dataclass
class CloseDescriptors(Fault):
    """Close every descriptor but standard input, output and error."""

    def strike(self) -> None:
        """Close them."""
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))


@dataclasses.dataclass
class ChangeDirectory(Fault):
    """Change the working directory."""

    path: str = "/"

    def strike(self) -> None:
        """Change it."""
        os.chdir(self.path)


@dataclasses.dataclass
class IgnoreSignals(Fault):
    """Ignore every signal that can be ignored."""

    def strike(self) -> None:
        """Ignore them, where Python allows it: in the main thread."""
        if threading.current_thread() is threading.main_thread():
            for number in signals.valid_signals() - {signals.SIGKILL, signals.SIGSTOP}:
                with contextlib.suppress(OSError):
                    signals.signal(number, signals.SIG_IGN)


@dataclasses.dataclass
class StartThread(Fault):
    """Start a daemon thread that outlives the call by some seconds."""

    seconds: float = 1.0

    def strike(self) -> None:
        """Start it."""
        threading.Thread(target=time.sleep, args=(self.seconds,), daemon=True).start()


@dataclasses.dataclass
class HoldGil(Fault):
    """Stay inside C code that does not let go of the GIL."""

    seconds: float = 10.0

    def strike(self) -> None:
        """Wait, with the GIL held; a signal only interrupts, it does not shorten the wait."""
        poll = ctypes.PyDLL(None).poll
        deadline = time.monotonic() + self.seconds
        while (left := deadline - time.monotonic()) > 0:
            poll(None, 0, int(left * 1000) + 1)


@dataclasses.dataclass
class Flood(Fault):
    """Print far more than a pipe holds."""

    nbytes: int = 1 << 20

    def strike(self) -> None:
        """Print lines of a hundred bytes."""
        for _ in range(self.nbytes // 100):
            print("." * 99)


def _fork() -> int:
    with warnings.catch_warnings():
        # Python warns of forks in a process with threads; here the danger is the purpose.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


# --- exceptions and values that will not travel -------------------------------------------------


class UnpicklableError(Exception):
    """An exception that cannot be pickled."""

    def __reduce__(self) -> NoReturn:
        """Refuse."""
        raise TypeError("this exception cannot be pickled")


class CannotUnpickle(Exception):
    """An exception that can be pickled and, taking two arguments but keeping one, not unpickled."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


class HugeError(Exception):
    """An exception whose message has 64 MiB."""

    def __init__(self, text: str | None = None) -> None:
        super().__init__("huge" * (1 << 24) if text is None else text)


class BadStr(Exception):
    """An exception that cannot be printed."""

    def __str__(self) -> str:
        """Fail."""
        raise ValueError("this exception cannot be printed")


class KillWhenPickled(Exception):
    """An exception, or a result, whose pickling kills the process that tries it."""

    def __reduce__(self) -> NoReturn:
        """Die of SIGKILL."""
        os.kill(os.getpid(), signals.SIGKILL)
        raise AssertionError("unreachable")


class KillWhenUnpickled:
    """A function whose unpickling kills the process that tries it."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Describe it as a call of `os.kill` on whoever loads it."""
        return _kill_self, ()

    def __call__(self, *args: Any) -> Any:
        """Return the first argument."""
        return args[0]


def _kill_self() -> None:
    os.kill(os.getpid(), signals.SIGKILL)


def _main() -> int:
    """Run ``python -m shmmap.testing``, whose one command is ``soak``."""
    import importlib
    import sys

    if sys.argv[1:2] != ["soak"]:
        print("usage: python -m shmmap.testing soak [--minutes N] [--seed S]", file=sys.stderr)
        return 2
    # The soak stands on this module, so it is looked up only when it is run.
    status: int = importlib.import_module("shmmap._soak").main(sys.argv[2:])
    return status


if __name__ == "__main__":
    raise SystemExit(_main())
