"""What objects refer to: the arrays, and whatever has a state, that a function captures.

Functions capture by closure, default, partial, bound object, attribute, and by the globals of a script. What
an object holds that is written in C is found as the garbage collector finds it. Modules are not looked into,
as they are never copied, nor are classes that a worker imports, and the globals of such functions.

Objects are asked for their type, and never by `isinstance`: proxies say that they are of another class, and
fail to say so when what they stand for is gone.
"""

from __future__ import annotations

import functools
import gc
import io
import sys
import types
import weakref
from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from enum import EnumType
from itertools import chain
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from .._interop.buffers import base_of
from .._interop.captured_stores import is_store
from .._interop.masked import is_masked, mask_of
from .._interop.numpy_types import Array
from .._interop.scalars import SCALARS
from .modules import MAINS, is_importable, is_users_name
from .namespaces import Variable, attributes_of, cells_of, defaults_of, globals_of

BUFFERS = (bytearray, array)
CONTAINERS = (list, dict, set, deque, *BUFFERS)

_ATOMS = SCALARS | {range, slice}
_CLOSED: tuple[type, ...] = (
    *(types.ModuleType, types.BuiltinFunctionType, types.CodeType, np.ufunc, np.generic),
    *(weakref.ref, weakref.ProxyType, weakref.CallableProxyType),
)


# Modules of the standard library whose objects hold what they are given, and nothing else.
_TRANSPARENT = frozenset(("collections", "types", "argparse", "queue"))
FILES = (io.StringIO, io.BytesIO)
_LOCAL = "<locals>"
_SEQUENCES = (list, tuple, set, frozenset, deque)
_WRAPPERS = (
    *(types.MethodType, functools.partial, memoryview),
    *(classmethod, staticmethod, property),
)
# What a class defines if it says itself how it is pickled.
_PICKLING = ("__reduce__", "__reduce_ex__", "__getstate__")


class Found(NamedTuple):
    """An object that is referred to."""

    obj: object
    """An array; or what has a state: one of `CONTAINERS`, a file in memory, an iterator, a generator of
    random numbers, a frame of pandas, a store of zarr's; and, if it travels by value, a function, a class, or
    an object of one."""
    name: str
    """The variable by which it is reached."""
    is_inner: bool
    """It belongs to an object of a library's class, which alone knows what it is for."""


def is_array(obj: object) -> TypeGuard[Array]:
    """Whether an object is an array; proxies are none, whatever they stand for."""
    return issubclass(type(obj), np.ndarray)


def walk(name: str, *roots: object, most: int) -> Iterator[Found]:
    """What objects refer to, each once; `most` are looked at."""
    return _Walk(name, roots).found(most)


