"""Inputs that are iterated over: how they are read, so far and no further.

How many items an iterator has is known at its end only, and some have none. One beside an input of known
length is read one item further than that; any other, where all items are needed at once, as long as there is
memory.
Errors of the user's own iterator come out as they are.

A loop is done with an item before the next one is read; a map reads ahead. So an iterator that gives the same
buffer every time, filled anew, is refused: its first items are compared with what they were.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sized
from itertools import islice
from typing import Any

import numpy as np

from .._memory import handle_of
from .._system.limits import address_space, available

# Of the memory there is, the part that an iterator may fill before it is taken to be endless.
_PART = 4
# Items after which memory is looked at again, at most.
_STRIDE = 1 << 16
# Of an array, so many bytes are compared.
_COMPARED = 1 << 20
# Whose items stay as they are while others are read.
_CONTAINERS = (list, tuple, range, dict, set, frozenset, str, bytes)
_END: Any = object()


def iterate(value: Any, position: int) -> Iterator[Any]:
    """An iterator over an input.

    Raises TypeError if there is none to be had. What its own ``__iter__`` raises comes out.
    """
    kind = type(value)
    if getattr(kind, "__iter__", None) is not None:
        return watched(value)
    try:
        return iter(value)  # by `__getitem__`, of which nothing is called yet
    except TypeError:
        raise TypeError(
            f"input {position} is a {kind.__name__}, which cannot be iterated over; {pass_whole(position)}"
        ) from None


def pass_whole(position: int) -> str:
    """What to write if every call is to get the input at that place as it is."""
    axes = ", ".join(["0"] * position + ["None"]) if position else "None, 0"
    return (
        f"pass it whole to every call by axis=({axes}), one entry for each input, or bind it: "
        "functools.partial(func, name=value)"
    )


def watched(value: Any) -> Iterator[Any]:
    """An iterator over a value, which is refused if it fills the buffer anew that it has given."""
    iterator: Iterator[Any] = iter(value)
    if type(value) in _CONTAINERS:
        return iterator
    return itertools.chain(_begin(iterator), iterator)


def _begin(iterator: Iterator[Any]) -> Iterator[Any]:
    """The first items, up to one that is no longer in the memory of the one before."""
    last = next(iterator, _END)
    while last is not _END:
        was = _content_of(last)
        yield last
        if not was:
            return
        item = next(iterator, _END)
        if not _are_same(was, _content_of(last)):
            raise ValueError(
                f"the iterator has changed a {type(last).__name__} that it gave before, but a map reads "
                "ahead: let it give a copy each time, as item.copy()"
            )
        if item is not _END and not _share(item, last):
            yield item
            return
        last = item


def _content_of(item: Any) -> list[Any]:
    """What an item that may be a buffer is made of; nothing of any other."""
    kind = type(item)
    if kind is list:
        return list(item)
    if kind is dict:
        return list(item.values())
    if kind is bytearray:
        return [bytes(item[:_COMPARED])]
    if kind is tuple:  # of `enumerate` or `zip`
        return [part for each in item if type(each) is not tuple for part in _content_of(each)]
    if kind is np.ndarray and handle_of(item) is not None:
        return []  # in shared memory others may write into it meanwhile, and what they write is seen
    if kind is np.ndarray and item.ndim:
        rows = len(item) * _COMPARED // max(item.nbytes, _COMPARED)
        return [item[: max(1, rows)].tobytes()]
    return [item.tobytes()] if kind is np.ndarray else []


def _are_same(was: list[Any], now: list[Any]) -> bool:
    return len(was) == len(now) and all(
        a is b or (type(a) is bytes and a == b) for a, b in zip(was, now, strict=True)
    )


def _share(item: Any, last: Any) -> bool:
    """Whether an item is, or has, the buffer of the one before."""
    if type(item) is tuple and type(last) is tuple:
        return any(_share(a, b) for a, b in zip(item, last, strict=False) if type(a) is not tuple)
    if type(item) is np.ndarray and type(last) is np.ndarray:
        return bool(item.ctypes.data == last.ctypes.data)
    return item is last


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

    Raises ValueError if there are more, or no end is in sight.
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
                "goes on; inputs are zipped, so they must agree; None in axis= passes one whole, as in "
                "axis=(0, None)"
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
