"""How a function travels to workers, and when what was pickled before still stands for it.

A function that can be imported goes by reference; any other by value, pickled again only if what its pickle
depends on may have changed: docs/design/0031-functions-that-have-not-changed.md. What must hold: nothing here
keeps an array alive, as arrays are no constants; and a constant that is the same object has the same value.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import sys
import types
from collections.abc import Iterable, Mapping
from operator import is_
from typing import Any, NamedTuple

import numpy as np

from .._code.modules import MAINS, is_importable, name_in_module, travels_by_value, when_gone
from .._code.namespaces import MISSING, cell_contents
from .._code.watch import together
from .._errors.exceptions import name_of
from .._errors.hints import hint_at_copies
from .._interop.scalars import SCALARS
from .._system.forks import make_lock
from .about import label_of
from .messages import Payload, inline_payload
from .pickling import Packed, pack
from .refusals import cannot_send


class PackedFunction(NamedTuple):
    """A function as it is sent."""

    packed: Packed
    digest: bytes
    """Identity of the pickle; empty if workers must not keep the function."""
    by_value: bool
    payload: Payload | None = None
    """The pickle as calls carry it, where that takes no shared memory."""
    label: bytes = b""
    """Its name, for those who look at maps from outside."""


class _Parts(NamedTuple):
    """All that the pickle of a function depends on."""

    values: list[object]
    """Each has to be a constant."""
    labels: list[object]
    """Names and annotations: enough that they are the same objects."""
    walked: dict[int, object]
    """The functions whose own parts are among these, by identity."""


class _Known(NamedTuple):
    """A function pickled by value, and what that pickle depends on."""

    parts: _Parts
    function: PackedFunction


class _Importable(NamedTuple):
    """A function pickled by reference, and where it is imported from."""

    func: object
    module: str
    name: str
    function: PackedFunction


# Functions whose pickles are kept; the oldest go first.
_KNOWN_MOST = 64
_IMPORTABLE_MOST = 1024
# A longer constant would be kept alive for too little.
_CONSTANT_MOST = 4096

_importable: dict[int, _Importable] = {}
_known: dict[object, _Known] = {}

_ATOMS = SCALARS - {str, bytes} | {type(...), np.bool_, np.int64, np.float64}


def _forget_module(name: str) -> None:
    for key in list(_importable):
        known = _importable.get(key)
        if known is not None and known.module == name:
            _importable.pop(key, None)


when_gone(_forget_module)
_lock = make_lock()
"""Held to add to what is known; looking it up takes none."""


def pack_function(func: Any) -> PackedFunction:
    """Pickle a function for workers, or take what was pickled before.

    Raises TypeError if it does not pickle, saying what to do instead.
    """
    found = _find_importable(func)
    if found is not None:
        return found
    key, parts = _parts_of(func)
    return _find_known(key, parts) or _pack(func, key, parts)


def pack_apart(func: Any) -> PackedFunction | None:
    """The same for a function that may travel apart from its arguments; None if it has to go with them.

    For what both refer to, and may change, there would be two copies.
    """
    found = _find_importable(func)
    if found is not None:
        return found
    key, parts = _parts_of(func)
    found = _find_known(key, parts)
    if found is None and (is_importable(func) or (key is not None and _are_constants(parts))):
        return _pack(func, key, parts)
    return found


def _find_importable(func: Any) -> PackedFunction | None:
    """What is known of it, if it still is what is found there, and goes by reference."""
    known = _importable.get(id(func))
    if known is None or known.func is not func:
        return None
    module = sys.modules.get(known.module)
    if module is None or getattr(module, known.name, None) is not func:
        return None
    return None if travels_by_value(module.__name__) else known.function


def _find_known(key: object, parts: _Parts) -> PackedFunction | None:
    earlier = None if key is None else _known.get(key)
    if earlier is not None and _are_same(earlier.parts, parts):
        return earlier.function
    return None


def _are_constants(parts: _Parts) -> bool:
    return all(_is_constant(part, parts.walked) for part in parts.values)


def _pack(func: Any, key: object, parts: _Parts) -> PackedFunction:
    try:
        packed = pack(func)
    except Exception as exc:
        raise cannot_send(name_of(func), func, exc) from None
    label = label_of(func)
    if packed.segments or packed.keep:
        hint_at_copies(name_of(func), packed.placed)
        return PackedFunction(packed, b"", True, None, label)
    packed = packed._replace(reaches=together(packed.reaches))
    payload = inline_payload(packed.data)
    digest = hashlib.blake2b(packed.data, digest_size=16).digest()
    if is_importable(func):
        function = PackedFunction(packed, digest, False, payload, label)
        if len(_importable) < _IMPORTABLE_MOST:
            _importable[id(func)] = _Importable(
                func, func.__module__, name_in_module(func), function
            )
        return function
    function = PackedFunction(packed, digest, True, payload, label)
    if key is not None and _are_constants(parts):
        with _lock:
            _known.pop(key, None)
            while len(_known) >= _KNOWN_MOST:
                _known.pop(next(iter(_known)), None)  # a signal handler may have done so
            _known[key] = _Known(parts, function)
    return function


# ---------------------------------------------------------------- what a pickle depends on


def _are_same(earlier: _Parts, now: _Parts) -> bool:
    return (
        len(earlier.values) == len(now.values)
        and len(earlier.labels) == len(now.labels)
        and all(map(is_, earlier.values, now.values))
        and all(map(is_, earlier.labels, now.labels))
    )


def _parts_of(func: Any) -> tuple[object, _Parts]:
    """``key, parts``: under what the function is kept, and what its pickle depends on.

    The key is None where that cannot be told.
    """
    parts = _Parts([], [], {})
    # cloudpickle adds the submodules of packages that are imported by now.
    modules = len(sys.modules)
    if type(func) is types.FunctionType:
        _add_function(func, parts)
        return (func.__code__, modules), parts
    if type(func) is functools.partial and not func.__dict__:
        inner = func.func
        _add_values((inner, *func.args, *func.keywords.values()), parts)
        key = (getattr(inner, "__code__", None), modules, len(func.args), *func.keywords)
        return key, parts
    return None, parts


def _add_function(func: types.FunctionType, parts: _Parts) -> None:
    """Add what a function by value consists of, functions by value that it refers to included."""
    parts.walked[id(func)] = func
    code, namespace = func.__code__, func.__globals__
    values: list[object] = [code, func.__defaults__, *cell_contents(func)]
    values += [namespace.get(name, MISSING) for name in _find_globals(code)]
    if func.__kwdefaults__:
        values += func.__kwdefaults__.values()
    if func.__dict__:
        parts.labels.extend(func.__dict__)
        values += func.__dict__.values()
    parts.labels.extend((func.__name__, func.__qualname__, func.__doc__, func.__module__))
    if func.__annotations__:
        parts.labels.extend(func.__annotations__)
        parts.labels.extend(func.__annotations__.values())
    _add_values(values, parts)


def _add_values(values: Iterable[Any], parts: _Parts) -> None:
    """Add values, and what the functions by value among them consist of, in tuples as well."""
    for value in values:
        parts.values.append(value)
        kind = type(value)
        if kind is types.FunctionType:
            if id(value) not in parts.walked and not is_importable(value):
                _add_function(value, parts)
        elif kind is tuple or kind is frozenset:
            _add_values(value, parts)


@functools.lru_cache(_IMPORTABLE_MOST)
def _find_globals(code: types.CodeType) -> tuple[str, ...]:
    """Names of the globals that some code refers to, code nested in it included."""
    names: dict[str, None] = {}
    waiting = [code]
    while waiting:
        each = waiting.pop()
        for instruction in dis.get_instructions(each):
            if instruction.opname in ("LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL"):
                names[instruction.argval] = None
        waiting += [const for const in each.co_consts if isinstance(const, types.CodeType)]
    return tuple(names)


def _is_constant(part: object, walked: Mapping[int, object]) -> bool:
    """Whether a part cannot change as long as it is the same object, and its own parts are the same."""
    if type(part) in _ATOMS or part is MISSING or isinstance(part, types.CodeType):
        return True
    if type(part) is str or type(part) is bytes:
        return len(part) <= _CONSTANT_MOST
    if type(part) is tuple or type(part) is frozenset:
        return len(part) <= _CONSTANT_MOST and all(_is_constant(each, walked) for each in part)
    if type(part) is types.ModuleType:
        return part.__name__ not in MAINS and sys.modules.get(part.__name__) is part
    return id(part) in walked or is_importable(part)
