"""First touch: bytes into pages that are new to this process, or new altogether, by the quickest way.

Large arrays are filled by several threads, or written through the descriptor of their segment; a worker
enters many pages at once before it stores to them. See docs/design/0036-pages-are-entered-many-at-once.md.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .._interop.numpy_types import Array, any_numpy
from .._system.imports import late_import
from .._system.limits import usable_cores
from .nameless import populate
from .segments import Segment
from .table import find_block, find_segment

# Below this size, starting threads costs more than it brings.
PARALLEL_NBYTES = 1 << 23
# More threads than this only contend for the memory bus.
COPY_THREADS = 8
# A file is read in pieces of this size where they go through a buffer: it is to stay in the cache, and the
# more system calls there are, the more they cost.
READ_NBYTES = 1 << 18
# With more threads, a file is better read into the pages themselves: writing through a descriptor goes
# through a lock that lets in one of them at a time.
READ_THREADS = 4
# What `map_pages` keeps account by. Less: more to keep; more: pages are entered that nothing here will use.
MAP_NBYTES = 1 << 16
# Results from here on are written through a descriptor where pages are fresh, and elsewhere not before those
# they take are entered into the page table: less is not worth a call of the system.
POUR_NBYTES = 1 << 16
NOT_FRESH = 1 << 62
"""In the place of a position from which on pages are fresh, where there is none."""


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


def _bytes_of(a: Array) -> memoryview:
    """The bytes of a contiguous array."""
    return memoryview(any_numpy.asarray(a.reshape(-1, order="A").view(np.uint8)))


def _write_all(fd: int, data: memoryview, position: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], position + done)


def _place_in_segment(a: Array) -> tuple[int, int] | None:
    """Descriptor of the segment that a new array lies in, and the position there; None if there is none."""
    address = a.__array_interface__["data"][0]
    block = find_block(address)
    if block is None or block.segment.fd < 0:
        return None
    return block.segment.fd, address - block.segment.address


def copy_into_new(target: Array, source: Array) -> None:
    """The same as `copy_into` for an array just allocated."""
    if not _write_into(target, source):
        copy_into(target, source)


def _write_into(target: Array, source: Array) -> bool:
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
    data = _bytes_of(source)

    def write(start: int, stop: int) -> None:
        _write_all(fd, data[start:stop], base + start)

    _in_parallel(write, target.nbytes, target.nbytes, mmap.PAGESIZE)
    return True


def read_into(target: Array, fd: int, offset: int, path: object) -> None:
    """Fill a new array with a file's bytes from `offset` on.

    A large one through its descriptor: reading into a fresh mapping clears each page, faults it in, and
    only then overwrites it, which takes nearly twice as long as a detour over a buffer in the cache.
    """
    nbytes = target.nbytes
    flat = _bytes_of(target)
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
            _write_all(place[0], buffer[:got], place[1] + start)
            start += got

    threads = min(COPY_THREADS, usable_cores())
    through = pour if place and threads <= READ_THREADS else read
    _in_parallel(through, nbytes, nbytes, mmap.PAGESIZE)


# ---------------------------------------------------------------- outputs, in workers


def map_pages(segment: Segment, start: int, nbytes: int) -> None:
    """Enter a part of a segment into the page table of this process, where that was not done before.

    The pages are there: another process has written them, or they are reserved. Entering one at a time, as
    storing to it does, takes 1.1 us; many at once, 0.25 us each.
    """
    if not segment.mapped:
        segment.mapped = bytearray(-(-segment.nbytes // MAP_NBYTES))
    done, last = segment.mapped, -(-(start + nbytes) // MAP_NBYTES)
    first = done.find(0, start // MAP_NBYTES, last)
    if first < 0:
        return
    at = first * MAP_NBYTES
    populate(segment.map, at, min(last * MAP_NBYTES, segment.nbytes) - at)
    done[first:last] = b"\1" * (last - first)


class PageWriter(NamedTuple):
    """How a worker writes into a large output.

    Whole pages that are fresh are poured: written through the descriptor, they are neither cleared nor
    entered into the page table of this process. Into others it is quicker to store, once they are entered.
    """

    segment: Segment
    offset: int
    """Position of the array in the segment."""
    stride: int
    """Bytes from one index to the next."""
    fresh: int
    """Position from which on pages are fresh."""

    def pour(self, part: Array, start: int) -> bool:
        """Write the part of the array that begins at index `start`, unless it is to be stored."""
        nbytes = part.nbytes
        if nbytes < POUR_NBYTES:
            return False
        at = self.offset + start * self.stride
        if at + nbytes <= self.fresh or not part.flags.c_contiguous:
            map_pages(self.segment, at, nbytes)
            return False
        _write_all(self.segment.pour_fd, _bytes_of(part), at)
        return True

    def is_fresh(self, start: int, stop: int) -> bool:
        """Whether the pages under the indices ``[start, stop)`` are better poured into than stored to."""
        nbytes = (stop - start) * self.stride
        return nbytes >= POUR_NBYTES and self.offset + start * self.stride + nbytes > self.fresh

    def make_ready(self, start: int, stop: int) -> None:
        """Have the indices ``[start, stop)`` entered, unless each of them is going to be poured."""
        at, nbytes = self.offset + start * self.stride, (stop - start) * self.stride
        if nbytes >= POUR_NBYTES and (self.stride < POUR_NBYTES or at + nbytes <= self.fresh):
            map_pages(self.segment, at, nbytes)


def fresh_from(a: Array) -> int:
    """Position in its segment from which on the pages under a new array are fresh."""
    block = find_block(a.__array_interface__["data"][0])
    if block is None or block.slab is not None or not a.flags.c_contiguous:
        return NOT_FRESH
    return block.segment.touched


def make_page_writer(a: Array, fresh: int = NOT_FRESH) -> PageWriter | None:
    """The page writer of an output, in a worker; None if it is small, or not contiguous."""
    segment = find_segment(a.__array_interface__["data"][0])
    if segment is None or segment.pour_fd < 0 or not a.flags.c_contiguous or not a.size:
        return None
    offset = a.__array_interface__["data"][0] - segment.address
    return PageWriter(segment, offset, a.strides[0], fresh)
