"""Large private arrays of the user's modules: what was in them, as a copy in shared memory.

The copy is what workers are given, and what the array is compared with at each call: it may be changed in
place, and nothing else tells that for certain (see decision 0037). It goes with the array.
"""

from __future__ import annotations

import functools
import weakref

import numpy as np

from .._interop.buffers import is_plain
from .._interop.numpy_types import Array
from .._memory import handle_of, place

# Words that are compared at once: they stay in the caches of the processor.
_BLOCK = 1 << 15

_copies: dict[int, tuple[weakref.ref[Array], Array]] = {}
"""By the identity of a large private array: it, and its copy in shared memory."""


def copy_of(a: Array) -> Array:
    """The copy in shared memory of a large private array, a new one if the array has changed since."""
    known = _copies.get(id(a))
    if known is not None and known[0]() is a and _are_equal(a, known[1]):
        return known[1]
    placed = place(a)
    key = id(a)
    _copies[key] = weakref.ref(a, functools.partial(_forget, key)), placed
    return placed


def _forget(key: int, ref: weakref.ref[Array]) -> None:
    if _copies.get(key, (None,))[0] is ref:
        _copies.pop(key, None)


def _are_equal(a: Array, b: Array) -> bool:
    """Whether two arrays have the same bytes."""
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    is_alike = b.flags.c_contiguous if a.flags.c_contiguous else b.flags.f_contiguous
    if not (a.flags.forc and is_alike) or not a.dtype.itemsize:
        return bool(a.tobytes() == b.tobytes())
    one, other = _words_of(a), _words_of(b)
    for i in range(0, len(one), _BLOCK):
        if not (one[i : i + _BLOCK] == other[i : i + _BLOCK]).all():
            return False
    return True


def _words_of(a: Array) -> Array:
    """The bytes of a contiguous array as a line of integers."""
    word = np.uint64 if a.nbytes % 8 == 0 else np.uint8
    flat = np.ndarray.reshape(a if a.flags.c_contiguous else a.T, -1)
    return flat.view(word)


def can_change(a: Array) -> bool:
    """Whether an array may be changed in place without the workers' seeing it."""
    if a.dtype.hasobject or handle_of(a) is not None:
        return False
    base: object = a
    while isinstance(base, np.ndarray):
        if base.flags.writeable:
            return True
        base = base.base
    return base is not None and not isinstance(base, bytes)


class LargeArray:
    """A large private array, and what was in it."""

    def __init__(self, a: Array) -> None:
        copy = copy_of(a) if is_plain(a) else np.array(np.ndarray.view(a, np.ndarray))
        held = [copy]
        self._held = held
        self._ref = weakref.ref(a, lambda ref: held.clear())

    def has_changed(self) -> bool:
        a = self._ref()
        return a is None or not _are_equal(np.ndarray.view(a, np.ndarray), self._held[0])
