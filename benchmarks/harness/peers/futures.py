"""The executors of the standard library: pickled slices for processes, index ranges for threads."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import numpy as np

from harness.peers.base import Peer, stacked
from harness.work import Array


class Processes(Peer):
    """``Executor.map`` over slices and rows; values travel both ways."""

    block_nbytes = 16 << 20
    most = 20_000

    def open(self) -> None:
        """The default start method."""
        self.place_data()
        self.executor = ProcessPoolExecutor(self.workers)

    def close(self) -> None:
        """Join the workers."""
        super().close()
        self.executor.shutdown()

    def _chunksize(self, n: int) -> int:
        return max(1, n // (32 * self.workers))

    def touch(self) -> Array:
        """What a worker stamps is lost; it has to send it back."""
        parts = [self.x[start:stop] for start, stop in self.parts()]
        funcs = [self.work.func] * len(parts)
        return np.concatenate(list(self.executor.map(_stamped, funcs, parts)))

    def ranges(self) -> None:
        """A future per index, as ``chunksize=1`` is the default."""
        list(self.executor.map(self.work.func, range(self.n), range(1, self.n + 1)))

    def rows(self) -> Array | None:
        """Batches of rows, as the documentation advises for long iterables."""
        chunksize = self._chunksize(self.n)
        return stacked(list(self.executor.map(self.work.func, self.x, chunksize=chunksize)))

    def blocks(self) -> Array:
        """A slice out, a slice back."""
        slices = [self.x[start:stop] for start, stop in self.block_ranges()]
        return np.concatenate(list(self.executor.map(self.work.func, slices)), out=self.y)


def _stamped(func: Any, chunk: Array) -> Array:
    func(chunk)
    return chunk


class Threads(Peer):
    """Ranges of arrays that every thread sees anyway."""

    def open(self) -> None:
        """Start on demand."""
        self.place_data()
        self.executor = ThreadPoolExecutor(self.workers)

    def close(self) -> None:
        """Join the threads."""
        super().close()
        self.executor.shutdown()

    def touch(self) -> Array:
        """One range per thread."""
        func, x = self.work.func, self.x
        list(self.executor.map(lambda pair: func(x[slice(*pair)]), self.parts()))
        return x

    def ranges(self) -> None:
        """A future per index."""
        list(self.executor.map(self.work.func, range(self.n), range(1, self.n + 1)))

    def rows(self) -> Array | None:
        """A loop over the rows of each range."""
        func, x = self.work.func, self.x
        if self.work.result is None:

            def loop(pair: tuple[int, int]) -> None:
                for row in x[slice(*pair)]:
                    func(row)

            list(self.executor.map(loop, self.row_ranges()))
            return None
        y = self.result_array()

        def fill(pair: tuple[int, int]) -> None:
            for i in range(*pair):
                y[i] = func(x[i])

        list(self.executor.map(fill, self.row_ranges()))
        return y

    def blocks(self) -> Array:
        """A block per task, into place."""
        func, x, y = self.work.func, self.x, self.result_array()

        def fill(pair: tuple[int, int]) -> None:
            y[slice(*pair)] = func(x[slice(*pair)])

        def fill_into(pair: tuple[int, int]) -> None:
            func(x[slice(*pair)], out=y[slice(*pair)])

        list(self.executor.map(fill_into if self.work.takes_out else fill, self.block_ranges()))
        return y


PEERS = {"ppe": Processes, "tpe": Threads}
