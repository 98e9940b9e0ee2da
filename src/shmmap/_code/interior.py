"""What is inside a value of any kind, and whether it is still the same.

Values that are carried (see `carried`) are looked at by `reach` itself. This is for all others: settings
objects with slots, subclasses of containers, frames, objects of any library. What an object refers to is what
the garbage collector knows of it, and what is no object is compared by its bytes.

What must hold: no code of the user's runs. What may be large is not kept alive.
"""

from __future__ import annotations

import gc
import logging
import types
import weakref
from collections.abc import Callable, Iterable
from typing import Any, TypeGuard

import numpy as np

from .._interop.numpy_types import Array
from .._interop.scalars import SCALARS
from .carried import ELEMENTS_MAX, SMALL_NBYTES, length_of
from .large import LargeArray, can_change

FENCE = (object(),)
"""Comes after each object of which `referents` are asked: else an element that goes from the end of one list
to the beginning of the next would not be seen."""

# What is looked at elsewhere, or leads to everything.
_ENDS = (
    *(type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.CodeType),
    *(types.FrameType, types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType),
    *(weakref.ref, logging.Logger, logging.Handler, np.dtype, np.ufunc),
)


def referents(objects: Iterable[object], dicts: Iterable[dict[object, object]]) -> list[object]:
    """What some objects refer to, each followed by a `FENCE`, and what is in some dictionaries."""
    found = gc.get_referents(*objects)
    for each in dicts:
        found += items_of(each)
    return found


def items_of(each: dict[object, object]) -> tuple[object, ...]:
    """What is in a dictionary; the collector leaves out keys, and the values that lie in an instance."""
    return (*dict.keys(each), *dict.values(each), FENCE)


def is_large(value: object) -> TypeGuard[Array]:
    """Whether a value is an array that is not to be kept alive."""
    kind = type(value)
    return issubclass(kind, np.ndarray) and value.nbytes >= SMALL_NBYTES  # type: ignore[attr-defined]


class Interior:
    """What is in a value, and in that, as far as `most` objects; with 0, only that it is the same object."""

    __slots__ = ("_alive", "_held", "_ids", "_large", "_left", "met", "root", "size")

    root: Callable[[], object]
    """Gives the value, or None once it has gone."""

    def __init__(self, value: object, most: int = ELEMENTS_MAX) -> None:
        self.met: list[object] = [type(value)]
        """Functions and classes, for the walk to follow."""
        self._large: list[LargeArray] = []
        self._left = most
        # The value itself is not kept alive: None stands for it among what is held.
        self._held: list[list[Any]] = [[], [], [], []]
        parts = self._go_through(value)
        self.size = len(parts)
        """Objects looked at."""
        self._held[3] += [each for each in parts if each is not value and not is_large(each)]
        self._alive = [weakref.ref(each) for each in parts if each is not value and is_large(each)]
        self._ids = self._ids_of(value)
        held = self._held
        try:
            self.root = weakref.ref(value, lambda ref: held.clear())
        except TypeError:
            self.root = lambda: value

    def _go_through(self, value: object) -> list[object]:
        """Take note of what is in the value; all objects that were met."""
        objects, dicts, _, _ = self._held
        parts: list[object] = []
        seen = {id(value)}
        queue = [value]
        for each in queue:
            own = None if each is value else each
            inner = self._look_into(each, own)
            if self._left < 0:
                break
            if inner is not None and type(each) not in SCALARS:
                objects += own, FENCE  # also what is empty: it may be filled
            if inner is not None and issubclass(type(each), dict):  # and not what it says it is
                dicts.append(own)
                inner += items_of(each)[:-1]  # type: ignore[arg-type]
            for part in inner or ():
                parts.append(part)
                if id(part) in seen:
                    continue
                seen.add(id(part))
                kind = type(part)
                if isinstance(kind, type) and issubclass(kind, _ENDS):
                    if issubclass(kind, (type, types.FunctionType)):
                        self.met.append(part)
                    continue
                queue.append(part)
                if kind not in SCALARS:
                    self.met.append(kind)
        return parts

    def _look_into(self, each: object, own: object) -> list[object] | None:
        """Take note of what is no object, and of arrays; what it refers to, None if that is too much."""
        contents = self._held[2]
        if not is_large(each):
            content = _bytes_of(each)
            if content is not None:
                contents.append((own, content))
        elif can_change(each):
            self._large.append(LargeArray(each))
        length = length_of(each)
        if length is not None and length > self._left:
            contents.append((own, length))
            return None
        inner = gc.get_referents(each)
        self._left -= len(inner)
        return inner

    def _ids_of(self, value: Any) -> list[int]:
        objects, dicts = ([value if each is None else each for each in at] for at in self._held[:2])
        return [*map(id, referents(objects, dicts))]

    def has_changed(self) -> bool:
        value = self.root()
        if value is None or not self._held:
            return True
        return (
            self._ids_of(value) != self._ids
            or any([ref() is None for ref in self._alive])
            or any([_differs(value if a is None else a, before) for a, before in self._held[2]])
            or any([each.has_changed() for each in self._large])
        )


def _bytes_of(value: Any) -> object:
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


def _differs(value: object, before: object) -> bool:
    """Whether the bytes of an object, or its length, are other ones."""
    now = length_of(value) if type(before) is int else _bytes_of(value)
    return bool(now != before)
