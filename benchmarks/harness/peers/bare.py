"""Bare hands: forked processes, pipes, a shared anonymous mapping, lseek tickets, nothing else.

No errors, no results but in place, no recovery: what is left when everything is taken away is the
limit of what Python processes on this hardware can do.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable

import numpy as np

from harness.peers.base import Peer
from harness.work import Array


class Crew:
    """Forked workers that run one body again and again."""

    def __init__(self, workers: int, body: Callable[[int, int], None]) -> None:
        # A description that comes from open(): on one from memfd_create() the offset is not atomic.
        self.tickets = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR)
        self._done, done = os.pipe()
        self._wake: list[int] = []
        self._pids: list[int] = []
        for rank in range(workers):
            wake, ours = os.pipe()
            pid = os.fork()
            if pid == 0:
                try:
                    for fd in (ours, *self._wake):
                        os.close(fd)
                    while os.read(wake, 1):
                        body(rank, self.tickets)
                        os.write(done, b"d")
                finally:
                    os._exit(0)
            os.close(wake)
            self._wake.append(ours)
            self._pids.append(pid)
        os.close(done)

    def call(self) -> None:
        """Wake every worker and hear back from every one."""
        os.lseek(self.tickets, 0, os.SEEK_SET)
        for fd in self._wake:
            os.write(fd, b"w")
        missing = len(self._wake)
        while missing:
            heard = os.read(self._done, missing)
            if not heard:
                raise RuntimeError("the workers died")
            missing -= len(heard)

    def end(self) -> None:
        """Close the pipes; the workers leave."""
        for fd in (*self._wake, self._done, self.tickets):
            os.close(fd)
        for pid in self._pids:
            os.waitpid(pid, 0)


class Bare(Peer):
    """Warm workers over mappings they inherited.

    A fresh output is the inherited file cut to nothing and grown again, mapped anew by everybody:
    its pages are touched for the first time by the workers.
    """

    crew: Crew | None = None

    def open(self) -> None:
        """Map, fill, fork."""
        self.place_data()
        if self.work.result is not None and self.work.fresh:
            self.file = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR)
        if self.work.verb != "place":
            self.crew = Crew(self.workers, self._body())

    def close(self) -> None:
        """Let the workers go."""
        super().close()
        if self.crew is not None:
            self.crew.end()

    def allocate(self, shape: tuple[int, ...], dtype: str) -> Array:
        """Anonymous memory that forked processes share."""
        return _mapped(-1, shape, dtype)

    def _output(self) -> Array | None:
        if self.y is not None or self.work.result is None:
            return self.y
        shape, dtype = self.work.result
        return _mapped(self.file, (self.n, *shape[1:]), dtype)

    def _call(self) -> Array | None:
        assert self.crew is not None
        if self.y is None and self.work.result is not None:
            os.ftruncate(self.file, 0)
            os.ftruncate(self.file, self.work.result_nbytes)
        y = self._output()
        self.crew.call()
        return y

    def touch(self) -> Array:
        """Every worker stamps its own part."""
        self._call()
        return self.x

    def ranges(self) -> None:
        """A ticket per index."""
        self._call()

    def rows(self) -> Array | None:
        """A ticket per few rows."""
        return self._call()

    def blocks(self) -> Array | None:
        """A ticket per block."""
        return self._call()

    def place(self) -> Array:
        """Copy into a fresh mapping."""
        y = self.allocate(self.shape, "f8")
        np.copyto(y, self.x)
        return y

    def _body(self) -> Callable[[int, int], None]:
        func, x, n, lseek = self.work.func, self.x, self.n, os.lseek
        parts, cur = self.parts(), os.SEEK_CUR
        if self.work.verb == "touch":

            def touch(rank: int, tickets: int) -> None:
                start, stop = parts[rank]
                func(x[start:stop])

            return touch
        if self.work.verb == "ranges":

            def ranges(rank: int, tickets: int) -> None:
                while (ticket := lseek(tickets, 1, cur)) <= n:
                    func(ticket - 1, ticket)

            return ranges
        if self.work.verb == "blocks":
            limits = self.block_ranges()

            def blocks(rank: int, tickets: int) -> None:
                y = self._output()
                assert y is not None
                while (ticket := lseek(tickets, 1, cur)) <= len(limits):
                    start, stop = limits[ticket - 1]
                    y[start:stop] = func(x[start:stop])

            return blocks
        limits = self.row_ranges()

        def rows(rank: int, tickets: int) -> None:
            y = self._output()
            while (ticket := lseek(tickets, 1, cur)) <= len(limits):
                start, stop = limits[ticket - 1]
                if y is None:
                    for row in x[start:stop]:
                        func(row)
                elif y.ndim == 1:
                    y[start:stop] = [func(row) for row in x[start:stop]]
                else:
                    for i in range(start, stop):
                        y[i] = func(x[i])

        return rows


def _mapped(fd: int, shape: tuple[int, ...], dtype: str) -> Array:
    memory = mmap.mmap(fd, int(np.prod(shape)) * np.dtype(dtype).itemsize)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype).reshape(shape)


PEERS = {"bare": Bare}
