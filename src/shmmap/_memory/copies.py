"""Bytes into new arrays, by several threads and by the quickest way: copied, written, or read from a file."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from .._interop.numpy_types import Array, any_numpy
from .._system.imports import late_import
from .._system.limits import usable_cores
from .table import find_block

# First touch of shared pages is the dearest thing here and scales with threads; below this size starting
# the threads costs more than it brings.
PARALLEL_NBYTES = 1 << 23
# More threads than this only contend for the memory bus.
COPY_THREADS = 8
# A file is read in pieces of this size where they go through a buffer: it is to stay in the cache, and the
# more system calls there are, the more they cost.
READ_NBYTES = 1 << 18
# With more threads, a file is better read into the pages themselves: writing through a descriptor goes
# through a lock that lets in one of them at a time.
READ_THREADS = 4


def _in_parallel(task: Callable[[int, int], object], n: int, nbytes: int, step: int = 1) -> None:
    """Call ``task(start, stop)`` over ``range(n)`` in several threads if it is worth it.

    The limits between are multiples of `step`: of a page, where whole pages are quicker to write.
    """
    threads = min(COPY_THREADS, usable_cores(), n)
    if nbytes < PARALLEL_NBYTES or threads < 2:
        task(0, n)
        return
    with late_import:
        from concurrent.futures import ThreadPoolExecutor

    parts = threads * 4
    cuts = [*(n * i // parts // step * step for i in range(parts)), n]
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(task, cuts[:-1], cuts[1:]):
            pass


def copy_into(target: Array, source: Array) -> None:
    """``np.copyto(target, source, casting="unsafe")``, with several threads when that is faster."""
    if target.ndim == 0 or target.size == 0:
        np.copyto(target, source, casting="unsafe")
        return
    axis = int(np.argmax(np.abs(target.strides) * (np.array(target.shape) > 1)))
    t, s = np.moveaxis(target, axis, 0), np.moveaxis(source, axis, 0)

    def copy(start: int, stop: int) -> None:
        np.copyto(t[start:stop], s[start:stop], casting="unsafe")

    _in_parallel(copy, t.shape[0], target.nbytes)


def fill(target: Array, value: Any) -> None:
    """``target[...] = value``, with several threads when that is faster."""
    flat = target.reshape(-1, order="A") if target.flags.forc else target
    if flat.ndim == 0:
        np.copyto(flat, value, casting="unsafe")
        return

    def part(start: int, stop: int) -> None:
        np.copyto(flat[start:stop], value, casting="unsafe")

    _in_parallel(part, flat.shape[0], target.nbytes)


def _place_in_segment(a: Array) -> tuple[int, int] | None:
    """Descriptor of the segment that a new array lies in, and the position there; None if there is none."""
    address = a.__array_interface__["data"][0]
    block = find_block(address)
    if block is None or block.segment.fd < 0:
        return None
    return block.segment.fd, address - block.segment.address


def write_into(target: Array, source: Array) -> bool:
    """Fill a large fresh array through its descriptor, if its bytes are those of `source`.

    Writing whole pages to a tmpfs neither clears nor faults them in first: half the time of a copy.
    """
    if target.nbytes < PARALLEL_NBYTES or target.dtype != source.dtype:
        return False
    if target.strides != source.strides or not (target.flags.forc and source.flags.forc):
        return False
    place = _place_in_segment(target)
    if place is None:
        return False
    fd, base = place
    data = memoryview(any_numpy.asarray(source.reshape(-1, order="A").view(np.uint8)))

    def write(start: int, stop: int) -> None:
        while start < stop:
            start += os.pwrite(fd, data[start:stop], base + start)

    _in_parallel(write, target.nbytes, target.nbytes, mmap.PAGESIZE)
    return True


def read_into(target: Array, fd: int, offset: int, path: Any) -> None:
    """Fill a new array with a file's bytes from `offset` on.

    A large one through its descriptor: reading into a fresh mapping clears each page, faults it in, and
    only then overwrites it, which takes nearly twice as long as a detour over a buffer in the cache.
    """
    nbytes = target.nbytes
    flat = memoryview(any_numpy.asarray(target.reshape(-1, order="A").view(np.uint8)))
    place = _place_in_segment(target) if nbytes >= PARALLEL_NBYTES else None

    def check(got: int) -> int:
        if got == 0:
            raise ValueError(f"{path!r} became shorter while it was read")
        return got

    def read(start: int, stop: int) -> None:
        while start < stop:
            start += check(os.preadv(fd, [flat[start:stop]], offset + start))

    def pour(start: int, stop: int) -> None:
        assert place is not None
        buffer = memoryview(bytearray(READ_NBYTES))
        while start < stop:
            got = check(os.preadv(fd, [buffer[: stop - start]], offset + start))
            done = 0
            while done < got:
                done += os.pwrite(place[0], buffer[done:got], place[1] + start + done)
            start += got

    threads = min(COPY_THREADS, usable_cores())
    through = pour if place and threads <= READ_THREADS else read
    _in_parallel(through, nbytes, nbytes, mmap.PAGESIZE)
