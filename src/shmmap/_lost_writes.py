"""What a function changes where it runs on copies is lost; that is noticed here, and said.

A list, dict or set that a function captures is a copy in a worker process, and so are its ``nonlocal`` and
``global`` variables, the attributes of its ``self`` and of classes that travel by value, iterators, and
generators of random numbers, of which each worker has one in the same state. A worker compares them after a
call with what they were before: their length and the identity of what is in them, down to a limit. It is a
warning and no error, since a captured dict that serves as a cache gives right results; what was None before,
or not there, is taken for such a cache, too. What a function is *given* may be changed freely.
"""

from __future__ import annotations

import opcode
import pickle
import types
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from operator import is_
from typing import Any

import numpy as np

from ._captured import BUFFERS, CONTAINERS, attributes_of, is_iterator, is_random, walk
from ._hints import depth_of_user
from ._locking import is_store
from ._refusals import name_of

__all__ = ["Watch", "describe", "warn_of"]

# Objects looked at, and elements compared in all: a tenth of what it costs to unpickle as many.
_MOST = 10_000

_OF_RANDOM = " (each draws the same random numbers from it: pass rng= to the map instead)"
_MISSING: Any = object()
_SETS = {opcode.opmap[name] for name in ("STORE_GLOBAL", "DELETE_GLOBAL", "STORE_DEREF")}


class Watch:
    """What a function captures, as it was before a call."""

    def __init__(self, func: Any) -> None:
        self._before: list[tuple[str, Any, Any]] = []
        room = _MOST
        for obj, name, is_inner in walk("", func, most=_MOST):
            # Who draws from a generator of random numbers does not matter; what else an object of a library
            # changes in itself does not matter to anybody else.
            if (is_inner and not is_random(obj)) or is_store(obj):
                continue
            if isinstance(obj, types.FunctionType) and not (
                _sets_variables(obj.__code__) or vars(obj)
            ):
                continue
            if isinstance(obj, np.ndarray):
                # Others arrive read-only. One of Python objects may belong to a library, which writes into
                # it; this one does not.
                if obj.dtype.hasobject:
                    obj.setflags(write=False)
                continue
            with suppress(Exception):  # a class of the user's may do anything as it is looked at
                state = _state_of(name, obj, room)
                room -= len(state)
                self._before.append((name, obj, state))

    def __bool__(self) -> bool:
        return bool(self._before)

    def changed(self) -> list[str]:
        """The variables whose content has changed since this was asked last, as they are told of."""
        names: dict[str, None] = {}
        for at, (name, obj, before) in enumerate(self._before):
            with suppress(Exception):
                if changed := list(_compare(name, obj, before)):
                    advice = _OF_RANDOM if is_random(obj) else ""
                    names.update(dict.fromkeys(f"{each!r}{advice}" for each in changed))
                    self._before[at] = name, obj, _state_of(name, obj, _MOST)
        return list(names)


def _state_of(name: str, obj: Any, room: int) -> Any:
    """What to compare later: variables by name, or the elements; only their number if there is no room."""
    if isinstance(obj, types.FunctionType):
        own = {f"{obj.__name__}.{label}": value for label, value in vars(obj).items()}
        return own | dict(_variables(obj)) if _sets_variables(obj.__code__) else own
    if isinstance(obj, type):
        return {
            f"{obj.__name__}.{label}": value
            for label, value in vars(obj).items()
            if not label.startswith("__")
        }
    if isinstance(obj, CONTAINERS):
        if len(obj) > room:
            return range(len(obj))
        if isinstance(obj, BUFFERS):
            return bytes(memoryview(obj).cast("B"))
        return [*obj, *dict.values(obj)] if isinstance(obj, dict) else list(obj)
    if is_random(obj):
        return pickle.dumps(obj)
    if isinstance(obj, types.GeneratorType):
        frame = obj.gi_frame
        return [] if frame is None else [frame.f_lasti, *frame.f_locals.values()]
    if is_iterator(type(obj)):
        with warnings.catch_warnings(action="ignore"):
            return repr(_position_of(obj)).encode()
    if hasattr(obj, "getvalue"):
        value = obj.getvalue()
        return value.encode() if isinstance(value, str) else value
    if hasattr(obj, "shape"):  # a frame of pandas, whose columns are read-only
        return repr(obj.shape).encode()
    return {f"{name}.{label}": value for label, value in attributes_of(obj)}


def _position_of(iterator: Any) -> Any:
    """Where an iterator is: how many are left, or else what its pickling says."""
    if hasattr(iterator, "__length_hint__"):
        return iterator.__length_hint__()
    return _positions_in(iterator.__reduce__())


def _positions_in(parts: tuple[Any, ...]) -> list[Any]:
    return [
        _positions_in(part)
        if isinstance(part, tuple)
        else part
        if isinstance(part, (int, str))
        else _position_of(part)
        if is_iterator(type(part))
        else None
        for part in parts
    ]


def _variables(func: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Those that a function can set beyond itself."""
    code = func.__code__
    for name, cell in zip(code.co_freevars, func.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:
            pass  # not filled yet
    for name in code.co_names:
        if name in func.__globals__:
            yield name, func.__globals__[name]


def _sets_variables(code: types.CodeType) -> bool:
    """Whether code sets variables that are not its own."""
    return not _SETS.isdisjoint(code.co_code[::2]) or any(
        isinstance(const, types.CodeType) and _sets_variables(const) for const in code.co_consts
    )


def _compare(name: str, obj: Any, before: Any) -> Iterator[str]:
    now = _state_of(name, obj, 0 if isinstance(before, range) else _MOST + len(before))
    if isinstance(before, dict):
        for label, was in before.items():
            if was is not None and now.get(label, _MISSING) is not was:
                yield label
    elif len(now) != len(before):
        yield name
    elif isinstance(before, bytes):
        if before != now:
            yield name
    elif isinstance(before, list) and not all(map(is_, before, now)):
        yield name


def describe(func: Any, names: Iterable[str]) -> str:
    """The text of the warning."""
    return (
        f"{name_of(func)} has changed {', '.join(names)} in worker processes, which have copies of what it "
        "captures: the change is lost; return values from the function instead, or write into a shared "
        "array, as shmmap.zeros() makes them"
    )


def warn_of(func: Any, names: Iterable[str]) -> None:
    """Warn at the line of the user's that called the map."""
    warnings.warn(describe(func, names), RuntimeWarning, stacklevel=depth_of_user())
