"""What objects refer to: the arrays, and whatever has a state, that a function captures.

Functions capture by closure, default, partial, bound object, attribute, and by the globals of a script. What
an object holds that is written in C is found as the garbage collector finds it. Modules are not looked into,
as they are never copied, nor are classes that a worker imports, and the globals of such functions.
"""

from __future__ import annotations

import functools
import gc
import io
import sys
import types
from array import array
from collections import deque
from collections.abc import Iterator
from enum import EnumType
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from .._interop.buffers import base_of
from .._interop.captured_stores import is_store
from .._interop.masked import is_masked, mask_of
from .modules import MAINS, is_importable, is_users_name

BUFFERS = (bytearray, array)
CONTAINERS = (list, dict, set, deque, *BUFFERS)

_ATOMS = frozenset((bool, int, float, complex, str, bytes, type(None), range, slice))
_CLOSED = (types.ModuleType, types.BuiltinFunctionType, types.CodeType, np.ufunc, np.generic)


# Modules of the standard library whose objects hold what they are given, and nothing else.
_TRANSPARENT = frozenset(("collections", "types", "argparse", "queue"))
FILES = (io.StringIO, io.BytesIO)
_LOCAL = "<locals>"
_WRAPPED = (classmethod, staticmethod, property)
# What a class defines if it says itself how it is pickled.
_PICKLING = ("__reduce__", "__reduce_ex__", "__getstate__")


class Found(NamedTuple):
    """An object that is referred to."""

    obj: Any
    """An array; or what has a state: one of `CONTAINERS`, a file in memory, an iterator, a generator of
    random numbers, a frame of pandas, a store of zarr's; and, if it travels by value, a function, a class, or
    an object of one."""
    name: str
    """The variable by which it is reached."""
    is_inner: bool
    """It belongs to an object of a library's class, which alone knows what it is for."""


def walk(name: str, *roots: Any, most: int) -> Iterator[Found]:
    """What objects refer to, each once; `most` are looked at."""
    stack: list[tuple[Any, str, bool]] = [(root, name, False) for root in roots]
    seen: set[int] = set()
    plain_kinds: set[int] = set()
    """Classes of the user's, by address, of whose objects nothing but the attributes is to be looked at."""
    made: list[Any] = []
    """What is referred to by nobody else: it stays, or another object would get its address."""
    while stack and len(seen) < most:
        obj, name, inner = stack.pop()
        kind = type(obj)
        if kind in _ATOMS or id(obj) in seen:
            continue
        seen.add(id(obj))
        if id(kind) in plain_kinds:
            name = name or "self"
            yield Found(obj, name, False)
            for label, value in [*obj.__dict__.items()]:
                if type(value) not in _ATOMS:
                    stack.append((value, f"{name}.{label}", False))
        elif isinstance(obj, np.ndarray):
            yield Found(obj, name, inner)
            if is_masked(obj):
                stack.append((mask_of(obj), name, inner))
            elif kind is not np.ndarray and kind is not np.memmap:
                _add(stack, getattr(obj, "__dict__", {}).values(), name, True)
            if obj.dtype.hasobject:
                values = np.asarray(obj).ravel().tolist()
                made.append(values)
                _add(stack, values, name, inner)
        elif kind is list or kind is tuple or isinstance(obj, (list, tuple, set, frozenset, deque)):
            if kind is not tuple and isinstance(obj, CONTAINERS):
                yield Found(obj, name, inner)
            _add(stack, obj, name, inner)
        elif isinstance(obj, dict):
            yield Found(obj, name, inner)
            _add(stack, dict.values(obj), name, inner)
        elif isinstance(obj, types.FunctionType):
            is_imported = is_importable(obj)
            if not is_imported:
                yield Found(obj, name, inner)
            stack += [(part, label, inner) for label, part in _parts_of(obj, is_imported)]
        elif isinstance(obj, types.MethodType):
            stack += [(obj.__func__, name, inner), (obj.__self__, "self", inner)]
        elif isinstance(obj, functools.partial):
            stack += [(obj.func, name, inner), *((arg, "partial", inner) for arg in obj.args)]
            stack += [(value, label, inner) for label, value in obj.keywords.items()]
        elif isinstance(obj, BUFFERS):
            yield Found(obj, name, inner)
        elif isinstance(obj, memoryview):
            stack.append((obj.obj, name, inner))
        elif isinstance(obj, type):
            if _is_by_value(obj):
                yield Found(obj, obj.__name__, inner)
                _add(stack, obj.__bases__, name, inner)
                stack += [
                    (value, f"{obj.__name__}.{at}", inner)
                    for at, value in [*vars(obj).items()]
                    if type(value) not in _ATOMS
                ]
        elif isinstance(obj, _WRAPPED):
            _add(stack, gc.get_referents(obj), name, inner)
        elif _has_state(obj, kind):
            yield Found(obj, name, inner)
        elif not isinstance(obj, _CLOSED):
            attributes = getattr(obj, "__dict__", None)
            if inner or not (_is_users(kind) or kind.__module__ in _TRANSPARENT):
                if _is_of_pandas(kind):
                    yield Found(obj, name, inner)
                values = _held_by_library(obj, kind, attributes)
                made.append(values)
                _add(stack, values, name, True)
                continue
            name = name or "self"
            yield Found(obj, name, False)
            if type(attributes) is dict and _is_plain_kind(kind):
                plain_kinds.add(id(kind))
            else:
                seen.add(id(attributes))  # what is in it follows by name
                _add(stack, gc.get_referents(obj), name, False)
            stack.append((kind, name, False))
            stack += [
                (value, f"{name}.{label}", False)
                for label, value in attributes_of(obj)
                if type(value) not in _ATOMS
            ]


