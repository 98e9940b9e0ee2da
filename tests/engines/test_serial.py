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
