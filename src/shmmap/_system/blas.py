"""Bounding the threads of BLAS and OpenMP, the same on every engine: their number can change bits."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
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


def begin_with(*args: Any) -> None:
    """An initializer of workers that are told by variables how many threads they may have.

    The arguments are these variables, another initializer or None, and its arguments.
    """
    variables, initializer, *its_args = args
    os.environ.update(variables)
    if initializer is not None:
        initializer(*its_args)


_UNLIMITED = nullcontext()
_SUFFIXES = tuple(EXTENSION_SUFFIXES)

_controller: Any = None
_blas: list[Any] = []
_openmp: list[Any] = []
"""The controller's libraries of both kinds."""
_modules = -1
_lock = ShortLock()
_maps = 0
"""Maps that run in this process now, and want the bound."""
_bound: list[tuple[Any, int]] = []
"""What the first of them found, for the last to put back."""


def _look() -> Any:
    """Look which libraries are loaded by now, which costs 300 us; the controller of all is returned."""
    global _blas, _controller, _openmp, _modules
    if len(sys.modules) != _modules:
        with late_import:
            from threadpoolctl import ThreadpoolController

        _controller = ThreadpoolController()
        _blas = _controller.select(user_api="blas").lib_controllers
        _openmp = _controller.select(user_api="openmp").lib_controllers
        _modules = len(sys.modules)
    return _controller


class limited:
    """A context in which the threads of BLAS, which are the process's, are limited, until all have ended."""

    __slots__ = ("_counts", "_threads")

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._counts = False

    def __enter__(self) -> None:
        global _maps, _bound
        try:
            with _lock.held():
                if not _maps:
                    _look()
                    _bound = _limit(_blas, self._threads)
                _maps += 1
                self._counts = True
        except BaseException:  # a Ctrl-C that was held back until then
            self.__exit__()
            raise

    def __exit__(self, *exc_info: object) -> None:
        global _maps
        with _lock.held():
            if self._counts:
                self._counts = False
                _maps -= 1
                if not _maps:
                    _put_back(_bound)


def limited_here(threads: int) -> AbstractContextManager[None]:
    """Limit the threads of OpenMP, of which each thread has its own number, in this one."""
    _look()
    return _limited_here(threads) if _openmp else _UNLIMITED


@contextmanager
def _limited_here(threads: int) -> Iterator[None]:
    bound = _limit(_openmp, threads)
    try:
        yield
    finally:
        _put_back(bound)


def _limit(libraries: list[Any], threads: int) -> list[tuple[Any, int]]:
    """Limit the threads of some libraries; those that had another number are returned, with that.

    As `ThreadpoolController.limit` does, which takes three times as long.
    """
    found = [(library, library.get_num_threads()) for library in libraries]
    changed = [(library, had) for library, had in found if had != threads]
    for library, _ in changed:
        _set(library, threads)
    return changed


def _put_back(changed: list[tuple[Any, int]]) -> None:
    for library, threads in changed:
        _set(library, threads)


def _set(library: Any, threads: int) -> None:
    library.set_num_threads(threads)
    if library.get_num_threads() != threads and hasattr(library, "clear_controlling_thread"):
        # threadpoolctl gives one thread the say over OpenBLAS, for as long as it lives. Of several maps, the
        # last that ends has to put back what the first one has changed.
        library.clear_controlling_thread(force=True)
        library.set_num_threads(threads)


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
            _look().limit(limits=self._threads)


def _is_extension(module: Any) -> bool:
    try:
        return bool((module.__spec__.origin or "").endswith(_SUFFIXES))
    except Exception:  # whatever stands in for a module
        return False
