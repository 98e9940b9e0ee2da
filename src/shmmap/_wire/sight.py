"""What another program of the same user sees of a process: its open maps, and where its workers are.

Pure: bytes in, records out. They are a copy of what `control` and `claims` describe, made while those who
own it write there, so that words of one slot may be of two moments; nothing here fails by it. The process is
asked for nothing, and what is read costs it nothing.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from .about import read_text
from .claims import (
    CHUNK,
    CONTROL,
    DREW,
    ENTERED,
    INDEX,
    LAST_CHUNK,
    LEFT,
    PID,
    RANKS_MAX,
    RUNNING,
    SINCE,
    SLOT_WORDS,
    SLOTS_AT,
    TAKEN,
)
from .control import HEAD_NBYTES, MapHead

_SLOT = struct.Struct(f"<{SLOT_WORDS}q")
SLOTS_NBYTES = SLOTS_AT + RANKS_MAX * SLOT_WORDS * 8
"""Bytes of the claim slots, header included."""


class SeenMap(NamedTuple):
    """A map that is open, or a control block that is kept for the next one."""

    id: int
    verb: str
    func: str
    items: int
    chunksize: int
    first: int
    """Index of its first item, in a map over an iterator; else 0."""
    marks: bytes
    """The ledger."""
    is_stopped: bool
    """No chunk above some number is to be started: it has failed, or was given up."""

    @property
    def chunks_done(self) -> int:
        """Chunks that were done, or have failed."""
        return len(self.marks) - self.marks.count(0)

    @property
    def items_done(self) -> int:
        """Items of these chunks."""
        short = len(self.marks) * self.chunksize - self.items if self.marks[-1:] != b"\0" else 0
        return self.chunks_done * self.chunksize - max(0, short)

    def limits(self, chunks: range) -> tuple[int, int]:
        """Index range of some neighbouring chunks."""
        start, stop = chunks.start * self.chunksize, chunks.stop * self.chunksize
        return self.first + start, self.first + min(stop, self.items)


class SeenWorker(NamedTuple):
    """Where a worker is."""

    rank: int
    pid: int
    running: int
    """The number of the call, or of the submitted function, that it is in; 0 if it waits for one."""
    left: int
    """The number of the last call that it has left."""
    control: int
    """The control block of its call, or of its last one."""
    has_function: bool
    """It has a submitted function."""
    chunks: range
    """Those it is in; empty between two."""
    since_ns: int
    """When it drew them, perhaps with others, by the monotonic clock; or when the function was called, where
    that is known."""
    entered_ns: int
    """When it came to its call, or its last one, or to the submitted function."""
    at_index: int
    """The index that the function is called for, where that is known; else -1."""

    @property
    def call(self) -> int:
        """The number of its call, or of its last one."""
        return self.running or self.left


def read_map(id: int, data: bytes) -> SeenMap:
    """A map, by the bytes of its control block as far as its ledger goes."""
    head = MapHead.read(data)
    verb, func = read_text(head.text)
    return SeenMap(
        id=id,
        verb=verb,
        func=func,
        items=head.items,
        chunksize=max(1, head.chunksize),
        first=head.first,
        marks=data[HEAD_NBYTES : HEAD_NBYTES + head.chunks],
        is_stopped=head.limit < head.chunks,
    )


def ledger_end(data: bytes) -> int:
    """How far the ledger of a control block goes that begins with these `HEAD_NBYTES` bytes."""
    return HEAD_NBYTES + MapHead.read(data).chunks


def read_workers(data: bytes) -> list[SeenWorker]:
    """The workers that claim slots tell of."""
    slots = enumerate(_SLOT.iter_unpack(data[SLOTS_AT : SLOTS_AT + RANKS_MAX * _SLOT.size]))
    return [_read_slot(rank, slot) for rank, slot in slots if slot[PID]]


def _read_slot(rank: int, slot: tuple[int, ...]) -> SeenWorker:
    first, last = slot[CHUNK], max(slot[CHUNK], slot[LAST_CHUNK])
    is_timed = slot[SINCE] != 0
    return SeenWorker(
        rank=rank,
        pid=slot[PID],
        running=slot[RUNNING],
        left=slot[LEFT],
        control=slot[CONTROL],
        has_function=slot[TAKEN] > 0,
        chunks=range(first - 1, last) if first else range(0),
        since_ns=slot[SINCE] if is_timed else slot[DREW],
        entered_ns=slot[ENTERED],
        at_index=slot[INDEX] if is_timed else -1,
    )
