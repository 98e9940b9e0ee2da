"""The caller's half of getting results: allocate the output, put pieces together, check completeness.

One collector per map, whatever the engine. Workers fill arrays in place; what reaches the collector as
pieces is the rest: objects, results kept from before the output was known, and results of a wider dtype
than index 0's, which are put in place at the end, by one more pass.

A piece is kept as it comes, for a run of chunks; it is cut into chunks only for those who iterate over these.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, Final, cast

import numpy as np

from .._chunks import (
    Column,
    Form,
    Job,
    Kind,
    Mark,
    Piece,
    as_array,
    check_declared,
    check_kind,
    declared_dtype,
    dtypes_of,
    is_done,
    make_tuple,
    promote,
    put_column,
)
from .._interop.buffers import read_only
from .._interop.numpy_types import Array
from .._interop.plain import is_open
from .._memory import copy_into, new_array
from .arrivals import Arrivals
from .keeper import Keeper
from .pieces import ABSENT, Pieces

_IN_PLACE = bytes([Mark.DONE])
Part = tuple[int, int, tuple[Column, ...]]
"""``start, stop, columns``: results for an index range. No columns: it is to be blank."""


# One thread at a time adds, as the engine sees to, and one finishes in the end: both are "the map" below.
# Meanwhile other threads may iterate over the future, and the team's monitor asks for `returns_nothing`.
#
# | field          | written by       | read by  | what must hold
# | job, _out,     | the map, at last | all      | only what iterating threads do not ask for changes
# | _private       |                  |          |
# | kind, columns, | the map          | all      | `kind` is set first; a wider output has what is in place
# | _is_guess      |                  |          | before it is put in the place of the other
# | pieces         | all, see there   | all      | what is an array's goes after it is in place
# | _nothing       | the map, monitor | the same | replaced as a whole, by what the ledger says at that time
# | failure        | the map          | the map  | set once
class Collector:
    """Gathers one map's results."""

    folds = False
    """They are put together to one."""

    def __init__(
        self,
        job: Job,
        columns: tuple[Any, ...] | None = None,
        out: Any = None,
        private: Sequence[tuple[Any, Any]] = (),
    ) -> None:
        self.job: Job = job
        self.plan: Final = job.plan
        self._out = out
        """What the verb returns, where outputs were given."""
        self._private = private
        """Pairs of an output of the caller's and of the shared array that is filled in its place."""
        self.pieces: Pieces = Pieces(job)
        self._nothing: list[int] = []
        """Chunks for which None was returned, while no output was known."""
        self.kind: Kind = "unknown"
        if columns is not None:
            self.kind = "array" if len(columns) == 1 else tuple
        self._is_guess = False
        """The output was made before anything was known of the results."""
        self.columns: tuple[Any, ...] | None = columns
        """Outputs, axis first; as the kernels know them, but stored ones as the caller has them."""
        self.failure: Exception | None = None
        """Why the map is to end, whatever its function does: see `_results.fold`."""
        self._arrivals: Arrivals | None = None
        self.is_listened_to: bool = False
        """Pieces are wanted as they come."""
        self.keeper: Keeper | None = None

    # ------------------------------------------------ while the map runs

    def allocate_output(self, form: Form) -> tuple[Kind, tuple[Any, ...]]:
        """Allocate the output, unless it is known, from the form of index 0's result.

        Returns
        -------
        kind, columns
            What the kernels need to know.

        Raises
        ------
        TypeError, ValueError
            If the declared dtype does not take the result.
        """
        if self.kind == "unknown":
            kind, columns = form
            dtypes = [np.result_type(dtype) for _, dtype in columns]
            if self.job.dtypes is not None and columns:
                declared = self.job.dtypes
                if len(declared) == 1:
                    declared = declared * len(columns)
                if len(declared) != len(columns):
                    raise ValueError(
                        f"dtype= names {len(declared)} dtypes, but the function returns "
                        f"{len(columns)} arrays"
                    )
                dtypes = list(map(declared_dtype, dtypes, declared))
            made = [
                self._new_column(item_shape, dtype, j, len(columns))
                for j, ((item_shape, _), dtype) in enumerate(zip(columns, dtypes, strict=True))
            ]
            self.kind, self.columns = kind, tuple(made)
            if self.keeper is not None:
                self.keeper.note_form(kind, self.columns)
        assert self.columns is not None
        return self.kind, self.columns

    def guess_output(self, form: Form) -> None:
        """Make the output as results of a call like this one were: see `_chunks.fill`."""
        self.allocate_output(form)
        self._is_guess = True

    def told_output(self) -> tuple[Kind, tuple[Any, ...], bool]:
        """Kind and columns of the output, and whether it is a guess."""
        return self.kind, self.columns or (), self._is_guess

    def confirm_output(self, marks: bytes) -> None:
        """The ledger is final: an output that was guessed is dropped if nothing was placed in it."""
        if self._is_guess and Mark.DONE not in marks:
            self.kind, self.columns = "unknown", None
        self._is_guess = False

    def take_up(self, kind: Kind, columns: tuple[Any, ...] | None, pieces: list[Piece]) -> None:
        """Begin with what an earlier run of this map has left."""
        if columns is not None:
            self.kind, self.columns = kind, columns
        self.add(pieces)

    def _new_column(self, item_shape: tuple[int, ...], dtype: Any, j: int, of: int) -> Array:
        """A fresh column, number `j` of so many: shared memory, axis first."""
        n, axis = self.plan.n, self.job.axis % (len(item_shape) + 1)
        shape = (*item_shape[:axis], n, *item_shape[axis:])
        keeper = self.keeper
        a = keeper.make_column(shape, dtype, j, of) if keeper else new_array(shape, dtype)
        return np.moveaxis(a, axis, 0) if axis else a

    def add(self, pieces: list[Piece]) -> None:
        """Take results that were handed over rather than written in place."""
        size = self.plan.chunksize
        for first, last, piece in pieces:
            if self.job.gather:
                self._enter(first, last, piece)
                continue
            kind, columns = piece
            if not self._fits(kind, columns):
                if self.job.out is None:
                    self._enter(first, last, piece)
                    continue
                self._check_declared(kind, columns)
            self._store(first * size, min(last * size, self.plan.n), columns)
            self._is_guess = False
            self.pieces.enter(first, last)
            if self.keeper is not None:
                self.keeper.note_in_place(first, last)
        if self._arrivals is not None:
            self._arrivals.tell()

    def _enter(self, first: int, last: int, piece: Any) -> None:
        """Keep a piece until the end, or until it is asked for."""
        self.pieces.enter(first, last, piece)
        if self.keeper is not None:
            self.keeper.keep(first, last, piece)

    def _fits(self, kind: Kind, columns: tuple[Column, ...]) -> bool:
        """Whether columns can be put where they belong at once, with nothing to check or to widen."""
        return (
            kind == self.kind
            and self.columns is not None
            and len(columns) == len(self.columns)
            and all(
                type(target) is np.ndarray
                and column.dtype == target.dtype
                and column.shape[1:] == target.shape[1:]
                for column, target in zip(columns, self.columns, strict=True)
            )
        )

    def _check_declared(self, kind: Kind, columns: tuple[Column, ...]) -> None:
        """Refuse what does not fit into an output that was known from the start."""
        targets = self.columns or ()
        check_kind(kind, len(columns), self.kind, len(targets), declared=True)
        for column, target in zip(columns, targets, strict=True):
            check_declared(column, target)

    def _store(self, start: int, stop: int, columns: tuple[Column, ...]) -> None:
        for column, target in zip(columns, self.columns or (), strict=True):
            if type(target) is np.ndarray:
                put_column(target[start:stop], column)
            else:  # it may not be in memory
                target[start:stop] = as_array(column)

    @property
    def returns_nothing(self) -> bool:
        """Whether the function is known to have returned None."""
        return self.kind is None or bool(self._nothing)

    def note_nothing(self, marks: bytes) -> None:
        """Take from the ledger for which chunks the function returned None."""
        if not self.job.gather and Mark.NOTHING in marks:
            self._nothing = [k for k, mark in enumerate(marks) if mark == Mark.NOTHING]

    def take_marks(self, marks: bytes) -> None:
        """Take the ledger of a map that is complete, and refuse to give less than it says was handed over.

        Raises RuntimeError if something is missing, which no worker's death explains: a wrong result is worse
        than none.
        """
        if not marks.strip(_IN_PLACE):
            return
        if not self.job.gather:
            self.confirm_output(marks)
            self.note_nothing(marks)
        if marks.count(Mark.HANDED) > self.pieces.count():
            raise RuntimeError(
                "results that were handed over did not arrive; this is a fault of shmmap"
            )

    # ------------------------------------------------ for threads that iterate over a future

    def listen(self, by_chunk: bool = True) -> Arrivals:
        """What tells of pieces, from now on, which are wanted as they come.

        `by_chunk`: each chunk is asked for alone; said before the first piece can come.
        """
        if by_chunk:
            self.pieces.cut_into_chunks()
        self.is_listened_to = True
        self._arrivals = Arrivals()
        return self._arrivals

    def take_turns(self) -> None:
        """Pieces are wanted as they come, by the thread that waits for them itself."""
        self.is_listened_to = True

    def value_of(self, k: int, mark: int, over: bool) -> Any:
        """The part of the result that chunk `k` is, or ABSENT."""
        start, stop = self.plan.limits(k)
        came = self.pieces.came(k)  # first: it is in place, or among the pieces
        piece = self.pieces.get(k)
        is_in_place = mark == Mark.DONE or (over and is_done(mark))
        if self.job.gather:
            if piece is not ABSENT or not is_in_place:
                return piece
            return [None] * (stop - start) if self.job.verb == "items" else None
        is_in_place |= mark == Mark.PARTLY  # of a list, it was handed over
        if mark == Mark.NOTHING:
            return None
        if piece is not ABSENT:
            return self._assemble(piece[0], tuple(map(as_array, piece[1])))
        if self.columns is None or not (is_in_place or came):
            return ABSENT
        return self._assemble(self.kind, tuple(column[start:stop] for column in self.columns))

    def _assemble(self, kind: Kind, columns: tuple[Array, ...]) -> Any:
        """What the user sees of columns: axes in their places, one array or a tuple of its class."""
        if kind is None or kind == "unknown":
            return None
        if self.keeper is not None:  # what was written into them would be there the next time
            columns = tuple([cast(Array, read_only(column)) for column in columns])
        axis = self.job.axis
        if axis != 0:
            columns = tuple(np.moveaxis(column, 0, axis % column.ndim) for column in columns)
        if kind == "array":
            return columns[0]
        return make_tuple(kind, columns)

    def release(self) -> None:
        """The map is over: what it read is no business of its results."""
        self.job = self.job._replace(inputs=())
        self._out, self._private = None, ()

    # ------------------------------------------------ at the end

    def finish(self, failed: Sequence[tuple[int, int]] = ()) -> Any:
        """The result of the map; entries of `failed` index ranges are NaN, 0 or None.

        Raises TypeError or ValueError if results do not fit together, with a note that names the index.
        """
        if self.job.gather:
            return self.pieces.as_list()
        if self.pieces or self._nothing:
            self.settle()
        if failed and self.columns is not None and (self.job.out is None or self.job.store):
            self.blank(failed)
        if self.job.out is not None:
            for out, filled in self._private:
                copy_into(out, filled)
            return self._out
        return self._assemble(self.kind, self.columns or ())

    def settle(self) -> None:
        """Put what was handed over into the output, widening it first where that is needed."""
        if self._nothing and (self.pieces or self.columns):
            for k in self._nothing:
                self.pieces.enter(k, k + 1, (None, ()))  # which does not fit to the others
        if not self.pieces:
            return
        pieces = self.pieces.in_order()
        if self.columns is None or self.kind == "unknown":
            kind, columns = pieces[0][1][1]
            firsts = [(column.shape[1:], dtypes_of(column)[0]) for column in columns]
            self.allocate_output(Form(kind, tuple(firsts)))
        parts: list[Part] = []
        for first, (last, (kind, columns)) in pieces:
            start, stop = self.plan.limits(
                first
            )  # a run is of one form: its first chunk is at fault
            try:
                self._check(kind, columns)
            except (TypeError, ValueError) as exc:
                exc.add_note(f"for indices [{start}, {stop})")
                raise
            parts.append((start, self.plan.limits(last - 1)[1], columns))
        self.put(parts)
        self.pieces.clear()

    def _check(self, kind: Kind, columns: tuple[Column, ...]) -> None:
        """Refuse results that do not fit to those in place, however wide the output is made."""
        targets = self.columns or ()
        check_kind(kind, len(columns), self.kind, len(targets))
        for j, (column, target) in enumerate(zip(columns, targets, strict=True)):
            if column.shape[1:] != target.shape[1:]:
                raise ValueError(
                    f"results of shape {column.shape[1:]} and {target.shape[1:]} do not "
                    "stack; pass out=list"
                )
            self._promoted(j, target, dtypes_of(column))

    def put(self, parts: Sequence[Part]) -> None:
        """Put results for index ranges, in order, where they belong, widening the output first."""
        if self.columns is None:
            return
        borders = [0, *chain.from_iterable((start, stop) for start, stop, _ in parts), self.plan.n]
        others = list(zip(borders[::2], borders[1::2], strict=True))
        wide = []
        for j, target in enumerate(self.columns):
            dtypes = {
                dtype for _, _, columns in parts if columns for dtype in dtypes_of(columns[j])
            }
            dtype = self._promoted(j, target, dtypes)
            if dtype != target.dtype:
                narrow = target
                target = self._new_column(target.shape[1:], dtype, j, len(self.columns))
                for start, stop in others:  # elsewhere there is nothing that could be cast
                    if start < stop:
                        copy_into(target[start:stop], narrow[start:stop])
            wide.append(target)
        self.columns = tuple(wide)
        for start, stop, columns in parts:
            if columns:
                self._store(start, stop, columns)
            elif self.columns:
                self.blank([(start, stop)])
        if self.keeper is not None:
            self.keeper.note_form(self.kind, self.columns)

    def _promoted(self, j: int, target: Any, dtypes: Iterable[Any]) -> Any:
        """The dtype that column `j` takes by results of these; its own, if that was given."""
        wanted = None
        if self.job.dtypes is not None:
            wanted = self.job.dtypes[j if len(self.job.dtypes) > 1 else 0]
            dtypes = [declared_dtype(dtype, wanted) for dtype in dtypes]
        if self.job.out is not None or (wanted is not None and not is_open(wanted)):
            return target.dtype
        return promote(target.dtype, *dtypes)

    def blank(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Make entries of index ranges NaN, NaT or 0."""
        assert self.columns is not None
        for column in self.columns:
            blank: Any = np.nan if column.dtype.kind in "fc" else np.zeros((), column.dtype)
            if column.dtype.kind in "mM":
                blank = np.array("NaT", column.dtype)
            for start, stop in ranges:
                column[start:stop] = blank
