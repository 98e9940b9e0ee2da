"""Bare hands: forked processes, pipes, a shared anonymous mapping, lseek tickets, nothing else.

No errors, no results but in place, no recovery: what is left when everything is taken away is the
limit of what Python processes on this hardware can do.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from harness.peers.base import Peer
from harness.work import Array

POUR_NBYTES = 1 << 24
"""Fresh outputs from here on are written through their descriptor."""


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
                    _keep_freed_memory()
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
        self.wake()
        self.wait()

    def wake(self) -> None:
        """Have every worker run the body."""
        os.lseek(self.tickets, 0, os.SEEK_SET)
        for fd in self._wake:
            os.write(fd, b"w")

    def wait(self) -> None:
        """Hear back from every worker."""
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

    A fresh output is the inherited file cut to nothing and reserved again. Large results are written
    through its descriptor: whole pages are then neither cleared nor faulted in, as storing would.
    """

    block_nbytes = 2 << 20
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
            os.posix_fallocate(self.file, 0, self.work.result_nbytes)
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
        """Written to fresh pages by a thread per worker: a forked process does not see the array."""
        fd = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR)
        os.posix_fallocate(fd, 0, self.work.result_nbytes)
        data = memoryview(self.x).cast("B")

        def write(pair: tuple[int, int]) -> None:
            start, stop = (8 * i for i in pair)
            while start < stop:
                start += os.pwrite(fd, data[start:stop], start)

        with ThreadPoolExecutor(self.workers) as threads:
            list(threads.map(write, self.parts()))
        y = _mapped(fd, self.shape, "f8")
        os.close(fd)
        return y

    def _body(self) -> Callable[[int, int], None]:
        func, x, n, lseek, write = self.work.func, self.x, self.n, os.lseek, self._write
        is_poured = self.y is None and self.work.result_nbytes >= POUR_NBYTES
        parts, cur, takes_out = self.parts(), os.SEEK_CUR, self.work.takes_out
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
                y = None if is_poured else self._output()
                while (ticket := lseek(tickets, 1, cur)) <= len(limits):
                    start, stop = limits[ticket - 1]
                    if y is None:
                        write(start, func(x[start:stop]))
                    elif takes_out:
                        func(x[start:stop], out=y[start:stop])
                    else:
                        y[start:stop] = func(x[start:stop])

            return blocks
        limits = self.row_ranges()

        def rows(rank: int, tickets: int) -> None:
            y = self._output()
            while (ticket := lseek(tickets, 1, cur)) <= len(limits):
                start, stop = limits[ticket - 1]
                if is_poured and y is not None and y.ndim > 1:
                    for i in range(start, stop):
                        write(i, func(x[i]))
                elif y is None:
                    for row in x[start:stop]:
                        func(row)
                elif y.ndim == 1:
                    y[start:stop] = [func(row) for row in x[start:stop]]
                else:
                    for i in range(start, stop):
                        y[i] = func(x[i])

        return rows

    def _write(self, start: int, part: Array) -> None:
        """Write what belongs to the indices from `start` on."""
        assert self.work.result is not None
        at = start * (self.work.result_nbytes // self.work.result[0][0])
        data = memoryview(np.ascontiguousarray(part).reshape(-1).view(np.uint8))
        done = 0
        while done < len(data):
            done += os.pwrite(self.file, data[done:], at + done)


def _keep_freed_memory() -> None:
    """Have malloc keep what a function frees: in a small process it would be faulted in at every call."""
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(-3, 1 << 24)  # M_MMAP_THRESHOLD
    mallopt(-1, 1 << 25)  # M_TRIM_THRESHOLD


def _mapped(fd: int, shape: tuple[int, ...], dtype: str) -> Array:
    memory = mmap.mmap(fd, int(np.prod(shape)) * np.dtype(dtype).itemsize)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype).reshape(shape)


PEERS = {"bare": Bare}
