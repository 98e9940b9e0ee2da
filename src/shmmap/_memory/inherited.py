"""What a worker that was forked from its caller has of the caller's memory, beside its own table.

The table of such a worker begins empty, as the arrays that it has inherited are its caller's. A handle of one
of them names the caller. Called by `_memory.table` as the worker begins, and by `_memory.locations`.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from .._interop.numpy_types import Array
from .segments import Segment


class Inherited(NamedTuple):
    """A segment of the caller's, which is mapped here at the same address."""

    caller: int
    """The pid of it."""
    id: int
    fd: int
    """The number of the caller's descriptor."""
    inode: tuple[int, int]
    address: int
    nbytes: int
    mapping: weakref.ref[mmap.mmap]


_inherited: list[Inherited] = []


def note_inherited(segments: Iterable[Segment]) -> None:
    """These are the caller's segments. Their descriptors are still open here."""
    for segment in segments:
        with suppress(OSError):  # closed by the user's code
            status = os.fstat(segment.fd)
            _inherited.append(
                Inherited(
                    caller=os.getppid(),
                    id=segment.id,
                    fd=segment.fd,
                    inode=(status.st_dev, status.st_ino),
                    address=segment.address,
                    nbytes=segment.nbytes,
                    mapping=weakref.ref(segment.map),
                )
            )


def find_inherited(a: Array) -> Inherited | None:
    """The segment of the caller's that an array lies in; None if it lies in none.

    Asked by what keeps the memory: at the address of a mapping that is gone, something else may be.
    """
    owner: object = a.base
    while owner is not None and _inherited:
        if isinstance(owner, np.ndarray):
            owner = owner.base
        elif type(owner) is memoryview:
            owner = owner.obj
        else:
            return next((each for each in _inherited if each.mapping() is owner), None)
    return None
