"""What holds in a worker between calls, and is put back when a function has changed it.

Beside what is carried from the caller (`_wire.surroundings`): signals, limits, priority, user and groups.
"""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable
from typing import Any

from .._wire import limit_changes, note_surroundings, put_back, snapshot

# Of the limits of a process, those that a program may come to feel.
_LIMITS = ("NOFILE", "AS", "DATA", "FSIZE", "CPU", "STACK", "NPROC")


class Baseline:
    """The things themselves, and what was done to them.

    *Requires*: used by the worker's main thread, between calls. *Guarantees*: after `restore` is true, the
    next function finds what `note` found. Costs about 5 us where nothing has changed.
    """

    # Asking for every handler takes 60 us, for limits, priority and user 3 us; being told of changes costs
    # nothing. Of limits the audit hook tells.
    _SIGNALS = ("signal", "pthread_sigmask", "setitimer", "alarm")
    _PROCESS = (
        *("nice", "setpriority", "setgroups", "initgroups", "setuid", "seteuid", "setreuid"),
        *("setresuid", "setgid", "setegid", "setregid", "setresgid"),
    )

    def __init__(self) -> None:
        import locale  # noqa: F401  (or a function that does would seem to have changed it)
        import resource

        self._changed: set[object] = set()
        """The modules of which functions were called that change what is put back here."""
        for module, names in ((signal, self._SIGNALS), (os, self._PROCESS)):
            for name in names:
                if hasattr(module, name):
                    setattr(module, name, self._watch(module, getattr(module, name)))
        self.note()
        self._get_limits, self._set_limits = resource.getrlimit, resource.setrlimit
        numbers = [getattr(resource, f"RLIMIT_{name}", None) for name in _LIMITS]
        self._limits = [(n, resource.getrlimit(n)) for n in numbers if n is not None]
        self._ids = _ids()
        self._nice = os.getpriority(os.PRIO_PROCESS, 0)
        self._limits_version = limit_changes()

    def _watch(self, module: object, func: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(func)
        def watched(*args: object, **kwargs: object) -> Any:
            self._changed.add(module)
            return func(*args, **kwargs)

        return watched

    def note(self) -> None:
        """Take what is now for what is to be."""
        self._surroundings = note_surroundings()
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
        self._changed.discard(signal)

    def restore_limits(self) -> bool:
        """Put the limits of this process back; whether any was lowered.

        Raises OSError or ValueError if that is not allowed any more.
        """
        has_changed = False
        for number, limits in self._limits:
            if self._get_limits(number) != limits:
                self._set_limits(number, limits)
                has_changed = True
        return has_changed

    def restore(self) -> bool:
        """Put back what has changed; False if that is not allowed any more."""
        if (
            self._changed or self._limits_version != limit_changes()
        ) and not self._restore_process():
            return False
        if snapshot() != self._surroundings:
            self._surroundings = put_back(self._surroundings)
        if signal in self._changed:
            signal.setitimer(signal.ITIMER_REAL, 0)  # it would go off in the next call
            for number, handler in self._handlers.items():
                # None: not Python's, and not to be had from here.
                if handler is not None and signal.getsignal(number) != handler:
                    signal.signal(number, handler)
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        self._changed.clear()
        return True

    def _restore_process(self) -> bool:
        try:
            if _ids() != self._ids:
                os.setresuid(*self._ids[0])  # first: it may be what allows the rest
                os.setresgid(*self._ids[1])
                os.setgroups(self._ids[2])
            self.restore_limits()
            if os.getpriority(os.PRIO_PROCESS, 0) != self._nice:
                os.setpriority(os.PRIO_PROCESS, 0, self._nice)
        except (OSError, ValueError):
            return False
        self._limits_version = limit_changes()
        return True


def _ids() -> tuple[Any, Any, list[int]]:
    """User, group and groups, the real, effective and saved ones."""
    return os.getresuid(), os.getresgid(), os.getgroups()
