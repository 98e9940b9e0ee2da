"""Which values are carried whole, what those consist of, and whether two of them are alike.

A value that is *carried* is made of functions, classes, modules, constants, small arrays, containers and
instances of simple classes only: each change of it can be seen by identity, and sent. Of all other values
`interior` knows whether they have changed.

What must hold: no code of the user's runs, no ``__eq__`` and no properties.
"""

from __future__ import annotations

import collections
import enum
import functools
import re
import sys
import types
import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np

from .._interop.buffers import is_plain
from .modules import is_users_or_main, when_gone
from .namespaces import MISSING, cell_contents, dict_of, find_home

SMALL_NBYTES = 1 << 14
"""An array below this size is carried, and compared, by its bytes."""
ELEMENTS_MAX = 1000
"""Elements of a container, those in it included, that are looked at."""
_TEXT_MAX = 1 << 16

CachedFunction: object = type(functools.lru_cache(len))

# Values that never change, and whose types are not the user's.
_CONSTANTS = (
    *(type(None), type(...), type(NotImplemented), bool, int, float, complex, range, slice),
    *(np.dtype, np.generic, np.ufunc, re.Pattern),
    *(types.BuiltinFunctionType, types.GenericAlias, types.UnionType),
)
# By name: a worker need not import them.
_MODULES_OF_CONSTANTS = frozenset(
    "datetime decimal fractions ipaddress pathlib pathlib._local uuid zoneinfo".split()
)
_TEXTS = (str, bytes)
_CONTAINERS = (list, tuple, set, frozenset, dict, collections.deque)
# They cache by identity, which other processes do not share: they arrive empty, and are not compared.
WEAK = (weakref.WeakKeyDictionary, weakref.WeakValueDictionary, weakref.WeakSet)
# What a class defines if it says itself how it is pickled.
_PICKLING = ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__getnewargs_ex__")


def is_table(kind: type) -> bool:
    """Whether instances of a class are dictionaries, with nothing to them but attributes."""
    return kind is dict or (
        issubclass(kind, dict) and _has_plain_bases(kind, ("builtins", "collections", "typing"))
    )


def is_simple_instance(value: object) -> bool:
    """Whether all there is to a value is its class, one of the user's, and its ``__dict__``."""
    kind: object = type(value)  # a class is no `Hashable` for the type checker
    return _is_simple_class(kind) and type(dict_of(value)) is dict


@functools.lru_cache(1024)
def _is_simple_class(kind: type) -> bool:
    if kind is types.SimpleNamespace:
        return True
    return (
        is_users_or_main(kind.__module__)
        and _has_plain_bases(kind, ("abc", "typing"))
        and not any(vars(each).get("__slots__") for each in kind.__mro__)
        and kind.__dictoffset__ != 0
    )


@functools.lru_cache(1024)
def _has_plain_bases(kind: type, libraries: tuple[str, ...]) -> bool:
    """Whether all bases are of some modules, or are the user's and do not say how they are pickled."""
    return all(
        each.__module__ in libraries
        or (is_users_or_main(each.__module__) and not any(name in vars(each) for name in _PICKLING))
        for each in kind.__mro__[:-1]
    )


def _forget_classes(_: str) -> None:
    _is_simple_class.cache_clear()
    _has_plain_bases.cache_clear()


when_gone(_forget_classes)


def is_constant(kind: type) -> bool:
    """Whether values of a type never change, and their texts tell them apart."""
    if kind.__module__ in _MODULES_OF_CONSTANTS:
        return bool(kind.__name__ != "Context")  # of decimals: it is set in place
    return bool(issubclass(kind, _CONSTANTS))


def name_of_singleton(value: object) -> str | None:
    """The name of what stands for nothing in a library, say: another one would not be recognised."""
    if is_constant(type(value)) or type(value).__module__ == "builtins":
        return None
    home = sys.modules.get(type(value).__module__)
    if home is None or is_users_or_main(home.__name__):
        return None
    return next((name for name, each in list(vars(home).items()) if each is value), None)


def parts_of(value: Any) -> tuple[object, ...] | None:
    """What a value consists of, as far as that is carried with it; None for what is made of no values."""
    kind = type(value)
    if is_table(kind):
        # By the methods of `dict` itself: a subclass may have others.
        own = (*dict.keys(value), *dict.values(value))
        attributes = dict_of(value).values() if kind.__dictoffset__ else ()
        factory = (value.default_factory,) if kind is collections.defaultdict else ()
        return (*own, *attributes, *factory)
    if kind in _CONTAINERS:
        return tuple(value)
    if kind is staticmethod or kind is classmethod:
        return (value.__func__,)
    if kind is property:
        return value.fget, value.fset, value.fdel
    if kind is functools.partial:
        return value.func, value.args, value.keywords
    if kind is types.MethodType:
        return value.__func__, value.__self__
    if kind is CachedFunction:
        return (value.__wrapped__,)
    if is_simple_instance(value):
        return (*dict_of(value), *dict_of(value).values())
    return None


