"""Functions to map that workers import by name; lambdas and closures are in the tests."""

from __future__ import annotations

import os
import threading
from typing import Any, NamedTuple

import numpy as np


class MinMax(NamedTuple):
    """The extremes of a row."""

    low: Any
    high: Any


def identity(item: Any) -> Any:
    """The item itself."""
    return item


def copy(item: Any) -> Any:
    """The item's value as an array."""
    return np.array(item)


def double(item: Any) -> Any:
    """Twice the item."""
    return item * 2


def extremes(row: Any) -> MinMax:
    """The extremes of a row."""
    return MinMax(row.min(), row.max())


def nothing(*args: Any) -> None:
    """Nothing, on purpose."""


def pid(*args: Any) -> int:
    """The process in which this runs."""
    return os.getpid()


def limits(start: int, stop: int) -> tuple[int, int]:
    """The limits of the chunk."""
    return start, stop


def square(value: Any) -> Any:
    """Its square."""
    return value * value


kept: list[Any] = []
"""What `keep` was given, in a worker that lives on."""


def keep(*args: Any) -> None:
    """Keep the last argument for good."""
    kept.append(args[-1])


def look(*args: Any) -> list[int]:
    """The last byte of everything kept here."""
    return [int(a[-1]) for a in kept]


_buffers: dict[int, Any] = {}


def buffered(chunk: Any) -> Any:
    """Length and sum of a chunk, in the last column of a buffer that each thread uses again and again."""
    buffer = _buffers.setdefault(threading.get_ident(), np.zeros((2, 8)))
    buffer[:, -1] = len(chunk), chunk.sum()
    return buffer


def buffered_view(chunk: Any) -> Any:
    """The same, as a view of that column."""
    return buffered(chunk)[:, -1]


def buffered_pair(chunk: Any) -> MinMax:
    """The same, as a pair of views."""
    return MinMax(buffered(chunk)[0, -1:], buffered(chunk)[1, -1:])


def both_signs(x: Any) -> tuple[Any, Any]:
    """What an array is with the other sign, and as it is."""
    return -x, x


def buffered_list(chunk: Any) -> Any:
    """As `buffered_pair`, in a list in a dict."""
    return [{"low": buffered(chunk)[0, -1:], "high": buffered(chunk)[1, -1:]}]


def add_dicts(one: Any, other: Any) -> Any:
    """The sums of what two lists of one dict each have under each key."""
    return [{key: one[0][key] + other[0][key] for key in one[0]}]
