"""Even and uneven costs, drawn as the workers go or dealt beforehand."""

from __future__ import annotations

import numpy as np

import shmmap

from . import WORKERS, Warm, burn


class Costs(Warm):
    """Four hundred items whose costs are even, or follow a power law sorted either way."""

    params = (["even", "dearest first", "dearest last"], ["dynamic", "static"])
    param_names = ("costs", "schedule")

    def setup(self, costs: str, schedule: str) -> None:
        """The same sum of costs for each kind."""
        n, mean = 400, 3000
        rank = np.arange(1, n + 1)
        law = np.ones(n) if costs == "even" else rank**-0.7
        steps = np.round(law / law.sum() * mean * n)
        self.x = shmmap.asshared(steps[::-1] if costs == "dearest last" else steps)
        super().setup()

    def time_uneven(self, costs: str, schedule: str) -> None:
        """Pure Python, in proportion to the item."""
        shmmap.pmap(burn, self.x, schedule=schedule, workers=WORKERS)
