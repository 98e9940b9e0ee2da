"""Where the columns of a chunk go: into the output, once it is known, if it takes them as they are.

The output is declared, or made from the form of index 0's result. Until it is known, results of other
chunks are kept (`held`); then all are written straight to where they belong, and their chunks marked as
done after that. What the output is too narrow for goes to the collector as a piece, in a wider dtype.

An output may be made before anything is known of the results, as those of a call like this one were. Into
such a *guess* goes what is just of its dtype and shape; all else is handed over. So if nothing was placed in
it, the collector drops it, and the results are what they would be without it.

What several chunks have as one is placed as one if it fits as it is; else each chunk is dealt with by
itself. And should a result not fit, `position` tells which index or chunk it came from.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._interop.numpy_types import Array
from .._memory import PageWriter
from .columns import (
    Column,
    Kind,
    Mixed,
    begins_at,
    check_declared,
    check_kind,
    check_shape,
    dtypes_of,
    holds,
    promote,
    put_column,
)
from .held import Held
from .job import Job
from .kernel import AS_A_WHOLE, Destination, Function, Kernel, Reporter


class PlacingKernel(Kernel):
    """Results are columns, written into the output; kept until it is known."""

    def __init__(
        self, job: Job, func: Function, reporter: Reporter, clock: memoryview | None = None
    ) -> None:
        super().__init__(job, func, reporter, clock)
        self._declared = job.out is not None
        self._kind: Kind = "unknown"
        self._out: tuple[Array, ...] | None = None
        self._writers: tuple[PageWriter | None, ...] = ()
        """Page writers of the outputs, one for each; empty if none of them is large."""
        self._is_guess = False
        self._in_place: Array | None = None
        """The part of the output that `_rows` has just filled."""
        self._held = Held()

    def bind(self, job: Job) -> None:
        super().bind(job)
        if job.out is not None:
            self._kind = "array" if len(job.out) == 1 else tuple
            self._out = job.out
            if not job.store:  # else they are not in memory
                self._writers = self.reporter.page_writers(job.out)

    def unbind(self) -> None:
        super().unbind()
        self._out, self._writers = None, ()

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
        if kind is None and (self._kind == "unknown" or self._is_guess):
            self.reporter.mark(k, last, nothing=True)  # whether that fits is told by the ledger
            return
        if self._kind == "unknown":
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
        if self._is_guess:
            return (
                kind is self._kind
                and len(columns) == len(out)
                and all(
                    column.shape[1:] == target.shape[1:] and self._holds(target, column)
                    for column, target in zip(columns, out, strict=True)
                )
            )
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

    def _holds(self, target: Array, column: Column) -> bool:
        """Whether an output takes a column; a guessed one takes what is just as it is, and nothing else."""
        if self._is_guess:
            return not isinstance(column, Mixed) and column.dtype == target.dtype
        return holds(target.dtype, column)

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
        self._kind, self._out, self._writers, self._is_guess = output
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
        if not self._held:
            return
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
            self._kind, self._out, self._writers, self._is_guess = "unknown", None, (), False
