"""Starting workers, from the caller's side: through the template, or by forking the caller.

A launcher starts a worker for a rank from its ends of descriptors, and later tells two things about it:
its pid with a pidfd (-1 where the platform has none), and, when it has ended, its wait status.
"""

from __future__ import annotations

import errno
import math
import os
import re
import signal
import socket
import struct
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from .._memory import open_scratch
from .._system.blas import blas_variables, single_threaded
from .._wire import BECOMES_TEMPLATE, FORKED, HELLO, REPLY, Descriptors, absolute_path, has_data
from .._worker.worker import run_worker

# How long a template may take until it says that it is there, before it imports anything.
HELLO_S = 30.0


class Forked(NamedTuple):
    """A worker exists."""

    rank: int
    pid: int
    pidfd: int


class Reaped(NamedTuple):
    """A worker's wait status is known."""

    pid: int
    status: int


class Lost(NamedTuple):
    """The launcher has ended: workers it was asked for will not come, no status will be known."""

    status: int | None
    reason: str = ""
    """Why no other launcher would do better; empty if another may be tried."""


Event = Forked | Reaped | Lost


class Launcher(Protocol):
    """How workers are started."""

    def fileno(self) -> int:
        """What to poll; -1 if there is nothing."""

    def spawn(self, rank: int, fds: Descriptors) -> None:
        """Start a worker; it takes over the descriptors, the caller closes its copies."""

    def deadline(self) -> float:
        """When `events` is to be asked again at the latest, by `time.monotonic`."""

    def events(self) -> list[Event]:
        """What has happened, without waiting."""

    def close(self) -> None:
        """Let it end. Workers stay."""

    def close_in_child(self) -> None:
        """Let go of what it has, in a forked child."""