def _is_plain_kind(kind: type) -> bool:
    """Whether all that an object of a class has is its dictionary."""
    return (
        base_of(kind) is object
        and kind.__dictoffset__ != 0
        and kind.__basicsize__ == _Plain.__basicsize__
    )


class _Plain:
    """An object with a dictionary, and nothing else."""


def attributes_of(obj: Any) -> list[tuple[str, Any]]:
    """Names and values of an object's attributes, those in slots included."""
    found = [*getattr(obj, "__dict__", {}).items()]  # at once: another thread may add to them
    for kind in type(obj).__mro__:
        if kind.__dict__.get("__slots__"):
            for name, at in vars(kind).items():
                if isinstance(at, types.MemberDescriptorType) and hasattr(obj, name):
                    found.append((name, at.__get__(obj)))
    return found


def _add(stack: list[tuple[Any, str, bool]], values: Any, name: str, inner: bool) -> None:
    values = list(values)
    kinds = set(map(type, values)) - _ATOMS
    if kinds == {tuple}:
        # A table of records, which may be long: in one go.
        records = chain.from_iterable(each for each in values if type(each) is tuple)
        kinds = set(map(type, records)) - _ATOMS
    if kinds:
        stack += [(value, name, inner) for value in values if type(value) not in _ATOMS]


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


def _has_state(obj: Any, kind: type) -> bool:
    """Whether an object of a library is looked at as a whole."""
    return is_iterator(kind) or is_random(obj) or is_store(obj) or isinstance(obj, FILES)


def is_iterator(kind: type) -> bool:
    """Whether objects of a class of Python's own are iterators, or generators."""
    return kind.__module__ in ("builtins", "itertools") and hasattr(kind, "__next__")


def is_random(obj: Any) -> bool:
    """Whether an object is a source of random numbers, so that a copy of it gives the same ones."""
    random: Any = sys.modules.get("random")
    return type(obj).__module__.startswith("numpy.random.") or (
        random is not None and isinstance(obj, random.Random)
    )


def _is_of_pandas(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "pandas"


def _held_by_library(obj: Any, kind: type, attributes: Any) -> Any:
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
    return () if attributes is None else (attributes,)


def _parts_of(func: types.FunctionType, is_imported: bool) -> Iterator[tuple[str, Any]]:
    """The variables that a function brings along, and what is in them."""
    code = func.__code__
    defaults = func.__defaults__ or ()
    yield from zip(code.co_varnames[: code.co_argcount][::-1], defaults[::-1], strict=False)
    yield from (func.__kwdefaults__ or {}).items()
    for name, cell in zip(code.co_freevars, func.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:
            pass  # not filled yet
    for name, value in [*vars(func).items()]:
        yield f"{func.__name__}.{name}", value
    # A function that a worker imports has the globals of the worker's own module there.
    if not is_imported:
        for name in _names_in(code):
            if name in func.__globals__:
                yield name, func.__globals__[name]


def _names_in(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _names_in(const)
