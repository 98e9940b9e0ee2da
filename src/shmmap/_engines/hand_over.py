"""Inputs and outputs in the form in which an engine's workers get them.

Called for each map. Private arrays are placed in shared memory unless they are small, sequences are pickled
chunk by chunk unless they are short, and stored arrays are told as how to open them.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from itertools import accumulate
from operator import attrgetter, is_
from typing import Any

import numpy as np

from .._chunks import Input, Job, Pickles, Store, is_small
from .._interop.buffers import is_plain, read_only
from .._interop.numpy_types import Array
from .._interop.stored import Stored, Target
from .._memory import (
    copy_into,
    dtype_code,
    empty,
    empty_like,
    handle_of,
    is_shared,
    place,
    reserve_file,
    share,
)
from .._wire import INLINE_NBYTES, Copies, Packed, are_plain, cannot_send, pack
from .base import Engine

# Plain items that share a pickle, where so many never take more bytes than that: a pickle costs 2 us by
# itself, and a worker that is at one chunk of it loads them all.
_PARCEL = 64
_PARCEL_NBYTES = 1 << 16
# Arrays in a list that are larger are worth being sent one by one.
_ROW_NBYTES = 2048
_layout = attrgetter("dtype", "shape", "flags.c_contiguous")


def hand_over_inputs(job: Job, engine: Engine) -> Job:
    """The job with its inputs as the engine's workers get them; it holds all that must live meanwhile."""
    for entry in job.inputs:
        if entry.place is None:
            break
    else:
        return job  # all is in shared memory
    copies: Copies = {}
    handed: list[Input] = []
    for entry in job.inputs:
        data, kind = entry.data, entry.kind
        if entry.place is not None:
            pass  # in shared memory
        elif isinstance(data, np.ndarray):
            entry = _hand_over_array(entry, engine)
        elif kind == "stored" and engine.shares_memory and not engine.in_process:
            if data.why_not_read:
                raise ValueError(f"input {len(handed)}: {data.why_not_read}")
            entry = entry._replace(data=data.elsewhere())
        elif kind == "sequence" and not engine.sees_caller and not isinstance(data, range):
            try:
                entry = _pack_items(entry, job, copies)
            except Exception as exc:
                raise cannot_send(f"input {len(handed)}", data, exc) from None
        handed.append(entry)
    if all(map(is_, handed, job.inputs)):
        return job
    return job._replace(inputs=tuple(handed))


def _hand_over_array(entry: Input, engine: Engine) -> Input:
    """An array that may be private: read-only, or in shared memory, or so small that its bytes travel."""
    data = entry.data
    if not engine.sees_caller and type(data) is np.ndarray and is_small(data):
        return entry
    if is_shared(data):
        return entry
    if engine.sees_caller:
        return entry._replace(data=read_only(data))
    return entry._replace(data=place(data) if is_plain(data) else share(data), layout=None)


def _pack_items(entry: Input, job: Job, copies: Copies) -> Input:
    """A sequence as workers get it: as it is, as rows of one array, or as pickles in shared memory."""
    data, plan = entry.data, job.plan
    size, parcel = plan.chunksize, 0
    packed: list[Packed] = []
    if type(data) not in (list, tuple):
        pass
    elif job.verb == "items" and (stacked := stack_arrays(data)) is not None:
        return entry._replace(kind="array", data=stacked)
    elif are_plain(data):
        if plan.n <= INLINE_NBYTES and len(pickle.dumps(data, 5)) <= INLINE_NBYTES:
            return entry
        parcel = size * max(1, _PARCEL // size)
        parts = [pickle.dumps(data[at : at + parcel], 5) for at in range(0, plan.n, parcel)]
        if parcel > size and max(map(len, parts)) > _PARCEL_NBYTES:
            parcel = size
            parts = [pickle.dumps(data[at : at + size], 5) for at in range(0, plan.n, size)]
    if not parcel:
        packed = [pack(data[at : at + size], copies) for at in range(0, plan.n, size)]
        parts = [each.data for each in packed]
    offsets = [0, *accumulate(map(len, parts))]
    blob: Any = b""
    if offsets[-1] <= INLINE_NBYTES:
        blob = blob.join(parts)
    else:
        blob = empty(offsets[-1], np.uint8)
        target = blob.data
        for at, part in zip(offsets, parts, strict=False):
            target[at : at + len(part)] = part
    pickles = Pickles(blob, offsets, parcel, [each._replace(data=b"") for each in packed])
    return entry._replace(kind="items", data=pickles)


def stack_arrays(items: Sequence[Any]) -> Array | None:
    """Equal small private arrays as rows of one; None if that is not what these are."""
    if set(map(type, items)) != {np.ndarray}:
        return None
    layouts = set(map(_layout, items))
    if len(layouts) > 1:
        return None
    ((dtype, shape, is_dense),) = layouts
    code = dtype_code(dtype)
    first = items[0]
    if not (is_dense and shape and type(code) is str) or first.nbytes > _ROW_NBYTES:
        return None
    # Who owns its memory is private; of views, one is asked for each owner.
    views = {id(a.base): a for a in items if a.base is not None}
    if any(handle_of(a) is not None for a in views.values()):
        return None
    rows = b"".join(items)
    if len(rows) <= INLINE_NBYTES:
        return np.frombuffer(rows, dtype).reshape(len(items), *shape)
    stacked = empty((len(items), *shape), dtype)
    stacked.view(np.uint8).reshape(-1)[:] = np.frombuffer(rows, np.uint8)
    return stacked


def hand_over_outputs(
    job: Job, engine: Engine
) -> tuple[Job, tuple[Any, ...] | None, list[tuple[Any, Any]]]:
    """The job with its outputs as the engine's workers get them.

    Returns
    -------
    job, columns, private
        `columns`: outputs as the collector fills them. `private`: pairs of an output of the caller's and of
        the shared array that is filled in its place.
    """
    outs = job.out
    if outs is None:
        return job, None, []
    stored = [each for each in outs if isinstance(each, Stored)]
    is_elsewhere = engine.shares_memory and not engine.in_process
    store: Store = "write" if stored else ""
    if stored and not engine.in_process:
        if not engine.writes_stores or any(each.has_one_writer for each in stored):
            store = "hand"
    targets, ours = [], []
    private: list[tuple[Any, Any]] = []
    for each in outs:
        if isinstance(each, Stored):
            targets.append(each.elsewhere("r+") if is_elsewhere else each)
            ours.append(each)
            continue
        reserve_file(each)
        target = each
        if is_elsewhere and store != "hand" and handle_of(each) is None:
            target = empty_like(each)
            private.append((each, target))
            if job.keep_going:  # what fails leaves in place what was there
                copy_into(target, each)
        targets.append(target)
        ours.append(target)
    job = job._replace(out=axis_first(targets, job.axis), store=store)
    return job, axis_first(ours, job.axis), private


def axis_first(outs: Sequence[Any], axis: int) -> tuple[Any, ...]:
    """Outputs as kernels and collectors see them."""
    return tuple(
        [
            Target(a, axis) if type(a) is Stored else np.moveaxis(a, axis, 0) if axis else a
            for a in outs
        ]
    )
