"""How each library does a `Work`: one module per library, imported only in its own host."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.peers.base import Peer


@dataclass(frozen=True)
class Entry:
    """Where a peer is defined, and what it takes to run it; known without importing it."""

    name: str
    title: str
    kind: str
    """``ours``, ``limit`` (no library could be faster), ``serial``, ``processes``, ``threads``."""
    module: str
    needs: str | None = None
    resident: bool = True
    """Whether it may idle beside the others: False for one whose daemons never rest."""
    warm: bool = True
    """Whether it has warm workers to measure; else it takes part in cold starts alone."""
    asked: bool = False
    """Whether it takes part only where a target speaks of it."""

    def is_installed(self) -> bool:
        """Whether the package it needs can be imported."""
        return self.needs is None or importlib.util.find_spec(self.needs) is not None

    def load(self) -> type[Peer]:
        """Import the class."""
        module = importlib.import_module(f"harness.peers.{self.module}")
        return module.PEERS[self.name]  # type: ignore[no-any-return]


ENTRIES = {
    entry.name: entry
    for entry in (
        Entry("shmmap", "shmmap", "ours", "ours", "shmmap"),
        Entry("shmmap-fork", 'shmmap, engine="fork"', "ours", "ours", "shmmap", warm=False),
        Entry("shmmap-many", "shmmap, 64 workers", "ours", "ours", "shmmap", asked=True),
        Entry("bare", "bare hands", "limit", "bare"),
        Entry(
            "loops", "a loop per core at once, each over everything", "limit", "serial", asked=True
        ),
        Entry("numba", "numba, threads", "limit", "compiled", "numba"),
        Entry("serial", "serial NumPy", "serial", "serial"),
        Entry("pool", "SharedMemory + Pool", "processes", "pool"),
        Entry("ppe", "ProcessPoolExecutor", "processes", "futures"),
        Entry("pool-many", "Pool, 64 workers", "processes", "pool", asked=True),
        Entry("joblib", "joblib", "processes", "joblibs", "joblib"),
        Entry("mpire", "MPIRE", "processes", "mpires", "mpire"),
        Entry("dask-processes", "dask, processes", "processes", "dasks", "dask"),
        Entry("ray", "Ray", "processes", "rays", "ray", resident=False),
        Entry("tpe", "ThreadPoolExecutor", "threads", "futures"),
        Entry("joblib-threads", "joblib, threads", "threads", "joblibs", "joblib"),
        Entry("dask-threads", "dask, threads", "threads", "dasks", "dask"),
    )
}
