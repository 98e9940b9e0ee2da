"""Results that are rows or blocks of arrays: what the function returned, as columns, which `placing` places.

Results depend on the plan alone: neither on who ran which chunk, nor on how many were gone through as one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

import numpy as np

from .._interop.numpy_types import Array
from .._memory import POUR_NBYTES
from .._wire import CHUNK
from .columns import (
    NUMBERS,
    Column,
    Kind,
    Mixed,
    as_column,
    check_axis,
    check_declared,
    check_kind,
    check_shape,
    exact_types,
    holds,
    is_just,
    is_number,
    promote,
    split_result,
    stack_items,
    uniform_column,
)
from .job import Form, Job, form_of
from .kernel import (
    AS_A_WHOLE,
    FAILED_ITEM,
    MISSING,
    TAKEN_LAST,
    Function,
    Reporter,
    Seat,
    stop_iteration,
)
from .ledger import Mark
from .placing import PlacingKernel
from .told import may_be_told, may_tell

_DONE = int(Mark.DONE)
_PLAIN_FORMATS = "?bhilqBHILQfd"
"""Of numbers into which a `memoryview` stores."""
# A chunk 0 that is going to take longer tells the form of its first result before the others are there.
FORM_S = 2e-4


class FillKernel(PlacingKernel):
    """Results are rows or blocks, written into the output; kept until it is known."""

    def __init__(
        self, job: Job, func: Function, reporter: Reporter, clock: memoryview | None = None
    ) -> None:
        super().__init__(job, func, reporter, clock)
        self._may_tell = self._is_direct and may_tell(job, self.func)
        self._tells = False
        """The function is told where its result goes, see `told`."""

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
        part = self._part_to_tell(start, stop) if self._tells else None
        if part is None:
            result = self.call_chunk(k, start, stop)
        else:
            result = self.func(*[cut(k, start, stop) for cut in self._slicers], out=part)
            if result is part:
                self.reporter.mark(k, last)
                return
        if self.job.axis == 0 and self._put(k, last, start, stop, result):
            if (
                self._may_tell and self._out is not None
            ):  # its results are just what the output takes
                self._tells = may_be_told(self.job, self.func, self._out[0])
        else:
            self._place(k, last, start, stop, *self._block(result, start, stop))

    def _part_to_tell(self, start: int, stop: int) -> Array | None:
        """The part of the output that the function is to write into; None where it is better poured."""
        assert self._out is not None
        writer = self._writers[0] if self._writers else None
        if writer is not None and writer.is_fresh(start, stop):
            return None
        self._make_ready(0, start, stop)
        return self._out[0][start:stop]

    def reset(self) -> None:
        super().reset()
        self._tells = self._tells and self._declared

    def run_singles(self, first: int, stop: int, seat: Seat) -> None:
        if self._kind == "unknown":
            self._learn_output()
        out, exact = self._cells_for_numbers(first, stop)
        slot, limit, ledger, role = seat
        args, func, k = self.arguments(first, first, stop), self.func, first
        position, is_sole = self.position, len(args) == 1
        position.start, position.stop, position.index = first, stop, TAKEN_LAST
        try:
            for item in args[0] if is_sole else zip(*args):  # noqa: B905 - some inputs repeat for ever
                if k > limit[0]:
                    return
                slot[CHUNK] = k + 1
                result = func(item) if is_sole else func(*item)
                if role.is_stray:
                    os._exit(0)
                if type(result) in exact:
                    try:
                        out[k] = result
                        ledger[k] = _DONE
                        k += 1
                        continue
                    except (OverflowError, ValueError):  # an int that takes another dtype
                        pass
                position.start = k
                self._place_items(k, k + 1, k, result, iter(()))
                position.index = TAKEN_LAST
                k += 1
        except StopIteration as exc:
            raise stop_iteration() from exc

    def _cells_for_numbers(self, start: int, stop: int) -> tuple[Any, frozenset[type]]:
        """What stores numbers into the output, and the types of those that stay the same there."""
        if self._kind != "array" or self._out is None or self._out[0].ndim != 1:
            return (), frozenset()
        self._make_ready(0, start, stop)
        out: Any = self._out[0]
        if out.dtype.char in _PLAIN_FORMATS and out.dtype.isnative and out.flags.aligned:
            out = memoryview(out)  # it takes a number in half the time
        return out, exact_types(self._out[0].dtype)

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
        self._place_items(start, stop, at, first, results)

    def _place_items(
        self, start: int, stop: int, at: int, first: Any, results: Iterator[Any]
    ) -> None:
        """Put where it belongs what the items of a range gave; `first` is what index `at` gave."""
        position = self.position
        k, last = start // self._size, -(-stop // self._size)
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
        now = time.perf_counter()
        form = Form(kind, tuple([(c.shape, c.dtype) for c in columns]))
        self.reporter.tell_form(form, (now - began) * count > FORM_S)
        self.aside_s = time.perf_counter() - now

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
        """Store arrays as they come; `first` is what index `at` gave.

        In one go as long as each is just what the output takes. From the chunk of one that is not, chunk by
        chunk: they may fit to those of other chunks or not, and not to each other.
        """
        position, lo, i = self.position, start, 0
        if self._stores_as_one():
            at, first = self._store_as_one(at, stop, first, results)
            lo = stop if at == stop else at - at % self._size
            if lo > start:
                self.reporter.mark(start // self._size, -(-lo // self._size))
            i = at - lo
        while lo < stop:
            hi = min(lo + self._size, stop)
            position.start, position.index = lo, TAKEN_LAST
            if first is MISSING:
                at, first = lo, next(results, MISSING)
                if first is MISSING:
                    raise stop_iteration()
            part = results if hi == stop else islice(results, hi - at - 1)
            if i:
                targets: list[Any] = [self._out[0][lo:hi]]  # type: ignore[index]
                kind, columns = self._rows("array", targets, i, chain((first,), part), lo, hi)
            else:
                kind, cells = split_result(first)
                targets = self._make_targets([as_column(cell) for cell in cells], at, lo, hi)
                kind, columns = self._rows(kind, targets, at - lo + 1, part, lo, hi)
            position.index = AS_A_WHOLE
            k = lo // self._size
            self._place(k, k + 1, lo, hi, kind, columns)
            lo, i, first = hi, 0, MISSING

    def _stores_as_one(self) -> bool:
        """Whether the output is known, and is one array into which items can be stored one by one."""
        if self._kind != "array" or self._out is None:
            return False
        writer = self._writers[0] if self._writers else None
        return writer is None or writer.stride < POUR_NBYTES

    def _store_as_one(
        self, at: int, stop: int, first: Any, results: Iterator[Any]
    ) -> tuple[int, Any]:
        """Store arrays from index `at` on, `first` among them, while each is just what the output takes.

        Returns the index of one that is not, and what it gave; or `stop`, if all of them are.
        """
        out = self._out[0]  # type: ignore[index]
        dtype, shape = out.dtype, out.shape[1:]
        if not is_just(first, dtype, shape):
            return at, first
        self._make_ready(0, at, stop)
        out[at] = first
        at += 1
        if at == stop:
            return at, MISSING
        is_plain, func = self._is_plain, self.func  # see there
        try:
            for item in self.position.items if is_plain else results:
                result = func(item) if is_plain else item
                if (
                    type(result) is not np.ndarray
                    or result.dtype is not dtype
                    or result.shape != shape
                ):
                    if not is_just(result, dtype, shape):
                        return at, result
                out[at] = result
                at += 1
        except StopIteration as exc:
            raise stop_iteration() from exc
        if at < stop:
            raise stop_iteration()
        return at, MISSING

    def _rows(
        self, kind: Kind, targets: list[Any], i: int, results: Iterable[Any], start: int, stop: int
    ) -> tuple[Kind, tuple[Column, ...]]:
        """Columns of a chunk whose items are stored as they come, the first `i` of which are there."""
        width = len(targets)
        is_in_place = bool(targets) and targets[0].base is not None
        writer = self._writers[0] if self._writers and is_in_place else None
        if writer is not None and writer.stride < POUR_NBYTES:
            writer = None  # its items are too small, each by itself
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
            if target is not None and a.shape == target.shape[1:] and self._holds(target, a):
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
