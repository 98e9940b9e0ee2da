"""What a verb was given, before anything runs: inputs and outputs are checked, and the map is planned.

Called by `_verbs.run` alone. What no engine could do is refused here, with an error that names the argument;
what only some cannot do is refused there, once the engine is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from typing import Any

import numpy as np

from .._chunks import (
    Input,
    InputKind,
    Job,
    Plan,
    align_chunksize,
    choose_trim,
    make_stencils,
    parse_chunksize,
)
from .._errors.arguments import as_int
from .._interop.plain import read
from .._interop.rows import count_rows, describe_items, has_rows
from .._interop.stored import Stored, find_stored
from .._memory import check_dtype
from .options import Options
from .outputs import bind_outputs, check_overlap, declared_dtypes
from .request import Request
from .sequences import pass_whole, read_items

# What a list's item is taken to weigh, where chunk sizes in bytes are concerned.
_OBJECT_NBYTES = 64


def bind(request: Request, options: Options) -> Job:
    """Check a request and plan it; inputs and outputs stay as the caller has them.

    Raises TypeError or ValueError for arguments that make no sense.
    """
    verb, out = request.verb, request.out
    if verb == "ranges":
        inputs: list[Input] = []
        n, nbytes, axis = request.n, 0, 0
    else:
        inputs, n, nbytes, axis = _bind_inputs(request)
        inputs = _add_stencils(inputs, request.depth, request.boundary)
    if verb == "items":
        axis = 0
        for entry in inputs:
            if entry.kind == "rows" and (reason := describe_items(entry.data)) is not None:
                raise TypeError(reason)
    has_arrays = any(entry.kind in ("array", "stored") for entry in inputs)
    gather = out is list or verb == "ranges" or request.fold is not None
    gather = gather or (out is None and not has_arrays)
    outs = bind_outputs(request, n, axis, gather)
    in_place = check_overlap(outs, axis, inputs)
    if in_place and options.retries:
        raise ValueError(
            "retries= needs an out that is not an input: a range begun twice would differ"
        )
    stencils = [entry.stencil for entry in inputs if entry.stencil is not None]
    least = max((stencil.least_chunksize for stencil in stencils), default=1)
    nbytes += sum(each.nbytes // max(1, n) for each in outs)
    size = parse_chunksize(options.chunksize, n, nbytes, verb != "items", least)
    reads, writes = _storage_lengths(inputs, outs, axis)
    if reads or writes:
        size = align_chunksize(size, nbytes, reads if options.chunksize == "auto" else [], writes)
    plan = Plan(n, size, options.schedule)
    ndims: tuple[int, ...] = ()
    if verb == "chunks" and not gather and not outs:  # an output has the axis where it is told
        # A single item is where it is along whatever axis.
        is_telling = n % size and options.on_error == "raise"
        if not is_telling and plan.chunks > 1 and size > 1:
            ndims = tuple([e.data.ndim for e in inputs if e.kind in ("array", "stored")])
    return Job(
        inputs=tuple(inputs),
        out=outs or None,
        seed=None,
        first=0,
        verb=verb,
        gather=gather,
        plan=plan,
        axis=axis,
        dtypes=declared_dtypes(request.dtype),
        timeout=options.timeout,
        keep_going=options.on_error != "raise",
        retries=options.retries,
        may_join=options.chunksize == "auto",
        in_place=in_place,
        trim=None if gather else choose_trim(stencils, axis),
        ndims=ndims,
    )


def _storage_lengths(
    inputs: Sequence[Input], outs: Sequence[Any], axis: int
) -> tuple[list[int], list[int]]:
    """Lengths, along the axis of the chunks, in which inputs are read and outputs are written as one."""
    stored = [(entry.data, entry.axis) for entry in inputs if isinstance(entry.data, Stored)]
    reads = [data.units[0][its_axis] for data, its_axis in stored if data.units[0]]
    writes = [out.units[1][axis] for out in outs if isinstance(out, Stored) and out.units[1]]
    return reads, writes


def _as_input(
    value: Any, axis: int | None, position: int, length: Callable[[], int | None]
) -> tuple[InputKind, Any]:
    """Kind and data of one input, see `Input`; `length` is that of the others, if one of them tells it."""
    stored = find_stored(value)
    if stored is not None:
        value = stored if axis is not None else stored[...]
    elif (
        axis is not None
        and not isinstance(value, np.ndarray)
        and hasattr(value, "__array__")
        and hasattr(value, "dtype")
    ):
        values = read(value)
        if not isinstance(values, np.ndarray):
            raise TypeError(
                f"input {position} is a {type(values).__name__} of {type(values).__module__}, which is no "
                "NumPy array: pass its numbers (np.asarray of it, in the unit you mean), or list(value) to "
                "map over its items"
            )
        # A column of strings, say: its values are as good, one by one, as those of any sequence.
        value = list(value) if values.dtype.hasobject and values.ndim == 1 else values
    if isinstance(value, (np.ndarray, Stored)):
        check_dtype(value.dtype, f"input {position}")
        if axis is None:
            return "whole", value
        if value.ndim == 0:
            raise ValueError(
                f"input {position} is a 0-dimensional array, which has no axis to map over; "
                f"{pass_whole(position)}"
            )
        if not -value.ndim <= axis < value.ndim:
            raise np.exceptions.AxisError(axis, value.ndim)
        return "array" if isinstance(value, np.ndarray) else "stored", value
    if axis is None:
        return "whole", value
    if axis != 0:
        raise ValueError(f"input {position} is a {type(value).__name__}, whose only axis is 0")
    if has_rows(value):
        return "rows", value
    if isinstance(value, (range, list, tuple)):
        return "sequence", value
    return "sequence", read_items(value, position, length)


def _known_length(inputs: tuple[Any, ...], axes: tuple[int | None, ...]) -> int | None:
    """The length of the first mapped input that tells it without being read."""
    for value, axis in zip(inputs, axes, strict=True):
        if axis is None:
            continue
        shape = getattr(value, "shape", None)
        if isinstance(shape, tuple) and -len(shape) <= axis < len(shape):
            return int(shape[axis])
        if isinstance(value, Sized):
            return len(value)
    return None


def _bind_inputs(request: Request) -> tuple[list[Input], int, int, int]:
    """``inputs, n, bytes per item, axis of the first mapped input``."""
    inputs, axis = request.inputs, request.axis
    if not inputs:
        raise TypeError("nothing to map over: give at least one input")
    if isinstance(axis, tuple):
        if len(axis) != len(inputs):
            raise ValueError(f"axis has {len(axis)} entries for {len(inputs)} inputs")
        axes: tuple[int | None, ...] = axis
    else:
        axes = (axis,) * len(inputs)
    bound: list[Input] = []
    lengths: list[int] = []
    nbytes = 0
    for position, (value, its_axis) in enumerate(zip(inputs, axes, strict=True)):
        if its_axis is not None:
            its_axis = as_int(its_axis, "axis", kinds="an int, None, or a tuple of them")
        kind, data = _as_input(value, its_axis, position, lambda: _known_length(inputs, axes))
        if kind in ("array", "stored"):
            assert its_axis is not None
            its_axis %= data.ndim
            lengths.append(data.shape[its_axis])
            nbytes += data.itemsize * int(
                np.prod(data.shape[:its_axis] + data.shape[its_axis + 1 :])
            )
        elif kind == "sequence":
            lengths.append(len(data))
            nbytes += _OBJECT_NBYTES
        elif kind == "rows":
            length, in_all = count_rows(data)
            lengths.append(length)
            nbytes += -(-in_all // max(1, length))
        bound.append(Input(kind, data, its_axis or 0))
    if not lengths:
        raise ValueError("axis is None for every input: there is nothing to map over")
    if len(set(lengths)) > 1:
        raise ValueError(
            f"inputs have different lengths: {', '.join(map(str, lengths))}; inputs are zipped, so they "
            "must agree; None in axis= passes one whole, as in axis=(0, None)"
        )
    first = next(a.__index__() for a in axes if a is not None)
    return bound, lengths[0], nbytes, first


def _add_stencils(bound: list[Input], depth: Any, boundary: Any) -> list[Input]:
    """Inputs that know which neighbours their chunks get."""
    if type(depth) is int and depth == 0:
        return bound
    others = [e for e in bound if e.kind not in ("array", "stored", "whole")]
    if others and not isinstance(depth, list):
        if any(entry.kind == "rows" and hasattr(entry.data, "columns") for entry in others):
            raise TypeError(
                "depth= gives chunks of arrays their neighbours, and rows of frames have none: pass the "
                'columns as arrays (frame["a"].to_numpy()), or take them by pmap_ranges from '
                "frame[max(0, start - depth) : stop + depth]; docs/how-to/data-frames.md shows it"
            )
        raise TypeError(
            f"depth= gives chunks of arrays their neighbours; with a {type(others[0].data).__name__} among "
            "the inputs, give a list of depths, one per input, with 0 for that one"
        )
    arrays = [
        (entry.data.shape, entry.data.dtype, entry.axis)
        if entry.kind in ("array", "stored")
        else None
        for entry in bound
    ]
    stencils = make_stencils(depth, boundary, arrays)
    for position, (entry, stencil) in enumerate(zip(bound, stencils, strict=True)):
        if stencil is not None:
            stencil.check_constants(entry.data, position)
    return [entry._replace(stencil=stencil) for entry, stencil in zip(bound, stencils, strict=True)]
