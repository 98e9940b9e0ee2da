"""What is inside a value of any kind, and whether it is still the same.

Numbers, lists and instances of plain classes are looked at by `_code.reach` itself. This is for all others:
settings objects with slots, subclasses of containers, frames, objects of any library. What an object refers
to is what the garbage collector knows of it, and what is no object is compared by its bytes.

What must hold: no code of the user's runs. What may be large is not kept alive.
"""

from __future__ import annotations

import collections
import gc
import logging
import types
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from .large import LargeArray, can_change
from .state import ELEMENTS_MAX, SMALL_NBYTES

# What is looked at elsewhere, or leads to everything.
_ENDS = (
    *(type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.CodeType),
    *(types.FrameType, types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType),
    *(weakref.ref, logging.Logger, logging.Handler, np.dtype, np.ufunc),
)
_ATOMS = frozenset((int, float, complex, str, bytes, bool, type(None)))
_CONTAINERS: tuple[Any, ...] = (list, tuple, dict, set, frozenset, collections.deque)


def _bytes_of(value: Any) -> Any:
    """What is in an object that is not made of objects; None if it is, or never changes."""
    kind = type(value)
    if issubclass(kind, bytearray):
        return bytes(value)
    if kind.__module__ == "array" and kind.__name__ == "array":
        return value.tobytes()
    if kind.__module__ == "decimal" and kind.__name__ == "Context":
        return repr(value)
    if issubclass(kind, np.ndarray):
        a = np.ndarray.view(value, np.ndarray)
        return [*map(id, a.ravel().tolist())] if a.dtype.hasobject else (a.shape, a.tobytes())
    return None


class Interior:
    """What is in a value, and in that, as far as `most` objects; with 0, only that it is the same object."""

    __slots__ = ("_alive", "_arrays", "_held", "_ids", "met", "root", "size")

    def __init__(self, value: Any, most: int = ELEMENTS_MAX) -> None:
        objects: list[Any] = []
        keys: list[Any] = []
        data: list[tuple[Any, Any]] = []
        parts: list[Any] = []
        self._arrays: list[LargeArray] = []
        self.met: list[Any] = [type(value)]
        """Functions and classes, for the walk to follow."""
        seen = {id(value)}
        queue, left = [value], most
        for each in queue:
            # The value itself is not kept alive: it is not among what is held.
            own = None if each is value else each
            kind = type(each)
            if issubclass(kind, np.ndarray) and each.nbytes >= SMALL_NBYTES:
                if can_change(each):
                    self._arrays.append(LargeArray(each))
            else:
                content = _bytes_of(each)
                if content is not None:
                    data.append((own, content))
            base = next((base for base in _CONTAINERS if issubclass(kind, base)), None)
            if base is not None and base.__len__(each) > left:
                data.append((own, base.__len__(each)))
                continue
            inner = gc.get_referents(each)
            left -= len(inner)
            if left < 0:
                break
            if base is dict:
                keys.append(own)
                inner += dict.keys(each)
            if inner:
                objects.append(own)
            for part in inner:
                parts.append(part)
                if id(part) in seen:
                    continue
                seen.add(id(part))
                if isinstance(type(part), type) and issubclass(type(part), _ENDS):
                    if issubclass(type(part), (type, types.FunctionType)):
                        self.met.append(part)
                    continue
                queue.append(part)
                if type(part) not in _ATOMS:
                    self.met.append(type(part))
        self.size = len(parts)
        """Objects looked at."""
        kept = [each for each in parts if each is not value and not _is_large(each)]
        self._alive = [weakref.ref(each) for each in parts if _is_large(each) and each is not value]
        self._held: list[Any] = [objects, keys, data, kept]
        held = self._held
        self.root: Callable[[], Any]
        """Gives the value, or None once it has gone."""
        try:
            self.root = weakref.ref(value, lambda ref: held.clear())
        except TypeError:
            held.append(value)
            self.root = lambda: held[-1]
        self._ids = _ids_of(value, objects, keys)

    def has_changed(self) -> bool:
        """Whether anything in the value is not as it was."""
        value, held = self.root(), self._held
        if value is None or not held:
            return True
        objects, keys, data = held[:3]
        return (
            _ids_of(value, objects, keys) != self._ids
            or any([ref() is None for ref in self._alive])
            or any([_now(value if each is None else each, content) for each, content in data])
            or any([each.has_changed() for each in self._arrays])
        )


def _ids_of(value: Any, objects: list[Any], keys: list[Any]) -> list[int]:
    found = gc.get_referents(*[value if each is None else each for each in objects])
    for each in keys:
        found += dict.keys(value if each is None else each)
    return [*map(id, found)]


def _now(value: Any, before: Any) -> bool:
    """Whether the bytes of an object, or its length, are other ones."""
    if type(before) is int:
        base = next(base for base in _CONTAINERS if issubclass(type(value), base))
        return bool(base.__len__(value) != before)
    return bool(_bytes_of(value) != before)


def _is_large(value: Any) -> bool:
    return issubclass(type(value), np.ndarray) and value.nbytes >= SMALL_NBYTES
