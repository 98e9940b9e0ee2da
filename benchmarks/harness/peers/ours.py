"""The library itself, with default options."""

from __future__ import annotations

import shmmap
from harness.peers.base import Peer
from harness.work import Array


class Shmmap(Peer):
    """One line per verb, as in the tutorial."""

    def open(self) -> None:
        """Place the data in shared memory; the default team starts with the first map."""
        self._config = shmmap.config(workers=self.workers)
        self._config.__enter__()
        super().open()

    def close(self) -> None:
        """End the default team."""
        super().close()
        self._config.__exit__(None, None, None)
        shmmap.shutdown()

    def allocate(self, shape: tuple[int, ...], dtype: str) -> Array:
        """Allocate in shared memory from the start."""
        return shmmap.empty(shape, dtype)

    def touch(self) -> Array:
        """``static``, because every worker is to take part."""
        size = -(-self.n // self.workers)
        shmmap.pmap_chunks(self.work.func, self.x, chunksize=size, schedule="static")
        return self.x

    def ranges(self) -> None:
        """One chunk per index."""
        shmmap.pmap_ranges(self.work.func, self.n, chunksize=1)

    def rows(self) -> Array | None:
        """Automatic chunks."""
        return shmmap.pmap(self.work.func, self.x, out=self.y)

    def blocks(self) -> Array:
        """Automatic chunks."""
        x = self.x[:] if self.work.view else self.x
        return shmmap.pmap_chunks(self.work.func, x, out=self.y)

    def place(self) -> Array:
        """One copy, by several threads."""
        return shmmap.asshared(self.source)

    def load(self) -> Array:
        """Straight into shared memory."""
        return shmmap.load(self.path)

    def place_data(self) -> None:
        """For ``place`` and ``load`` the data start elsewhere."""
        if self.work.verb == "place":
            self.source = Peer.allocate(self, self.shape, "f8")
            self.work.fill(self.source)
        elif self.work.verb != "load":
            super().place_data()


PEERS = {"shmmap": Shmmap}
