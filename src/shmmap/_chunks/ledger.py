"""The ledger: what has become of each chunk of a map, a byte for each. Pure arithmetic.

Workers mark their chunks in shared memory (`_wire.control`), engines in this process in an array of their
own; the caller learns from the marks what is done, and what is to be run again.
"""

from __future__ import annotations

from enum import IntEnum

from .plan import Plan


class Mark(IntEnum):
    """What has become of a chunk. What is done is odd: so it can be told by one bit."""

    PENDING = 0
    DONE = 1
    """Its result is in place."""
    FAILED = 2
    HANDED = 3
    """Its result was given to the caller, in a page or at once."""
    LOST = 4
    """It was begun by a worker that died, and its successor is not to begin it by itself."""
    NOTHING = 5
    """The function returned None."""
    PARTLY = 7
    """The same as DONE or HANDED, but items of it have failed, which was told."""


def is_done(mark: int) -> bool:
    return bool(mark & 1)


def is_left(mark: int) -> bool:
    """Whether a chunk has neither been done nor failed, according to its mark."""
    return mark == Mark.PENDING or mark == Mark.LOST


def count_done(marks: bytes | bytearray) -> int:
    return sum([marks.count(mark) for mark in _DONE])


def items_done(marks: bytes | bytearray, plan: Plan) -> int:
    """Number of items done; the last chunk may be shorter than the others."""
    return min(count_done(marks) * plan.chunksize, plan.n)


_DONE = bytes([Mark.DONE, Mark.HANDED, Mark.NOTHING, Mark.PARTLY])


def undone(marks: bytes | bytearray) -> list[int]:
    """The chunks that are not done, in order."""
    if not marks.strip(_DONE):  # most maps
        return []
    return [chunk for chunk, mark in enumerate(marks) if not mark & 1]
