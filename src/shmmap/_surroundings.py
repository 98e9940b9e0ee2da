"""What a function may rely on around it, carried from the caller to its workers when it changes.

Module search path, working directory, environment, floating-point error handling, the decimal context,
warning filters and log levels. Taking a snapshot is on the path of every call, so it has to be cheap
(about 3 us).

What a function changes of them in its worker, and of the umask and the signals there, ends with the call:
see `Baseline`.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Baseline", "Surroundings", "apply", "snapshot"]


class Surroundings(NamedTuple):
    """A snapshot; equal ones need not be sent again."""

    path: tuple[str, ...]
    cwd: str
    environment: int
    """Version of ``os.environ``; the variables travel only when it changes."""
    errors: dict[str, Any]
    filters: tuple[Any, ...]
    levels: tuple[tuple[str, int], ...]
    decimal: tuple[Any, ...] | None
    """Precision, rounding, limits and traps of the decimal context; None where `decimal` is not imported."""


_last: Surroundings | None = None
_told_levels: set[str] = set()
"""Loggers that have the level they have because `apply` was told so."""
_environment_version = 0
_hooked = False


def _count_changes(event: str, args: tuple[Any, ...]) -> None:
    global _environment_version
    if event == "os.putenv" or event == "os.unsetenv":
        _environment_version += 1


def snapshot() -> Surroundings:
    """The caller's surroundings now."""
    global _hooked, _last
    if not _hooked:
        # Comparing os.environ costs 20 us; being told of changes costs nothing.
        _hooked = True
        sys.addaudithook(_count_changes)
    try:
        cwd = os.getcwd()
    except OSError:  # the folder was removed
        cwd = ""
    levels = [("", logging.root.level)]
    for name, logger in list(logging.root.manager.loggerDict.items()):
        level = getattr(logger, "level", 0)  # what stands for a logger that is yet to come has none
        if level:
            levels.append((name, level))
    now: Any = (
        tuple(sys.path),
        cwd,
        _environment_version,
        np.geterr(),
        tuple(warnings.filters),
        tuple(levels),
        _decimal_context(),
    )
    if now != _last:  # else the same object, which is quickly compared
        _last = Surroundings(*now)
    assert _last is not None
    return _last


def _decimal_context() -> tuple[Any, ...] | None:
    """All of the thread's decimal context but its flags, which every calculation may raise."""
    decimal = sys.modules.get("decimal")
    if decimal is None or not hasattr(decimal, "getcontext"):  # not imported, or just being so
        return None
    _, (*settings, _, traps) = decimal.getcontext().__reduce__()
    return *settings, *traps


def _set_decimal_context(settings: tuple[Any, ...] | None) -> None:
    if settings is None and "decimal" not in sys.modules:
        return
    from decimal import Context, setcontext

    arguments: Any = () if settings is None else (*settings[:6], [], list(settings[6:]))
    setcontext(Context(*arguments))


def pack_surroundings(surroundings: Surroundings) -> tuple[Any, ...]:
    """What is sent: the snapshot, and the environment it refers to."""
    filters = []
    for action, message, category, module, line in surroundings.filters:
        filters.append((action, message, category, module, line))
    return (*surroundings._replace(filters=tuple(filters)), dict(os.environ))


def apply(packed: tuple[Any, ...]) -> None:
    """Make a worker's surroundings those of its caller."""
    path, cwd, _, errors, filters, levels, context, environment = packed
    sys.path[:] = path
    if cwd:
        try:
            os.chdir(cwd)
        except OSError:
            pass  # gone since; the function will see it
    for name in [name for name in os.environ if name not in environment]:
        del os.environ[name]
    for name, value in environment.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
    np.seterr(**errors)
    _set_decimal_context(context)
    warnings.resetwarnings()
    warnings.filters[:] = filters  # type: ignore[index]
    for name in _told_levels.difference(name for name, _ in levels):
        logging.getLogger(name).setLevel(logging.NOTSET)
    _told_levels.clear()
    for name, level in levels:
        logging.getLogger(name or None).setLevel(level)
        _told_levels.add(name)


class Baseline:
    """What holds in a worker between calls, and is put back when a function has changed it.

    *Requires*: used by the worker's main thread, between calls. *Guarantees*: after `restore`, the next
    function finds what `note` found. Costs about 5 us where nothing has changed.
    """

    def __init__(self) -> None:
        self._signals_changed = False
        # Asking for every handler takes 60 us; being told of changes costs nothing.
        for name in ("signal", "pthread_sigmask", "setitimer", "alarm"):
            setattr(signal, name, self._watch(getattr(signal, name)))
        self.note()

    def _watch(self, func: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(func)
        def watched(*args: Any) -> Any:
            self._signals_changed = True
            return func(*args)

        return watched

    def note(self) -> None:
        """Take what is now for what is to be."""
        self._surroundings = snapshot()
        self._environment = dict(os.environ)
        os.umask(umask := os.umask(0o077))
        self._umask = umask
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
        self._signals_changed = False

    def restore(self) -> None:
        """Put back what has changed."""
        os.umask(self._umask)
        if snapshot() != self._surroundings:
            apply((*self._surroundings, self._environment))
            self._surroundings = snapshot()
        if self._signals_changed:
            signal.setitimer(signal.ITIMER_REAL, 0)  # it would go off in the next call
            for number, handler in self._handlers.items():
                # None: not Python's, and not to be had from here.
                if handler is not None and signal.getsignal(number) != handler:
                    signal.signal(number, handler)
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            self._signals_changed = False
