"""A call's arguments: where its arrays lie, and small values themselves.

A job goes to workers in two parts. Its *template* is the same for all calls alike, and workers keep it; in
the place of each input and output it has a layout. The *arguments* are this call's own: some bytes in its
control block, which say for each layout what is there. The caller takes jobs apart here, and workers put
them together.

What must hold: a job put together is the job that was taken apart, but for private arrays, which workers get
as copies that nothing can be written through.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from itertools import count, repeat
from typing import Any

import numpy as np

from .._code.watch import current_version
from .._interop.numpy_types import Array
from .._interop.scalars import SCALARS
from .._interop.stored import Stored, Target
from .._memory import SegmentHandle, from_handle, handle_in_file, layout_of, locate
from .._wire import (
    INLINE_NBYTES,
    Packed,
    are_plain,
    cannot_send,
    is_sendable,
    pack,
    pack_plain,
    unpack,
)
from .job import Job, Pickles, Place

_RANGE, _ITSELF, _PICKLED = "range", "itself", "pickled"
_PICKLES, _PARCELS = "pickles", "parcels"
"""Layouts, besides those of arrays: the argument has the limits of a range; or is the value; or says which
of the objects it is that are pickled with all of the library's care; or has the fields of `Pickles`."""

_serials = count(1)
Layouts = tuple[Any, ...]
"""One for each input, and for each output that is given."""


class Arguments:
    """The arguments of a call, packed: what it has of its own when its job is taken apart."""

    def __init__(self, job: Job) -> None:
        self.segments: set[int] = set()
        """Segments that must be attached where they are put together with the template."""
        self.keep: Sequence[Any] = ()
        """What must stay alive until they were used."""
        self.writes_main = False
        """Unpickling them writes into ``__main__`` there."""
        self.modules = 0
        """Version of the user's modules that they need, see `_code.watch`."""
        self._objects: list[Any] = []
        """What is to be pickled with all of the library's care."""
        self._are_simple = True
        """All of these are the library's own, or arrays in files."""
        self._may_change = False
        """The same bytes may stand for other values in the next call: a function may change these, or they
        lie in memory that is used again."""
        self._packed: list[Packed] = []
        given = [(data, layout, place) for _, data, _, _, layout, place, _ in job.inputs]
        if job.out is not None:
            seen = job.out_seen or repeat((None, None))
            given += [(a, layout, place) for a, (layout, place) in zip(job.out, seen, strict=False)]
        layouts, values, segments = [], [], self.segments
        for data, layout, place in given:
            if place is not None and layout is not None:  # most arrays
                segments |= {place[0]}
                value: Any = place
            else:
                layout, value = self._add(data, layout, place)
            layouts.append(layout)
            values.append(value)
        self.layouts: Layouts = tuple(layouts)
        objects = self._pack_objects(job) if self._objects else b""
        # Workers know by the bytes whether these are the arguments that a kernel has already.
        serial = next(_serials) if self._may_change else 0
        self.data = pickle.dumps((values, job.seed, job.first, objects, serial), 5)
        if self._packed:  # not so for most calls
            packed = self._packed
            segments.update(*(each.segments for each in packed))
            self.keep = [(each.keep, each.classes) for each in packed]
            self.writes_main = any(each.by_value for each in packed)
            self.modules = current_version({reach for each in packed for reach in each.reaches})

    def _add(self, data: Any, layout: Any, place: Place | None) -> tuple[Any, Any]:
        """``layout, argument`` of an input or an output, some of which may be known already."""
        kind = type(data)
        if kind is np.ndarray:
            place = place or locate(data)
            if place is not None:
                self.segments.add(place[0])
                return layout or layout_of(data), place
            if is_small(data):
                code, shape, strides, _ = layout or layout_of(data)
                return (code, shape, strides, False), data.tobytes()
        elif kind is range:
            return _RANGE, (data.start, data.stop, data.step)
        elif kind is Pickles:
            layout, blob = self._add(data.bytes, None, None)
            self._packed += data.packed
            self._may_change = True  # some of its items stay opened
            how = _PARCELS if data.parcel else _PICKLES
            return how, (layout, blob, data.offsets, data.parcel)
        elif kind in SCALARS or (kind in (list, tuple) and are_plain(data)):
            self._may_change |= kind is list
            return _ITSELF, data
        self._may_change = True
        self._objects.append(data)
        self._are_simple &= kind in (Stored, Target, np.memmap, np.ndarray)
        return _PICKLED, len(self._objects) - 1

    def _pack_objects(self, job: Job) -> bytes:
        """Pickle what needs all care."""
        try:
            packed = (pack_plain if self._are_simple else pack)(self._objects)
        except Exception as exc:
            for position, entry in enumerate(job.inputs):
                if entry.kind == "whole" and not is_sendable(entry.data):
                    raise cannot_send(f"input {position}", entry.data, exc) from None
            raise
        self._packed.append(packed)
        return packed.data


def is_small(a: Array) -> bool:
    """Whether the bytes of a private array travel by themselves: few, laid out in order, and in no file."""
    if a.nbytes > INLINE_NBYTES or not a.flags.c_contiguous:
        return False
    return a.base is None or handle_in_file(a) is None  # it is in none if its memory is its own


def make_template(job: Job, layouts: Layouts) -> Job:
    """A job without its arguments: layouts are in their places."""
    inputs = tuple(
        [
            entry._replace(data=None, layout=layout, place=None)
            for entry, layout in zip(job.inputs, layouts, strict=False)
        ]
    )
    out = None if job.out is None else layouts[len(inputs) :]
    return job._replace(inputs=inputs, out=out, seed=None, first=0)


def put_together(template: Job, data: bytes | memoryview) -> Job:
    """A job of its template and the packed arguments."""
    values, seed, first, pickled, _ = pickle.loads(data)
    objects = unpack(pickled) if pickled else ()
    inputs = tuple(
        [
            entry._replace(data=_make(entry.layout, value, objects))
            for entry, value in zip(template.inputs, values, strict=False)
        ]
    )
    out = template.out
    if out is not None:
        outs = zip(out, values[len(inputs) :], strict=True)
        out = tuple([_make(layout, value, objects) for layout, value in outs])
    return template._replace(inputs=inputs, out=out, seed=seed, first=first)


def _make(layout: Any, value: Any, objects: Sequence[Any]) -> Any:
    """What an argument stands for."""
    if layout == _ITSELF:
        return value
    if layout == _RANGE:
        return range(*value)
    if layout == _PICKLED:
        return objects[value]
    if layout in (_PICKLES, _PARCELS):
        its_layout, blob, offsets, parcel = value
        return Pickles(_make(its_layout, blob, objects), offsets, parcel)
    if type(value) is bytes:
        code, shape, _, _ = layout
        return np.ndarray(shape, code, value)
    code, shape, strides, writeable = layout
    segment, offset = value
    return from_handle(SegmentHandle(segment, offset, shape, strides, code, writeable))
