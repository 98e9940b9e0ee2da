"""What memory costs: to place, to allocate, to let go; and how much of it the workers take."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

import shmmap

from . import WORKERS, Warm, polish, shared_random

N = 1 << 22  # 32 MB


class Placing:
    """Bytes on their way into shared memory."""

    def setup(self) -> None:
        """A private array."""
        self.a = np.random.default_rng(2024).random(N)

    def time_asshared(self) -> None:
        """One copy, and the memory goes again."""
        shmmap.asshared(self.a)

    def time_empty(self) -> None:
        """Reserved, not touched."""
        shmmap.empty(N)

    def time_zeros(self) -> None:
        """Touched."""
        shmmap.zeros(N)


class Output(Warm):
    """A map whose output is fresh, against one whose output is reused."""

    params = (["fresh", "reused"],)
    param_names = ("output",)

    def setup(self, output: str) -> None:
        """32 MB in, 32 MB out."""
        self.x = shared_random(N)
        self.y = shmmap.empty_like(self.x) if output == "reused" else None
        super().setup()

    def time_map(self, output: str) -> None:
        """Write as much as is read."""
        shmmap.pmap_chunks(polish, self.x, out=self.y, workers=WORKERS)

    def track_workers_private_bytes(self, output: str) -> int:
        """Private bytes of all workers after the map: what a worker adds to the data."""
        # asv's own peakmem_ sees this process alone.
        shmmap.pmap_chunks(polish, self.x, out=self.y, workers=WORKERS)
        pids = shmmap.pmap_ranges(_pid, WORKERS, chunksize=1, schedule="static", workers=WORKERS)
        return sum(_private_bytes(pid) for pid in set(pids))

    track_workers_private_bytes.unit = "bytes"  # type: ignore[attr-defined]


def _pid(start: int, stop: int) -> int:
    return os.getpid()


def _private_bytes(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(
        int(line.split()[1]) * 1024
        for line in rollup.splitlines()
        if line.startswith(("Private_Clean:", "Private_Dirty:"))
    )
