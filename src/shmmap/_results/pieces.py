"""Results that were handed over rather than written in place, as they came: by runs of chunks."""

from __future__ import annotations

from typing import Any

from .._chunks import Job

ABSENT: Any = object()
"""In the place of a part of the result that is not there yet."""


# | field     | written by       | read by  | what must hold
# | _runs     | the map, `take`  | all      | no chunk is in two
# | _came     | the map          | all      | made with the first piece; a chunk is entered after what came of
# |           |                  |          | it is in place, or among the runs
# | _by_chunk | the map          | the map  | set before the first piece comes
# | given     | iterating ones   | all      | who is the first to enter itself has the chunk
# | has_given | iterating ones   | all      | set before a piece goes
# "The map" is one thread at a time, as for the `Collector`.
class Pieces:
    """What a map has handed over, and waits to be put together, or to be given to who iterates."""

    def __init__(self, job: Job) -> None:
        self._plan = job.plan
        self._verb = job.verb
        self._gathers = job.gather
        self._runs: dict[int, tuple[int, Any]] = {}
        """By the first chunk of a run: its end, and the results."""
        self._came = bytearray()
        """Of which chunks something came, a byte for each; empty until something does."""
        self._by_chunk = False
        self.given: dict[int, object] = {}
        """Chunks of a list that somebody has got by iterating over a future, and a mark of who has."""
        self.has_given: bool = False
        """Somebody has got results that were handed over, and are not kept here any more."""

    def __bool__(self) -> bool:
        return bool(self._runs)

    def cut_into_chunks(self) -> None:
        """Keep what comes by chunks, of which each is asked for alone."""
        self._by_chunk = True

    def enter(self, first: int, last: int, piece: Any = ABSENT) -> None:
        """Chunks came, with a piece that is to be kept; ABSENT if it is in place."""
        if not self._came:
            self._came = bytearray(self._plan.chunks)
        if 1 in self._came[first:last]:
            self._forget(first, last)
        if piece is not ABSENT:
            if self._by_chunk and last > first + 1:
                for k in range(first, last):
                    self._runs[k] = k + 1, self._cut(piece, first, k)
            else:
                self._runs[first] = last, piece
        self._came[first:last] = b"\1" * (last - first)

    def _forget(self, first: int, last: int) -> None:
        """Forget what came of some chunks: their worker died over telling it, and they were done again."""
        for k, (stop, piece) in list(self._runs.items()):
            if k < last and first < stop:
                del self._runs[k]
                for each in (*range(k, min(first, stop)), *range(max(k, last), stop)):
                    self._runs[each] = each + 1, self._cut(piece, k, each)

    def _cut(self, piece: Any, first: int, k: int) -> Any:
        """What a piece that begins with chunk `first` has for chunk `k`."""
        size = self._plan.chunksize
        part = slice((k - first) * size, (k + 1 - first) * size)
        if self._gathers:
            return piece[part]
        kind, columns = piece
        return kind, tuple([column[part] for column in columns])

    def count(self) -> int:
        """How many chunks came, also those that are not kept."""
        return self._came.count(1)

    def came(self, k: int) -> bool:
        return bool(self._came and self._came[k])

    def get(self, k: int) -> Any:
        """The results of the run that begins with chunk `k`, or ABSENT."""
        return self._runs.get(k, (k, ABSENT))[1]

    def take(self, k: int) -> tuple[int, Any]:
        """The end and the results of the run that begins with chunk `k`, which is not kept any more."""
        return self._runs.pop(k, (k, ABSENT))

    def give(self, k: int) -> bool:
        """Chunk `k` of a list is its receiver's from now on; False if another one has it."""
        mark = object()
        if self.given.setdefault(k, mark) is not mark:
            return False
        if k in self._runs:
            self.has_given = True  # first: the whole must not be put together of what is left
            self.take(k)
        return True

    def in_order(self) -> list[tuple[int, tuple[int, Any]]]:
        """The runs: the first chunk, the end, and the results. A copy: another thread may be taking them."""
        return sorted(self._runs.copy().items())

    def as_list(self) -> list[Any] | None:
        """What was gathered, in order; None for each item, or chunk, of which nothing came."""
        pieces = self.in_order()
        if not pieces and self._verb == "ranges":
            return None
        plan, is_by_item = self._plan, self._verb == "items"
        size = plan.chunksize if is_by_item else 1  # entries of a chunk
        items: list[Any] = []
        at = 0  # the chunk that comes next
        for first, (last, piece) in pieces:
            items += [None] * (size * (first - at))
            items += piece if is_by_item else (piece,)
            at = last
        return items + [None] * ((plan.n if is_by_item else plan.chunks) - len(items))

    def clear(self) -> None:
        self._runs.clear()
