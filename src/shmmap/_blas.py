"""Bounding the threads of BLAS and OpenMP, the same on every engine: their number can change bits."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["limit", "limited"]

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


def limit(threads: int) -> None:
    """Bound the threads of what is loaded, for good."""
    _current_controller().limit(limits=threads)


@contextmanager
def limited(threads: int) -> Iterator[None]:
    """Bound the threads of what is loaded, for a while."""
    with _current_controller().limit(limits=threads):
        yield