def is_carried(value: object) -> bool:
    """Whether a value is carried whole, so that a change of it can be seen and sent."""
    room = ELEMENTS_MAX
    waiting = [value]
    for each in waiting:
        room -= 1
        if room < 0 or (length_of(each) or 0) > room:
            return False
        parts = parts_of(each)
        if parts is None and not _is_carried_alone(each):
            return False
        waiting += parts or ()
    return True


def length_of(value: object) -> int | None:
    """Of a container, whatever its class says; None for all else."""
    base: Any = next((base for base in _CONTAINERS if issubclass(type(value), base)), None)
    return None if base is None else int(base.__len__(value))


def _is_carried_alone(value: Any) -> bool:
    # By type alone: an instance may say something else of itself, by code of the user's.
    kind = type(value)
    if kind in _TEXTS:
        return len(value) <= _TEXT_MAX
    if kind is types.FunctionType or kind is types.ModuleType or is_constant(kind):
        return True
    if issubclass(kind, type):
        return find_home(value) is not None
    if issubclass(kind, np.ndarray):
        return is_plain(value) and value.nbytes < SMALL_NBYTES
    return issubclass(kind, enum.Enum) or kind in WEAK or name_of_singleton(value) is not None


def inner_function(value: object) -> types.FunctionType | None:
    """The function in a wrapper such as a `staticmethod` or a cached function, or the value if it is one."""
    while type(value) in (staticmethod, classmethod, property, CachedFunction):
        value = (parts_of(value) or (None,))[0]
    return value if type(value) is types.FunctionType else None


def cached_in(value: Any) -> Any:
    """The function that remembers its results, if a value is or wraps one; else None."""
    while type(value) in (staticmethod, classmethod):
        value = value.__func__
    return value if type(value) is CachedFunction else None


def carried_attributes(func: types.FunctionType) -> dict[str, object]:
    """Attributes of a function, but for those that are not carried."""
    return {key: each for key, each in func.__dict__.items() if is_carried(each)}


def is_same(one: object, other: object) -> bool:
    """Whether two values are alike in every part, types included."""
    seen: set[tuple[int, int]] = set()
    pairs = [(one, other)]  # which keeps all of them, so that no address comes twice
    for a, b in pairs:
        if a is b or (id(a), id(b)) in seen:
            continue
        seen.add((id(a), id(b)))
        inner = _pairs_in(a, b) if type(a) is type(b) else None
        if inner is None:
            return False
        pairs += inner
    return True


def _pairs_in(a: Any, b: Any) -> Iterable[tuple[object, Any]] | None:
    """What has to be alike for two values of one type to be so; None if they are not."""
    kind = type(a)
    if kind is types.FunctionType:
        return _pairs_in_functions(a, b)
    parts, others = parts_of(a), parts_of(b)
    if parts is None or others is None:
        return () if _are_equal(a, b) else None
    if kind is CachedFunction and a.cache_parameters() != b.cache_parameters():
        return None
    if kind is set or kind is frozenset:
        return () if sorted(map(repr, a)) == sorted(map(repr, b)) else None
    if kind is functools.partial and list(a.keywords) != list(b.keywords):
        return None
    return zip(parts, others, strict=True) if len(parts) == len(others) else None


def _are_equal(a: Any, b: Any) -> bool:
    """Whether two values are alike that consist of no others."""
    kind = type(a)
    if kind in _TEXTS:
        return bool(a == b)
    if issubclass(kind, np.ndarray):
        return (
            is_plain(a)
            and (a.dtype, a.shape, a.flags.writeable) == (b.dtype, b.shape, b.flags.writeable)
            and a.tobytes() == b.tobytes()
        )
    if is_constant(kind):
        return repr(a) == repr(b) and kind is not types.BuiltinFunctionType
    return kind in WEAK


def _pairs_in_functions(
    one: types.FunctionType, other: types.FunctionType
) -> Iterable[tuple[object, object]] | None:
    if one.__code__ != other.__code__ or one.__qualname__ != other.__qualname__:
        return None
    if one.__globals__ is not other.__globals__:
        if one.__globals__.get("__name__") != other.__globals__.get("__name__"):
            return None
    pairs = [
        (one.__defaults__, other.__defaults__),
        (one.__kwdefaults__, other.__kwdefaults__),
        (carried_attributes(one), carried_attributes(other)),
        *zip(cell_contents(one), cell_contents(other), strict=True),
    ]
    return [pair for pair in pairs if pair[0] is not MISSING]
