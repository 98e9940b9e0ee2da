"""An array that is carried to a node once, and lies in shared memory there.

dask carries what a task needs to the worker that runs it, and keeps it there until nobody holds its future
any more. On the way its bytes are frames of a message; where it is unpickled they go into a shared array at
once.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .._interop.numpy_types import Array
from .._memory import asshared, empty


class Placed:
    """An array, which is in shared memory wherever this is but in its caller."""

    __slots__ = ("__weakref__", "array")

    def __init__(self, array: Array) -> None:
        self.array = array

    def __reduce__(self) -> tuple[object, ...]:
        return _placed, (Ordered.of(self.array),)


class Ordered(NamedTuple):
    """An array, laid out in memory as it was: by the order of its axes there, results may differ in a bit."""

    axes: tuple[int, ...]
    """Those of the array, from the one with the longest steps to the one with the shortest."""
    data: Array
    """Its items in that order, without gaps."""

    @classmethod
    def of(cls, a: Array) -> Ordered:
        axes = tuple(sorted(range(a.ndim), key=lambda axis: -abs(a.strides[axis])))
        data = a.transpose(axes)
        return cls(axes, data if data.flags.c_contiguous else data.copy("C"))

    def array(self) -> Array:
        """The array again."""
        return self.data.transpose([self.axes.index(axis) for axis in range(len(self.axes))])


def _placed(ordered: Ordered) -> Placed:
    shared = ordered._replace(data=asshared(ordered.data))
    return Placed(_read_only(shared.array()))


def _read_only(a: Array) -> Array:
    a.flags.writeable = False
    return a


def to_frames(placed: Placed) -> tuple[dict[str, Any], list[memoryview]]:
    """The array as a message has it: a header, and its bytes."""
    axes, data = Ordered.of(placed.array)
    dtype = data.dtype if data.dtype.names else data.dtype.str
    header = {"axes": axes, "shape": data.shape, "dtype": dtype}
    return header, [data.reshape(-1).view(np.uint8).data]


def from_frames(header: dict[str, Any], frames: Sequence[Any]) -> Placed:
    """The other way round, into shared memory."""
    data = empty(tuple(header["shape"]), np.dtype(header["dtype"]))
    flat = data.reshape(-1).view(np.uint8)
    at = 0
    for frame in frames:
        part = np.frombuffer(frame, np.uint8)
        flat[at : at + len(part)] = part
        at += len(part)
    return Placed(_read_only(Ordered(tuple(header["axes"]), data).array()))


def register() -> None:
    """Tell dask how such an array travels."""
    # By name, as its types say nothing of these.
    serialize: Any = importlib.import_module("distributed.protocol.serialize")
    serialize.dask_serialize.register(Placed)(to_frames)
    serialize.dask_deserialize.register(Placed)(from_frames)


if "distributed" in sys.modules:  # on a node this is imported as the first one arrives
    register()
