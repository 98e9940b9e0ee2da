"""How a case is drawn from a seed: numbers, arrays, functions of items and chunks, and what a loop gives."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import numpy as np

import shmmap
from tests import functions
from tests.fuzz import settings
from tests.strategies import LAYOUTS, NUMERIC, fill

EXACT = [dtype for dtype in NUMERIC if dtype.kind in "iu"]


@dataclasses.dataclass
class Case:
    """A call and its check; `text` describes it for whoever reads of a finding."""

    text: str
    run: Callable[[Any], None]
    """Called with the engine."""


class Boom(Exception):
    """What a function raises on purpose."""


class Draw:
    """Random choices, all of them from one seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.folder = ""

    def of(self, *choices: Any) -> Any:
        """One of these."""
        return self.rng.choice(choices)

    def often(self, share: float) -> bool:
        """Yes, in so many of all cases."""
        return self.rng.random() < share

    def length(self) -> int:
        """How many items a map has: few mostly, none sometimes."""
        return int(self.of(0, 1, 2, 3, 5, 8, 13, self.rng.randrange(200)))

    def array(self, dtypes: list[Any], shape: tuple[int, ...], path: str = "") -> Any:
        """An array of some dtype and layout: shared, private, or mapped from a file."""
        layout, dtype = self.of(*LAYOUTS), self.of(*dtypes)
        base_shape, order = layout.allocate(shape)
        if path and 0 not in base_shape and self.often(0.15):
            np.save(path, np.zeros(base_shape, dtype, order))
            base = np.load(path, mmap_mode="r+")
        else:
            base = self.of(shmmap.zeros, np.zeros)(base_shape, dtype, order)
        fill(base, self.rng.randrange(1 << 30))
        return layout.view(base)

    def shape(self, n: int, axis: int, ndim: int) -> tuple[int, ...]:
        """The shape of an array that is mapped along an axis."""
        shape = [self.of(0, 1, 2, 3, 4) for _ in range(ndim)]
        shape[axis] = n
        return tuple(shape)

    def options(self) -> dict[str, Any]:
        """Options that must not change a result."""
        options: dict[str, Any] = {"workers": self.of(1, 2, 2, 3)}
        if self.often(0.6):
            options["chunksize"] = self.of(1, 2, 3, 7, 100, "64B", "1KiB", "auto")
        if self.often(0.2):
            options["schedule"] = self.of("static", "dynamic")
        if self.often(0.1):
            options["progress"] = lambda done, total: None
        if self.often(0.1):
            options["retries"] = 1
        return options


def add_all(*items: Any) -> Any:
    """The sum of all items."""
    return sum(items[1:], items[0])


def as_pair(*items: Any) -> Any:
    """Two results."""
    return np.array(items[0]), np.array(items[-1])


def as_named(*items: Any) -> Any:
    """Two results with names."""
    return functions.MinMax(np.array(items[0]), np.array(items[-1]))


def first(*items: Any) -> Any:
    """The first item itself."""
    return items[0]


def type_code(*items: Any) -> Any:
    """A number of Python's."""
    return len(items)


def offset_by(amount: Any) -> Callable[..., Any]:
    """A closure over a number."""
    return lambda *items: items[0] + amount


def looked_up(table: Any) -> Callable[..., Any]:
    """A closure over an array."""
    return lambda *items: table[: len(items)].copy()


ITEM_FUNCTIONS = [first, as_pair, as_named, type_code, functions.nothing]


NUMBER_FUNCTIONS = [add_all, settings.scaled, settings.Model()]


CHUNK_FUNCTIONS = [np.array, np.negative, lambda c: (c + c, c - 1), lambda c: c > 1]


def outcome_of(func: Callable[..., Any], *args: Any) -> Any:
    """What a call returns, or the exception that it raises."""
    with np.errstate(all="ignore"):
        try:
            return func(*args)
        except Exception as exc:
            return exc


def stacked(results: list[Any], dtype: Any = None) -> Any:
    """What `pmap` is to return for these results."""
    if not results:
        return np.zeros(0, np.float64 if dtype is None else dtype)
    if all(result is None for result in results):
        return None
    if isinstance(results[0], tuple):
        columns = [np.stack([np.asarray(each) for each in c]) for c in zip(*results, strict=True)]
        kind = type(results[0])
        return tuple(columns) if kind is tuple else kind(*columns)
    return np.stack([np.asarray(result) for result in results], dtype=dtype, casting="same_kind")


def quiet(func: Callable[..., Any]) -> Callable[..., Any]:
    """The function with overflow and the like ignored, which say nothing about a result."""

    def called(*args: Any) -> Any:
        with np.errstate(all="ignore"):
            return func(*args)

    return called
