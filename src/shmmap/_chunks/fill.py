"""Results that are rows or blocks of arrays: what the function returned, as columns, which `placing` places.

Results depend on the plan alone: neither on who ran which chunk, nor on how many were gone through as one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from .._interop.numpy_types import Array
from .._wire import CHUNK
from .columns import (
    NUMBERS,
    Column,
    Kind,
    as_column,
    check_axis,
    check_kind,
    check_shape,
    exact_types,
    is_number,
    memory_of,
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
from .rows import RowsKernel
from .told import may_be_told, may_tell

_DONE = int(Mark.DONE)
# A chunk 0 that is going to take longer tells the form of its first result before the others are there.
FORM_S = 2e-4


class FillKernel(RowsKernel):
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
        if self._kind == "unknown":
            self._learn_output()  # so that results go where they belong at once, and no form is told
        if self._has_items:
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
        out = self._out[0]
        exact = exact_types(out.dtype)
        if (
            out.dtype.char == "f"
        ):  # a memoryview stores it by way of a double: not each NaN stays the same
            return out, exact
        return memory_of(out) or out, exact

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
