"""joblib: a warm ``Parallel``; memory-mapped input and output by hand, as its user guide shows."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from harness.peers.base import Peer, stacked
from harness.work import Array


class Joblib(Peer):
    """The default backend (loky) or threads."""

    block_nbytes = 16 << 20
    most = 50_000

    def open(self) -> None:
        """Dump the input where joblib would, and map it; start the workers."""
        self.threads = self.name == "joblib-threads"
        self.folder: Path | None = None
        self.place_data()
        self.parallel = joblib.Parallel(
            n_jobs=self.workers, backend="threading" if self.threads else "loky"
        )
        self.parallel.__enter__()

    def close(self) -> None:
        """End the workers and remove the files."""
        super().close()
        self.parallel.__exit__(None, None, None)
        if not self.threads:
            from joblib.externals.loky import get_reusable_executor

            get_reusable_executor().shutdown(wait=True)
        if self.folder is not None:
            shutil.rmtree(self.folder)

    def allocate(self, shape: tuple[int, ...], dtype: str) -> Array:
        """Memory-mapped, in the folder where joblib puts its own."""
        if self.threads or self.work.verb not in ("blocks", "touch"):
            return super().allocate(shape, dtype)
        if self.folder is None:
            self.folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
        file = tempfile.NamedTemporaryFile(dir=self.folder, delete=False)
        file.close()
        mapped = np.memmap(file.name, dtype, "w+", shape=shape)
        self.temporary = Path(file.name)
        return mapped

    def touch(self) -> Array:
        """One task per worker."""
        self.parallel(joblib.delayed(_touch)(self.work.func, self.x, p) for p in self.parts())
        return self.x

    def ranges(self) -> None:
        """A task per index, batched by joblib itself."""
        func = self.work.func
        self.parallel(joblib.delayed(func)(start, start + 1) for start in range(self.n))

    def rows(self) -> Array | None:
        """A task per row, batched by joblib itself."""
        func = self.work.func
        return stacked(self.parallel(joblib.delayed(func)(row) for row in self.x))

    def blocks(self) -> Array:
        """A task per block, into place."""
        y = self.result_array()
        func = self.work.func
        self.parallel(joblib.delayed(_fill)(func, self.x, y, p) for p in self.block_ranges())
        if y is not self.y and not self.threads:
            # A fresh output: the pages go with the array, not with the folder.
            self.temporary.unlink()
        return y


def _touch(func: Any, x: Array, pair: tuple[int, int]) -> None:
    func(x[slice(*pair)])


def _fill(func: Any, x: Array, y: Array, pair: tuple[int, int]) -> None:
    y[slice(*pair)] = func(x[slice(*pair)])


PEERS = {"joblib": Joblib, "joblib-threads": Joblib}
