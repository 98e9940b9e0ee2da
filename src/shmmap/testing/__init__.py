"""Tools for testing code that uses shmmap: a check of chunks, a leak guard, and faults with names.

`check_chunks` checks that a function for `pmap_chunks` gives the same wherever the chunks end.

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
import signal as signals
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from typing import Any, NoReturn

import shmmap
from shmmap._errors.arguments import as_seconds, describe
from shmmap.testing.census import Census, mark_children, waiting_per_core
from shmmap.testing.check_chunks import ChunksDiffer, check_chunks

__all__ = [
    "BadStr",
    "CannotUnpickle",
    "ChangeDirectory",
    "ChunksDiffer",
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
    "check_chunks",
    "leak_guard",
    "wait_until",
]

GRACE_S = 5.0
"""How long a leak may take to go: longer hides slow clean-up, shorter fails on busy machines."""


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
    processes that descend from it or were started below it, their memory, and the names that they
    made, also those that have died since. Processes that import shmmap report the names they make.
    Of a name that nobody reported, it counts who has it open; if nobody has, it is a leak only if
    the block started a program that does not import shmmap, which may have made it.

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
    token = mark_children()
    # What stays for as long as the program lives must not first appear inside the block: the
    # tracker of `multiprocessing`, and the shared memory that is kept for the next small array.
    resource_tracker.ensure_running()
    shmmap.zeros(1)
    before = Census(token)
    yield
    gc.collect()
    left = before.new_things()
    if left:
        shmmap.shutdown()
        with contextlib.suppress(TimeoutError):
            grace_s = GRACE_S * waiting_per_core()
            wait_until(lambda: not before.new_things(), grace_s, interval_s=0.01)
        left = before.new_things()
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
    if not callable(condition):
        raise TypeError(f"condition must be callable, not {describe(condition)}")
    deadline = time.monotonic() + as_seconds(timeout_s, "timeout_s", is_limit=False)
    interval_s = max(0.0, as_seconds(interval_s, "interval_s", is_limit=False))
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"still waiting for {condition} after {timeout_s} s")
        time.sleep(interval_s)


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
            with open(f"{self.path}.part", "w", encoding="ascii") as file:
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
