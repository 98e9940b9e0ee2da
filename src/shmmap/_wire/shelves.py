"""The shelves of a control block: records of results that workers leave there, which wake nobody.

Each worker has one, for the last 64 records it has put; and a word for how long it has worked. Before them
stand a word for each worker that counts what it has put, and one that counts what the caller has taken.

What must hold: a record is written before it is counted, and worker and caller write one of the counts each.
So what was put is taken once, and half a record is none.
"""

from __future__ import annotations

from .records import RECORD_NBYTES

# Records that a worker can leave on its shelf before the caller has to take some. More: the caller is woken
# less often; each costs 56 bytes for each worker and open map.
SHELF_RECORDS = 64
_SHELF_NBYTES = SHELF_RECORDS * RECORD_NBYTES
_WORD = 8


class Shelves:
    """The shelves of one control block. `memory`: all of them, as `nbytes` says how much that is."""

    def __init__(self, memory: memoryview, ranks: int) -> None:
        self._ranks = ranks
        words = memory[: 3 * _WORD * ranks].cast("q")
        self._puts, self._takes = words[:ranks], words[ranks : 2 * ranks]
        self._works = words[2 * ranks :]
        self._no_work = memoryview(bytes(_WORD * ranks)).cast("q")
        self._records = memory[3 * _WORD * ranks :]

    @staticmethod
    def nbytes(ranks: int) -> int:
        return ranks * (3 * _WORD + _SHELF_NBYTES)

    def put(self, rank: int, record: bytes) -> bool:
        """Leave a record on a worker's shelf; False if there is no room."""
        if rank >= self._ranks:  # the team has grown
            return False
        put = self._puts[rank]
        if put - self._takes[rank] >= SHELF_RECORDS:
            return False
        at = rank * _SHELF_NBYTES + put % SHELF_RECORDS * RECORD_NBYTES
        self._records[at : at + RECORD_NBYTES] = record
        self._puts[rank] = put + 1  # in this order: half a record is none
        return True

    def has_any(self) -> bool:
        """Whether there is something on a shelf."""
        return self._puts != self._takes

    def take(self) -> bytes:
        """What is on the shelves, which are empty then; each worker's in the order in which it was put."""
        puts = memoryview(bytes(self._puts)).cast("q")  # as they are now
        records = []
        for rank, (put, taken) in enumerate(zip(puts, self._takes, strict=True)):
            for each in range(taken, put):
                at = rank * _SHELF_NBYTES + each % SHELF_RECORDS * RECORD_NBYTES
                records.append(self._records[at : at + RECORD_NBYTES])
        data = b"".join(records)
        self._takes[:] = puts  # only now: workers write there again
        return data

    def clear_work(self) -> None:
        """Nobody has worked yet."""
        self._works[:] = self._no_work

    def note_work(self, rank: int, ns: int) -> None:
        """A worker is about to leave, and has worked for so long."""
        if rank < self._ranks:
            self._works[rank] = ns

    def work_ns(self) -> int:
        """For how long all workers that have left have worked, together."""
        return sum(self._works)
