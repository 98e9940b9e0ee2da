"""Items whose results are arrays, or tuples of them: they are stored as they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

import numpy as np

from .._interop.numpy_types import Array
from .._memory import POUR_NBYTES
from .columns import (
    Column,
    Kind,
    Mixed,
    as_column,
    check_declared,
    check_kind,
    check_shape,
    holds,
    is_just,
    memory_of,
    promote,
    split_result,
)
from .kernel import AS_A_WHOLE, FAILED_ITEM, MISSING, TAKEN_LAST, stop_iteration
from .placing import PlacingKernel


class RowsKernel(PlacingKernel):
    """Results of items are arrays, or tuples of them."""

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
        if at + 1 == stop:
            return stop, MISSING
        # Rows of numbers are stored through a `memoryview`, which takes no others, and half the time.
        flat: Any = memory_of(out) if len(shape) == 1 else None
        stored_flat = None if flat is None else np.ndarray
        width = 1 if flat is None else shape[0]
        lo, hi = (at + 1) * width, (at + 2) * width
        is_plain, func = self._is_plain, self.func  # see there
        try:
            for item in self.position.items if is_plain else results:
                result = func(item) if is_plain else item
                if type(result) is stored_flat:
                    try:
                        flat[lo:hi] = result
                        lo = hi
                        hi += width
                        continue
                    except (ValueError, NotImplementedError):  # another kind of row, or said to be
                        pass
                if not is_just(result, dtype, shape):
                    return lo // width, result
                out[lo // width] = result
                lo = hi
                hi += width
        except StopIteration as exc:
            raise stop_iteration() from exc
        if lo < stop * width:
            raise stop_iteration()
        return stop, MISSING

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
