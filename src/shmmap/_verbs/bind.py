"""What a verb was given: arguments checked and bound, inputs and outputs, before anything runs.

Called by `_verbs.verbs` alone. What is refused is refused here, with an error that names the argument, so
that no engine ever sees what cannot work.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence, Sized
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from .._chunks import (
    Input,
    Plan,
    Trim,
    align_chunksize,
    choose_trim,
    make_stencils,
    parse_chunksize,
)
from .._code.reach import current_version
from .._engines import Engine, Memo
from .._errors.arguments import as_dtype, as_int
from .._interop.buffers import is_plain, read_only
from .._interop.numpy_types import Array
from .._interop.plain import has_open_field, read
from .._interop.rows import count_rows, describe_items, has_rows
from .._interop.stored import Stored, check_overlap, find_stored, storage_lengths
from .._memory import (
    byte_bounds,
    check_dtype,
    empty,
    empty_like,
    handle_of,
    is_shared,
    on_one_mapping,
    place,
    refuse_loss,
    reserve_file,
)
from .._wire import INLINE_NBYTES, Copies, are_plain, cannot_send, pack
from .options import Options
from .sequences import read_items
from .share import share

# Effort to find out whether two arrays share a byte; beyond it they are taken to.
_SHARES_WORK: Any = 100_000
# What a list's item is taken to weigh, where chunk sizes in bytes are concerned.
_OBJECT_NBYTES = 64
# Plain items that share a pickle, where so many never take more bytes than that: a pickle costs 2 us by
# itself, and a worker that is at one chunk of it loads them all.
_PARCEL = 64
_PARCEL_NBYTES = 1 << 16


class Request(NamedTuple):
    """What a verb was asked for."""

    verb: str
    """``"items"``, ``"chunks"`` or ``"ranges"``."""
    func: Any
    inputs: tuple[Any, ...]
    n: int
    """Number of indices, where there are no inputs that tell it."""
    axis: Any
    out: Any
    dtype: Any
    gather: bool | None
    """Results are gathered as objects; None: unless an input is an array."""
    none_as_list: bool
    """A function that only ever returns None gives a list all the same."""
    finish: Callable[[Any], Any]
    """From what was collected to what the verb returns."""
    depth: Any = 0
    boundary: Any = None
    fold: Any = None
    """How partials are put together, see `_results.fold.Fold`; None: results are gathered, not reduced."""


class Bound(NamedTuple):
    """A request, checked and planned."""

    n: int
    axis: int
    """Along which blocks of results are put together; 0 but for `chunks`."""
    gather: bool
    inputs: tuple[Input, ...]
    outs: tuple[Any, ...]
    dtypes: tuple[Any, ...] | None
    plan: Plan
    in_place: bool
    """An output is an input."""
    memo: Memo | None
    """Only if everything it refers to lies in shared memory."""
    trim: Trim | None
    """What takes the neighbours off the results."""
    ndims: tuple[int, ...]
    """See `Job.ndims`."""


# ---------------------------------------------------------------- binding inputs


def _as_input(
    value: Any, axis: int | None, position: int, length: Callable[[], int | None]
) -> tuple[str, Any]:
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
                f"input {position} is a 0-dimensional array, which has no axis to map over; give None "
                "for it in axis= to pass it whole"
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


def _bind_inputs(
    inputs: tuple[Any, ...], axis: int | tuple[int | None, ...]
) -> tuple[list[Input], int, int, int]:
    """``inputs, n, bytes per item, axis of the first mapped input``."""
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
            "must agree (axis=None passes one whole)"
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


def hand_over(
    bound: tuple[Input, ...], plan: Plan, engine: Engine
) -> tuple[tuple[Input, ...], tuple[Any, ...]]:
    """Inputs in the form the engine's workers get them, private arrays read-only; what to keep alive."""
    handed: list[Input] = []
    keep: list[Any] = []
    copies: Copies = {}
    for entry in bound:
        data = entry.data
        if isinstance(data, np.ndarray):
            if not is_shared(data):
                if engine.sees_caller:
                    data = read_only(data)
                else:
                    data = place(data) if is_plain(data) else share(data)
                    keep.append(data)
        elif entry.kind == "stored" and engine.shares_memory and not engine.in_process:
            if data.why_not_read:
                raise ValueError(f"input {len(handed)}: {data.why_not_read}")
            data = data.elsewhere()
        elif entry.kind == "sequence" and not engine.sees_caller and not isinstance(data, range):
            try:
                entry, kept = _pack_items(data, plan, copies)
            except Exception as exc:
                raise cannot_send(f"input {len(handed)}", data, exc) from None
            data = entry.data
            keep += [data, *kept]
        handed.append(entry._replace(data=data))
    return tuple(handed), tuple(keep)


