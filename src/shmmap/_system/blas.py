"""Bounding the threads of BLAS and OpenMP, the same on every engine: their number can change bits."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import EXTENSION_SUFFIXES
from typing import Any

from .imports import late_import
from .interrupts import ShortLock

BLAS_VARIABLES = (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def single_threaded(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment to start a template in: no thread pool there, or forking would break it."""
    return {**environment, **dict.fromkeys(BLAS_VARIABLES, "1")}


def blas_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Those of the caller's variables that `single_threaded` replaces."""
    return {name: environment[name] for name in BLAS_VARIABLES if name in environment}


_SUFFIXES = tuple(EXTENSION_SUFFIXES)

_controller: Any = None
_blas: Any = None
_openmp: Any = None
"""The controller's libraries of both kinds."""
_modules = -1
_lock = ShortLock()
_maps = 0
"""Maps that run in this process now, and want the bound."""
_bound: Any = None
"""What the first of them found, for the last to put back."""


def _current_controller() -> Any:
    """A controller that knows every library loaded by now; looking for them costs 300 us."""
    global _blas, _controller, _openmp, _modules
    if len(sys.modules) != _modules:
        with late_import:
            from threadpoolctl import ThreadpoolController

        _controller = ThreadpoolController()
        _blas = _controller.select(user_api="blas")
        _openmp = _controller.select(user_api="openmp")
        _modules = len(sys.modules)
    return _controller


@contextmanager
def limited(threads: int) -> Iterator[None]:
    """Limit the threads of BLAS, which are the process's, until the last of several maps ends."""
    global _maps, _bound
    with _lock.held():
        if not _maps:
            _current_controller()
            _bound = _blas.limit(limits=threads)
        _maps += 1
    try:
        yield
    finally:
        with _lock.held():
            _maps -= 1
            if not _maps:
                _bound.restore_original_limits()


@contextmanager
def limited_here(threads: int) -> Iterator[None]:
    """Limit the threads of OpenMP, which each thread has a number of its own of, in this one."""
    _current_controller()
    with _openmp.limit(limits=threads):
        yield


class ThreadLimit:
    """A bound on the threads of this process, for good.

    To look for libraries takes 300 us, and the first time 3 ms and half a megabyte, for threadpoolctl. So it
    is done only after new modules were imported: after any, as Python code may load a library; or, if
    libraries read the limit from the environment, only after one that is written in C.
    """

    def __init__(self, threads: int, seen: int, by_environment: bool) -> None:
        self._threads = threads
        self._seen = seen
        """Number of modules that have been looked at; the first in `sys.modules`."""
        self._by_environment = by_environment
        """Libraries that are loaded later read it from environment variables, unless the user has set one."""

    def keep(self) -> None:
        """Limit the libraries that have come since this was called last."""
        count = len(sys.modules)
        if count == self._seen:
            return
        new = list(sys.modules.values())[self._seen if count > self._seen else 0 :]
        self._seen = count
        is_told = self._by_environment and not any(name in os.environ for name in BLAS_VARIABLES)
        if not is_told or any(map(_is_extension, new)):
            _current_controller().limit(limits=self._threads)


def _is_extension(module: Any) -> bool:
    try:
        return bool((module.__spec__.origin or "").endswith(_SUFFIXES))
    except Exception:  # whatever stands in for a module
        return False
