"""Which arrays other processes can reach, what those consist of, and what to write for others.

Called by `_memory.exports` and `_memory.locations`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._interop.buffers import reduce_kin, restore_subclass
from .._interop.masked import is_masked
from .._interop.numpy_types import Array
from .files import handle_in_file
from .inherited import find_inherited
from .mappings import owner_of, place_in_file
from .origins import this_process
from .segments import byte_bounds
from .table import find_segment


def is_plain(a: object) -> bool:
    """Whether it is an array of NumPy's own, in memory or in a file."""
    return type(a) is np.ndarray or type(a) is np.memmap


def parts(a: Array) -> list[Array]:
    """The plain arrays that an array consists of: of a masked one data and mask."""
    if is_plain(a):
        return [a]
    reduced = take_apart(a)
    if is_masked(a):
        data, mask, *_ = reduced[1]
        return parts(data) + ([] if mask is None else [mask])
    return [reduced[1][0]]


def take_apart(a: Array) -> tuple[Any, tuple[Any, ...]]:
    """What makes a relative of plain arrays, and of what."""
    kind = type(a)
    if is_masked(a) and kind is np.ma.MaskedArray:
        reduced: Any = reduce_kin(a)
        return reduced  # type: ignore[no-any-return]
    if is_masked(a) or not hasattr(a, "__dict__"):
        raise TypeError(
            f"handle() cannot take a {kind.__name__} apart; give it np.asarray(a), the numbers alone"
        )
    return restore_subclass, (np.ndarray.view(a, np.ndarray), kind, vars(a))


def anchor(a: Array) -> Array:
    """What tells where an array lies: one without items may lie behind the end of what it is a view of."""
    while a.size == 0 and a.base is not None:
        base = a.base
        a = base if isinstance(base, np.ndarray) else np.frombuffer(base, np.uint8)
    return a


def address(a: Array) -> int:
    return byte_bounds(anchor(a))[0]


def is_reachable(a: Array) -> bool:
    return is_in_memory(a) or handle_in_file(a) is not None


def is_in_memory(a: Array) -> bool:
    """Whether it lies in shared memory, of this process or of the one that a worker was forked from."""
    return find_segment(address(a)) is not None or find_inherited(anchor(a)) is not None


def why_not(a: Array, part: Array) -> str:
    if owner_of(part) is None:
        share = "asshared" if type(a) is np.ndarray else "share"
        return f"handle() takes an array in shared memory: shmmap.handle(shmmap.{share}(a))"
    if place_in_file(part) is None:
        return (
            "the file in which this array lies was removed, or cannot be opened by its name, so no other "
            "process can map it: shmmap.handle(shmmap.asshared(a))"
        )
    return (
        "changes to an array mapped with mode 'c' belong to this process alone, so it has no handle; map it "
        "with mode 'r' or 'r+', or share a copy: shmmap.handle(shmmap.asshared(a))"
    )


def refuse_without_proc() -> None:
    try:
        this_process()
    except OSError:
        raise NotImplementedError(
            "handles of shared memory need Linux's /proc, which is not there; send the array itself, which "
            "is a copy, or a handle of a file: shmmap.handle(shmmap.load(path, mmap_mode='r+'))"
        ) from None
