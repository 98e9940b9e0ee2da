"""Checks of single arguments that several functions have in common, with one wording for each.

What is a number for NumPy is one here: ``np.int64(4)`` serves as 4. ``True`` is none, although Python takes
it for 1: where it is written, it is a mistake.
"""

from __future__ import annotations

import numbers
import operator
import re
from typing import Any

import numpy as np

# Longer than any wait, and short enough for the clocks of the system.
LONG_S = 1e9

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_UNITS |= {"ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40}


class Placeholder:
    """Stands for an argument that was not given; its text is what a signature shows."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def as_int(value: Any, name: str, least: int | None = None, *, kinds: str = "an int") -> int:
    """An argument as an int; `kinds`: what the argument may be, for the error.

    Raises TypeError or ValueError if it is none, or less than `least`.
    """
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be {kinds}, not {describe(value)}") from None
    if least is not None and number < least:
        raise ValueError(f"{name} must be at least {least}, not {number}")
    return number


def as_dtype(value: Any, name: str = "dtype") -> np.dtype[Any]:
    """An argument as a dtype. Raises TypeError if NumPy knows none for it."""
    try:
        dtype: np.dtype[Any] = np.dtype(value)
        return dtype
    except Exception:  # of many kinds, also of the value's own
        raise TypeError(f"{name} must be one that NumPy knows, not {describe(value)}") from None


def check_word(value: object, name: str, words: tuple[str | None, ...]) -> None:
    """Refuse an argument that is none of some words: by ValueError if it is another word, else TypeError."""
    if (value is None or isinstance(value, str)) and value in words:
        return
    wrong = ValueError if isinstance(value, str) else TypeError
    *most, last = map(repr, words)
    raise wrong(f"{name} must be {', '.join(most)} or {last}, not {describe(value)}")


def as_seconds(value: object, name: str, *, is_limit: bool = True) -> float:
    """An argument as a number of seconds; above 0 if it is a limit for what is still to begin.

    Raises TypeError or ValueError if it is none.
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number of seconds or None, not {describe(value)}")
    number: Any = value
    seconds = float(max(-LONG_S, min(number, LONG_S)))
    if seconds != seconds or (is_limit and not seconds > 0):
        raise ValueError(
            f"{name} must be {'more than 0' if is_limit else 'a number of'} seconds, or None, not {value!r}"
        )
    return seconds


def parse_nbytes(text: str) -> int | None:
    """The bytes that a size such as ``"8MiB"``, ``"1.5 GB"`` or ``"500k"`` means; None if it is none."""
    match = re.fullmatch(
        r"\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*([kmgt]i?)?b?\s*", text.lower(), re.ASCII
    )
    return None if match is None else int(float(match[1]) * _UNITS[match[2] or ""])


def as_nbytes(value: object, name: str) -> int:
    """An argument as a number of bytes above 0, given as an int or as a size.

    Raises TypeError or ValueError if it is none.
    """
    if not isinstance(value, str):
        return as_int(value, name, 1, kinds='a number of bytes, or a size such as "500MiB"')
    nbytes = parse_nbytes(value)
    if not nbytes:
        raise ValueError(f'{name}={value!r} is no size: give one such as "500MiB" or "2GB"')
    return nbytes


def describe(value: object) -> str:
    """A wrong value for an error: short ones as they are, others by their type."""
    if isinstance(value, (bool, int, float, str)) and len(repr(value)) <= 40:
        return repr(value)
    return type(value).__name__
