"""Ray: ``ray.put`` once, tasks over index ranges, results by value."""

from __future__ import annotations

from typing import Any

import numpy as np
import ray

from harness.peers.base import Peer, stacked
from harness.work import Array


class Ray(Peer):
    """A local cluster of one node."""

    block_nbytes = 16 << 20
    most = 5_000

    def open(self) -> None:
        """Start Ray and put the input into its store."""
        store = 2 * (self.work.input_nbytes + 2 * self.work.result_nbytes) + (256 << 20)
        ray.init(
            num_cpus=self.workers,
            object_store_memory=store,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
        )
        self.place_data()
        self.stored = ray.put(self.x)
        func = self.work.func
        self.task = ray.remote(func)
        self.touched = ray.remote(lambda x, pair: _stamped(func, x[slice(*pair)]))
        self.block = ray.remote(lambda x, pair: func(x[slice(*pair)]))
        self.loop = ray.remote(lambda x, pair: [func(row) for row in x[slice(*pair)]])

    def close(self) -> None:
        """Stop Ray."""
        super().close()
        ray.shutdown()

    def touch(self) -> Array:
        """Stored arrays are read-only: a stamped copy comes back."""
        return np.concatenate(ray.get([self.touched.remote(self.stored, p) for p in self.parts()]))

    def ranges(self) -> None:
        """A task per index."""
        ray.get([self.task.remote(start, start + 1) for start in range(self.n)])

    def rows(self) -> Array | None:
        """A loop over the rows of each range, as the advice against tiny tasks goes."""
        size = max(1, self.n // (32 * self.workers))
        pairs = [(start, min(start + size, self.n)) for start in range(0, self.n, size)]
        lists: list[Any] = ray.get([self.loop.remote(self.stored, pair) for pair in pairs])
        return stacked([result for results in lists for result in results])

    def blocks(self) -> Array:
        """A task per block; results are read from the store without a copy, then concatenated."""
        results = ray.get([self.block.remote(self.stored, pair) for pair in self.block_ranges()])
        return np.concatenate(results, out=self.y)


def _stamped(func: Any, chunk: Array) -> Array:
    chunk = chunk.copy()
    func(chunk)
    return chunk


PEERS = {"ray": Ray}
