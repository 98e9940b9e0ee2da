"""Submitted functions that belong together: their private arrays are copied into shared memory once for all.

A small private array is each function's own, and writable, as it is wherever functions get pickles. A large
one goes through a shared copy, which serves all functions of the bundle; one that comes back in a result is
copied (`lend`), so nothing that is returned refers to what others still read.

What must hold: a copy is taken for an array only as long as that array's memory belongs to it, so that no
other array has come to lie there.
"""

from __future__ import annotations

import weakref
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np

from .._interop.numpy_types import Array
from .._memory import handle_of, lend, locate, packed_nbytes, place
from .arrays import ArrayPacker, key_of, order_of, reduce_handle
from .unpickling import own_array, own_copy

Mode = Literal["r", "r+", "c"]
"""What functions may do with a large private array: read it, write into the copy that all of them have, or
have a copy each."""

# Of one array, copies of so many times its size are kept: of windows that overlap, the oldest go.
_KEPT_TIMES = 2


class _Copy(NamedTuple):
    owner: weakref.ref[Any]
    """The array whose memory it is a copy of."""
    array: Array
    nbytes: int


_Copies = dict[tuple[object, ...], _Copy]


class Bundle:
    """Functions that belong together, as those who submit them have it; they can be abandoned at once.

    `_copies` is written by the thread that submits, one at a time, and by whichever thread drops an array.
    """

    def __init__(self, least_nbytes: int | None, mode: Mode = "r") -> None:
        self.least_nbytes = least_nbytes
        """Private arrays of so many bytes and more go through shared copies; None: none does."""
        self.mode = mode
        self._copies: _Copies = {}

    def copy_of(self, a: Array) -> tuple[Array, int]:
        """The shared copy of a private array, and how many bytes had to be copied for it."""
        key = key_of(a)
        known = self._copies.get(key)
        if known is not None and known.owner() is not None:
            return known.array, 0
        owner, nbytes = _owner_of(a), 0
        placed = place(a)
        if locate(placed) is not None:  # else workers map its file, and nothing was copied
            nbytes = packed_nbytes(a)
            lend(placed)
            placed.flags.writeable = self.mode == "r+"
        self._make_room(owner, nbytes)
        copies = self._copies
        copies[key] = _Copy(weakref.ref(owner, partial(_forget, copies, key)), placed, nbytes)
        return placed, nbytes

    def _make_room(self, owner: Array, nbytes: int) -> None:
        kept = [(key, copy) for key, copy in list(self._copies.items()) if copy.owner() is owner]
        room = _KEPT_TIMES * max(owner.nbytes, nbytes) - nbytes
        excess = sum(copy.nbytes for _, copy in kept) - room
        for key, copy in kept:
            if excess <= 0:
                return
            self._copies.pop(key, None)
            excess -= copy.nbytes

    def forget_copies(self) -> None:
        """Arrays are looked at anew from now on; functions under way keep what they have been given."""
        self._copies.clear()


def _owner_of(a: Array) -> Array:
    """The array at the end of a chain of views."""
    while isinstance(a.base, np.ndarray):
        a = a.base
    return a


def _forget(copies: _Copies, key: tuple[object, ...], owner: weakref.ref[Any]) -> None:
    known = copies.get(key)
    if known is not None and known.owner is owner:
        copies.pop(key, None)


class BundlePacker(ArrayPacker):
    """What becomes of the arrays of one function of a bundle."""

    __slots__ = ("_bundle",)

    def __init__(self, bundle: Bundle) -> None:
        super().__init__({})
        self._bundle = bundle

    def reduce(self, a: Array) -> tuple[object, ...]:
        """What to pickle for an array."""
        is_lent = self._bundle.mode == "c" and handle_of(a) is None
        handle = self.handle_of(a)
        if handle is not None:
            return (own_copy, (tuple(handle),)) if is_lent else reduce_handle(handle)
        if not a.flags.writeable:
            return super().reduce(a)
        order = order_of(a)
        return own_array, (bytearray(a.tobytes(order)), a.dtype, a.shape, order)

    def pack_buffer(self, a: Array) -> bytes | bytearray | tuple[object, ...]:
        """What stands for a buffer that is pickled out of band."""
        packed = super().pack_buffer(a)
        return bytearray(packed) if a.flags.writeable and isinstance(packed, bytes) else packed

    def copy_of(self, a: Array) -> Array | None:
        """The copy that the bundle has of a private array; None if it is small."""
        least_nbytes = self._bundle.least_nbytes
        if least_nbytes is None or a.nbytes < least_nbytes:
            return None
        copy, copied = self._bundle.copy_of(a)
        self.placed += copied
        return copy
