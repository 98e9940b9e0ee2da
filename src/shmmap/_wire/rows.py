"""Rows: what whoever runs chunks of a profiled map notes of it, byte by byte.

Each rank has two *banks* of rows, and a word that says which of them counts and how many rows are in it. A
row is written first, and the word then: a death loses the row that was being written, and no other. When a
bank is full, its rows are merged into the other one, so that a map may last as long as it likes.

A row is 64 bytes, as `ROW` has them. Of rows of kind `SPAN`, the fields have another meaning: `busy` is the
processor time in nanoseconds, `chunks` the pages touched for the first time, `switches` how often another
program was given the core, and `stop` how often it was given up to wait for something.
"""

from __future__ import annotations

import os
import struct
from collections.abc import MutableSequence
from enum import IntEnum
from typing import Literal

import numpy as np

from .._interop.numpy_types import Array


class RowKind(IntEnum):
    """What a row is of."""

    CALL = 0
    """The function was called for these chunks, results written into place included."""
    HANDING = 1
    """Results were handed over to the caller: pickled, or waited for room."""
    SPAN = 2
    """The whole part in the map, or in a round of it: from waking to leaving."""
    DEATH = 3
    """The worker died; the caller notes it."""


Profiled = Literal[0, 1, 2]
"""What is noted of a map: nothing; rows; rows, and now and then where in its code the function is."""
_ROW = struct.Struct("<2hi6q2i")
ROW = np.dtype(
    [
        ("kind", "<i2"),
        ("attempt", "<i2"),
        ("pid", "<i4"),
        ("first", "<i8"),
        ("stop", "<i8"),
        ("chunks", "<i8"),
        ("began", "<i8"),
        ("ended", "<i8"),
        ("busy", "<i8"),
        ("merged", "<i4"),
        ("switches", "<i4"),
    ]
)
_pack_row, _NBYTES = _ROW.pack_into, _ROW.size
Memory = memoryview | bytearray
Words = MutableSequence[int] | memoryview
Rows = Array
"""An array of dtype `ROW`."""
# Rows in a bank. More: a map of many chunks is shown in finer detail; each is 128 bytes a rank and open map.
ROWS_MOST = 4096
# With so many ranks that this would not do, their banks are smaller.
_ALL_NBYTES = 1 << 26
# How many times are told apart at first when rows are merged.
_BINS = 1024
# Rows for which there is room at first, where it can grow.
_FEW = 64
_ATTEMPTS_MOST = 32767
_COUNT = 0xFFFFFFFF
"""The part of a word that is a number of rows; the rest is that of the bank."""


