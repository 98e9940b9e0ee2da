"""The history of the library's own costs, kept by airspeed velocity (asv).

``against.py``, one folder up, compares with peers; here the library is compared with its past, so
each benchmark isolates one cost. Data are seeded and the sizes small: a regression shows in a
ratio, not in gigabytes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

import shmmap

# asv imports this package by a finder of its own; workers import it as everybody does, by sys.path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

WORKERS = min(4, len(os.sched_getaffinity(0)))


def shared_random(*shape: int) -> np.ndarray[Any, Any]:
    """A seeded array in shared memory."""
    x = shmmap.empty(shape)
    np.random.default_rng(2024).random(out=x)
    return x


class Warm:
    """A benchmark on a default team that is already running."""

    def setup(self, *_: Any) -> None:
        """Start the team before the clock does."""
        shmmap.pmap_ranges(nothing_range, WORKERS, chunksize=1, workers=WORKERS)

    def teardown(self, *_: Any) -> None:
        """Leave nothing behind."""
        shmmap.shutdown()


def nothing_range(start: int, stop: int) -> None:
    """Do nothing with a range."""


def nothing(value: float) -> None:
    """Do nothing with an item."""


def half(value: float) -> float:
    """Do next to nothing with an item."""
    return value * 0.5


def polish(chunk: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A little vectorised arithmetic."""
    return np.sqrt(chunk) * 2 + 1


def burn(steps: float) -> float:
    """Cost in proportion to the item's value; holds the GIL."""
    total = 0.0
    for step in range(int(steps)):
        total += step * 0.5
    return total
