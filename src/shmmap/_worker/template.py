"""The template: a small clean process that has imported NumPy, and forks the workers and reaps them.

It is started by fork and exec, so that nothing of the caller's is in it, is single-threaded, which makes
forking safe, and imports nothing of the user's but what ``preload=`` names. See
docs/design/0006-a-clean-template.md.
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

from .._code.recipient import note_imports
from .._system.blas import BLAS_VARIABLES
from .._wire import BECOMES_TEMPLATE, FORKED, REAPED, REPLY, Descriptors, load_picklers
from .worker import run_worker

_REQUEST = struct.Struct("<q")
# How often workers are looked after where the system has no pidfds.
REAP_MS = 50


def _close_others(keep: int) -> None:
    """Close what C libraries of the caller left open without close-on-exec."""
    try:
        fds = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        fds = list(range(3, 256))
    for fd in fds:
        if fd > 2 and fd != keep:
            try:
                os.close(fd)
            except OSError:
                pass


def _restore(environment: Mapping[str, str], blas_threads: int) -> None:
    """Make the BLAS variables the caller's again, now that NumPy is loaded."""
    for name in BLAS_VARIABLES:
        if name in environment:
            os.environ[name] = environment[name]
        else:
            del os.environ[name]
            # Seen by libraries that a function loads later, not by code that reads os.environ.
            os.putenv(name, str(blas_threads))


def _import(modules: Sequence[str]) -> None:
    """Import what workers are to share. A module that fails is only told: it may never be used."""
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as exc:
            text = f"shmmap: preload={name!r} could not be imported: {type(exc).__name__}: {exc}\n"
            with suppress(OSError):  # nobody may be there to read it
                os.write(2, text.encode(errors="backslashreplace"))


def main(
    fd: int,
    blas_threads: int,
    environment: Mapping[str, str],
    path: Sequence[str],
    preload: Sequence[str],
) -> None:
    """Fork workers on request until the caller closes the socket. Never returns.

    `environment` has the BLAS variables of the caller, `path` is its search path, for `preload`.
    """
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    os.environ.pop(BECOMES_TEMPLATE, None)
    _close_others(fd)
    sock = socket.socket(fileno=fd)
    # What a worker needs later is imported here, where nothing but the library's own path is searched.
    import locale  # noqa: F401
    import resource  # noqa: F401

    load_picklers()
    sys.path[:] = path
    _import(preload)
    note_imports()
    _restore(environment, blas_threads)
    # The garbage collector writes to all objects it looks at, which copies the pages that workers share.
    gc.freeze()
    template = _Template(sock)
    while True:
        template.serve()


class _Template:
    """The workers of a template, and what it is asked for."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._has_pidfd = hasattr(os, "pidfd_open")
        self._children: dict[int, int] = {}
        """Pids, by pidfd, or by minus the pid where there are no pidfds."""

    def serve(self) -> None:
        """Wait for what comes next, and deal with it."""
        # Without pidfds, nothing wakes this process when a worker ends.
        patience_ms = -1 if self._has_pidfd or not self._children else REAP_MS
        ready = [event[0] for event in self._poll.poll(patience_ms)]
        for key in list(self._children):
            if not self._has_pidfd or key in ready:
                self._reap(key)
        if self._socket.fileno() in ready:
            try:
                request, fds, _, _ = socket.recv_fds(self._socket, 64, 16)
            except OSError:
                request = b""
            if not request:
                os._exit(0)  # the caller has gone; the workers' lifelines see to them
            (rank,) = _REQUEST.unpack(request)
            self._fork(rank, fds)

    def _reap(self, key: int) -> None:
        """Tell the caller how a worker has ended, if it has."""
        pid = self._children[key]
        done, status = os.waitpid(pid, os.WNOHANG)
        if done == 0:
            return
        del self._children[key]
        if key >= 0:
            self._poll.unregister(key)
            os.close(key)
        try:
            self._socket.send(REPLY.pack(REAPED, pid, status))
        except OSError:
            os._exit(0)

    def _fork(self, rank: int, fds: list[int]) -> None:
        """Fork a worker, which gets these descriptors, and tell the caller its pid."""
        # A Ctrl-C between the fork and the worker's own handler is meant for neither process.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        pid = os.fork()
        if pid == 0:
            self._socket.close()
            for key in self._children:
                if key >= 0:
                    os.close(key)
            run_worker(Descriptors(*fds), clean=True)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        for each in fds:
            os.close(each)
        reply = REPLY.pack(FORKED, pid, rank)
        try:
            if self._has_pidfd:
                pidfd = os.pidfd_open(pid)
                self._children[pidfd] = pid
                self._poll.register(pidfd, select.POLLIN)
                socket.send_fds(self._socket, [reply], [pidfd])
            else:
                self._children[-pid] = pid
                self._socket.send(reply)
        except OSError:
            os._exit(0)
