"""Inputs and outputs in the form in which an engine's workers get them.

Called for each map but those that were seen before, whose arrays all lie in shared memory already. Private
arrays are placed there, sequences are pickled chunk by chunk, and stored arrays are told as how to open
them; what must live as long as the map runs is told to the caller.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from .._chunks import Input, Job, Plan, Store
from .._code.watch import current_version
from .._engines import Engine
from .._interop.buffers import is_plain, read_only
from .._interop.stored import Stored, Target
from .._memory import copy_into, empty, empty_like, handle_of, is_shared, place, reserve_file
from .._wire import INLINE_NBYTES, Copies, are_plain, cannot_send, pack
from .share import share

# Plain items that share a pickle, where so many never take more bytes than that: a pickle costs 2 us by
# itself, and a worker that is at one chunk of it loads them all.
_PARCEL = 64
_PARCEL_NBYTES = 1 << 16


def hand_over_inputs(job: Job, engine: Engine) -> tuple[tuple[Input, ...], tuple[Any, ...]]:
    """Inputs as the engine's workers get them, private arrays read-only; what to keep alive."""
    handed: list[Input] = []
    keep: list[Any] = []
    copies: Copies = {}
    for entry in job.inputs:
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
                entry, kept = _pack_items(data, job.plan, copies)
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
    entry = Input(
        "items",
        blob,
        offsets=offsets,
        segments=segments,
        by_value=by_value,
        parcel=parcel,
        modules=modules,
    )
    return entry, keep


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
        if not engine.shares_memory or any(each.has_one_writer for each in stored):
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
