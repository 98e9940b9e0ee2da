"""The engine of threads in the caller's process."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

import shmmap

from .suite import RangesSuite


class TestThreads(RangesSuite):
    """The engine of threads."""

    name = "threads"

    def test_workers_run_at_the_same_time(self, pmap: Any) -> None:
        together = threading.Barrier(2)

        def meet(i: Any) -> None:
            together.wait(10)

        assert pmap(meet, np.arange(2), chunksize=1) is None

    def test_no_thread_stays(self, pmap: Any) -> None:
        before = threading.active_count()
        pmap(lambda i: i, np.arange(100), chunksize=1)
        assert threading.active_count() <= before


def test_no_thread_waits_for_an_output_that_index_0_is_not_going_to_tell() -> None:
    has_failed = threading.Event()

    def large(i: int) -> np.ndarray:
        if i == 0:
            has_failed.set()
            raise ArithmeticError
        has_failed.wait()
        return np.ones(1 << 17)  # more than is handed over without knowing where it belongs

    def stand_in(exc: Exception, start: int, stop: int) -> np.ndarray:
        return np.zeros((stop - start, 1 << 17))

    options: dict[str, Any] = {"chunksize": 1, "workers": 2, "engine": "threads"}
    result = shmmap.pmap(large, np.arange(2), on_error=stand_in, **options)
    assert result.sum() == 1 << 17
