"""Starting workers, from the caller's side: through the template, or by forking the caller.

A launcher starts a worker for a rank from its ends of descriptors, and later tells two things about it:
its pid with a pidfd (-1 where the platform has none), and, when it has ended, its wait status.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import sys
import warnings
from typing import Any, NamedTuple, Protocol

from ._control import has_data
from ._prepare import Descriptors
from ._template import FORKED, REPLY, blas_variables, single_threaded
from ._worker import run_worker

__all__ = ["ForkLauncher", "Forked", "Launcher", "Lost", "Reaped", "TemplateLauncher"]


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


Event = Forked | Reaped | Lost


class Launcher(Protocol):
    """How workers are started."""

    def fileno(self) -> int:
        """What to poll; -1 if there is nothing."""

    def spawn(self, rank: int, fds: Descriptors) -> None:
        """Start a worker; it takes over the descriptors, the caller closes its copies."""

    def events(self) -> list[Event]:
        """What has happened, without waiting."""

    def close(self) -> None:
        """Let it end. Workers stay."""


class TemplateLauncher:
    """Forks workers from a clean template process; see `_template`."""

    def __init__(self, blas_threads: int, preload: tuple[str, ...] = ()) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock = ours
        self._pid = 0
        self._buffered: list[Event] = []
        try:
            # The caller's search path at least as far as it leads to this package and to NumPy.
            path = [entry for entry in sys.path if isinstance(entry, str)]
            code = (
                f"import sys; sys.path[:] = {path!r}; "
                "from shmmap._template import main; "
                f"main({theirs.fileno()}, {blas_threads}, {blas_variables(os.environ)!r}, {preload!r})"
            )
            executable = _find_executable()
            if not executable:
                raise RuntimeError(
                    "no Python executable is known to start workers with (an embedded interpreter?); "
                    "name one by multiprocessing.set_executable(path), or use engine='fork'"
                )
            number = theirs.fileno()
            self._pid = os.posix_spawn(
                executable,
                [executable, *_interpreter_flags(), "-c", code],
                single_threaded(os.environ),
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, number, number),  # onto itself: inherited
                ],
                # A Ctrl-C while the interpreter starts must not leave a traceback of its own.
                setsigmask=[signal.SIGINT],
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)

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
                self._sock.close()
                events.append(Lost(self._reap()))
                break
            kind, pid, number = REPLY.unpack(data)
            if kind == FORKED:
                events.append(Forked(number, pid, fds[0] if fds else -1))
            else:
                events.append(Reaped(pid, number))
        return events

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
    """What ``multiprocessing.set_executable`` was given, or Python itself."""
    # Importing it takes 5 ms, and as long as nobody has, nobody has set anything.
    spawn: Any = sys.modules.get("multiprocessing.spawn")
    return os.fsdecode((sys.executable if spawn is None else spawn.get_executable()) or "")


def _interpreter_flags() -> list[str]:
    """Command-line flags that make another interpreter behave like this one."""
    flags = sys.flags
    out = ["-" + "O" * flags.optimize] if flags.optimize else []
    if flags.isolated:
        out.append("-I")
    else:
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
    return out


_FROM_HERE = re.compile(rf"{re.escape(__name__)}\Z")


def _expect_warning() -> None:
    """Ignore that "use of fork() may lead to deadlocks", which Python says since 3.12: it was asked for.

    By a filter that stays: `warnings.catch_warnings` undoes what other threads do to theirs meanwhile.
    """
    ours: Any = ("ignore", None, DeprecationWarning, _FROM_HERE, 0)
    if list(warnings.filters[:1]) != [ours]:
        warnings.filterwarnings("ignore", "", DeprecationWarning, _FROM_HERE.pattern)


class ForkLauncher:
    """Forks workers from this very process."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._pids: set[int] = set()

    def fileno(self) -> int:
        return -1

    def spawn(self, rank: int, fds: Descriptors) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            _expect_warning()
            pid = os.fork()
            if pid == 0:
                run_worker(fds, clean=False)
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
                os.close(event.pidfd)  # nobody has taken it yet
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
