"""How the inputs of a map get to nodes: by path, once for each node, or a slice with each range.

The caller's half divides the inputs, and the node's half puts a range's inputs together. What must hold: the
function gets on a node what it would get from the caller's own arrays, read-only where these are private; and
a file that is not the same on the node is refused.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np

from .._chunks import Input, Job, is_small
from .._interop.buffers import is_plain
from .._interop.numpy_types import Array
from .._interop.rows import take_rows
from .._interop.stored import Stored
from .._memory import FileHandle, from_handle, handle_in_file
from .arrays import Ordered


class FromFile(NamedTuple):
    """An array in a file that each node maps by itself."""

    handle: FileHandle
    nbytes: int
    """Of the whole file."""
    mtime_ns: int
    position: int
    """Of the input, for errors."""

    @classmethod
    def find(cls, a: Array, position: int) -> FromFile | None:
        """None for an array that is in no file, or was changed since it was read from there."""
        handle = handle_in_file(a)
        if handle is None:
            return None
        there = os.stat(handle.path)
        path = os.path.abspath(handle.path)
        return cls(handle._replace(path=path), there.st_size, there.st_mtime_ns, position)

    def open(self, host: str) -> Array:
        """The array, mapped here.

        Raises ValueError if it is not the file that the caller has.
        """
        path = self.handle.path
        way_out = (
            "nodes open files by their path, so put it where all of them see it, or give the array itself "
            "(np.array of it), which travels"
        )
        try:
            there = os.stat(path)
        except OSError as exc:
            raise ValueError(
                f"input {self.position} is the file {path!r}, which cannot be opened on {host} "
                f"({exc.strerror}): {way_out}"
            ) from None
        if (there.st_size, there.st_mtime_ns) != (self.nbytes, self.mtime_ns):
            raise ValueError(
                f"input {self.position} is the file {path!r}, which is not the same on {host}: it has "
                f"{there.st_size:,} bytes there and {self.nbytes:,} here, or was written at another time; "
                f"{way_out}"
            )
        return from_handle(
            self.handle._replace(device=there.st_dev, inode=there.st_ino, writeable=False)
        )


class Division(NamedTuple):
    """The inputs of a map, by how they get to nodes."""

    inputs: tuple[Input, ...]
    """As nodes get them once: with their data, or how to open these; None for the others."""
    placed: dict[int, Array]
    """Arrays that are carried to each node once, by position."""
    sliced: dict[int, Input]
    """What goes slice by slice with the ranges."""


def divide(job: Job, *, can_place: bool) -> Division:
    """Divide the inputs of a map.

    `can_place`: arrays can be carried to each node once; else they go in slices, or whole with each range.
    """
    inputs: list[Input] = []
    placed: dict[int, Array] = {}
    sliced: dict[int, Input] = {}
    for position, entry in enumerate(job.inputs):
        entry = entry._replace(layout=None, place=None)
        data = entry.data
        if isinstance(data, Stored):
            if data.why_not_read:
                raise ValueError(f"input {position}: {data.why_not_read}")
            entry = entry._replace(data=data.elsewhere())
        elif isinstance(data, np.ndarray) and is_plain(data):
            found = FromFile.find(data, position)
            if found is not None:
                entry = entry._replace(data=found)
            elif can_place and not is_small(data):
                placed[position] = data
                entry = entry._replace(data=None)
            elif not can_place and entry.kind == "array" and entry.stencil is None:
                sliced[position] = entry
                entry = entry._replace(data=None)
        elif entry.stencil is None and entry.kind != "whole" and not isinstance(data, range):
            sliced[position] = entry
            entry = entry._replace(data=None)
        inputs.append(entry)
    return Division(tuple(inputs), placed, sliced)


def cut_slices(sliced: dict[int, Input], start: int, stop: int) -> dict[int, Any]:
    """What goes with the range of items ``[start, stop)``."""
    slices: dict[int, Any] = {}
    for position, entry in sliced.items():
        data = _cut(entry, start, stop)
        is_array = isinstance(data, np.ndarray) and is_plain(data)
        slices[position] = Ordered.of(data) if is_array else data
    return slices


def _cut(entry: Input, start: int, stop: int) -> Any:
    if entry.kind == "rows":
        return take_rows(entry.data, start, stop)
    if entry.kind == "array":
        return entry.data[(*(slice(None),) * entry.axis, slice(start, stop))]
    return entry.data[start:stop]


def join(
    inputs: tuple[Input, ...],
    placed: dict[int, Array],
    slices: dict[int, Any],
    limits: tuple[int, int],
    host: str,
) -> tuple[Input, ...]:
    """The inputs of a range, on a node; `limits` are those of its items."""
    start, stop = limits
    joined = []
    for position, entry in enumerate(inputs):
        data = entry.data
        if position in slices:
            data = slices[position]
            if isinstance(data, Ordered):
                data = data.array()
            entry = entry._replace(data=data)
            joined.append(entry._replace(data=_cut(entry, 0, stop - start)))
            continue
        if position in placed:
            data = placed[position]
        elif isinstance(data, FromFile):
            data = data.open(host)
        entry = entry._replace(data=data)
        if entry.stencil is not None or entry.kind == "stored":
            entry = entry._replace(first=start)
        elif entry.kind != "whole":
            entry = entry._replace(data=_cut(entry, start, stop))
        joined.append(entry)
    return tuple(joined)
