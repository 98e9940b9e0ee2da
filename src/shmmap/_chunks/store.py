"""Results that go into arrays that are not in memory, a block per chunk.

Each block is put together in memory of its own, and then written by whoever made it or handed over to the
caller, who alone may write into some files: `Job.store` says which. The outputs are known from the start.
"""

from __future__ import annotations

from typing import Any

from .columns import Column, Kind, as_array, check_declared, check_kind
from .fill import FillKernel
from .job import Job
from .kernel import Function, Kernel, Reporter

# What may be handed over and not written yet, where the caller writes: less, and workers wait although the
# caller could write on; more only takes memory. A chunk larger than this goes alone.
HAND_NBYTES = 1 << 23


class StoreKernel(FillKernel):
    """Results go into arrays that are not in memory, a block per chunk."""

    def __init__(
        self, job: Job, func: Function, reporter: Reporter, clock: memoryview | None = None
    ) -> None:
        super().__init__(job, func, reporter, clock)
        self._targets: tuple[Any, ...] = ()
        self._declared = False  # blocks are put together in memory of their own

    def bind(self, job: Job) -> None:
        super().bind(job)
        self._targets, self._out = job.out or (), None

    def unbind(self) -> None:
        super().unbind()
        self._targets = ()

    def reset(self) -> None:
        """See `FillKernel`; the kind stays what it is."""
        Kernel.reset(self)

    def _place(
        self, k: int, last: int, start: int, stop: int, kind: Kind, columns: tuple[Column, ...]
    ) -> None:
        check_kind(kind, len(columns), self._kind, len(self._targets), declared=True)
        for column, target in zip(columns, self._targets, strict=True):
            check_declared(column, target)
        if self.job.store == "hand":
            self.reporter.wait_taken(HAND_NBYTES)
            self.reporter.results([(k, last, (kind, columns))])
            return
        for column, target in zip(columns, self._targets, strict=True):
            target[start:stop] = as_array(column)
        self.reporter.mark(k, last)
