"""What the function is called with: what a chunk gets of each input.

Each kind of input (see `Input`) is cut by a function of its own, chosen once per job. A chunk is a view where
there can be one. What an index gets depends on that index alone: neither on who runs its chunk, nor on how
many are gone through as one.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from itertools import repeat
from typing import Any

import numpy as np

from .._interop.buffers import view_of
from .._interop.rows import take_rows
from .._wire import unpack
from .job import Input, Pickles, Verb

Slicer = Callable[[int, int, int], Any]
"""A function ``(k, start, stop) -> what chunk k gets of an input``; or chunks from k on, as one."""


def _make_unpacker(pickles: Pickles) -> Slicer:
    data, offsets = memoryview(pickles.bytes), pickles.offsets
    return lambda k, start, stop: unpack(data[offsets[k] : offsets[k + 1]])


def _make_parcel_opener(pickles: Pickles) -> Slicer:
    """For plain items, of which several chunks share a pickle: the one opened last is kept."""
    data, offsets, size = memoryview(pickles.bytes), pickles.offsets, pickles.parcel
    opened, items = -1, ()

    def take(k: int, start: int, stop: int) -> object:
        nonlocal opened, items
        taken: Any = ()
        for parcel in range(start // size, -(-stop // size)):
            if parcel != opened:
                items = pickle.loads(data[offsets[parcel] : offsets[parcel + 1]])
                opened = parcel
            part = items[max(0, start - parcel * size) : stop - parcel * size]
            taken = part if not taken else taken + part
        return taken

    return take


def _itself(data: object) -> object:
    return data


def make_slicer(entry: Input, verb: Verb) -> Slicer:
    """What cuts this input."""
    if entry.first:
        return _shifted(make_slicer(entry._replace(first=0), verb), entry.first)
    data, axis, stencil = entry.data, entry.axis, entry.stencil
    if stencil is not None:
        return lambda k, start, stop: stencil.cut(data, start, stop)
    if entry.kind == "array" and (axis == 0 or verb == "items"):
        moved = data if axis == 0 else np.moveaxis(data, axis, 0)
        return lambda k, start, stop: moved[start:stop]
    if entry.kind == "stored" and verb == "items":
        ahead = (slice(None),) * axis
        return lambda k, start, stop: np.moveaxis(data[(*ahead, slice(start, stop))], axis, 0)
    if entry.kind in ("array", "stored"):
        before = (slice(None),) * axis
        return lambda k, start, stop: data[(*before, slice(start, stop))]
    if entry.kind == "whole":
        # A view of its own each time: one that the function keeps can then be told from the job's.
        view = view_of if isinstance(data, np.ndarray) else _itself
        if verb == "items":
            return lambda k, start, stop: repeat(view(data))
        return lambda k, start, stop: view(data)
    if entry.kind == "items":
        return _make_parcel_opener(data) if data.parcel else _make_unpacker(data)
    if entry.kind == "rows" and verb == "items":
        # As a list, whose iterator knows how many are left: see `Kernel.where`.
        return lambda k, start, stop: list(take_rows(data, start, stop))
    if entry.kind == "rows":
        return lambda k, start, stop: take_rows(data, start, stop)
    return lambda k, start, stop: data[start:stop]


def _shifted(slicer: Slicer, by: int) -> Slicer:
    return lambda k, start, stop: slicer(k, start + by, stop + by)
