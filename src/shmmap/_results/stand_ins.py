"""What ``on_error`` returned, in the place of results there are none of.

Like results, stand-ins decide about the dtype where none was declared; numbers of Python's as they do beside
arrays: 0 among int32 changes nothing, 0.5 does. None stands for a blank entry.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from .._chunks import Form, as_column, check_cast, check_kind, split_result
from .._interop.numpy_types import Array
from .collect import Collector
from .pieces import ABSENT


class StandIn(NamedTuple):
    """A value for all indices of a range."""

    start: int
    stop: int
    value: object


def substitute(collector: Collector, stand_ins: list[StandIn]) -> None:
    """Put stand-ins, in order of their indices, among what was collected, before that is finished.

    Raises TypeError or ValueError if one does not fit to the results, with a note that names its indices.
    """
    if collector.job.gather:
        for each in stand_ins:
            _put_object(collector, *each)
        return
    collector.settle()
    parts = []
    for start, stop, value in stand_ins:
        with _noted(start, stop):
            parts.append((start, stop, _columns_of(collector, value, stop - start)))
    collector.put(parts)


@contextmanager
def _noted(start: int, stop: int) -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError) as exc:
        exc.add_note(f"it is what on_error returned for indices [{start}, {stop})")
        raise


def _put_object(collector: Collector, start: int, stop: int, value: object) -> None:
    """Enter a value for indices whose results are objects."""
    plan, pieces = collector.plan, collector.pieces
    for k in range(start // plan.chunksize, -(-stop // plan.chunksize)):
        first, last = plan.limits(k)
        if collector.job.verb != "items":
            collector.add([(k, k + 1, value)])
            continue
        items = pieces.get(k)
        if items is ABSENT:
            items = [None] * (last - first)
            pieces.enter(k, k + 1, items)
        for i in range(max(start, first), min(stop, last)):
            items[i - first] = value


def _columns_of(collector: Collector, value: object, length: int) -> tuple[Array, ...]:
    """A stand-in as columns of so many indices, one for each of the results; none for a blank."""
    job = collector.job
    kind, cells = split_result(value)
    if kind is None:
        return ()
    if collector.returns_nothing:
        check_kind(kind, len(cells), None, 0)
    arrays = [as_column(cell) for cell in cells]
    if collector.columns is None:  # nothing but stand-ins so far: they tell the form
        collector.allocate_output(Form(kind, tuple((a.shape, a.dtype) for a in arrays)))
    columns = collector.columns or ()
    if kind == "array" and len(columns) > 1:
        cells, arrays = cells * len(columns), arrays * len(columns)  # one for all
    elif not (isinstance(kind, type) and isinstance(collector.kind, type)):
        check_kind(kind, len(arrays), collector.kind, len(columns))
    if len(arrays) != len(columns):
        check_kind(kind, len(arrays), kind, len(columns))
    pairs = zip(arrays, columns, strict=True)
    weak = [_as_weak(a, cell, column) for (a, column), cell in zip(pairs, cells, strict=True)]
    if job.dtypes is not None or job.out is not None:
        for a, column in zip(weak, columns, strict=True):
            check_cast(a.dtype, column.dtype, "the declared")
    return tuple(
        [
            _spread(collector, a, (length, *column.shape[1:]))
            for a, column in zip(weak, columns, strict=True)
        ]
    )


def _as_weak(a: Array, value: Any, column: Array) -> Array:
    """A stand-in that is a number of Python's, of no more dtype than NumPy gives such beside arrays."""
    if type(value) not in (int, float, complex) or column.dtype.kind not in "biufc":
        return a
    try:
        return np.asarray(value, np.result_type(column.dtype, value))
    except OverflowError:
        return a


def _spread(collector: Collector, a: Array, shape: tuple[int, ...]) -> Array:
    """A stand-in for each of the indices it stands for; `shape` is that of their part of a column."""
    axis = collector.job.axis % len(shape)
    length, *others = shape
    others.insert(axis, length)
    try:
        return np.moveaxis(np.broadcast_to(a, others), axis, 0)
    except ValueError:
        raise ValueError(
            f"a value of shape {a.shape} does not stand in for results of shape {tuple(others)}"
        ) from None