class TemplateLauncher:
    """Forks workers from a clean template process; see `_worker.template`."""

    def __init__(self, blas_threads: int, preload: tuple[str, ...] = ()) -> None:
        self._executable = _find_executable()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock = ours
        self._pid = 0
        self._buffered: list[Event] = []
        self._deadline = time.monotonic() + HELLO_S
        """By then it is to have said that it is there; infinity once it has."""
        program = -1
        try:
            number = theirs.fileno()
            text = self._program(number, blas_threads, preload).encode("ascii", "backslashreplace")
            program = open_scratch(len(text))
            os.pwrite(program, text, 0)
            self._pid = os.posix_spawn(
                self._executable,
                # A search path may be longer than an argument may be, so the program is read from a file.
                # Built-in modules only: until the search path is set, the current folder is on it.
                [
                    self._executable,
                    *_interpreter_flags(),
                    "-c",
                    f"import posix; exec(posix.read({program}, {len(text)}))",
                    "shmmap._worker.template",
                ],
                {**single_threaded(os.environ), BECOMES_TEMPLATE: "1"},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, number, number),  # onto itself: inherited
                    (os.POSIX_SPAWN_DUP2, program, program),
                ],
                # A Ctrl-C while the interpreter starts must not leave a traceback of its own.
                setsigmask=[signal.SIGINT],
                setsigdef=[signal.SIGCHLD],  # ignored, it would hide how workers have ended
            )
        except BaseException as exc:
            ours.close()
            if isinstance(exc, OSError) and exc.errno not in (errno.EMFILE, errno.ENFILE):
                raise OSError(
                    exc.errno,
                    f"no worker process can be started by {self._executable}: {exc.strerror}; "
                    "engine='serial' and engine='threads' need none",
                ) from None
            raise
        finally:
            theirs.close()
            if program >= 0:
                os.close(program)
        ours.setblocking(False)

    @staticmethod
    def _program(fd: int, blas_threads: int, preload: tuple[str, ...]) -> str:
        """What the interpreter is to run: say hello on the socket, and become the template."""
        path = [entry for entry in absolute_path(sys.path) if isinstance(entry, str)]
        # This package and NumPy come from where the caller has them, and nothing from the current folder,
        # which may not be that any more from which the caller has imported.
        shmmap: Any = sys.modules["shmmap"]
        files = [str(package.__file__) for package in (shmmap, np)]
        homes = [os.path.dirname(os.path.dirname(file)) for file in files]
        own = list(dict.fromkeys([*filter(None, path), *map(os.path.abspath, homes)]))
        return (
            "import posix, sys\n"
            f"try: posix.write({fd}, {REPLY.pack(HELLO, 0, 0)!r})\n"
            "except OSError: posix._exit(0)\n"  # the caller has gone, or given up
            f"sys.path[:] = {own!r}\n"
            "from shmmap._worker.template import main\n"
            f"main({fd}, {blas_threads}, {blas_variables(os.environ)!r}, {path!r}, {preload!r})\n"
        )

    def fileno(self) -> int:
        return self._sock.fileno()

    def spawn(self, rank: int, fds: Descriptors) -> None:
        # Blocking: a start is rare and its message small.
        try:
            self._sock.setblocking(True)
            socket.send_fds(self._sock, [struct.pack("<q", rank)], list(fds))
        except OSError:
            pass  # it has ended: events() says so
        finally:
            self._sock.setblocking(False)

    def events(self) -> list[Event]:
        events, self._buffered = self._buffered, []
        while self._sock.fileno() >= 0:
            try:
                data, fds, _, _ = socket.recv_fds(self._sock, 256, 4)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                events.append(self._lose())
                break
            kind, pid, number = REPLY.unpack(data)
            if kind == HELLO:
                self._deadline = math.inf
            elif kind == FORKED:
                events.append(Forked(number, pid, fds[0] if fds else -1))
            else:
                events.append(Reaped(pid, number))
        if time.monotonic() > self._deadline:
            events.append(self._lose())
        return events

    def deadline(self) -> float:
        return self._deadline

    def _lose(self) -> Lost:
        """Give up a template that has ended, or that has not said in time that it is one."""
        is_late = time.monotonic() > self._deadline
        self._sock.close()
        status = self._reap()
        reason = ""
        if is_late:
            reason = f"{self._executable} said nothing for {HELLO_S:.0f} s"
        elif self._deadline < math.inf and status is not None and os.WIFEXITED(status):
            reason = f"{self._executable} ended with status {os.WEXITSTATUS(status)} as it started"
        if reason:
            reason += (
                ", so it may be no Python interpreter; name one by "
                "multiprocessing.set_executable(path), or use engine='fork'"
            )
        self._deadline = math.inf
        return Lost(status, reason)

    def _reap(self) -> int | None:
        """Wait for the template, which ends at once when its socket does; kill it otherwise."""
        if not self._pid:
            return None
        pid, self._pid = self._pid, 0
        try:
            pidfd = os.pidfd_open(pid)
            try:
                if not has_data(pidfd, 1.0):
                    os.kill(pid, signal.SIGKILL)
            finally:
                os.close(pidfd)
        except (AttributeError, OSError):
            pass
        try:
            return os.waitpid(pid, 0)[1]
        except OSError:  # the user's code waited for all children
            return None

    def close(self) -> None:
        self._sock.close()
        self._reap()

    def close_in_child(self) -> None:
        """Let go of the descriptor in a forked child."""
        self._sock.close()
        self._pid = 0


def _find_executable() -> str:
    """What ``multiprocessing.set_executable`` was given, or Python itself.

    Raises RuntimeError if that is no Python interpreter: it would run the program once more instead of
    starting workers.
    """
    # Importing it takes 5 ms, and as long as it is not imported, nothing has been set.
    spawn: Any = sys.modules.get("multiprocessing.spawn")
    executable = os.fsdecode((sys.executable if spawn is None else spawn.get_executable()) or "")
    why = ""
    if not executable:
        why = "this interpreter does not know its own executable (is it embedded in a program?)"
    elif executable == sys.executable and getattr(sys, "frozen", False):
        why = f"this is a frozen application, and {executable} is no Python interpreter"
    elif os.environ.get(BECOMES_TEMPLATE):
        why = (
            f"{executable} is no Python interpreter: it was started for that, and ran a program "
            "of its own"
        )
    if why:
        raise RuntimeError(
            f"worker processes cannot be started: {why}; name a Python by "
            "multiprocessing.set_executable(path), or use engine='fork'"
        )
    return executable


