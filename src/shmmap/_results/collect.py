"""The caller's half of getting results: allocate the output, put pieces together, check completeness.

One collector per map, whatever the engine. Workers fill arrays in place; what reaches the collector as
pieces is the rest: objects, results kept from before the output was known, and results of a wider dtype
than index 0's, which are put in place at the end, by one more pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np

from .._chunks import (
    Form,
    Job,
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
from .._interop.numpy_types import Array
from .._interop.plain import is_open
from .._memory import copy_into, empty

_MISSING = object()


class Collector:
    """Gathers one map's results. Used by one thread at a time."""

    def __init__(
        self,
        job: Job,
        columns: tuple[Any, ...] | None = None,
        give_out: Callable[[], Any] | None = None,
    ) -> None:
        self.job = job
        self.plan = job.plan
        self._give_out = give_out
        """What the verb returns of an output that was given."""
        self.pieces: dict[int, Any] = {}
        self._nothing: list[int] = []
        """Chunks for which None was returned, while no output was known."""
        self.kind: Any = "unknown"
        self.columns = columns
        """Outputs, axis first; as the kernels know them, but stored ones as the caller has them."""
        if columns is not None:
            self.kind = "array" if len(columns) == 1 else tuple
        self.given: set[int] = set()
        """Chunks of a list that somebody has got by iterating over a future."""
        self.taken: set[int] = set()
        """Those of them that were results handed over, and are not kept here any more."""
        self._placed: set[int] = set()
        """Chunks that were handed over and put where they belong at once."""
        self.failure: Exception | None = None
        """Why the map is to end, whatever its function does: see `_results.fold`."""

    # ------------------------------------------------ while the map runs

    def propose(self, form: Form) -> tuple[Any, tuple[Array, ...]]:
        """Allocate the output from the form of index 0's result.

        Returns
        -------
        kind, columns
            What the kernels need to know. Raises if the declared dtype does not take the result.
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
            self.columns = tuple(
                self.allocate(item_shape, dtype)
                for (item_shape, _), dtype in zip(columns, dtypes, strict=True)
            )
            self.kind = kind
        assert self.columns is not None
        return self.kind, self.columns

    def allocate(self, item_shape: tuple[int, ...], dtype: Any) -> Array:
        """A fresh column: shared memory, axis first."""
        n, axis = self.plan.n, self.job.axis
        if self.job.verb == "items" or axis == 0:
            shape: tuple[int, ...] = (n, *item_shape)
        else:
            axis %= len(item_shape) + 1
            shape = (*item_shape[:axis], n, *item_shape[axis:])
        new = empty(shape, dtype)
        return new if self.job.verb == "items" or axis == 0 else np.moveaxis(new, axis, 0)

    def add(self, pieces: list[Piece]) -> None:
        """Take results that were handed over rather than written in place."""
        for k, last, piece in pieces:
            base = k * self.plan.chunksize
            if not self.job.gather and self._fits(*piece):
                for column, target in zip(piece[1], self.columns or (), strict=True):
                    target[base : base + len(column)] = column
                self._placed.update(range(k, last))
                continue
            if last == k + 1:
                self._add(k, piece)
                continue
            size = self.plan.chunksize
            starts = range(0, min(last * size, self.plan.n) - base, size)
            if self.job.gather:
                self.pieces.update(
                    zip(range(k, last), [piece[at : at + size] for at in starts], strict=True)
                )
                continue
            kind, columns = piece
            for each, at in zip(range(k, last), starts, strict=True):
                self._add(each, (kind, tuple([column[at : at + size] for column in columns])))

    def _fits(self, kind: Any, columns: tuple[Array, ...]) -> bool:
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

    def _add(self, k: int, piece: Any) -> None:
        if self.job.out is not None and not self.job.gather:
            self._put(k, *piece)  # so that it need not be kept
        else:
            self.pieces[k] = piece

    def _put(self, k: int, kind: Any, columns: tuple[Array, ...]) -> None:
        """Put a chunk's columns into an output that was known from the start."""
        start, stop = self.plan.limits(k)
        assert self.columns is not None
        check_kind(kind, len(columns), self.kind, len(self.columns), declared=True)
        for column, target in zip(columns, self.columns, strict=True):
            check_declared(column, target)
        for column, target in zip(columns, self.columns, strict=True):
            if type(target) is np.ndarray:
                put_column(target[start:stop], column)
            else:  # it is not in memory
                target[start:stop] = as_array(column)
        self._placed.add(k)

    @property
    def returns_nothing(self) -> bool:
        """Whether the function is known to have returned None."""
        return self.kind is None or bool(self._nothing)

    def note_nothing(self, marks: bytes) -> None:
        """Take from the ledger for which chunks the function returned None."""
        if not self.job.gather and Mark.NOTHING in marks:
            self._nothing = [k for k, mark in enumerate(marks) if mark == Mark.NOTHING]

    def check_handed(self, marks: bytes) -> None:
        """Refuse to give less than the ledger says was handed over: a wrong result is worse than none.

        Raises
        ------
        RuntimeError
            If something is missing, which no worker's death explains.
        """
        if marks.count(Mark.HANDED) > self.count_handed():
            raise RuntimeError(
                "results that were handed over did not arrive; this is a fault of shmmap"
            )

    def count_handed(self) -> int:
        """How many chunks' results were handed over."""
        return len(self.pieces) + len(self._placed) + len(self.taken)

    def give(self, k: int) -> None:
        """Chunk `k` of a list is its receiver's from now on. In any thread, while another one adds."""
        self.given.add(k)
        if k in self.pieces:
            self.taken.add(k)  # first: what was handed over is never to look lost
            del self.pieces[k]

    def value_of(self, k: int, mark: int, over: bool) -> tuple[Any] | None:
        """The part of the result that chunk `k` is, in a tuple of one; None if it is not here yet."""
        start, stop = self.plan.limits(k)
        piece = self.pieces.get(k, _MISSING)
        if self.job.gather:
            if piece is not _MISSING:
                return (piece,)
            nothing = [None] * (stop - start) if self.job.verb == "items" else None
            return (nothing,) if mark == Mark.DONE or (over and is_done(mark)) else None
        if mark == Mark.NOTHING:
            return (None,)
        if piece is not _MISSING:
            kind, parts = piece[0], tuple(map(as_array, piece[1]))
        elif self.columns is not None and (
            mark == Mark.DONE or (over and is_done(mark)) or k in self._placed
        ):
            kind, parts = self.kind, tuple(column[start:stop] for column in self.columns)
        else:
            return None
        return (self._assemble(kind, parts),)

    def _assemble(self, kind: Any, columns: tuple[Array, ...]) -> Any:
        """What the user sees of columns: axes in their places, one array or a tuple of its class."""
        if kind is None or kind == "unknown":
            return None
        if self.job.verb != "items" and self.job.axis != 0:
            axis = self.job.axis
            columns = tuple(np.moveaxis(column, 0, axis % column.ndim) for column in columns)
        if kind == "array":
            return columns[0]
        return make_tuple(kind, columns)

    def release(self) -> None:
        """The map is over: what it read is no business of its results."""
        self.job = self.job._replace(inputs=())
        self._give_out = None

    # ------------------------------------------------ at the end

    def finish(self, failed: Sequence[tuple[int, int]] = ()) -> Any:
        """The result of the map; entries of `failed` index ranges are NaN, 0 or None.

        Raises
        ------
        TypeError, ValueError
            If results do not fit together, with a note that names the index.
        """
        if self.job.gather:
            return self._gathered()
        self.settle()
        if failed and self.columns is not None and (self.job.out is None or self.job.store):
            self.blank(failed)
        if self._give_out is not None and self.job.out is not None:
            return self._give_out()
        return self._assemble(self.kind, self.columns or ())

    def _gathered(self) -> Any:
        plan, pieces = (
            self.plan,
            dict(self.pieces),
        )  # a copy: another thread may be giving them away
        if not pieces and self.job.verb == "ranges":
            return None
        if self.job.verb == "items":
            if len(pieces) == plan.chunks:
                return list(chain.from_iterable(map(pieces.__getitem__, range(plan.chunks))))
            items: list[Any] = []
            for k in range(plan.chunks):
                if k in pieces:
                    items.extend(pieces[k])
                else:
                    start, stop = plan.limits(k)
                    items.extend([None] * (stop - start))
            return items
        return [pieces.get(k) for k in range(plan.chunks)]

    def settle(self) -> None:
        """Put what was handed over into the output, widening it first where that is needed."""
        if self._nothing and (self.pieces or self.columns):
            for k in self._nothing:
                self.pieces[k] = (None, ())  # which does not fit to the others, and is told so
        if not self.pieces:
            return
        if self.columns is None or self.kind == "unknown":
            kind, columns = self.pieces[min(self.pieces)]
            firsts = [(column.shape[1:], dtypes_of(column)[0]) for column in columns]
            self.propose(Form(kind, tuple(firsts)))
        assert self.columns is not None
        for k in sorted(self.pieces):
            kind, columns = self.pieces[k]
            start, stop = self.plan.limits(k)
            try:
                check_kind(kind, len(columns), self.kind, len(self.columns))
                for j, (column, target) in enumerate(zip(columns, self.columns, strict=True)):
                    if column.shape[1:] != target.shape[1:]:
                        raise ValueError(
                            f"results of shape {column.shape[1:]} and {target.shape[1:]} do not "
                            "stack; pass out=list"
                        )
                    wanted = self._wanted(j)
                    dtypes = dtypes_of(column)
                    if wanted is not None:
                        dtypes = [declared_dtype(dtype, wanted) for dtype in dtypes]
                    if self.may_widen(j):
                        promote(target.dtype, *dtypes)
            except (TypeError, ValueError) as exc:
                exc.add_note(f"for indices [{start}, {stop})")
                raise
        placed = self.plan.ranges(k for k in range(self.plan.chunks) if k not in self.pieces)
        self.columns = tuple(
            [self._widened(j, target, placed) for j, target in enumerate(self.columns)]
        )
        for k, (_, columns) in self.pieces.items():
            start, stop = self.plan.limits(k)
            for column, target in zip(columns, self.columns, strict=True):
                put_column(target[start:stop], column)
        self.pieces.clear()

    def _widened(self, j: int, target: Any, placed: Iterable[tuple[int, int]]) -> Any:
        """Column `j`, or one of the dtype that all its results need, with what is in place already."""
        if not self.may_widen(j):
            return target
        dtypes = {dtype for _, columns in self.pieces.values() for dtype in dtypes_of(columns[j])}
        wanted = self._wanted(j)
        if wanted is not None:
            dtypes = {declared_dtype(dtype, wanted) for dtype in dtypes}
        dtype = promote(target.dtype, *dtypes)
        if dtype == target.dtype:
            return target
        new = self.allocate(target.shape[1:], dtype)
        for start, stop in placed:  # elsewhere there is nothing that could be cast
            copy_into(new[start:stop], target[start:stop])
        return new

    def _wanted(self, j: int) -> Any:
        """The dtype declared for column `j`, if any."""
        dtypes = self.job.dtypes
        return None if dtypes is None else dtypes[j if len(dtypes) > 1 else 0]

    def may_widen(self, j: int) -> bool:
        """Whether column `j` takes the dtype that its results need: none was given, or one left open."""
        wanted = self._wanted(j)
        return self.job.out is None and (wanted is None or is_open(wanted))

    def blank(self, failed: Sequence[tuple[int, int]]) -> None:
        """Make entries of index ranges NaN, NaT or 0."""
        assert self.columns is not None
        for column in self.columns:
            blank: Any = np.nan if column.dtype.kind in "fc" else np.zeros((), column.dtype)
            if column.dtype.kind in "mM":
                blank = np.array("NaT", column.dtype)
            for start, stop in failed:
                column[start:stop] = blank
