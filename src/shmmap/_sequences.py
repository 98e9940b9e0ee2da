"""Inputs that are iterated over: how they are read, so far and no further.

How many items an iterator has is known at its end only, and some have none. One beside an input of known
length is read one item further than that; any other, where all items are needed at once, as long as there is
memory.
Errors of the user's own iterator come out as they are.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sized
from itertools import islice
from typing import Any

from ._memory import address_space, available

__all__ = ["is_endless", "iterate", "read_items"]

# Of the memory there is, the part that an iterator may fill before it is taken to be endless.
_PART = 4
# Items after which memory is looked at again, at most.
_STRIDE = 1 << 16


def iterate(value: Any, position: int) -> Iterator[Any]:
    """An iterator over an input.

    Raises
    ------
    TypeError
        If there is none to be had. What its own ``__iter__`` raises comes out.
    """
    kind = type(value)
    if getattr(kind, "__iter__", None) is not None:
        return iter(value)
    try:
        return iter(value)  # by `__getitem__`, of which nothing is called yet
    except TypeError:
        raise TypeError(
            f"input {position} is a {kind.__name__}, which cannot be iterated over; give None for it in "
            "axis= to pass it whole, or bind it with functools.partial"
        ) from None


def is_endless(value: Any) -> bool:
    """Whether an iterator is known never to end."""
    if isinstance(value, itertools.repeat):
        try:
            value.__length_hint__()
        except TypeError:
            return True
    return isinstance(value, (itertools.count, itertools.cycle))


def read_items(value: Any, position: int, length: Callable[[], int | None]) -> list[Any]:
    """All items of an input; `length` tells how many there are to be, if another input says so.

    Raises
    ------
    ValueError
        If there are more, or no end is in sight.
    """
    iterator = iterate(value, position)
    if isinstance(value, Sized):
        return list(iterator)
    wanted = length()
    if wanted is not None:
        items = list(islice(iterator, wanted + 1))
        if len(items) > wanted:
            raise ValueError(
                f"inputs have different lengths: {wanted}, and input {position}, a {type(value).__name__}, "
                "goes on; inputs are zipped, so they must agree (axis=None passes one whole)"
            )
        return items
    if not is_endless(value):
        items = []
        before, most = _resident(), _free() // _PART
        while part := list(islice(iterator, min(len(items) or 1, _STRIDE))):
            items += part
            if _resident() - before > most:
                break
        else:
            return items
        del items, part
    raise ValueError(
        f"input {position}, a {type(value).__name__}, does not end, or does not fit into memory; take "
        "some with itertools.islice, or map over its items with pmap, out=list and wait=False"
    )


def _free() -> int:
    limit, (free, _) = address_space(), available()
    return free if limit is None else min(limit, free)


def _resident() -> int:
    """Bytes of this process in memory."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
