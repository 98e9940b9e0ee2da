"""dask: arrays for blocks, bags for rows, on the local schedulers."""

from __future__ import annotations

from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor

import dask
import dask.array
import dask.bag
import numpy as np

from harness.peers.base import Peer, split, stacked
from harness.work import Array


class Dask(Peer):
    """A pool of our own, so that it stays warm."""

    block_nbytes = 16 << 20
    most = 50_000

    def open(self) -> None:
        """Wrap the array; nothing moves until a computation."""
        self.place_data()
        pool: Executor
        if self.name == "dask-threads":
            self.scheduler, pool = "threads", ThreadPoolExecutor(self.workers)
        else:
            self.scheduler, pool = "processes", ProcessPoolExecutor(self.workers)
        self.pool = pool
        self.settings = dask.config.set(
            scheduler=self.scheduler, pool=pool, num_workers=self.workers
        )
        self.settings.__enter__()

    def close(self) -> None:
        """End the pool."""
        super().close()
        self.settings.__exit__(None, None, None)
        self.pool.shutdown()

    def rows(self) -> Array | None:
        """A bag of rows, in partitions."""
        bag = dask.bag.from_sequence(list(self.x), npartitions=8 * self.workers)
        return stacked(bag.map(self.work.func).compute())

    def blocks(self) -> Array:
        """A block per task."""
        size = self.block_ranges()[0][1]
        chunks = tuple(stop - start for start, stop in split(self.n, size))
        x = dask.array.from_array(self.x, chunks=(chunks, *self.shape[1:]))
        gone = list(range(1, self.x.ndim)) if self.work.result[0] != self.shape else None
        lazy = x.map_blocks(self.work.func, drop_axis=gone, dtype="f8")
        if self.y is None:
            result: Array = lazy.compute()
            return result
        if self.scheduler == "threads":
            dask.array.store(lazy, self.y, lock=False)
        else:
            np.copyto(self.y, lazy.compute())
        return self.y


PEERS = {"dask-threads": Dask, "dask-processes": Dask}
