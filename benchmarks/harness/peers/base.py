"""What every peer has in common: it places its data, starts its workers, does the work."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from harness.work import Array, Work, half, nothing, nothing_range

CHEAP = (nothing, nothing_range, half)


class Peer:
    """One library doing one `Work`; a method per verb, of which it may lack some."""

    block_nbytes: ClassVar[int] = 1 << 20
    """Input bytes per block: in cache, and long enough for what one task costs this peer."""
    most: ClassVar[int] = 1 << 30
    """The most calls of a near-empty function worth handing out: the figure is per call."""

    x: Array
    y: Array | None = None
    works: int = 1
    """How many times it does the work at once: its time is divided by that."""

    def __init__(self, name: str, work: Work, workers: int) -> None:
        self.name = name
        self.work = work
        self.workers = workers
        self.n = work.shape[0]
        if work.verb in ("ranges", "rows") and work.func in CHEAP:
            self.n = min(self.n, self.most)
        self.shape = (self.n, *work.shape[1:])
        if work.verb == "load":
            self.path = self._save()

    def open(self) -> None:
        """Place the data and start the workers."""
        self.place_data()

    def close(self) -> None:
        """End what `open` started."""
        if self.work.verb == "load":
            self.path.unlink()

    def run(self) -> Any:
        """Do the work once, warm."""
        verb = getattr(self, self.work.verb)
        for _ in range(self.work.calls - 1):
            verb()
        return verb()

    # ------------------------------------------------------------------------- for peers

    def place_data(self) -> None:
        """Put the input, and an output to be reused, where workers reach them."""
        self.x = self.allocate(self.shape, "f8")
        self.work.fill(self.x)
        if self.work.result is not None and not self.work.fresh:
            self.y = self.allocate(*self.work.result)
            self.y[...] = 0

    def allocate(self, shape: tuple[int, ...], dtype: str) -> Array:
        """Memory as this peer likes it: by default the caller's own."""
        return np.empty(shape, dtype)

    def result_array(self) -> Array:
        """Return the output to be reused, or a fresh one."""
        if self.y is not None:
            return self.y
        assert self.work.result is not None
        shape, dtype = self.work.result
        return self.allocate((self.n, *shape[1:]), dtype)

    def parts(self) -> list[tuple[int, int]]:
        """One share per worker."""
        return split(self.n, -(-self.n // self.workers))

    def block_ranges(self) -> list[tuple[int, int]]:
        """Ranges of about `block_nbytes`, four per worker at the least."""
        item = max(1, self.work.input_nbytes // self.work.shape[0])
        size = min(max(1, self.block_nbytes // item), -(-self.n // (4 * self.workers)))
        return split(self.n, size)

    def row_ranges(self) -> list[tuple[int, int]]:
        """Ranges for calls per row: many enough to balance, few enough to be cheap."""
        return split(self.n, max(1, self.n // 1000))

    def _save(self) -> Path:
        """Write the input to a file, whole before the time starts, so that it is cached."""
        x = np.empty(self.shape)
        self.work.fill(x)
        with tempfile.NamedTemporaryFile(suffix=".npy", delete=False) as file:
            np.save(file, x)
        return Path(file.name)


def split(n: int, size: int) -> list[tuple[int, int]]:
    """Cut ``range(n)`` into half-open ranges of ``size``."""
    return [(start, min(start + size, n)) for start in range(0, n, size)]


def stacked(results: list[Any]) -> Array | None:
    """Make an array of a list of results; None if there were none."""
    if not results or results[0] is None:
        return None
    # Told the dtype, NumPy need not look for one in every number: four times as fast.
    return np.array(results, float if isinstance(results[0], float) else None)
