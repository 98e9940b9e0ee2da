"""Outputs of a map: what ``out=`` and ``dtype=`` name, checked.

Called by `_verbs.bind` alone. Nothing is allocated here; an output that was not given is made by the
collector, once the form of index 0's result is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .._chunks import Input
from .._errors.arguments import as_dtype
from .._interop.numpy_types import Array
from .._interop.plain import has_open_field
from .._interop.stored import Stored, find_stored
from .._memory import byte_bounds, check_dtype, on_one_mapping, refuse_loss
from .request import Request

# Effort to find out whether two arrays share a byte; beyond it they are taken to.
_SHARES_WORK: Any = 100_000


def bind_outputs(request: Request, n: int, axis: int, gather: bool) -> tuple[Any, ...]:
    """The arrays that ``out=`` names, stored ones as `Stored`; refused if they cannot be filled."""
    outs = tuple(
        [each if type(each) is np.ndarray else find_stored(each) or each for each in request.outs()]
    )
    if outs and request.dtype is not None:
        raise TypeError("give out= or dtype=, not both: the output's dtype is that of out")
    if gather and request.dtype is not None:
        raise TypeError("dtype= is for arrays of results; these results are a list")
    for j, each in enumerate(outs):
        _check_out(each, n, axis, "out" if len(outs) == 1 else f"out[{j}]")
    return outs


def _check_out(out: Any, n: int, axis: int, position: str) -> None:
    """Refuse what cannot be filled."""
    is_stored = isinstance(out, Stored)
    if is_stored and out.why_not_write:
        raise ValueError(f"{position} {out.why_not_write}")
    if not is_stored and not isinstance(out, np.ndarray):
        raise TypeError(f"{position} must be an array, not {type(out).__name__}")
    refuse_loss(out, f"give its plain data as {position}: out.view(np.ndarray)")
    check_dtype(out.dtype, position)
    if not is_stored and not out.flags.writeable:
        raise ValueError(f"{position} is read-only")
    if out.ndim == 0 or not -out.ndim <= axis < out.ndim or out.shape[axis] != n:
        raise ValueError(
            f"{position} has shape {out.shape}, but length {n} along axis {axis} is needed: one entry "
            "per index"
        )
    if not is_stored and _overlaps_itself(out):
        raise ValueError(f"{position} overlaps itself (a broadcast or sliding-window view)")


def declared_dtypes(dtype: Any) -> tuple[Any, ...] | None:
    """What ``dtype=`` names."""
    if dtype is None:
        return None
    dtypes = tuple(map(as_dtype, dtype if isinstance(dtype, tuple) else (dtype,)))
    for each in dtypes:
        check_dtype(each, "dtype=")
        if each.subdtype is not None:
            raise TypeError(
                f"dtype= is the dtype of single elements, and {each} stands for several"
            )
        if has_open_field(each):
            raise TypeError(
                f"dtype={each} has fields of no length or unit: give them one, as in 'U16'"
            )
    return dtypes


# ---------------------------------------------------------------- overlap


def check_overlap(outs: Sequence[Any], axis: int, inputs: Sequence[Input]) -> bool:
    """Whether an output is an input (at the same indices; anything else is refused)."""
    in_place = False
    for j, out in enumerate(outs):
        is_stored = isinstance(out, Stored)
        for other in outs[:j]:
            if is_stored and isinstance(other, Stored) and other.key == out.key:
                raise ValueError("two outputs are the same array")
            if not is_stored and not isinstance(other, Stored):
                if _shares(*on_one_mapping(out, other)):
                    raise ValueError("two outputs overlap each other")
        reads = _reads_stored if is_stored else _reads_memory
        for position, entry in enumerate(inputs):
            in_place |= reads(out, axis, entry, position)
    return in_place


def _reads_stored(out: Stored, axis: int, entry: Input, position: int) -> bool:
    """Whether a stored output is this input."""
    if not isinstance(entry.data, Stored) or entry.data.key != out.key:
        return False
    if entry.axis != axis % out.ndim or _reaches_others(entry):
        raise ValueError(
            f"out is input {position} at other indices: a result would be overwritten input that "
            "another call still reads; write into a different array"
        )
    return True


def _reads_memory(out: Array, axis: int, entry: Input, position: int) -> bool:
    """Whether an output in memory is this input."""
    if not isinstance(entry.data, np.ndarray):
        return False
    target, source = on_one_mapping(out, entry.data)
    if not _shares(target, source):
        return False
    if _reaches_others(entry):
        raise ValueError(
            f"out overlaps input {position}, of which depth= makes every chunk see items that "
            "belong to others: it would see results in their place; write into a different array"
        )
    moved = np.moveaxis(target, axis, 0), np.moveaxis(source, entry.axis, 0)
    if entry.kind == "whole" or not _is_same_index(*moved):
        raise ValueError(
            f"out overlaps input {position} at other indices: a result would be overwritten "
            "input that another call still reads; write into a different array"
        )
    return True


def _reaches_others(entry: Input) -> bool:
    return entry.stencil is not None and entry.stencil.reaches_others


def _overlaps_itself(a: Array) -> bool:
    if a.size < 2:
        return False
    extent = a.itemsize
    for stride, length in sorted(
        (abs(stride), length)
        for stride, length in zip(a.strides, a.shape, strict=True)
        if length > 1
    ):
        if stride < extent:
            return True
        extent += stride * (length - 1)
    return False


def _shares(one: Array, other: Array) -> bool:
    if not np.may_share_memory(one, other):
        return False
    try:
        return bool(np.shares_memory(one, other, max_work=_SHARES_WORK))
    except np.exceptions.TooHardError:
        return True


def _is_same_index(out: Array, source: Array) -> bool:
    """Whether two arrays, axis first, overlap at equal indices only."""
    if (
        out.__array_interface__["data"] == source.__array_interface__["data"]
        and out.strides == source.strides
        and out.shape == source.shape
        and out.itemsize == source.itemsize
    ):
        return True
    if len(out) < 2:
        return True
    if out.strides[0] != source.strides[0]:
        return False
    bounds = [byte_bounds(a[0:1]) for a in (out, source)]
    extent = max(high for _, high in bounds) - min(low for low, _ in bounds)
    return extent <= abs(out.strides[0])
