"""What makes a new process a worker: descriptors, signals, memory. Nothing here knows of calls."""

from __future__ import annotations

import os
import random
import signal
import sys
import types

import numpy as np

from .._system.kernel_files import read_kernel_file
from .._wire import Descriptors, has_data

try:
    import fcntl
except ImportError:  # not a POSIX system: no process becomes a worker
    pass

# Freed memory a worker's malloc may keep. Less: page faults at every call; more: memory nobody uses.
MALLOC_NBYTES = 1 << 25
# Descriptors move up here, out of the way of user code that closes low ones.
HIGH_FD = 200
_F_SETOWN, _F_SETSIG = 8, 10


def move_up(fds: Descriptors) -> Descriptors:
    """Descriptors out of the way of user code that closes low ones."""
    return Descriptors(*map(move_one_up, fds))


def move_one_up(fd: int) -> int:
    """The descriptor, or a copy of it in its place that is higher; no program inherits it."""
    try:
        moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH_FD)
    except OSError:  # a very low limit
        os.set_inheritable(fd, False)
        return fd
    os.close(fd)
    return moved


def hold_lifeline(fd: int) -> None:
    """Have the kernel kill this process when the caller's end closes, whoever holds the GIL."""
    try:
        fcntl.fcntl(fd, _F_SETOWN, os.getpid())
        try:
            fcntl.fcntl(fd, _F_SETSIG, signal.SIGKILL)
        except OSError:
            # A kernel that only resembles Linux. It sends SIGIO, which ends a process that has no handler.
            signal.signal(signal.SIGIO, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGIO])
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
    except (AttributeError, OSError):
        return  # not Linux: the aside thread sees the end of its socket
    if has_data(fd):
        os._exit(0)  # it closed before we could ask


def prepare(clean: bool) -> None:
    """Signals, standard input, random state: what a new process must not share with its parent."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as ``nohup`` has it
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    # A handler that does nothing, not SIG_IGN: programs the function starts would inherit that.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    try:
        with open("/proc/self/oom_score_adj", "wb") as file:
            file.write(b"1000")  # else the OOM killer takes the caller, which owns the pages
    except OSError:
        pass
    _keep_freed_memory()
    null = os.open(os.devnull, os.O_RDONLY)
    if null == 0:  # the caller had none
        os.set_inheritable(0, True)
    else:
        os.dup2(null, 0)
        os.close(null)
    sys.stdin = open(0, closefd=False, encoding="utf-8")
    if sys.breakpointhook is sys.__breakpointhook__:
        sys.breakpointhook = _break
    if clean:
        sys.modules["__main__"] = types.ModuleType("__main__")
        sys.argv = [""]
    random.seed()
    if "numpy.random" in sys.modules:  # else it seeds itself as it is imported, which takes 30 ms
        np.random.seed()


def _break(*args: object, **options: object) -> object:
    """Take the place of `breakpoint`, unless a debugger was chosen that may need no terminal."""
    if os.environ.get("PYTHONBREAKPOINT"):
        return sys.__breakpointhook__(*args, **options)
    raise RuntimeError(
        "breakpoint() in a worker process, which has no standard input: debug with engine='serial'"
    )


def _keep_freed_memory() -> None:
    """Have malloc keep what a function frees, instead of faulting it in again at the next call.

    In a process as small as a worker the top of the heap is free after every call, and glibc gives it
    back at once: a function with temporaries of 500 kB took twice its time.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return  # the user has decided
    try:
        import ctypes

        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, MALLOC_NBYTES // 2)  # M_MMAP_THRESHOLD
        mallopt(-1, MALLOC_NBYTES)  # M_TRIM_THRESHOLD
    except (AttributeError, OSError, ImportError):
        pass  # not glibc


def limit_memory(nbytes: int) -> None:
    """Bound private memory (RLIMIT_DATA does not count shared mappings)."""
    import resource

    lines = read_kernel_file("/proc/self/status").splitlines()
    used = next(int(line.split()[1]) for line in lines if line.startswith("VmData")) << 10
    resource.setrlimit(resource.RLIMIT_DATA, (used + nbytes, used + nbytes))
