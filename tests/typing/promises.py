"""`assert_type` for a program that runs: that what a checker was promised is so."""

from __future__ import annotations

from concurrent.futures import Future
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import numpy as np


def assert_type(value: Any, promised: Any, /) -> Any:
    """The value, or that of a future, if it is of the type."""
    value_now = value.result() if isinstance(value, Future) else value
    if isinstance(value, Future):
        assert isinstance(value, get_origin(promised)), f"{value!r} is no {promised}"
        (promised,) = get_args(promised)
    assert is_of(value_now, promised), f"{value_now!r} is no {promised}"
    return value


def is_of(value: Any, promised: Any) -> bool:
    """Whether a value, with all that is in it, is of a type."""
    kind, args = get_origin(promised), get_args(promised)
    if hasattr(kind, "__value__"):  # an alias, as NDArray is one
        return is_of(value, kind.__value__[args])
    if promised is Any:
        return True
    if promised is None or promised is NoneType:
        return value is None
    if kind in (Union, UnionType):
        return any(is_of(value, each) for each in args)
    if kind is np.ndarray:
        (scalar,) = get_args(args[1])
        known = isinstance(value, np.ndarray)
        return known and (scalar is Any or issubclass(value.dtype.type, scalar))
    if kind is list:
        return isinstance(value, list) and all(is_of(each, args[0]) for each in value)
    if kind is tuple:
        parts = [args[0]] * len(value) if args[1:] == (...,) else args
        same = isinstance(value, tuple) and len(value) == len(parts)
        return same and all(map(is_of, value, parts))
    return isinstance(value, kind or promised)
