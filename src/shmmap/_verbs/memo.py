"""Calls seen before: the template of their job, and what an engine has packed of it, are used again.

See docs/design/0028-calls-seen-before.md. What must hold: nothing here keeps an array alive, and a call is
recalled only for the very same arrays, unchanged, which lie in segments. The function is looked at anew for
every call.
"""

from __future__ import annotations

import itertools
import math
import weakref
from typing import Any, NamedTuple

import numpy as np

from .._chunks import Input, InputKind, Job, Memo, Stencil
from .._memory import SegmentHandle, handle_of
from .._system.forks import make_lock
from .hand_over import axis_first
from .options import Options
from .request import Request

# Calls remembered: those of an inner loop, and of the loop around it.
_MOST = 32
# Where a job's template begins among its fields, and where its axis is in that.
_TEMPLATE = Job._fields.index("verb")
_AXIS = Job._fields.index("axis") - _TEMPLATE


class _Seen(NamedTuple):
    """An array, as it was."""

    ref: weakref.ref[Any]
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]
    writeable: bool


class _Entry(NamedTuple):
    template: tuple[Any, ...]
    """A job without its arguments, see `Job`."""
    kinds: tuple[tuple[InputKind, int, Stencil | None], ...]
    """Kind and axis of each input, and the neighbours its chunks get."""
    seen: tuple[_Seen, ...]


_entries: dict[Any, _Entry] = {}
_lock = make_lock()
"""Held to add to them; looking one up takes none."""
_job_ids = itertools.count(1)


def _exact(value: Any) -> Any:
    """A value as part of a key that only the same value has: to the last bit, and of the same type.

    Equal is not enough, as 1 is equal to True and 0.0 to -0.0; and a `repr` is as short as the print options
    say. Raises TypeError for what nobody here knows all of.
    """
    kind = type(value)
    if value is None or kind in (int, str, bool):
        return kind, value
    if kind is float:
        return kind, value.hex(), math.copysign(1.0, value)
    if kind in (tuple, list):
        return kind, *map(_exact, value)
    if kind is dict:
        return kind, *[(_exact(key), _exact(each)) for key, each in value.items()]
    if (kind is np.ndarray or isinstance(value, np.generic)) and not value.dtype.hasobject:
        return kind, value.dtype, value.shape, value.tobytes()
    raise TypeError


def _key(request: Request, options: Options, arrays: tuple[Any, ...]) -> Any:
    """What two calls alike have in common; 1 and True are not alike."""
    verb, _, inputs, n, axis, out, dtype, depth, boundary, fold = request
    return (
        verb,
        n,
        axis if type(axis) is int else _exact(axis),
        fold is None,
        out is list,
        out is np.ndarray,
        dtype,
        None if type(depth) is int and depth == 0 else _exact((depth, boundary)),
        options.plan_key,
        len(inputs),
        *map(id, arrays),
    )


def recall(request: Request, options: Options) -> Job | None:
    """The job of the same call before, handed over; None if there was none."""
    if options.rng is not None:
        return None  # its streams are part of the job, and drawn anew for every call
    arrays = request.inputs + request.outs()
    try:
        entry = _entries.get(_key(request, options, arrays))
    except TypeError:  # an argument that is no key
        return None
    if entry is None:
        return None
    for a, (ref, shape, strides, dtype, writeable) in zip(arrays, entry.seen, strict=True):
        if (
            ref() is not a
            or a is None
            or a.shape != shape
            or a.strides != strides
            or a.dtype is not dtype
            or a.flags.writeable is not writeable
        ):
            return None
    template, kinds = entry.template, entry.kinds
    inputs = tuple(
        [
            Input(kind, a, axis, stencil=stencil)
            for (kind, axis, stencil), a in zip(kinds, arrays, strict=False)
        ]
    )
    out = arrays[len(kinds) :] or None
    if out is not None and template[_AXIS]:
        out = axis_first(out, template[_AXIS])
    return Job(inputs, out, None, 0, *template)


def remember(request: Request, options: Options, job: Job) -> Job:
    """Take note of a call, if everything it refers to lies in shared memory; it is handed over then."""
    arrays = request.inputs + request.outs()
    if options.rng is not None or not all(type(a) is np.ndarray for a in arrays):
        return job
    if not all(isinstance(handle_of(a), SegmentHandle) for a in arrays):
        return job
    try:
        key = _key(request, options, arrays)
        hash(key)
    except TypeError:
        return job
    out = None if job.out is None else axis_first(job.out, job.axis)
    job = job._replace(out=out, memo=Memo(next(_job_ids)))
    seen = [_Seen(weakref.ref(a), a.shape, a.strides, a.dtype, a.flags.writeable) for a in arrays]
    kinds = tuple((entry.kind, entry.axis, entry.stencil) for entry in job.inputs)
    with _lock:
        while len(_entries) >= _MOST:
            _entries.pop(next(iter(_entries)), None)  # a signal handler may have done so
        _entries[key] = _Entry(job[_TEMPLATE:], kinds, tuple(seen))
    return job
