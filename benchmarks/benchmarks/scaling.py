"""The same work on more workers: nothing may get slower when cores are added."""

from __future__ import annotations

import numpy as np

import shmmap

from . import WORKERS, Warm, burn, polish, shared_random

COUNTS = sorted({1, 2, WORKERS} & set(range(1, WORKERS + 1)))


class Scaling(Warm):
    """A memory-bound and a compute-bound map."""

    params = (COUNTS,)
    param_names = ("workers",)

    def setup(self, workers: int) -> None:
        """32 MB of numbers; 400 items of equal cost."""
        self.x = shared_random(1 << 22)
        self.y = shmmap.empty_like(self.x)
        self.steps = shmmap.asshared(np.full(400, 3000.0))
        super().setup()

    def time_memory_bound(self, workers: int) -> None:
        """A little arithmetic per number."""
        shmmap.pmap_chunks(polish, self.x, out=self.y, workers=workers)

    def time_compute_bound(self, workers: int) -> None:
        """Pure Python."""
        shmmap.pmap(burn, self.steps, workers=workers)

    def time_reduction(self, workers: int) -> None:
        """Read only."""
        shmmap.preduce(np.sum, self.x, workers=workers)