class _Walk:
    """Goes through objects, the one that was met last first."""

    def __init__(self, name: str, roots: tuple[object, ...]) -> None:
        self._stack: list[tuple[Any, str, bool]] = [(root, name, False) for root in roots]
        self._seen: set[int] = set()
        self._plain_kinds: set[int] = set()
        """Classes of the user's, by address, of whose objects only the attributes are to be looked at."""
        self._made: list[object] = []
        """Objects that nothing else refers to: they stay, or others would get their addresses."""

    def found(self, most: int) -> Iterator[Found]:
        stack, seen, plain_kinds = self._stack, self._seen, self._plain_kinds
        while stack and len(seen) < most:
            obj, name, inner = stack.pop()
            kind = type(obj)
            if kind in _ATOMS or id(obj) in seen:
                continue
            seen.add(id(obj))
            if id(kind) in plain_kinds:
                yield Found(obj, name or "self", False)
                self._add_named(obj.__dict__.items(), name or "self", False)
            elif is_array(obj):
                yield Found(obj, name, inner)
                self._add_array(obj, name, inner)
            elif kind is list or kind is tuple or issubclass(kind, _SEQUENCES):
                if kind is not tuple and issubclass(kind, CONTAINERS):
                    yield Found(obj, name, inner)
                # A library's own list of generators of random numbers has one for each index.
                if not (inner and len(obj) > 1 and all(map(is_random, obj))):
                    self._add(obj, name, inner)
            elif issubclass(kind, dict):
                yield Found(obj, name, inner)
                self._add(dict.values(obj), name, inner)
            elif issubclass(kind, types.FunctionType):
                is_imported = is_importable(obj)
                if not is_imported:
                    yield Found(obj, name, inner)
                stack += [(part, at, inner) for at, part in _variables_of(obj, is_imported)]
            elif issubclass(kind, BUFFERS):
                yield Found(obj, name, inner)
            elif issubclass(kind, _WRAPPERS):
                self._add_wrapped(obj, name, inner)
            elif issubclass(kind, type):
                if _is_by_value(obj):
                    yield Found(obj, obj.__name__, inner)
                    self._add(obj.__bases__, name, inner)
                    self._add_named(vars(obj).items(), obj.__name__, inner)
            elif _has_state(obj, kind):
                yield Found(obj, name, inner)
            elif issubclass(kind, _CLOSED):
                continue
            elif not inner and (_is_users(kind) or kind.__module__ in _TRANSPARENT):
                yield Found(obj, name or "self", False)
                self._add_object(obj, kind, name or "self")
            else:
                if _is_of_pandas(kind):
                    yield Found(obj, name, inner)
                self._add_made(_held_by_library(obj, kind), name, True)

    def _add(self, values: Iterable[object], name: str, inner: bool) -> None:
        values = list(values)
        kinds = set(map(type, values)) - _ATOMS
        if kinds == {tuple}:
            # A table of records, which may be long: in one go.
            records = chain.from_iterable(each for each in values if type(each) is tuple)
            kinds = set(map(type, records)) - _ATOMS
        if kinds:
            self._stack += [(value, name, inner) for value in values if type(value) not in _ATOMS]

    def _add_made(self, values: Any, name: str, inner: bool) -> None:
        self._made.append(values)
        self._add(values, name, inner)

    def _add_named(self, items: Iterable[tuple[str, object]], name: str, inner: bool) -> None:
        self._stack += [
            (value, f"{name}.{at}", inner) for at, value in [*items] if type(value) not in _ATOMS
        ]

    def _add_array(self, a: Array, name: str, inner: bool) -> None:
        if is_masked(a):
            self._stack.append((mask_of(a), name, inner))
        elif type(a) is not np.ndarray and type(a) is not np.memmap:
            self._add(getattr(a, "__dict__", {}).values(), name, True)
        if a.dtype.hasobject:
            self._add_made(np.asarray(a).ravel().tolist(), name, inner)

    def _add_wrapped(self, obj: object, name: str, inner: bool) -> None:
        """What a bound method, a partial, a view of memory, or what stands for a method is made of."""
        parts: list[tuple[str, object]]
        if isinstance(obj, types.MethodType):
            parts = [(name, obj.__func__), ("self", obj.__self__)]
        elif isinstance(obj, functools.partial):
            arguments = [("partial", arg) for arg in obj.args]
            parts = [(name, obj.func), *arguments, *obj.keywords.items()]
        else:
            wrapped = [obj.obj] if isinstance(obj, memoryview) else gc.get_referents(obj)
            parts = [(name, each) for each in wrapped]
        self._stack += [(part, at, inner) for at, part in parts]

    def _add_object(self, obj: object, kind: type, name: str) -> None:
        """What an object of a class of the user's refers to."""
        attributes = getattr(obj, "__dict__", None)
        if type(attributes) is dict and _is_plain_kind(kind):
            self._plain_kinds.add(id(kind))
        else:
            self._seen.add(id(attributes))  # what is in it follows by name
            self._add(gc.get_referents(obj), name, False)
        self._stack.append((kind, name, False))
        self._add_named(attributes_of(obj), name, False)


def _is_plain_kind(kind: type) -> bool:
    """Whether all that an object of a class has is its dictionary."""
    return (
        base_of(kind) is object
        and kind.__dictoffset__ != 0
        and kind.__basicsize__ == _Plain.__basicsize__
    )


class _Plain:
    """An object with a dictionary, and nothing else."""


def _is_users(kind: type) -> bool:
    # The module of a local class need not be imported in a worker.
    return (
        kind.__module__ in MAINS
        or is_users_name(kind.__module__)
        or (_LOCAL in kind.__qualname__ and kind.__module__ not in sys.modules)
    )


def _is_by_value(cls: type) -> bool:
    # Enumerations are left alone: what changes in them is their cache of members.
    is_own = cls.__module__ in MAINS or _LOCAL in cls.__qualname__
    return is_own and not isinstance(cls, EnumType) and _is_users(cls)


def _has_state(obj: object, kind: type) -> bool:
    """Whether an object of a library is looked at as a whole."""
    return is_iterator(kind) or is_random(obj) or is_store(obj) or issubclass(kind, FILES)


def is_iterator(kind: type) -> bool:
    """Whether objects of a class of Python's own are iterators, or generators."""
    return kind.__module__ in ("builtins", "itertools") and hasattr(kind, "__next__")


def is_random(obj: object) -> bool:
    """Whether an object is a source of random numbers, so that a copy of it gives the same ones."""
    random: Any = sys.modules.get("random")
    return type(obj).__module__.startswith("numpy.random.") or (
        random is not None and issubclass(type(obj), random.Random)
    )


def _is_of_pandas(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "pandas"


def _held_by_library(obj: object, kind: type) -> object:
    """What pickling would send of an object of a library's class, where that can be had at no cost.

    Its other arrays are its own affair: bookkeeping, which it expects to be writeable.
    """
    if _is_of_pandas(kind):
        try:
            reduced = obj.__reduce_ex__(5)
        except Exception:
            return ()
        return () if isinstance(reduced, str) else reduced[1:3]
    if all(getattr(kind, each) is getattr(object, each) for each in _PICKLING):
        return gc.get_referents(obj)  # attributes and slots
    attributes = getattr(obj, "__dict__", None)
    return () if attributes is None else (attributes,)


def _variables_of(func: types.FunctionType, is_imported: bool) -> Iterator[Variable]:
    """The variables that a function brings along, and what is in them."""
    yield from defaults_of(func)
    yield from cells_of(func)
    for name, value in [*vars(func).items()]:
        yield f"{func.__name__}.{name}", value
    # A function that a worker imports has the globals of the worker's own module there.
    if not is_imported:
        yield from globals_of(func)
