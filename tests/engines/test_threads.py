"""The engine of threads in the caller's process."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

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
