"""numba: the same work compiled, on threads; the limit for who can compile."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import njit, prange

from harness import work
from harness.peers.base import Peer
from harness.work import Array


@njit(parallel=True)
def _touch(x: Array, parts: int) -> None:
    for part in prange(parts):
        for i in range(part * len(x) // parts, (part + 1) * len(x) // parts):
            x[i] = numba.get_thread_id() + 1


@njit(parallel=True, fastmath=True)
def _row_norms(x: Array, y: Array) -> None:
    for i in prange(x.shape[0]):
        total = 0.0
        for j in range(x.shape[1]):
            total += x[i, j] * x[i, j]
        y[i] = total


@njit(parallel=True)
def _polish(x: Array, y: Array) -> None:
    for i in prange(x.shape[0]):
        y[i] = math.sqrt(x[i]) * 2 + 1


@njit(parallel=True)
def _half(x: Array, y: Array) -> None:
    for i in prange(x.shape[0]):
        y[i] = x[i] * 0.5


@njit(parallel=True)
def _python_row(x: Array, y: Array) -> None:
    for i in prange(x.shape[0]):
        total = 0.0
        for j in range(x.shape[1]):
            if x[i, j] > 0.5:
                total += x[i, j] * x[i, j]
            else:
                total -= x[i, j]
        y[i] = total


KERNELS: dict[Callable[..., Any], Callable[..., None]] = {
    work.row_norms: _row_norms,
    work.polish: _polish,
    work.half: _half,
    work.python_row: _python_row,
}


class Numba(Peer):
    """A kernel per function; those without one (an FFT, a loop it would elide) are left out."""

    def open(self) -> None:
        """Set the number of threads; the first call compiles."""
        numba.set_num_threads(self.workers)
        self.place_data()
        if self.work.verb in ("rows", "blocks"):
            if self.work.func not in KERNELS:
                raise NotImplementedError(f"no kernel for {self.work.func.__name__}")
            self.kernel = KERNELS[self.work.func]

    def touch(self) -> Array:
        """A parallel loop with one iteration per thread."""
        _touch(self.x, self.workers)
        return self.x

    def rows(self) -> Array:
        """The whole loop is compiled."""
        return self.blocks()

    def blocks(self) -> Array:
        """The whole loop is compiled."""
        y = self.result_array()
        self.kernel(self.x, y)
        return np.asarray(y)


PEERS = {"numba": Numba}
