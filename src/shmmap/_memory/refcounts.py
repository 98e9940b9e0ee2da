"""What is concluded from the interpreter's reference counts; no other file reads them.

Two questions are answered by them. A result that only the library refers to need not be copied
(`is_sole`, asked by `_chunks.gather`). Memory must not be used again while a worker's function keeps an
array over it (`count_references`, asked by `_worker.cache`).

What must hold: where the counts of an interpreter are not known, the answer is the one that is always
safe, which is to copy. An interpreter without the GIL is such a one: it may count a reference late, or
not at all. There, a result would have to say itself that nothing else holds it, by a wrapper of ours.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from .._interop.numpy_types import Array
    from .segments import Segment


class Counts(NamedTuple):
    """What `is_sole` counts for an array that only its caller refers to, by how the caller got it.

    The caller is a function that has the array as its parameter and passes it on to `is_sole`.
    """

    of_variable: int
    """The array is also in a variable of that function's caller."""
    of_call: int
    """It comes right from a call: no variable has it."""
    of_container: int
    """It is in a tuple, list or dict, and in the variable of a loop over that."""
    of_base: int
    """It is the base of the array that is asked about."""


def _known_counts() -> Counts:
    """The counts of this interpreter; 0, which no array has, where they are not known."""
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    if sys.implementation.name != "cpython" or not has_gil or sys.version_info >= (3, 16):
        return Counts(of_variable=0, of_call=0, of_container=0, of_base=0)
    if sys.version_info >= (3, 14):  # arguments that are only borrowed do not count
        return Counts(of_variable=1, of_call=1, of_container=2, of_base=2)
    # Two parameters and the argument of `getrefcount` refer to the array in each case.
    return Counts(of_variable=4, of_call=3, of_container=5, of_base=3)


COUNTS = _known_counts()


def is_sole(a: Array, alone: int) -> bool:
    """Whether nothing but the caller refers to an array, nor to the bytes it is a view of.

    `alone` is the field of `COUNTS` that says how the caller got the array.
    """
    if sys.getrefcount(a) > alone:
        return False
    base = a.base
    return base is None or (type(base) is np.ndarray and sys.getrefcount(base) <= COUNTS.of_base)


def count_references(segment: Segment) -> int:
    """Number of arrays outside this folder that refer to the bytes of an attached segment."""
    # The segment's attribute and the argument of `getrefcount` are the two that do not count.
    return sys.getrefcount(segment.root) - 2
