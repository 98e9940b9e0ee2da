"""MPIRE: ``shared_objects``, forked, and its own chunking."""

from __future__ import annotations

import multiprocessing
from typing import Any

import mpire
import numpy as np

from harness.peers.base import Peer, stacked
from harness.work import Array

Shared = tuple[Any, Array, Array | None]


class Mpire(Peer):
    """Workers inherit the input; they write into place where an output is reused."""

    block_nbytes = 16 << 20
    most = 50_000

    def open(self) -> None:
        """Fork on the first map."""
        self.place_data()
        shared: Shared = (self.work.func, self.x, self.y)
        self.pool = mpire.WorkerPool(
            self.workers, start_method="fork", shared_objects=shared, keep_alive=True
        )

    def close(self) -> None:
        """Stop and join."""
        super().close()
        self.pool.stop_and_join()

    def allocate(self, shape: tuple[int, ...], dtype: str) -> Array:
        """A shared array of the standard library, as the documentation has it."""
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer(multiprocessing.RawArray("b", nbytes), dtype).reshape(shape)

    def touch(self) -> Array:
        """One task per worker."""
        self.pool.map(_touch, self.parts(), chunk_size=1)
        return self.x

    def ranges(self) -> None:
        """A task per index, in the default chunks."""
        self.pool.map(_range, ((start, start + 1) for start in range(self.n)), iterable_len=self.n)

    def rows(self) -> Array | None:
        """A task per index, in the default chunks."""
        return stacked(self.pool.map(_row, range(self.n), concatenate_numpy_output=False))

    def blocks(self) -> Array:
        """A task per block."""
        pairs = self.block_ranges()
        if self.y is not None:
            self.pool.map(_fill, pairs, chunk_size=1)
            return self.y
        result: Array = self.pool.map(_block, pairs, chunk_size=1)  # concatenated by MPIRE
        return result


def _touch(shared: Shared, start: int, stop: int) -> None:
    shared[0](shared[1][start:stop])


def _range(shared: Shared, start: int, stop: int) -> None:
    shared[0](start, stop)


def _row(shared: Shared, index: int) -> Any:
    return shared[0](shared[1][index])


def _block(shared: Shared, start: int, stop: int) -> Array:
    result: Array = shared[0](shared[1][start:stop])
    return result


def _fill(shared: Shared, start: int, stop: int) -> None:
    assert shared[2] is not None
    shared[2][start:stop] = shared[0](shared[1][start:stop])


PEERS = {"mpire": Mpire}
