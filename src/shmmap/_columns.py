"""What a function returned, as columns: which kind of thing it is, as arrays of what dtype, and what fits.

Kernels ask for what they store, the collector for what reaches it as pieces. No chunk and no index is known
here: an error says what is wrong with a result, and whoever called notes where.

A value stays what it is: an output whose dtype would change it is too narrow, and does not get it. Only into
an output that the user gave or declared are values cast.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ._masked import is_masked
from ._plain import read, what_is_lost

__all__ = [
    "NUMBERS",
    "as_column",
    "check_cast",
    "check_declared",
    "check_kind",
    "check_shape",
    "fits",
    "promote",
    "split_result",
    "uniform_column",
]

Array = NDArray[Any]

_NUMPY_TYPES = cast("set[type]", set(np.sctypeDict.values()))
# Types of which all values have one dtype. NumPy is told which: finding out takes it four times as long.
_DTYPES: dict[type, np.dtype[Any]] = {kind: np.dtype(kind) for kind in (bool, float, complex)} | {
    kind: np.dtype(kind) for kind in _NUMPY_TYPES if issubclass(kind, (np.number, np.bool_))
}
NUMBERS = frozenset((int, *_DTYPES))
"""Types of numbers, told without a look at the value."""


def split_result(result: Any) -> tuple[Any, tuple[Any, ...]]:
    """Kind and columns of what a function returned, see `_job.Form`."""
    if result is None:
        return None, ()
    if isinstance(result, tuple):
        return type(result), result
    return "array", (result,)


def as_column(value: Any) -> Array:
    """A result as an array, or an error that says what to do instead."""
    if type(value) is np.ndarray or type(value) in NUMBERS:
        a = np.asarray(value)
    else:
        try:
            a = read(value)
        except ValueError as exc:
            text = f"the function's result is not an array: {exc}; pass out=list"
            raise ValueError(text) from None
        if lost := what_is_lost(a):
            instead = "plain numbers: np.asarray(result) in the unit you mean"
            if is_masked(a):
                instead = "a tuple (data, mask), or result.filled(value)"
            raise TypeError(
                f"an array of results would lose {lost}, which the function returned; return {instead}; "
                "or pass out=list"
            )
        a = np.asarray(a)
    if a.dtype.hasobject or a.dtype.kind == "T":
        raise TypeError(
            f"the function returned {type(value).__name__!r}, which does not fit into an array; pass "
            "out=list to get a list of any objects"
        )
    return a


def fits(dtype: Any, target: Any) -> bool:
    """Whether values of `dtype` stay what they are in an output of dtype `target`."""
    if dtype == target:
        return True
    try:
        return bool(np.result_type(dtype, target) == target)
    except TypeError:
        return False


def _describe(kind: Any) -> str:
    return {None: "None", "array": "an array or number"}.get(kind) or f"a {kind.__name__}"


def check_kind(
    kind: Any, width: int, expected: Any, expected_width: int, declared: bool = False
) -> None:
    """Refuse results of different kinds within one map, or, if it is `declared`, than the output takes."""
    text = "the function returned {}, but out takes {}"
    if not declared:
        text = "the function returned {} here and {} at other indices"
    both_tuples = isinstance(kind, type) and expected is tuple  # a named tuple into out=(...)
    if kind is not expected and kind != expected and not both_tuples:
        both = text.format(_describe(kind), _describe(expected))
        raise TypeError(f"{both}; pass out=list to get a list of any objects")
    if width != expected_width:
        raise ValueError(text.format(f"a tuple of {width}", f"one of {expected_width}"))


def check_shape(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Refuse results of different shapes within one map."""
    if shape != expected:
        raise ValueError(
            f"the function returned shape {shape} here and {expected} at other indices; results "
            "of different shapes do not stack: pass out=list"
        )


def check_declared(shape: tuple[int, ...], dtype: Any, target: Array) -> None:
    """Refuse results that an output which the user gave or declared does not take."""
    expected = target.shape[1:]
    if shape != expected:
        raise ValueError(f"the function returned shape {shape}, but out holds items of {expected}")
    check_cast(dtype, target.dtype, "out's")


def check_cast(dtype: Any, target: Any, whose: str) -> None:
    """Refuse results of a dtype from which no value is cast to another."""
    if not np.can_cast(dtype, target, "same_kind"):
        raise TypeError(
            f"the function returned dtype {dtype}, which cannot be cast to {whose} {target} (casting is "
            "'same_kind')"
        )


def promote(one: Any, other: Any) -> Any:
    """The dtype that holds values of both."""
    try:
        return np.result_type(one, other)
    except TypeError:
        raise TypeError(
            f"results of dtype {one} and {other} have no common dtype; pass out=list"
        ) from None


def uniform_column(values: list[Any]) -> Array | None:
    """A column, if the values are of one type that has a dtype of its own: then all at once."""
    kinds = set(map(type, values))
    if len(kinds) > 1:
        return None
    (kind,) = kinds
    dtype = _DTYPES.get(kind)
    if dtype is not None:
        return np.array(values, dtype)
    if kind is not int and kind is not str and kind is not bytes:
        return None
    try:
        column = np.asarray(values)
    except OverflowError:
        return None
    # Python ints that need different dtypes must not be promoted all at once.
    fits_int = kind is not int or column.dtype == np.asarray(values[0]).dtype
    return column if fits_int and not column.dtype.hasobject else None
