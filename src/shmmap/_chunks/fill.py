"""Results that are rows or blocks of arrays, written into the output.

The output is declared, or made from the form of index 0's result. Until it is known, results of other
chunks are kept (`held`); then all are written straight to where they belong, and their chunks marked as
done after that. What the output is too narrow for goes to the collector as a piece, in a wider dtype.

Results depend on the plan alone: neither on who ran which chunk, nor on how many were gone through as one.
What several chunks have as one is placed as one if it fits as it is; else each chunk is dealt with by
itself. And should a result not fit, `position` tells which index or chunk it came from.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from .._interop.numpy_types import Array
from .._memory import POUR_NBYTES, PageWriter
from .columns import (
    NUMBERS,
    Column,
    Kind,
    Mixed,
    as_column,
    begins_at,
    check_axis,
    check_declared,
    check_kind,
    check_shape,
    dtypes_of,
    holds,
    is_number,
    promote,
    put_column,
    split_result,
    stack_items,
    uniform_column,
)
from .held import Held
from .job import Form, Job, form_of
from .kernel import (
    AS_A_WHOLE,
    FAILED_ITEM,
    MISSING,
    TAKEN_LAST,
    Destination,
    Function,
    Kernel,
    Reporter,
    stop_iteration,
)

# A chunk 0 that is going to take longer tells the form of its first result before the others are there.
FORM_S = 2e-4


class FillKernel(Kernel):
    """Results are rows or blocks, written into the output; kept until it is known."""

    def __init__(
        self, job: Job, func: Function, reporter: Reporter, clock: memoryview | None = None
    ) -> None:
        super().__init__(job, func, reporter, clock)
        self._declared = job.out is not None
        self._kind: Kind = "unknown"
        self._out: tuple[Array, ...] | None = None
        self._writers: tuple[PageWriter | None, ...] = ()
        """Page writers of the outputs, one for each; empty if none of them is large."""
        if job.out is not None:
            self._kind = "array" if len(job.out) == 1 else tuple
            self._out = job.out
            if not job.store:  # else they are not in memory
                self._writers = reporter.page_writers(job.out)
        self._in_place: Array | None = None
        """The part of the output that `_rows` has just filled."""
        self._held = Held()

    def run(self, k: int, last: int) -> None:
        start = k * self._size
        stop = min(last * self._size, self._n)
        position = self.position
        position.start, position.stop, position.index = start, stop, AS_A_WHOLE
        if self._has_items:
            if self._kind == "unknown":
                self._learn_output()  # so that items are stored where they belong as they come
            self._run_items(k, last, start, stop)
            return
        result = self.call_chunk(k, start, stop)
        if self.job.axis != 0 or not self._put(k, last, start, stop, result):
            self._place(k, last, start, stop, *self._block(result, start, stop))

    # ------------------------------------------------ what was returned, as columns

    def _run_items(self, k: int, last: int, start: int, stop: int) -> None:
        position = self.position
        position.index = TAKEN_LAST
        began = time.perf_counter()
        results = self.iterate(k, start, stop)
        at, first = start, next(results, MISSING)
        while first is FAILED_ITEM:
            at += 1
            if at == stop:  # each of them was reported by itself
                position.index = AS_A_WHOLE
                self.reporter.mark(k, last)
                return
            first = next(results)
        if first is MISSING:
            raise stop_iteration()
        if start == 0 and self._kind == "unknown":
            self._tell_form(first, began, stop)
        if first is None:
            if at + 1 < stop:
                self._check_nothing(results, at, stop)
            position.index = AS_A_WHOLE
            self._place(k, last, start, stop, None, ())
        elif (type(first) in NUMBERS or is_number(first)) and not self.job.keep_going:
            values = self.all_of(first, results, stop - start)
            position.index = AS_A_WHOLE
            column = uniform_column(values)
            if column is not None:
                self._place(k, last, start, stop, "array", (column,))
            else:
                self._place_mixed(start, stop, values)
        else:
            self._place_rows(start, stop, at, first, results)

    def _tell_form(self, first: Any, began: float, count: int) -> None:
        """Tell the form of index 0's result, the first of so many."""
        kind, cells = split_result(first)
        columns = [as_column(cell) for cell in cells]
        left = (time.perf_counter() - began) * count
        form = Form(kind, tuple((c.shape, c.dtype) for c in columns))
        self.reporter.tell_form(form, left > FORM_S)

    def _check_nothing(self, results: Iterator[Any], at: int, stop: int) -> None:
        """Refuse results up to `stop` that are something, after that of index `at`, which is None."""
        if self._is_plain:  # see there
            func = self.func
            try:
                for item in self.position.items:
                    result = func(item)
                    if result is not None:
                        check_kind(split_result(result)[0], 1, None, 1)
            except StopIteration as exc:
                raise stop_iteration() from exc
            return
        for index, result in enumerate(self.all_of(None, results, stop - at), at):
            if result is not None and result is not FAILED_ITEM:
                self.position.index = index
                check_kind(split_result(result)[0], 1, None, 1)

    def _place_mixed(self, start: int, stop: int, values: list[Any]) -> None:
        """Put numbers or strings of several dtypes where they belong, chunk by chunk.

        What these become together depends on their order and number: on nothing but the plan.
        """
        for k, lo, hi in self._one_by_one(start, stop):
            part = values[lo - start : hi - start]
            column: Column | None = uniform_column(part) if len(part) < len(values) else None
            if column is None:
                column = self._mixed_column(part, lo)
            self.position.index = AS_A_WHOLE
            self._place(k, k + 1, lo, hi, "array", (column,))

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

    def _place_rows(
        self, start: int, stop: int, at: int, first: Any, results: Iterator[Any]
    ) -> None:
        """Store arrays as they come, chunk by chunk; `first` is what index `at` gave.

        They may fit to those of other chunks or not, and not to each other.
        """
        position = self.position
        for lo in range(start, stop, self._size):
            hi = min(lo + self._size, stop)
            position.start, position.index = lo, TAKEN_LAST
            if lo > start:
                at, first = lo, next(results, MISSING)
                if first is MISSING:
                    raise stop_iteration()
            part = results if hi == stop else islice(results, hi - at - 1)
            kind, columns = self._rows(first, part, at, lo, hi)
            position.index = AS_A_WHOLE
            k = lo // self._size
            self._place(k, k + 1, lo, hi, kind, columns)

    def _rows(
        self, first: Any, results: Iterable[Any], at: int, start: int, stop: int
    ) -> tuple[Kind, tuple[Column, ...]]:
        """Columns of a chunk whose items are stored as they come, beginning with what index `at` gave."""
        kind, cells = split_result(first)
        targets = self._make_targets([as_column(cell) for cell in cells], at, start, stop)
        width = len(targets)
        is_in_place = bool(targets) and targets[0].base is not None
        writer = self._writers[0] if self._writers and is_in_place else None
        if writer is not None and writer.stride < POUR_NBYTES:
            writer = None  # its items are too small, each by itself
        i = at - start + 1
        for result in results:
            if kind == "array" and type(result) is np.ndarray:
                target = targets[0]
                if result.dtype == target.dtype and result.shape == target.shape[1:]:
                    if writer is None or not writer.pour(result, start + i):
                        target[i] = result
                    i += 1
                    continue
            if result is not FAILED_ITEM:
                its_kind, its_cells = split_result(result)
                check_kind(its_kind, len(its_cells), kind, width)
                for j, cell in enumerate(its_cells):
                    self._store(targets, j, i, as_column(cell))
            i += 1
        if i < stop - start:
            raise stop_iteration()
        self._in_place = targets[0] if targets and targets[0].base is not None else None
        return kind, tuple(targets)

    def _make_targets(self, firsts: list[Array], at: int, start: int, stop: int) -> list[Any]:
        """Where the items of a chunk are stored, with the first one: the output, if it takes them."""
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
        return targets

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

    def _block(self, result: Any, start: int, stop: int) -> tuple[Kind, tuple[Array, ...]]:
        """Columns of a chunk from the one result of a vectorised function."""
        kind, cells = split_result(result)
        axis, length = self.job.axis, stop - start
        columns = []
        for cell in cells:
            a = as_column(cell)
            check_axis(a.shape, axis, length, self.job.ndims)
            columns.append(a if axis == 0 else np.moveaxis(a, axis, 0))
        if start == 0 and self._kind == "unknown":
            self.reporter.tell_form(form_of(kind, tuple(columns)), False)
        return kind, tuple(columns)

    # ------------------------------------------------ into the output

    def _put(self, k: int, last: int, start: int, stop: int, result: Any) -> bool:
        """Put one array, axis first, into the output if it is just what is taken there: mostly it is.

        What `_block` and `_place` find out about any result costs as much as all else that a chunk does.
        """
        if type(result) is not np.ndarray or self._out is None or self._kind != "array":
            return False
        part = self._out[0][start:stop]
        if result.shape != part.shape or result.dtype != part.dtype:
            return False
        if result is not self._in_place and not (self._writers and self._pour(0, result, start)):
            part[...] = result
        self.reporter.mark(k, last)
        return True

    def _place(
        self, k: int, last: int, start: int, stop: int, kind: Kind, columns: tuple[Column, ...]
    ) -> None:
        """Put columns of chunks ``[k, last)`` into the output, or keep them until it is known."""
        if self._kind == "unknown" and kind is not None:
            self._learn_output()
        if kind == "array" and self._put(k, last, start, stop, columns[0]):
            return
        if self._kind == "unknown":
            if kind is None:
                self.reporter.mark(k, last, nothing=True)  # whether that fits is told by the ledger
                return
            self._held.add(k, last, kind, columns)
            if self._held.is_full():
                self._set_output(self.reporter.wait_output())
                if self._held:
                    self.reporter.results(self._held.take())
            return
        if last == k + 1:
            if self._takes(kind, columns):
                self._fill(start, stop, columns)
                self.reporter.mark(k, last)
            else:
                self.reporter.results([(k, last, (kind, columns))])
            return
        # Something does not fit: each chunk by itself, or a chunk that does would seem to be at fault.
        for each, lo, hi in self._one_by_one(start, stop):
            part: Any = tuple([column[lo - start : hi - start] for column in columns])  # type: ignore[index]
            self._place(each, each + 1, lo, hi, kind, part)

    def _takes(self, kind: Kind, columns: tuple[Column, ...]) -> bool:
        """Whether the output holds a chunk's columns; False if they are to go to the collector as a piece."""
        out = self._out or ()
        if kind is not self._kind or len(columns) != len(out):
            check_kind(kind, len(columns), self._kind, len(out), self._declared)
            if not self._declared:
                self._kind = kind  # the class itself, where only its name was known
        for column, target in zip(columns, out, strict=True):
            if self._declared:
                check_declared(column, target)
                continue
            check_shape(column.shape[1:], target.shape[1:])
            if not holds(target.dtype, column):
                if self.job.dtypes is None:
                    promote(target.dtype, *dtypes_of(column))
                return False
        return True

    def _fill(self, start: int, stop: int, columns: tuple[Column, ...]) -> None:
        """Write columns where they belong, but for those that are there already."""
        for j, (column, target) in enumerate(zip(columns, self._out or (), strict=True)):
            part = target[start:stop]
            self._make_ready(j, start, stop)
            if isinstance(column, Mixed) or not begins_at(part, column):
                put_column(part, column)

    def _pour(self, j: int, part: Array, start: int) -> bool:
        writer = self._writers[j] if self._writers else None
        return writer is not None and writer.pour(part, start)

    def _make_ready(self, j: int, start: int, stop: int) -> None:
        writer = self._writers[j] if self._writers else None
        if writer is not None:
            writer.make_ready(start, stop)

    # ------------------------------------------------ while the output is not known

    def _learn_output(self) -> None:
        self._set_output(self.reporter.poll_output())

    def _set_output(self, output: Destination | None) -> None:
        """The output is known now, unless it is None: what has been kept goes where it belongs."""
        if output is None:
            return
        self._kind, self._out, self._writers = output
        position = self.position
        before = position.start, position.stop, position.index
        for k, last, (kind, columns) in self._held.take():
            position.start, position.stop = k * self._size, min(last * self._size, self._n)
            position.index = AS_A_WHOLE
            self._place(k, last, position.start, position.stop, kind, columns)
        position.start, position.stop, position.index = before

    def flush(self) -> None:
        """Between draws: hand over what has been kept for long."""
        if self._held.is_old():
            self._learn_output()
            if self._held and self._held.is_small():
                self.reporter.results(self._held.take_merged())

    def finish(self) -> None:
        if self._held:
            self._learn_output()
        if self._held and not self._held.is_small():
            self._set_output(self.reporter.wait_output())
        if self._held:
            self.reporter.results(self._held.take_merged())

    def reset(self) -> None:
        super().reset()
        self._held.take()
        self._in_place = None
        if not self._declared:
            self._kind, self._out, self._writers = "unknown", None, ()
