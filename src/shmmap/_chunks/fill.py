"""Results that are rows or blocks of arrays, written into the output.

The output is declared, or made from the form of index 0's result. Until it is known, results of other chunks
are kept; then all are written straight to where they belong, and their chunks marked as done after that. What
the output is too narrow for goes to the collector as a piece, in a wider dtype.

Results depend on the plan alone: neither on who ran which chunk, nor on how many were gone through as one.
And should one of them not fit, `position` tells which index or chunk it came from.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice, repeat
from operator import is_not
from typing import Any

import numpy as np

from .._interop.numpy_types import Array
from .._memory import POUR_NBYTES, PageWriter
from .columns import (
    NUMBERS,
    Column,
    Mixed,
    as_column,
    check_axis,
    check_declared,
    check_kind,
    check_shape,
    copied,
    dtypes_of,
    holds,
    promote,
    put_column,
    split_result,
    stack_items,
    uniform_column,
)
from .job import Form, Job, Piece, form_of
from .kernel import FAILED_ITEM, Kernel, Reporter, stop_iteration

# A chunk 0 that is going to take longer tells the form of its first result before the others are there.
FORM_S = 2e-4
# Results a worker may keep while the output is not known yet, before it waits for it.
HELD_NBYTES = 1 << 26
# Up to this much is handed over as it is when there are no more tickets, rather than wait for the output.
SHIP_NBYTES = 1 << 18
# Kept results are handed over after this long all the same, so that a death cannot take them along.
HELD_S = 0.05

_NO_RESULT: Any = object()


def _merged(pieces: list[Piece]) -> list[Piece]:
    """Pieces of neighbouring chunks as one, where their columns are alike.

    A small piece by itself takes 4 us to pickle here and 4 to take in the caller; merging it with others, 1.
    """
    merged: list[Piece] = []
    alike = pieces[:1]
    for piece in pieces[1:]:
        if not _follows(alike[-1], piece):
            merged.append(_merge(alike))
            alike = []
        alike.append(piece)
    return [*merged, _merge(alike)]


def _follows(one: Piece, other: Piece) -> bool:
    """Whether a piece is the neighbour of another, and its columns are alike."""
    (_, stop, (kind, columns)), (first, _, (its_kind, its_columns)) = one, other
    if stop != first or kind is not its_kind or len(columns) != len(its_columns):
        return False
    for column, its_column in zip(columns, its_columns, strict=True):
        if isinstance(column, Mixed) or isinstance(its_column, Mixed):
            return False
        if column.dtype != its_column.dtype or column.shape[1:] != its_column.shape[1:]:
            return False
    return True


def _merge(alike: list[Piece]) -> Piece:
    (first, last, (kind, columns)), *others = alike
    if others:
        last = others[-1][1]
        columns = tuple(map(np.concatenate, zip(*[piece[2][1] for piece in alike], strict=True)))
    return first, last, (kind, columns)


class FillKernel(Kernel):
    """Results are rows or blocks, written into the output; kept until it is known."""

    def __init__(
        self, job: Job, func: Callable[..., Any], port: Reporter, clock: Any = None
    ) -> None:
        super().__init__(job, func, port, clock)
        self._declared = job.out is not None
        self._kind: Any = "unknown"
        self._out: tuple[Array, ...] | None = None
        self._ways: tuple[PageWriter | None, ...] = ()
        """Ways into the outputs, one for each; empty if none of them is large."""
        if job.out is not None:
            self._kind = "array" if len(job.out) == 1 else tuple
            self._out = job.out
            if not job.store:  # else they are not in memory
                self._ways = port.ways(job.out)
        self._in_place: Any = None
        """The part of the output that `_interop.rows` has just filled."""
        self._held: list[Piece] = []
        self._held_nbytes = 0
        self._held_since = 0.0

    # ------------------------------------------------ one chunk

    def run(self, k: int, last: int) -> None:
        """Do chunk `k`, or ``[k, last)`` if this kernel `joins` them."""
        start = k * self._size
        stop = min(last * self._size, self._n)
        position = self.position
        position.start, position.stop, position.index = start, stop, -1
        made: tuple[Any, tuple[Column, ...]] | None
        if self.job.verb != "items":
            result = self.call_chunk(k, start, stop)
            if self.job.axis == 0 and self._put_at_once(k, last, start, stop, result):
                return
            made = self._block(result, start, stop)
        else:
            if self._kind == "unknown":
                self._learn_output()  # so that items are stored where they belong as they come
            if self._is_plain:
                made = self._plain_items(k, start, stop)
            else:
                made = self._items(start, stop, self.iterate(k, start, stop), time.perf_counter())
        if made is None:
            return
        if made[0] is FAILED_ITEM:  # each of them was reported by itself
            self.port.mark(k, last)
        else:
            self._place(k, last, start, stop, *made)

    def _plain_items(self, k: int, start: int, stop: int) -> tuple[Any, tuple[Column, ...]] | None:
        """Columns of chunks; numbers, and nothing, in a plain loop, others as they come. See `_items`."""
        func, items = self.func, self.begin_items(k, start, stop)
        began = time.perf_counter()
        values: list[Any] = []
        try:
            first = func(next(items))
            is_number = type(first) in NUMBERS
            if start == 0 and self._kind == "unknown" and (first is None or is_number):
                self._tell_form(*split_result(first), began, stop)
            if first is None:
                for item in items:
                    result = func(item)
                    if result is not None:
                        check_kind(split_result(result)[0], 1, None, 1)
                return None, ()
            if is_number:
                values = [first, *[func(item) for item in items]]
        except BaseException as exc:
            self.note_failure(items, exc)
            raise
        if is_number:
            return self._column(values, start)
        return self._items(start, stop, chain((first,), map(func, items)), began)

    def _tell_form(self, kind: Any, cells: tuple[Any, ...], began: float, count: int) -> None:
        """Tell the form of index 0's result, the first of so many."""
        columns = [as_column(cell) for cell in cells]
        left = (time.perf_counter() - began) * count
        form = Form(kind, tuple((c.shape, c.dtype) for c in columns))
        self.port.tell_form(form, left > FORM_S)

    def _items(
        self, start: int, stop: int, results: Iterator[Any], began: float
    ) -> tuple[Any, tuple[Column, ...]] | None:
        """Columns of a chunk, or of several as one; None if they have been placed, one by one."""
        position = self.position
        i = position.index = start
        values: list[Any] = []
        is_called = False  # for all items: what fails from then on knows where
        try:
            first = next(results, _NO_RESULT)
            while first is FAILED_ITEM and i + 1 < stop:
                i += 1
                first = next(results, _NO_RESULT)
            if first is FAILED_ITEM:
                return FAILED_ITEM, ()
            if first is _NO_RESULT:
                raise stop_iteration()
            kind, cells = split_result(first)
            if start == 0 and self._kind == "unknown":
                self._tell_form(kind, cells, began, stop)
            if kind is None:
                values += [None] * (i + 1 - start)
                values.extend(results)
                i = start + len(values)
                if i < stop:
                    raise stop_iteration()
                is_called = True
                if any(map(is_not, values, repeat(None))):
                    self._check_nothing(values, start)
                return None, ()
            is_number = type(first) in NUMBERS or (
                not isinstance(first, (np.ndarray, tuple)) and as_column(first).ndim == 0
            )
            if is_number and not self.job.keep_going:
                values.append(first)
                values.extend(results)
                i = start + len(values)
                if i < stop:
                    raise stop_iteration()
                is_called = True
                return self._column(values, start)
            if stop - start > self._size:
                self._rows_of_each(first, results, start, stop)
                return None
            return kind, self._rows(kind, cells, results, i, start, stop)
        except BaseException:
            if position.index == start and not is_called:  # not told more precisely on the way
                position.index = max(i, start + len(values))
            raise

    def _check_nothing(self, values: list[Any], start: int) -> None:
        """Refuse results that are something, among others that are None."""
        for index, value in enumerate(values, start):
            if value is not None and value is not FAILED_ITEM:
                self.position.index = index
                check_kind(split_result(value)[0], 1, None, 1)

    def _column(self, values: list[Any], start: int) -> tuple[Any, tuple[Column, ...]] | None:
        """Numbers or strings of a chunk, or of several as one, as a column; None if placed one by one."""
        column: Column | None = uniform_column(values)
        if column is not None:
            return "array", (column,)
        if len(values) <= self._size:
            return "array", (self._mixed_column(values, start),)
        # What several dtypes become together depends on their order and number: on nothing but the plan.
        for k, lo, hi in self._one_by_one(start, start + len(values)):
            self.position.index = -1
            part = values[lo - start : hi - start]
            column = uniform_column(part)
            if column is None:
                column = self._mixed_column(part, lo)
                self.position.index = -1
            self._place(k, k + 1, lo, hi, "array", (column,))
        return None

    def _mixed_column(self, values: list[Any], start: int) -> Column:
        """A column of any numbers or strings."""
        columns: list[Array] = []
        for i, value in enumerate(values, start):
            self.position.index = i
            kind, cells = split_result(value)
            check_kind(kind, len(cells), "array", 1)
            columns.append(as_column(value))
            check_shape(columns[-1].shape, columns[0].shape)
        return stack_items(columns)

    def _rows(
        self,
        kind: Any,
        cells: tuple[Any, ...],
        results: Iterable[Any],
        at: int,
        start: int,
        stop: int,
    ) -> tuple[Array, ...]:
        """Columns of a chunk whose items are stored as they come; `cells` is what index `at` gave."""
        position = self.position
        firsts = [as_column(cell) for cell in cells]
        targets: list[Any] = []
        for j, a in enumerate(firsts):
            target = None if self._out is None or j >= len(self._out) else self._out[j]
            if target is not None and a.shape == target.shape[1:] and holds(target.dtype, a):
                targets.append(target[start:stop])
                self._make_ready(j, start, stop)
                if a.dtype == target.dtype and self._pour(j, a, at):
                    continue
            elif target is not None and self._declared:
                check_declared(a[np.newaxis], target)
                targets.append(target[start:stop])
            else:
                targets.append(np.empty((stop - start, *a.shape), np.result_type(a.dtype)))
            targets[j][at - start] = a
        width = len(targets)
        way = self._ways[0] if self._ways and targets and targets[0].base is not None else None
        if way is not None and way.stride < POUR_NBYTES:
            way = None  # its items are too small, each by itself
        i = at - start + 1
        position.index = start + i  # of the item asked for next, should it fail
        for result in results:
            if kind == "array" and type(result) is np.ndarray:
                target = targets[0]
                if result.dtype == target.dtype and result.shape == target.shape[1:]:
                    if way is None or not way.pour(result, start + i):
                        target[i] = result
                    i += 1
                    position.index += 1
                    continue
            if result is not FAILED_ITEM:
                its_kind, its_cells = split_result(result)
                check_kind(its_kind, len(its_cells), kind, width)
                for j, cell in enumerate(its_cells):
                    self._store(targets, j, i, as_column(cell))
            i += 1
            position.index += 1
        if position.index < stop:
            raise stop_iteration()
        position.index = -1
        self._in_place = targets[0] if targets and targets[0].base is not None else None
        return tuple(targets)

    def _rows_of_each(self, first: Any, results: Iterator[Any], start: int, stop: int) -> None:
        """Store and place chunk by chunk what comes of several as one, beginning with `first`.

        Arrays, which may fit to those of other chunks or not, and not to each other.
        """
        for k, lo, hi in self._one_by_one(start, stop):
            self.position.index = lo
            if lo > start:
                first = next(results, _NO_RESULT)
                if first is _NO_RESULT:
                    raise stop_iteration()
            kind, cells = split_result(first)
            columns = self._rows(kind, cells, islice(results, hi - lo - 1), lo, lo, hi)
            self._place(k, k + 1, lo, hi, kind, columns)

    def _store(self, targets: list[Any], j: int, i: int, a: Array) -> None:
        target = targets[j]
        check_shape(a.shape, target.shape[1:])
        if self._declared:
            check_declared(a[np.newaxis], target)
        elif not isinstance(target, Mixed) and not holds(target.dtype, a):
            # Never into a narrower output: the column goes on by itself, each item as it is.
            promote(a.dtype, target.dtype)
            targets[j] = Mixed(target.shape)
            targets[j].put_rows(target[:i])
        targets[j][i] = a

    def _block(self, result: Any, start: int, stop: int) -> tuple[Any, tuple[Array, ...]]:
        """Columns of a chunk from the one result of a vectorised function."""
        kind, cells = split_result(result)
        axis, length = self.job.axis, stop - start
        columns = []
        for cell in cells:
            a = as_column(cell)
            check_axis(a.shape, axis, length, self.job.ndims)
            columns.append(a if axis == 0 else np.moveaxis(a, axis, 0))
        if start == 0 and self._kind == "unknown":
            self.port.tell_form(form_of(kind, tuple(columns)), False)
        return kind, tuple(columns)

    # ------------------------------------------------ placing

    def _learn_output(self) -> None:
        output = self.port.poll_output()
        if output is not None:
            self._kind, self._out, self._ways = output
            self._place_held()

    def _put_at_once(self, k: int, last: int, start: int, stop: int, result: Any) -> bool:
        """Put one array, axis first, into the output if it is just what is taken there: mostly it is.

        What `_block` and `_memory.sources` find out about any result costs as much as all else that a chunk
        does.
        """
        if type(result) is not np.ndarray or self._out is None or self._kind != "array":
            return False
        part = self._out[0][start:stop]
        if result.shape != part.shape or result.dtype != part.dtype:
            return False
        if result is not self._in_place and not (self._ways and self._pour(0, result, start)):
            part[...] = result
        self.port.mark(k, last)
        return True

    def _place(
        self, k: int, last: int, start: int, stop: int, kind: Any, columns: tuple[Column, ...]
    ) -> None:
        """Put columns of chunks ``[k, last)`` into the output, or keep them until it is known."""
        if kind == "array" and self._put_at_once(k, last, start, stop, columns[0]):
            return
        if self._kind == "unknown" and kind is None:
            self.port.mark(k, last, nothing=True)  # whether that fits is told by the whole ledger
            return
        if self._kind == "unknown":
            self._learn_output()
            if self._kind != "unknown":
                self._place(k, last, start, stop, kind, columns)
                return
            # A copy: the function may return the same buffer every time.
            kept = tuple(map(copied, columns))
            if not self._held:
                self._held_since = time.monotonic()
            self._held.append((k, last, (kind, kept)))
            self._held_nbytes += sum(column.nbytes for column in kept)
            if self._held_nbytes > HELD_NBYTES:
                self._wait_output()
                if self._held:
                    self._ship()
            return
        if last > k + 1:  # something does not fit: to each its own, or one of them is at fault
            self._place_each(start, stop, kind, columns)
            return
        out = self._out or ()
        if kind is not self._kind or len(columns) != len(out):
            check_kind(kind, len(columns), self._kind, len(out), self._declared)
            if not self._declared:
                self._kind = kind  # the class itself, where only its name was known
        for column, target in zip(columns, out, strict=True):
            if self._declared:
                check_declared(column, target)
            else:
                check_shape(column.shape[1:], target.shape[1:])
                if not holds(target.dtype, column):
                    if self.job.dtypes is None:
                        promote(target.dtype, *dtypes_of(column))
                    self.port.results([(k, last, (kind, columns))])
                    return
        for j, (column, target) in enumerate(zip(columns, out, strict=True)):
            part = target[start:stop]
            self._make_ready(j, start, stop)
            if (
                isinstance(column, Mixed)
                or part.__array_interface__["data"][0] != column.__array_interface__["data"][0]
            ):
                put_column(part, column)
        self.port.mark(k, last)

    def _place_each(self, start: int, stop: int, kind: Any, columns: tuple[Any, ...]) -> None:
        """Place chunks that were gone through as one, one by one."""
        position = self.position
        for k, lo, hi in self._one_by_one(start, stop):
            if position.index >= 0:
                position.index = lo
            part = tuple([column[lo - start : hi - start] for column in columns])
            self._place(k, k + 1, lo, hi, kind, part)

    def _pour(self, j: int, part: Array, start: int) -> bool:
        way = self._ways[j] if self._ways else None
        return way is not None and way.pour(part, start)

    def _make_ready(self, j: int, start: int, stop: int) -> None:
        way = self._ways[j] if self._ways else None
        if way is not None:
            way.make_ready(start, stop)

    def _place_held(self) -> None:
        held, self._held, self._held_nbytes = self._held, [], 0
        position = self.position
        before = position.start, position.stop, position.index
        for k, last, (kind, columns) in held:
            position.start, position.stop = k * self._size, min(last * self._size, self._n)
            position.index = -1
            self._place(k, last, position.start, position.stop, kind, columns)
        position.start, position.stop, position.index = before

    def _wait_output(self) -> None:
        output = self.port.wait_output()
        if output is not None:
            self._kind, self._out, self._ways = output
            self._place_held()

    def _ship(self) -> None:
        held, nbytes = self._held, self._held_nbytes
        self._held, self._held_nbytes = [], 0
        self.port.results(_merged(held) if nbytes <= SHIP_NBYTES else held)

    def flush(self) -> None:
        """Between draws: hand over what has been kept for long."""
        if self._held and time.monotonic() - self._held_since > HELD_S:
            self._learn_output()
            if self._held and self._held_nbytes <= SHIP_NBYTES:
                self._ship()

    def finish(self) -> None:
        """No tickets are left: everything has to go."""
        if self._held:
            self._learn_output()
        if self._held:
            if self._held_nbytes > SHIP_NBYTES:
                self._wait_output()
            if self._held:
                self._ship()

    def reset(self) -> None:
        """Make ready for another call of the same map; only what was declared is known then."""
        self._held.clear()
        self._held_nbytes = 0
        self._in_place = None
        self.position.items = ()
        if not self._declared:
            self._kind, self._out, self._ways = "unknown", None, ()
