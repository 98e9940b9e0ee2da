"""What a call, a chunk and an item cost when the function costs nothing."""

from __future__ import annotations

import shmmap

from . import WORKERS, Warm, half, nothing_range, shared_random


class Call(Warm):
    """A warm call with one chunk per worker."""

    params = (["serial", "threads", "processes"],)
    param_names = ("engine",)

    def time_call(self, engine: str) -> None:
        """Wake everybody and hear back."""
        shmmap.pmap_ranges(
            nothing_range,
            WORKERS,
            chunksize=1,
            schedule="static",
            workers=WORKERS,
            engine=engine,
        )


class Bathtub(Warm):
    """An empty function against the chunk size: dear at both ends, flat between.

    On the left every chunk costs a ticket; on the right too few chunks are left to share.
    """

    params = ([1, 10, 100, 1_000, 10_000, 100_000, "auto"],)
    param_names = ("chunksize",)

    def setup(self, chunksize: int | str) -> None:
        """100,000 numbers."""
        self.x = shared_random(100_000)
        self.y = shmmap.empty_like(self.x)
        super().setup()

    def time_items(self, chunksize: int | str) -> None:
        """A near-empty function per item."""
        shmmap.pmap(half, self.x, out=self.y, chunksize=chunksize, workers=WORKERS)

    def time_ranges(self, chunksize: int | str) -> None:
        """An empty function per range."""
        shmmap.pmap_ranges(nothing_range, len(self.x), chunksize=chunksize, workers=WORKERS)