def _interpreter_flags() -> list[str]:
    """Command-line flags that make another interpreter behave like this one."""
    flags = sys.flags
    out = ["-" + "O" * flags.optimize] if flags.optimize else []
    out += ["-" + "b" * flags.bytes_warning] if flags.bytes_warning else []
    implied = []  # what the interpreter adds to the warning options by itself
    if flags.isolated:
        out.append("-I")
    else:
        if flags.safe_path:
            out.append("-P")
        if flags.ignore_environment:
            out.append("-E")
        if flags.no_user_site:
            out.append("-s")
    if flags.dont_write_bytecode:
        out.append("-B")
    if flags.no_site:
        out.append("-S")
    if flags.utf8_mode:
        out += ["-X", "utf8"]
    if flags.warn_default_encoding:
        out += ["-X", "warn_default_encoding"]
    if flags.dev_mode:
        out += ["-X", "dev"]
        implied.append("default")
    if not flags.ignore_environment:
        implied += os.environ.get("PYTHONWARNINGS", "").split(",")
    if flags.bytes_warning:
        implied.append(f"{'default' if flags.bytes_warning == 1 else 'error'}::BytesWarning")
    for option in sys.warnoptions:
        if option not in implied:
            out += ["-W", option]
    return out


_FROM_HERE = re.compile(rf"{re.escape(__name__)}\Z")


def _expect_warning() -> None:
    """Ignore that "use of fork() may lead to deadlocks", which Python says since 3.12: it was asked for.

    By a filter that stays: `warnings.catch_warnings` undoes what other threads do to theirs meanwhile.
    """
    ours: object = ("ignore", None, DeprecationWarning, _FROM_HERE, 0)
    if list(warnings.filters[:1]) != [ours]:
        warnings.filterwarnings("ignore", "", DeprecationWarning, _FROM_HERE.pattern)


class ForkLauncher:
    """Forks workers from this very process."""

    def __init__(self, initializer: Callable[[], object] | None) -> None:
        self._initializer = initializer
        # What workers need: imported once, and while this process may still read it.
        import locale  # noqa: F401
        import resource  # noqa: F401

        self._events: list[Event] = []
        self._pids: set[int] = set()

    def fileno(self) -> int:
        return -1

    def deadline(self) -> float:
        return math.inf

    def spawn(self, rank: int, fds: Descriptors) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            _expect_warning()
            pid = os.fork()
            if pid == 0:
                run_worker(fds, clean=False, initializer=self._initializer)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._pids.add(pid)
        try:
            pidfd = os.pidfd_open(pid)
        except (AttributeError, OSError):
            pidfd = -1
        self._events.append(Forked(rank, pid, pidfd))

    def events(self) -> list[Event]:
        events, self._events = self._events, []
        for pid in list(self._pids):
            try:
                done, status = os.waitpid(pid, os.WNOHANG)
            except OSError:  # the user's code waited for all children
                self._pids.discard(pid)
                events.append(Reaped(pid, -1))
                continue
            if done:
                self._pids.discard(pid)
                events.append(Reaped(pid, status))
        return events

    def close(self) -> None:
        for event in self._events:
            if isinstance(event, Forked) and event.pidfd >= 0:
                os.close(event.pidfd)  # it was not taken yet
        self._events.clear()
        for pid in list(self._pids):
            try:
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    os.kill(pid, signal.SIGKILL)  # it had its time to end by itself
                    os.waitpid(pid, 0)
            except OSError:
                pass
        self._pids.clear()

    def close_in_child(self) -> None:
        """Nothing is held."""
        self._pids.clear()
