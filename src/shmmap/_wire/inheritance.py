"""What `multiprocessing` gives its children: the key they know each other by, and the resource tracker.

A worker asks its caller for them once it imports the modules concerned:
docs/design/0038-what-multiprocessing-gives.md says why. Private names of the standard library may stand here,
as in `_memory.nameless`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from .._system.imports import LoaderProxy, late_import

KEY, TRACKER = "key", "tracker"
_PROCESS, _RESOURCE_TRACKER = "multiprocessing.process", "multiprocessing.resource_tracker"

AskCaller = Callable[[str], tuple[bytes, int] | None]
"""Asks the caller for `KEY` or `TRACKER`: the bytes, and the descriptor or -1, that it lends; or None."""


# ---------------------------------------------------------------- the caller


def own_authkey() -> bytes | None:
    """The key of this process; None if it has not imported `multiprocessing`."""
    current: Any = getattr(sys.modules.get(_PROCESS), "current_process", None)
    return None if current is None else current().authkey


def lend(what: str) -> tuple[bytes, int]:
    """What a worker has asked for: bytes, and a descriptor of this process, -1 if none or not to be had.

    The tracker is started if it has not been.
    """
    try:
        with late_import:
            from multiprocessing import resource_tracker
            from multiprocessing.process import current_process
        if what == KEY:
            return bytes(current_process().authkey), -1
        fd: Any = resource_tracker.getfd()
        return b"", fd
    except BaseException:
        # No descriptors; warnings, as that a tracker was killed, are errors; import hooks.
        return b"", -1


# ---------------------------------------------------------------- a worker

_key: bytes | None = None


def tell_forked() -> None:
    """In a worker that was forked from the caller: have inherited locks and queues know of it."""
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None:
        util._run_after_forkers()


def set_authkey(key: bytes | None) -> None:
    """Take the caller's key, for when `multiprocessing` is imported."""
    global _key
    _key = key
    module = sys.modules.get(_PROCESS)
    if key is not None and module is not None:
        _use_key(module)


def ask_caller(ask: AskCaller) -> None:
    """Have this worker ask its caller for what it needs of `multiprocessing`."""
    _Finder.ask = staticmethod(ask)
    sys.meta_path.insert(0, _Finder)
    if module := sys.modules.get(_RESOURCE_TRACKER):
        with suppress(AttributeError):
            _use_tracker(module)


def _use_key(module: Any) -> None:
    global _key
    if _key is None and (lent := _Finder.ask(KEY)) is not None:
        _key = lent[0] or None
    if _key is not None:
        module.current_process().authkey = _key


def _use_tracker(module: Any) -> None:
    tracker = module._resource_tracker
    kind: type = type(tracker)

    class BorrowedTracker(kind):  # type: ignore[misc]
        """The caller's tracker."""

        _fd: int | None
        _pid: int | None

        def _borrow(self) -> None:
            with self._lock:
                if self._fd is not None and self._check_alive():
                    return
                lent = _Finder.ask(TRACKER)
                if lent is None or lent[1] < 0:  # a child of the worker: it can only have its own
                    return
                if self._fd is not None:
                    os.close(self._fd)
                self._fd, self._pid = lent[1], None

        def ensure_running(self) -> object:
            self._borrow()
            return super().ensure_running()

        def getfd(self) -> object:
            self._borrow()
            return super().getfd()

        def _send(self, *args: object) -> object:
            self._borrow()
            return super()._send(*args)

    tracker.__class__ = BorrowedTracker
    module.ensure_running, module.getfd = tracker.ensure_running, tracker.getfd


class _Finder:
    """Finds the modules that need something of the caller, and gives it to them as they are loaded."""

    ask: AskCaller

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        adapt = _ADAPTERS.get(name)
        if adapt is None:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = LoaderProxy(spec.loader, partial(_load, adapt))  # type: ignore[assignment]
        return spec


def _load(adapt: Callable[[Any], None], loader: Any, module: ModuleType) -> None:
    loader.exec_module(module)
    with suppress(AttributeError):  # another version of Python: it is as it would be without us
        adapt(module)


_ADAPTERS: dict[str, Callable[[object], None]] = {
    _PROCESS: _use_key,
    _RESOURCE_TRACKER: _use_tracker,
}