def _pack_items(data: Sequence[Any], plan: Plan, copies: Copies) -> tuple[Input, list[Any]]:
    """A sequence as a pickle per chunk, or several, in shared memory; what else must be kept."""
    parts: list[bytes]
    keep: list[Any] = []
    segments: frozenset[int] = frozenset()
    size, parcel, by_value, modules = plan.chunksize, 0, False, 0
    if type(data) in (list, tuple) and are_plain(data):
        parcel = size * max(1, _PARCEL // size)
        parts = [pickle.dumps(data[at : at + parcel], 5) for at in range(0, plan.n, parcel)]
        if parcel > size and max(map(len, parts)) > _PARCEL_NBYTES:
            parcel = size
            parts = [pickle.dumps(data[at : at + size], 5) for at in range(0, plan.n, size)]
    else:
        packed = [pack(data[at : at + size], copies) for at in range(0, plan.n, size)]
        parts = [each.data for each in packed]
        segments = segments.union(*(each.segments for each in packed))
        by_value = any(each.by_value for each in packed)
        modules = current_version({reach for each in packed for reach in each.reaches})
        keep.extend(each.keep for each in packed if each.keep)
        keep.extend(each.classes for each in packed if each.classes)
    offsets = [0, *accumulate(map(len, parts))]
    blob: Any = b""
    if offsets[-1] <= INLINE_NBYTES:
        blob = blob.join(parts)
    else:
        blob = empty(offsets[-1], np.uint8)
        target = blob.data
        for at, part in zip(offsets, parts, strict=False):
            target[at : at + len(part)] = part
    return Input("items", blob, 0, offsets, segments, None, by_value, parcel, modules), keep


# ---------------------------------------------------------------- binding outputs


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


def _check_overlap(outs: Sequence[Any], axis: int, bound: list[Input]) -> bool:
    """Whether an output is an input (at the same indices; anything else is refused)."""
    in_place = check_overlap(outs, axis, bound)
    outs = [out for out in outs if not isinstance(out, Stored)]
    for j, out in enumerate(outs):
        for other in outs[:j]:
            if _shares(*on_one_mapping(out, other)):
                raise ValueError("two outputs overlap each other")
        for position, entry in enumerate(bound):
            if not isinstance(entry.data, np.ndarray):
                continue
            target, source = on_one_mapping(out, entry.data)
            if not _shares(target, source):
                continue
            if entry.stencil is not None and entry.stencil.reaches_others:
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
            in_place = True
    return in_place


def _outputs_of(out: Any) -> tuple[Any, ...]:
    """The arrays that ``out=`` names, stored ones as `Stored`."""
    if out is None or out is list or out is np.ndarray:
        return ()
    outs = out if isinstance(out, tuple) else (out,)
    return tuple([each if type(each) is np.ndarray else find_stored(each) or each for each in outs])


def hand_over_outputs(outs: tuple[Any, ...], engine: Engine) -> tuple[tuple[Any, ...], str]:
    """Outputs in the form the engine's workers get them, and how stored ones are filled (`Job.store`)."""
    stored = [each for each in outs if isinstance(each, Stored)]
    is_elsewhere = engine.shares_memory and not engine.in_process
    store = "write" if stored else ""
    if stored and not engine.in_process:
        if not engine.shares_memory or any(each.has_one_writer for each in stored):
            store = "hand"
    targets: list[Any] = []
    for each in outs:
        if isinstance(each, Stored):
            targets.append(each.elsewhere("r+") if is_elsewhere else each)
            continue
        reserve_file(each)
        is_private = is_elsewhere and store != "hand" and handle_of(each) is None
        targets.append(empty_like(each) if is_private else each)
    return tuple(targets), store


def _declared_dtypes(dtype: Any) -> tuple[Any, ...] | None:
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


# ---------------------------------------------------------------- the whole


def bind(request: Request, options: Options) -> Bound:
    """Check a request and plan it.

    Raises
    ------
    TypeError, ValueError
        For arguments that make no sense.
    """
    verb, out, dtype = request.verb, request.out, request.dtype
    if verb == "ranges":
        inputs: list[Input] = []
        n, nbytes, first_axis = request.n, 1, 0
    else:
        inputs, n, nbytes, first_axis = _bind_inputs(request.inputs, request.axis)
        inputs = _add_stencils(inputs, request.depth, request.boundary)
    for entry in inputs if verb == "items" else ():
        if entry.kind == "rows" and (reason := describe_items(entry.data)) is not None:
            raise TypeError(reason)
    gather = request.gather
    if gather is None:
        gather = out is list or (
            out is None and not any(e.kind in ("array", "stored") for e in inputs)
        )
    outs = _outputs_of(out)
    if outs and dtype is not None:
        raise TypeError("give out= or dtype=, not both: the output's dtype is that of out")
    if gather and dtype is not None:
        raise TypeError("dtype= is for arrays of results; these results are a list")
    axis = first_axis if verb == "chunks" else 0
    for j, each in enumerate(outs):
        _check_out(each, n, axis, "out" if len(outs) == 1 else f"out[{j}]")
    in_place = _check_overlap(outs, axis, inputs)
    if in_place and options.retries:
        raise ValueError(
            "retries= needs an out that is not an input: a range begun twice would differ"
        )
    nbytes += sum(each.nbytes // max(1, n) for each in outs)
    stencils = [entry.stencil for entry in inputs if entry.stencil is not None]
    least = max((stencil.least_chunksize for stencil in stencils), default=1)
    size = parse_chunksize(options.chunksize, n, nbytes, verb != "items", least)
    reads, writes = storage_lengths(inputs, outs, axis)
    if reads or writes:
        size = align_chunksize(size, nbytes, reads if options.chunksize == "auto" else [], writes)
    plan = Plan(n, size, options.schedule)
    trim = None if gather else choose_trim(stencils, axis)
    dtypes = _declared_dtypes(dtype)
    ndims: tuple[int, ...] = ()
    if verb == "chunks" and not gather and not outs:  # an output has the axis where it is told
        # A single item is where it is along whatever axis.
        is_telling = n % size and options.on_error == "raise"
        if not is_telling and plan.chunks > 1 and size > 1:
            ndims = tuple([e.data.ndim for e in inputs if e.kind in ("array", "stored")])
    return Bound(n, axis, gather, tuple(inputs), outs, dtypes, plan, in_place, None, trim, ndims)