class RowLog:
    """The rows of one rank, for whoever writes them; there is one writer at a time.

    `memory` has both banks, `word` says how far they are filled. A successor goes on where the one before
    it stopped.
    """

    def __init__(self, memory: Memory, word: Words, pid: int) -> None:
        self._memory = memory
        self._word = word
        self._pid = pid
        self._bank_nbytes = len(memory) // 2
        bank, count = word[0] >> 32, word[0] & _COUNT
        self._at = bank * self._bank_nbytes + count * _NBYTES
        """Where the next row goes."""
        self._end = (bank + 1) * self._bank_nbytes

        self._grows_to = 0
        """So large banks become before rows are merged."""

    @classmethod
    def in_own_memory(cls, pid: int, most: int = ROWS_MOST) -> RowLog:
        """Rows that nobody reads from another process: their memory grows as they need it."""
        log = cls(bytearray(2 * min(most, _FEW) * _NBYTES), [0], pid)
        log._grows_to = most * _NBYTES
        return log

    def note(
        self,
        kind: int,
        first: int,
        stop: int,
        chunks: int,
        began: int,
        ended: int,
        busy: int,
        attempt: int = 0,
        switches: int = 0,
    ) -> None:
        """Add a row."""
        at = self._at
        if at == self._end:
            at = self._grow() if self._bank_nbytes < self._grows_to else self._merge()
        if attempt > _ATTEMPTS_MOST:
            attempt = _ATTEMPTS_MOST
        pid = self._pid
        _pack_row(
            self._memory,
            at,
            kind,
            attempt,
            pid,
            first,
            stop,
            chunks,
            began,
            ended,
            busy,
            0,
            switches,
        )
        self._at = at + _NBYTES
        self._word[0] += 1

    def _grow(self) -> int:
        """Twice as much room for rows, of which there is one bank so far; where the next row goes."""
        rows = self.rows()
        self._end = self._bank_nbytes = min(2 * len(rows), self._grows_to)
        memory = bytearray(2 * self._bank_nbytes)
        memory[: len(rows)] = rows
        self._memory = memory
        return len(rows)

    def _merge(self) -> int:
        """Merge the rows of this bank into the other one; where the next row goes."""
        rows = unpack_rows(self.rows())
        merged = merge_rows(rows, len(rows) // 2)
        bank = 1 - (self._word[0] >> 32)
        at = bank * self._bank_nbytes
        self._memory[at : at + merged.nbytes] = merged.tobytes()
        self._word[0] = bank << 32 | len(merged)
        self._end = at + self._bank_nbytes
        return at + merged.nbytes

    def rows(self) -> bytes:
        """A copy of all rows; also in another thread than the writer's."""
        word = self._word[0]  # first: memory that has grown since then has those rows as well
        return _read(self._memory, word)


def _read(memory: Memory, word: int) -> bytes:
    at = (word >> 32) * (len(memory) // 2)
    return bytes(memory[at : at + (word & _COUNT) * _NBYTES])


def unpack_rows(data: bytes) -> Rows:
    """Rows as an array."""
    return np.frombuffer(data, ROW)


class RowBanks:
    """The rows of all ranks of a map, in memory that its caller and its workers share."""

    def __init__(self, memory: memoryview, ranks: int) -> None:
        self._words = memory[: 8 * ranks].cast("q")
        """How many rows each rank has, and in which bank."""
        self._memory = memory[8 * ranks :]
        self._ranks = ranks
        self._nbytes = len(self._memory) // ranks

    @staticmethod
    def nbytes(ranks: int) -> int:
        """How much memory that takes."""
        most = max(64, min(ROWS_MOST, _ALL_NBYTES // (2 * ROW.itemsize * max(1, ranks))))
        return ranks * (8 + 2 * most * ROW.itemsize)

    def clear(self) -> None:
        """Forget all rows. Nobody may be writing any."""
        self._words[:] = memoryview(bytes(8 * self._ranks)).cast("q")

    def _of(self, rank: int) -> memoryview:
        return self._memory[rank * self._nbytes : (rank + 1) * self._nbytes]

    def log(self, rank: int) -> RowLog | None:
        """The rows of this process, which has a rank; None if there are none for it: the team has grown."""
        if rank >= self._ranks:
            return None
        return RowLog(self._of(rank), self._words[rank : rank + 1], os.getpid())

    def rows(self) -> dict[int, bytes]:
        """A copy of the rows of each rank that has any, as they are now."""
        words = self._words
        return {r: _read(self._of(r), words[r]) for r in range(self._ranks) if words[r]}


def merge_rows(rows: Rows, most: int) -> Rows:
    """At most so many rows in the place of more: those that began at about the same time become one.

    Sums stay what they are: of chunks, of the time they took, and of what `SPAN` rows count. A row that is
    long beside the time in which others become one stays as it is.
    """
    if len(rows) <= most:
        return rows
    bins = _BINS
    while True:
        merged = _merge_within(rows, bins)
        if len(merged) <= most or bins == 1:
            return merged
        bins //= 2


def _merge_within(rows: Rows, bins: int) -> Rows:
    """One row for each kind in each of so many parts of the time, and the long ones."""
    zero = rows["began"].min()
    width = (rows["ended"].max() - zero) // bins + 1
    part = (rows["began"] - zero) // width
    is_again = np.minimum(rows["attempt"], 1)
    # A number that each long row has for itself, and that the others of a kind in a part have in common.
    alone = np.where(rows["ended"] - rows["began"] >= width, np.arange(1, len(rows) + 1), 0)
    order = np.lexsort((rows["began"], alone, is_again, rows["kind"], part))
    keys = np.stack([part, rows["kind"], is_again, alone])[:, order]
    starts = np.flatnonzero(np.r_[True, (keys[:, 1:] != keys[:, :-1]).any(axis=0)])
    ordered = rows[order]
    merged = ordered[starts]
    for name in ("first", "began"):
        merged[name] = np.minimum.reduceat(ordered[name], starts)
    for name in ("stop", "ended", "attempt", "pid"):
        merged[name] = np.maximum.reduceat(ordered[name], starts)
    for name in ("chunks", "busy", "switches", "merged"):
        merged[name] = np.add.reduceat(ordered[name], starts)
    spans = merged["kind"] == RowKind.SPAN
    merged["stop"][spans] = np.add.reduceat(ordered["stop"], starts)[spans]
    merged["merged"] += np.diff(np.r_[starts, len(rows)]) - 1
    is_short = (keys[3, starts] == 0) & ~spans
    _part_from_others(merged, keys[0, starts], is_short)
    return merged[np.argsort(merged["began"], kind="stable")]


def _part_from_others(merged: Rows, part: Array, is_short: Array) -> None:
    """Rows of several kinds that were merged in one part of the time are put one after the other there."""
    at = np.flatnonzero(is_short)
    for group in np.split(at, np.flatnonzero(np.diff(part[at])) + 1):
        if len(group) > 1:
            began, ended = merged["began"][group].min(), merged["ended"][group].max()
            for each in group[:0:-1]:
                merged["ended"][each] = ended
                ended = merged["began"][each] = ended - merged["busy"][each]
            merged["began"][group[0]], merged["ended"][group[0]] = began, ended
