"""Functions to map that workers import by name; lambdas and closures are in the tests."""

from __future__ import annotations

import os
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
