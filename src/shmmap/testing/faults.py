"""Faults with names: functions that misbehave at one index, and exceptions and values that do not travel."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import faulthandler
import os
import signal as signals
import threading
import time
import warnings
from typing import Any, NoReturn

from .guard import wait_until


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

    def __call__(self, *args: object) -> Any:
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

    def __reduce__(self) -> tuple[object, ...]:
        """Describe it as a call of `os.kill` in the process that loads it."""
        return _kill_self, ()

    def __call__(self, *args: object) -> Any:
        """Return the first argument."""
        return args[0]


def _kill_self() -> None:
    os.kill(os.getpid(), signals.SIGKILL)
