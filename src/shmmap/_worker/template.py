"""The template: a small clean process that has imported NumPy, and forks the workers.

Started by fork and exec, so that nothing of the caller's is in it: no threads, no locks, no ``__main__``.
It is single-threaded, which makes forking safe, and it imports nothing of the user's but the modules
that ``preload=`` names, whose memory the workers then share. One more worker costs a fork of it, about
2 ms. It also reaps the workers and reports their exit status.
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
from .._wire import BECOMES_TEMPLATE, FORKED, REAPED, REPLY, Descriptors
from .worker import run_worker


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

    import cloudpickle  # noqa: F401

    sys.path[:] = path
    _import(preload)
    note_imports()
    _restore(environment, blas_threads)
    # The garbage collector writes to all objects it looks at, which copies the pages that workers share.
    gc.freeze()
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    has_pidfd = hasattr(os, "pidfd_open")
    children: dict[int, int] = {}  # by pidfd, or by minus the pid where there are none
    while True:
        ready = [event[0] for event in poll.poll(-1 if has_pidfd or not children else 50)]
        for key in list(children) if not has_pidfd else [key for key in ready if key in children]:
            pid = children[key]
            done, status = os.waitpid(pid, os.WNOHANG)
            if done == 0:
                continue
            del children[key]
            if key >= 0:
                poll.unregister(key)
                os.close(key)
            try:
                sock.send(REPLY.pack(REAPED, pid, status))
            except OSError:
                os._exit(0)
        if fd not in ready:
            continue
        try:
            request, fds, _, _ = socket.recv_fds(sock, 64, 16)
        except OSError:
            request = b""
        if not request:
            os._exit(0)
        (rank,) = struct.unpack("<q", request)
        # A Ctrl-C between the fork and the worker's own handler is nobody's.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        pid = os.fork()
        if pid == 0:
            sock.close()
            for key in children:
                if key >= 0:
                    os.close(key)
            run_worker(Descriptors(*fds), clean=True)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        for each in fds:
            os.close(each)
        reply = REPLY.pack(FORKED, pid, rank)
        try:
            if has_pidfd:
                pidfd = os.pidfd_open(pid)
                children[pidfd] = pid
                poll.register(pidfd, select.POLLIN)
                socket.send_fds(sock, [reply], [pidfd])
            else:
                children[-pid] = pid
                sock.send(reply)
        except OSError:
            os._exit(0)  # the caller has gone; the workers' lifelines see to them
