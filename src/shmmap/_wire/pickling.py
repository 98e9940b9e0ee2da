"""How what the caller sends is pickled.

Arrays travel as handles (`arrays`), functions of ``__main__`` by value (`by_value`). What is the library's
own and plain takes a faster pickler. `unpickling` undoes all of it.
"""

from __future__ import annotations

import functools
import io
import pickle
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .._code.letters import news_for_all
from .._code.watch import Reach, reaches_of
from .._interop.buffers import reduce_kin
from .._interop.numpy_types import Array
from .._interop.scalars import SCALARS
from .._memory import SegmentHandle, handle_of
from .._system.imports import late_import
from .arrays import ArrayPacker, Copies, reduce_handle
from .bundles import Bundle, BundlePacker
from .unpickling import Accompanied

if TYPE_CHECKING:
    from .by_value import CallPickler, ResultPickler, Tracer


class Packed(NamedTuple):
    """Something pickled for workers."""

    data: bytes
    segments: frozenset[int]
    """Segments that must be attached where it is unpickled."""
    keep: tuple[Array, ...]
    """What must stay alive until it was used: shared arrays, and shared copies made for it."""
    placed: int = 0
    """Bytes of private arrays that were copied into shared memory for it."""
    by_value: bool = False
    """Something of ``__main__`` is in it by value: unpickling it writes into the worker's ``__main__``."""
    classes: tuple[type, ...] = ()
    """Classes that are in it by value: they must be there when results come back, which only name them."""
    reaches: tuple[Reach, ...] = ()
    """What it leads to in the user's modules."""


class _Picklers(NamedTuple):
    CallPickler: type[CallPickler]
    Tracer: type[Tracer]
    ResultPickler: type[ResultPickler]


@functools.cache
def load_picklers() -> _Picklers:
    """The picklers that are cloudpickle's, which takes 10 ms to import: on first use."""
    with late_import:
        from .by_value import CallPickler, ResultPickler, Tracer
    return _Picklers(CallPickler, Tracer, ResultPickler)


def pack(obj: object, copies: Copies | None = None) -> Packed:
    """Pickle anything of the caller's for its workers.

    Several pickles of one call take one `copies`, so that what they have in common is copied once.
    """
    return _pack(obj, ArrayPacker({} if copies is None else copies))


def pack_for(bundle: Bundle, obj: object) -> Packed:
    """The same for a function of a bundle."""
    return _pack(obj, BundlePacker(bundle))


def pack_by_value(obj: object) -> bytes:
    """Pickle anything of the caller's for a process that may have none of its memory.

    What it reaches in the user's modules goes with it.
    """
    packed = _pack(obj, ArrayPacker(None))
    if not packed.reaches:
        return packed.data
    return pickle.dumps(Accompanied(news_for_all(packed.reaches), packed.data), 5)


def _pack(obj: object, arrays: ArrayPacker) -> Packed:
    file = io.BytesIO()
    pickler = load_picklers().CallPickler(file, arrays)
    pickler.dump(obj)
    return Packed(
        data=file.getvalue(),
        segments=frozenset(arrays.segments),
        keep=tuple(arrays.keep),
        placed=arrays.placed,
        by_value=pickler.by_value,
        classes=tuple(pickler.classes),
        reaches=reaches_of(pickler.met) if pickler.met else (),
    )


def find_unpicklable(obj: object, is_left_out: Callable[[object], bool]) -> object:
    """The part of an object that does not pickle; None if all others than those left out do."""
    tracer = load_picklers().Tracer(is_left_out)
    try:
        tracer.dump(obj)
    except Exception:
        return tracer.last
    return None


class _PlainPickler(pickle.Pickler):
    """For what consists of arrays and plain values alone: ten times faster than cloudpickle."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, 5)
        self.segments: set[int] = set()

    def reducer_override(self, obj: object) -> Any:
        if type(obj) is np.ndarray or type(obj) is np.memmap:
            handle = handle_of(obj)
            if handle is not None:
                if isinstance(handle, SegmentHandle):
                    self.segments.add(handle.segment)
                return reduce_handle(handle)
        return reduce_kin(obj)


def pack_plain(obj: object) -> Packed:
    """Pickle a structure of the library's own that holds shared arrays and plain values only."""
    file = io.BytesIO()
    pickler = _PlainPickler(file)
    pickler.dump(obj)
    return Packed(file.getvalue(), frozenset(pickler.segments), ())


def are_plain(items: Iterable[object]) -> bool:
    """Whether all of these are numbers, strings, bytes or None, or tuples of such.

    Nothing in them is ours to look at, so `pickle` may do them by itself, ten times as fast.
    """
    kinds = set(map(type, items))
    if tuple in kinds:
        kinds.remove(tuple)
        for item in items:
            if type(item) is tuple and not SCALARS.issuperset(map(type, item)):
                return False
    return kinds <= SCALARS
