"""Bounding the threads of BLAS and OpenMP, the same on every engine: their number can change bits."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import EXTENSION_SUFFIXES
from typing import Any

__all__ = ["Bound", "limited"]

_controller: Any = None
_modules = -1


def _current_controller() -> Any:
    """A controller that knows every library loaded by now; looking for them costs 300 us."""
    global _controller, _modules
    if len(sys.modules) != _modules:
        from threadpoolctl import ThreadpoolController

        _controller = ThreadpoolController()
        _modules = len(sys.modules)
    return _controller


@contextmanager
def limited(threads: int) -> Iterator[None]:
    """Bound the threads of what is loaded, for a while."""
    with _current_controller().limit(limits=threads):
        yield


class Bound:
    """A bound on the threads of this process, for good.

    Looking for libraries means to import threadpoolctl, 3 ms and half a megabyte, and then takes 300 us. So
    it is done only where a module written in C has been imported since: that is how libraries come.
    """

    def __init__(self, threads: int, seen: int) -> None:
        self._threads = threads
        self._seen = seen
        """Number of modules that have been looked at; the first in `sys.modules`."""

    def keep(self) -> None:
        """Bound the libraries that have come since this was called last."""
        count = len(sys.modules)
        if count == self._seen:
            return
        new = list(sys.modules.values())[self._seen if count > self._seen else 0 :]
        self._seen = count
        if any(map(_is_extension, new)):
            _current_controller().limit(limits=self._threads)


def _is_extension(module: Any) -> bool:
    try:
        origin = module.__spec__.origin or ""
        return bool(origin.endswith(tuple(EXTENSION_SUFFIXES)))
    except Exception:  # whatever stands in for a module
        return False
