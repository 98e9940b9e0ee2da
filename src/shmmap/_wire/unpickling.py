"""What unpickles, on either side of the process border, and the functions that pickles name.

All that came from the caller's ``__main__`` shares this process's one ``__main__.__dict__``. Where the user's
script is run by another program (``python -m cProfile``, `exec`), its namespace is not that of the module
``__main__``; such a namespace is one dictionary in a worker, too.
"""

from __future__ import annotations

import functools
import io
import pickle
import sys
import typing
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .._code.letters import sender
from .._code.modules import MAIN
from .._code.recipient import receive_changes
from .._interop.numpy_types import Array, DType
from .._memory import FileHandle, SegmentHandle, from_handle

IN_PACKAGE = " in "
"""In the persistent id of a namespace: before the package that relative imports go by."""

_namespaces: dict[str, dict[str, object]] = {}
"""Namespaces of scripts that another program runs as ``__main__``, as workers have them."""


class Unpickler(pickle.Unpickler):
    def persistent_load(self, pid: object) -> object:
        if isinstance(pid, str):
            return _find_namespace(pid)
        if isinstance(pid, (bytes, bytearray)):  # the content of a buffer
            return pid
        if isinstance(pid, tuple):
            a: Any = open_array(pid)  # a buffer, which a type checker learns from Python 3.12 on
            return memoryview(a)
        raise pickle.UnpicklingError(f"unknown persistent id {pid!r}")


def unpack(data: bytes | memoryview) -> Any:
    return Unpickler(io.BytesIO(data)).load()


def _find_namespace(pid: str) -> dict[str, object]:
    name, _, package = pid.partition(IN_PACKAGE)
    namespace = sys.modules[MAIN].__dict__
    if name != MAIN:
        namespace = _namespaces.setdefault(name, {"__name__": MAIN})
    if package and namespace.get("__package__") != package:
        namespace["__package__"] = package
    return namespace


# ---------------------------------------------------------------- what pickles name


class Accompanied(NamedTuple):
    """A pickle, and the news that its recipient must have before it is opened."""

    news: bytes
    data: bytes

    def __reduce__(self) -> tuple[object, ...]:
        return _open_accompanied, (*self, sender())


def _open_accompanied(news: bytes, data: bytes, origin: object) -> object:
    if origin != sender():  # else this is the very process
        receive_changes(news, origin)
    return unpack(data)


def open_array(handle: tuple[Any, ...]) -> Array:
    handle_type = SegmentHandle if len(handle) == 6 else FileHandle
    return from_handle(handle_type(*handle))


def frozen_array(
    data: bytes, dtype: DType, shape: tuple[int, ...], order: typing.Literal["C", "F"]
) -> Array:
    """A small private array, read-only because it lies in the bytes it came in."""
    if data:
        return np.ndarray(shape, dtype, data, order=order)
    empty: Array = np.empty(shape, dtype, order)
    empty.flags.writeable = False
    return empty


def own_array(
    data: bytearray, dtype: DType, shape: tuple[int, ...], order: typing.Literal["C", "F"]
) -> Array:
    """A private array that may be written to: nobody else has it."""
    return np.ndarray(shape, dtype, data, order=order) if data else np.empty(shape, dtype, order)


def own_copy(handle: tuple[Any, ...]) -> Array:
    """The same of what lies in shared memory."""
    return open_array(handle).copy("K")


def make_global(name: str, kind: type) -> object:
    """The object of ``__main__`` that has this name and type; made if there is none."""
    namespace = sys.modules[MAIN].__dict__
    if type(namespace.get(name)) is not kind:
        namespace[name] = object.__new__(kind)
    return namespace[name]


def make_new_type(name: str, supertype: Any) -> object:
    new_type = typing.NewType(name, supertype)  # type: ignore[misc]
    new_type.__module__ = MAIN
    return new_type


def make_cached_property(func: Callable[..., object], name: str | None) -> object:
    made = functools.cached_property(func)
    made.attrname = name
    return made
