"""Calls that are alike: what was checked and planned for one is used again for the next.

Two calls are alike if they ask for the same in the same words, and what they give is laid out alike: arrays
by dtype, shape and strides, lists by their length. Which arrays they are, and what they hold, is told anew
with every call (see `_chunks.arguments`). So an array made anew costs no more than one seen before.

What must hold: nothing here keeps an array alive; and all that `bind` finds out depends on the key alone. The
function is looked at anew for every call. See docs/design/0028-calls-seen-before.md.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from .._chunks import Input, InputKind, Job, Place, Stencil, Template
from .._engines import axis_first
from .._interop.scalars import SCALARS
from .._memory import layout_of, locate
from .._system.forks import make_lock
from .options import Options
from .request import Request

# Kinds of calls remembered: those of an inner loop, and of the loops around it.
_MOST = 64
# Where the part of a job begins, among its fields, that calls alike have in common; and its axis there.
_COMMON = Job._fields.index("verb")
_AXIS = Job._fields.index("axis") - _COMMON


class _Entry(NamedTuple):
    common: tuple[Any, ...]
    """A job without its arguments, see `Job`."""
    kinds: tuple[tuple[InputKind, int, Stencil | None], ...]
    """Kind and axis of each input, and the neighbours its chunks get."""


Given = tuple[Any, "_Entry | None", tuple[Any, ...], list[Place | None], tuple[Any, ...]]
"""``key, entry, layouts, places, outs`` of a call. Keys are equal for calls alike, and the entry says what
is known of these. The others say how inputs and outputs are laid out, where they lie, and which outputs."""


_entries: dict[Any, _Entry] = {}
_lock = make_lock()
"""Held to add to them; looking one up takes none."""


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


def look_at(request: Request, options: Options) -> Given | None:
    """What a call gives; None if it is not known all that its plan depends on."""
    verb, _, inputs, n, axis, out, dtype, depth, boundary, fold = request
    outs = () if out is None else (out,) if type(out) is np.ndarray else request.outs()
    given = inputs + outs if outs else inputs
    try:
        seen = [
            (layout_of(value), locate(value))
            if type(value) is np.ndarray
            else (_look_at_other(value), None)
            for value in given
        ]
        layouts = tuple([layout for layout, _ in seen])
        places = [place for _, place in seen]
        key = (
            verb,
            n,
            axis if type(axis) is int else _exact(axis),
            fold is None,
            True if outs else out,
            None if dtype is None else _as_asked(dtype),
            0 if type(depth) is int and depth == 0 else _exact((depth, boundary)),
            options.plan_key,
            options.rng is None,
            layouts,
            # Equal dtypes may differ in what they say besides.
            tuple([id(layout[0]) for layout in layouts if type(layout[0]) is not str]),
            _overlaps(places, len(inputs)) if outs else None,
        )
        return key, _entries.get(key), layouts, places, outs
    except TypeError:  # which that of a part that has no hash is as well
        return None


def _as_asked(dtype: Any) -> Any:
    """What ``dtype=`` names. Raises TypeError for one that may be equal to another that says more."""
    if type(dtype) is tuple:
        return tuple(map(_as_asked, dtype))
    if isinstance(dtype, np.dtype) and (dtype.isbuiltin != 1 or dtype.metadata is not None):
        raise TypeError
    return dtype


def _look_at_other(value: Any) -> tuple[Any, ...]:
    """How an input that is no plain array is laid out. Raises TypeError for what nobody here knows all of."""
    kind = type(value)
    if kind is range or kind is list or kind is tuple:
        return kind, len(value)
    if kind in SCALARS:
        return (kind,)
    raise TypeError


def _overlaps(places: list[Place | None], inputs: int) -> tuple[int | None, ...]:
    """Where outputs lie in relation to all else in their segments. Raises TypeError if one is in none.

    An array in no segment shares no byte with one that is.
    """
    found = []
    for j in range(inputs, len(places)):
        its = places[j]
        if its is None:
            raise TypeError
        found += [
            its[1] - at[1] if at is not None and at[0] == its[0] else None for at in places[:j]
        ]
    return tuple(found)


def recall(request: Request, given: Given) -> Job | None:
    """The job of a call, if one like it was made before."""
    _, entry, layouts, places, outs = given
    if entry is None:
        return None
    common, kinds = entry
    inputs = tuple(
        [
            Input(kind, a, axis, stencil, layout if type(a) is np.ndarray else None, place)
            for (kind, axis, stencil), a, layout, place in zip(
                kinds, request.inputs, layouts, places, strict=False
            )
        ]
    )
    out = outs or None
    seen: list[tuple[Any, Place | None]] = []
    if out is not None and common[_AXIS]:
        out = axis_first(out, common[_AXIS])
    elif out is not None:
        first = len(inputs)
        seen = list(zip(layouts[first:], places[first:], strict=True))
    fields: tuple[Any, ...] = (inputs, out, None, 0, *common, seen)
    return Job(*fields)


def remember(request: Request, given: Given, job: Job) -> Job:
    """Take note of a call that was checked and planned: others like it have its template."""
    if any([entry.data is not a for entry, a in zip(job.inputs, request.inputs, strict=True)]):
        return job  # the items of a string, say: not what a call like it gives, nor as many
    out = None if job.out is None else axis_first(job.out, job.axis)
    job = job._replace(out=out, template=Template())
    kinds = tuple((entry.kind, entry.axis, entry.stencil) for entry in job.inputs)
    with _lock:
        while len(_entries) >= _MOST:
            _entries.pop(next(iter(_entries)), None)  # a signal handler may have done so
        _entries[given[0]] = _Entry(job[_COMMON:-1], kinds)
    return job
