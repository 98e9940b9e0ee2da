"""What a map with ``checkpoint=`` keeps: the collector tells it what came, and a thread has it saved.

What is done is known in two ways. The ledger of the engine has a mark for each chunk whose results a worker
has written in place. Of results that were handed over the collector tells, after it has put them in place or
entered them; the mark of the engine's ledger may be there before.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from .._chunks import Kind, Mark, Piece, Plan
from .._errors.exceptions import CheckpointMismatch
from .._interop.numpy_types import Array, Bytes, DType
from .._memory import empty, handle_in_file, sync_file
from .digest import Digest
from .folder import NEW, PART, Folder, State, output_name

# Of how many chunks that are done the saved state has a digest; of those that are read from a store.
_SAMPLED, _SAMPLED_STORED = 64, 4
_SAMPLE_NBYTES = 4096


# | field                  | written by          | read by | what must hold
# | _taken, pieces of the  | the map             | saver   | under `_lock`: no mark tells of a record that is
# | folder                 |                     |         | not in its file
# | _columns, _fds         | the map             | saver   | under `_lock`
# | _failure               | the map             | saver   | it was set before results are placed elsewhere
# | _parts                 | the map             | the map | no save knows of them
# | _is_new                | the map, saver      | saver   | under `_saving`: a file that is to take another's
# |                        |                     |         | place stays until it has
# | _saved                 | saver, then at last | saver   | under `_saving`
# |                        | the map             |         |
class Keeper:
    """What is kept of one map, and where."""

    def __init__(self, folder: Folder, identity: dict[str, Any], plan: Plan, axis: int) -> None:
        self._folder = folder
        self._identity = identity
        self._plan = plan
        self._axis = axis
        """The axis of the chunks in the arrays of the result."""
        self._lock = threading.Lock()
        self._taken = np.zeros(plan.chunks, np.uint8)
        """Marks of what the collector has."""
        self._columns: tuple[Any, ...] = ()
        """Where results are in place: arrays, axis first."""
        self._given: tuple[Any, ...] = ()
        """The outputs that `out=` has given."""
        self._fds: dict[str, int] = {}
        """Of the files that the result is made of."""
        self._is_new: set[str] = set()
        """Those that are to take the place of narrower ones."""
        self._parts: dict[str, int] = {}
        """Wider files, by the name of the narrower one, that have not all results yet."""
        self._failure: OSError | None = None
        """Why no more can be kept: results lie in memory for which there is no place in the folder."""
        self._saving = threading.Lock()
        self._saved = b""

    # ------------------------------------------------ what was saved before

    def begin(self) -> None:
        """Nothing was that counts: say so, before there is any other file."""
        self._folder.clear()
        self._folder.write(State(self._identity, bytes(self._plan.chunks)))

    def take_up(self, state: State) -> tuple[Kind, tuple[Array, ...] | None, list[Piece]]:
        """What a map before this one has left: kind and columns of its output, and what it has handed over.

        Raises CheckpointMismatch if not all of it is there, and as it was.
        """
        if len(state.marks) != self._plan.chunks:
            raise CheckpointMismatch(f"{self._folder.path} has a ledger of another length")
        kind: Kind = "unknown"
        columns: tuple[Array, ...] | None = None
        pieces: list[Piece] = []
        covered = np.zeros(self._plan.chunks, bool)
        for record in self._folder.read_pieces(state.pieces_nbytes):
            if record[0] == "form":
                _, kind, count = record
                columns = tuple(self._open(output_name(j, count)) for j in range(count))
            else:
                pieces.append(record)
                covered[record[0] : record[1]] = True
        self._taken[:] = np.frombuffer(state.marks, np.uint8)
        if np.any((self._taken == Mark.HANDED) & ~covered):
            raise CheckpointMismatch(f"{self._folder.path} lacks results that its ledger names")
        if columns is not None:
            self._columns = columns
        if self._sample(state.marks) != state.sample:
            raise CheckpointMismatch(
                f"{self._folder.path}: the output is not as it was left; it was written, or made anew, since"
            )
        self._saved = state.marks
        return kind, columns, pieces

    def _open(self, name: str) -> Array:
        self._fds[name], a = self._folder.open(name)
        return np.moveaxis(a, self._axis, 0) if self._axis else a

    # ------------------------------------------------ for the collector

    def note_given(self, outs: tuple[Any, ...], columns: tuple[Any, ...]) -> None:
        """Results go to outputs that were given; `columns` are these with the axis of the chunks first."""
        self._given, self._columns = outs, columns

    def make_column(self, shape: tuple[int, ...], dtype: DType, j: int, of: int) -> Array:
        """A column of the result, in a file: array `j` of so many. Made again, it is a wider one.

        `shape` is that of the array, in which the axis of the chunks may be another than the first. Raises
        OSError if there is no room for the first; a wider one is then in memory, and nothing more is kept.
        """
        name = output_name(j, of)
        with self._lock:
            if name in self._fds:
                try:
                    self._parts[name], a = self._folder.create(name + PART, shape, dtype)
                except OSError as exc:  # not now, when there are results
                    a = empty(shape, dtype)
                    self._failure = exc
            else:
                self._fds[name], a = self._folder.create(name, shape, dtype)
        return a

    def note_form(self, kind: Kind, columns: tuple[Any, ...]) -> None:
        """The output is made, or was made wider: results are in place there."""
        with self._saving, self._lock:
            for name, fd in self._parts.items():
                with suppress(FileNotFoundError):  # the folder is gone, which a save will tell
                    os.replace(self._folder.at(name + PART), self._folder.at(name + NEW))
                os.close(self._fds[name])
                self._fds[name] = fd
                self._is_new.add(name)
            self._parts.clear()
            if not self._columns:
                self._folder.add_piece(("form", kind, len(columns)))
            self._columns = columns

    def keep(self, first: int, last: int, piece: object) -> None:
        """Results came, of these chunks."""
        with self._lock:
            self._folder.add_piece((first, last, piece))
            self._taken[first:last] = Mark.HANDED

    def note_in_place(self, first: int, last: int) -> None:
        """Results came, and were put in place."""
        with self._lock:
            self._taken[first:last] = Mark.DONE

    # ------------------------------------------------ saving

    def save(self, marks: bytes) -> None:
        """Have what is done survive. `marks`: the engine's ledger, read before this is called."""
        with self._saving:
            if self._failure is not None:
                raise self._failure
            with self._lock:
                taken = self._taken.copy()
                nbytes = self._folder.flush_pieces()
                fds = [os.dup(fd) for fd in self._fds.values()]
                columns, new = self._columns, sorted(self._is_new)
            try:
                done = _done_for_good(np.frombuffer(marks, np.uint8), taken).tobytes()
                if done.count(0) > self._saved.count(0) and self._saved:
                    return  # an engine that has lost sight of its ledger takes nothing away
                if done != self._saved or new:
                    self._write(State(self._identity, done, nbytes), columns, fds, new)
            finally:
                for fd in fds:
                    os.close(fd)

    def _write(
        self, state: State, columns: tuple[Any, ...], fds: Sequence[int], new: list[str]
    ) -> None:
        state = state._replace(sample=self._sample(state.marks, columns))
        for fd in fds:
            os.fsync(fd)
        _sync_given(self._given)
        self._folder.sync_pieces()
        if new:
            self._folder.write(state._replace(replaces=new))
            for name in new:
                os.replace(self._folder.at(name + NEW), self._folder.at(name))
            self._is_new.difference_update(new)
        self._folder.write(state)
        self._saved = state.marks

    def _sample(self, marks: bytes, columns: tuple[Any, ...] | None = None) -> str:
        """A digest of parts of the output that are done, by which it is known again."""
        if columns is None:
            columns = self._columns
        digest = Digest()
        done = np.flatnonzero(np.frombuffer(marks, np.uint8) == Mark.DONE)
        if not len(done):
            return ""
        for column in columns:
            is_array = isinstance(column, np.ndarray)
            most = _SAMPLED if is_array else _SAMPLED_STORED
            step = -(-len(done) // most) or 1
            for k in done[::step]:
                start = self._plan.limits(int(k))[0]
                item = np.ascontiguousarray(column[start : start + 1]).reshape(-1)
                digest.add(item[: max(1, _SAMPLE_NBYTES // max(1, item.itemsize))])
        return digest.text()

    def close(self) -> None:
        for fd in (*self._fds.values(), *self._parts.values()):
            os.close(fd)
        self._fds.clear()
        self._parts.clear()
        self._folder.close()


def _done_for_good(live: Bytes, taken: Bytes) -> Bytes:
    """Which chunks are done, by the ledger of the engine and what the collector has.

    Not those of which items have failed: these are run again. A worker marks them so, and no sooner than it
    has handed them over, so what was handed over is sure only once it is marked, too.
    """
    is_in_place = (live == Mark.DONE) | (live == Mark.NOTHING)
    is_taken = (taken != 0) & (is_in_place | (live == Mark.HANDED))
    return np.where(is_taken, taken, np.where(is_in_place, live, 0)).astype(np.uint8)


def _sync_given(outs: Sequence[Any]) -> None:
    """Wait until outputs that were given are on the disk."""
    handles = [handle_in_file(out) if isinstance(out, np.ndarray) else None for out in outs]
    for handle in filter(None, handles):
        sync_file(handle.path)
    if None in handles:
        os.sync()  # a store is many files
