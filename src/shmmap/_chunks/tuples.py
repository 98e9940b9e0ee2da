"""Tuples that are no plain ones, taken apart and made again: named ones, ``os.stat_result``, those of SciPy.

A class of tuples may have fields that iterating over it does not show: the nanoseconds of a
``stat_result``, the zone of a ``struct_time``, an error of ``scipy.stats.linregress``. They are parts, too,
unless one of them was left out when the tuple was made. Where a class cannot be made of new parts, a plain
tuple of those that are seen is made in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_
from types import MemberDescriptorType
from typing import Any


def _hidden_fields(kind: Any) -> tuple[str, ...]:
    """Names of the fields that iterating over a tuple of this class does not show."""
    if hasattr(kind, "_make"):  # a named tuple
        return ()
    if hasattr(kind, "n_unnamed_fields"):  # of C: `structseq`
        named = [name for name, at in vars(kind).items() if isinstance(at, MemberDescriptorType)]
        return tuple(named[kind.n_sequence_fields - kind.n_unnamed_fields :])
    return tuple(getattr(kind, "_extra_fields", ()))  # of SciPy


def parts_of(value: tuple[object, ...]) -> tuple[object, ...]:
    """All parts of a tuple, of which `make_tuple` makes another one."""
    kind = type(value)
    if kind is tuple or hasattr(kind, "_make"):
        return value
    hidden = [getattr(value, name, None) for name in _hidden_fields(kind)]
    return (*value, *hidden) if hidden and not any(part is None for part in hidden) else value


def _count_seen(kind: Any) -> int:
    return int(getattr(kind, "n_sequence_fields", 0)) or len(kind._fields)


def make_tuple(kind: Any, parts: Sequence[object]) -> tuple[object, ...]:
    """A tuple of a class, of parts as `parts_of` gives them; a plain one if the class does not take them."""
    if kind is tuple:
        return tuple(parts)
    hidden = _hidden_fields(kind)
    are_all = hidden and len(parts) - len(hidden) == _count_seen(kind)
    seen = parts[: -len(hidden)] if are_all else parts
    rest = dict(zip(hidden, parts[len(seen) :], strict=True)) if are_all else {}
    ways: list[Any] = [lambda: kind(*seen, **rest), lambda: kind(seen)]
    if hasattr(kind, "_make"):
        ways.insert(0, lambda: kind._make(seen))
    if hasattr(kind, "n_unnamed_fields"):
        ways.insert(0, lambda: kind(seen, rest))
    for way in ways:
        try:
            made = way()
        except Exception:
            continue
        if type(made) is kind and len(made) == len(seen) and all(map(is_, made, seen)):
            return made  # type: ignore[no-any-return]
    return tuple(seen)
