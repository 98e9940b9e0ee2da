"""The serial engine: a loop in the caller."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from .suite import RangesSuite


class TestSerial(RangesSuite):
    """The serial engine."""

    name = "serial"

    def test_runs_in_the_callers_thread_in_order(self, pmap: Any) -> None:
        seen: list[tuple[int, str]] = []
        pmap(lambda i: seen.append((int(i), threading.current_thread().name)), np.arange(5))
        assert seen == [(i, threading.current_thread().name) for i in range(5)]

    def test_results_that_nobody_else_has_are_not_copied(self, pmap_chunks: Any) -> None:
        made: list[int] = []

        def make(chunk: Any) -> Any:
            array = np.full((8, 8), chunk[0])
            made.append(array.ctypes.data)
            return (array.T, array) if chunk[0] % 2 else array.reshape(-1)

        results = pmap_chunks(make, np.arange(4), chunksize=1, out=list)
        even, odd = results[::2], [both[0] for both in results[1::2]]
        assert [a.ctypes.data for a in even] == made[::2]
        assert all(a.ctypes.data != first for a, first in zip(odd, made[1::2], strict=True))
