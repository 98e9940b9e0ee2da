"""Segments: shared memory for arrays, from creation to release, and from attaching to detaching.

A *segment* is a piece of OS memory that several processes map; a *block* is the part of it one array
was given (the whole segment, or a slice of a slab for arrays below `SMALL_NBYTES`). Owner of all state
here: this process; the tables below are its one record of what it has mapped.

What must always hold:

- Memory is never unmapped under an array: only references are dropped, and the mapping goes with the
  last of them. A block lives exactly as long as the ``memoryview`` at the root of its arrays.
- A slab's slice, or a whole segment, is used again only if no worker kept a view of it (`Block.kept`)
  and nobody forked while it was in use: a forked child or a kept view would read the next array's bytes.
"""

from __future__ import annotations

import errno
import mmap
import os
import weakref
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from .._errors.exceptions import SharedMemoryError
from .._interop.numpy_types import Bytes
from .._system.forks import at_fork, make_lock
from .._system.interrupts import Uninterrupted, is_inside, refuse_reentry
from .._system.limits import available
from .nameless import CHECK_NBYTES, HUGE_NBYTES, map_fd, open_nameless, populate, wants_advice
from .spares import Spares

# Two descriptors per segment: arrays smaller than this share slabs, or thousands of small arrays would
# exhaust the descriptors. Larger: slabs fill up with few arrays and waste more of themselves.
SMALL_NBYTES = 1 << 20
SLAB_NBYTES = 1 << 22
ALIGN = 64
# What `map_pages` keeps account by. Less: more to keep; more: pages are entered that nobody here will use.
MAP_NBYTES = 1 << 16


class Segment:
    """Memory mapped by this process: mapping, descriptor (-1 where only mapped), identity."""

    __slots__ = (
        "address",
        "fd",
        "id",
        "is_own",
        "map",
        "mapped",
        "nbytes",
        "pour_fd",
        "root",
        "touched",
        "used",
    )

    def __init__(self, id: int, fd: int, nbytes: int, map: mmap.mmap) -> None:
        self.id = id
        self.fd = fd
        self.nbytes = nbytes
        self.map = map
        self.root: Bytes = np.frombuffer(map, np.uint8)
        """All bytes. In a worker, every array of the segment refers to it (see `references`)."""
        self.address: int = self.root.__array_interface__["data"][0]
        self.used = 0
        """Number of blocks in use."""
        self.is_own = False
        """Made here, for arrays of this process."""
        self.touched = 0
        """Bytes at its beginning that were used by an array before this one: they are not zero, and
        quickly written to."""
        self.pour_fd = -1
        """In a worker: a descriptor to write results to fresh pages with."""
        self.mapped = bytearray()
        """A byte for each `MAP_NBYTES`: whether `map_pages` has seen to it; empty before it was called."""


class Block:
    """A slice of a segment that one array was given."""

    __slots__ = ("address", "epoch", "kept", "nbytes", "offset", "ref", "root", "segment", "slab")

    def __init__(self, segment: Segment, offset: int, nbytes: int, slab: Slab | None) -> None:
        self.segment = segment
        self.offset = offset
        self.nbytes = nbytes
        self.slab = slab
        self.address = segment.address + offset
        self.epoch = _epoch
        self.kept = False
        """Some worker's function kept a view: never to be used again while that worker may live."""
        self.ref: _Ref | None = None
        self.root: weakref.ref[Bytes] | None = None
        """The flat array all arrays over this block refer to; further ones must be made from it."""

    def __lt__(self, other: Block) -> bool:
        return self.address < other.address


class _Ref(weakref.ref[Any]):
    """To what every array over a block refers; what its callback gets, so it knows the block."""

    __slots__ = ("block",)
    block: Block


class Slab:
    """First-fit allocation of slices within one segment; neighbours merge when released."""

    __slots__ = ("free", "segment")

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.free = [(0, segment.nbytes)]

    def take(self, nbytes: int) -> int | None:
        """Offset of a free slice of `nbytes`, or None."""
        for i, (offset, size) in enumerate(self.free):
            if size >= nbytes:
                if size == nbytes:
                    del self.free[i]
                else:
                    self.free[i] = (offset + nbytes, size - nbytes)
                return offset
        return None

    def give(self, offset: int, nbytes: int) -> None:
        """Take a slice back."""
        insort(self.free, (offset, nbytes))
        merged: list[tuple[int, int]] = []
        for start, size in self.free:
            if merged and merged[-1][0] + merged[-1][1] == start:
                merged[-1] = (merged[-1][0], merged[-1][1] + size)
            else:
                merged.append((start, size))
        self.free = merged


def _random_id() -> int:
    """Where this process's identities begin: 31 random bits, above a counter of 31."""
    return int.from_bytes(os.urandom(4), "little") >> 1 << 31


_lock = make_lock()
_segments: dict[int, Segment] = {}
_blocks: list[Block] = []  # in order of address
_slabs: list[Slab] = []
# Of blocks whose last array has gone. The garbage collector may say so at any moment, in any thread, even
# inside a section that holds the lock; so it only appends here, and whoever can takes the lock next.
_released: deque[_Ref] = deque()


class _Door:
    """Whoever has been at the tables here takes back what has been dropped meanwhile.

    An array may go at any moment, also in a thread that holds the lock: its block then waits in `_released`.

    Always as ``with _door, _lock:``. The lock itself has to be taken and let go by nothing but the ``with``
    statement: a Ctrl-C may come between any two lines of Python, and would leave it locked for good.
    """

    is_taken = False
    """Somebody is probably inside: what an interruption leaves here is put right by whoever comes next."""

    def __enter__(self) -> None:
        refuse_reentry(_lock)
        self.is_taken = True

    def __exit__(self, *exc_info: object) -> None:
        self.is_taken = False
        if _released:
            take_back_released()


_door = _Door()


def refuse_reentry_here() -> None:
    """Refuse a thread that is inside already; for locks that are taken before the one here."""
    refuse_reentry(_lock)


_drop_listeners: list[Callable[[int], None]] = []
_spares = Spares()
_is_watched = False
"""Whether a listener knows when the next spare segment expires."""
_epoch = 0  # number of forks so far
_next_id = _random_id()


def new_segment_id() -> int:
    """An identity no other process of this family uses: 31 random bits, then a counter."""
    global _next_id
    _next_id += 1
    return _next_id


# ---------------------------------------------------------------- creating


def map_pages(segment: Segment, start: int, nbytes: int) -> None:
    """Enter a part of a segment into this process's page table, where that was not done before.

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


def _create(nbytes: int) -> Segment:
    fd = open_nameless(nbytes)
    try:
        segment = Segment(new_segment_id(), fd, nbytes, map_fd(fd, nbytes))
    except BaseException:
        os.close(fd)
        raise
    segment.is_own = True
    return segment


def _reuse(nbytes: int) -> Segment | None:
    """A segment just released that is large enough; all of it reserved again."""
    with _door, _lock:
        segment = _spares.take(nbytes)
    if segment is None or segment.touched == segment.nbytes:
        return segment
    missing = segment.nbytes - segment.touched
    try:
        if missing >= CHECK_NBYTES:
            free, _ = available()
            if free < missing:
                raise MemoryError
            with _door, _lock:
                _spares.note_miss(nbytes, free - missing)
        if missing >= HUGE_NBYTES and wants_advice(segment.fd):
            populate(segment.map, segment.touched, missing)
        os.posix_fallocate(segment.fd, 0, segment.nbytes)
    except (OSError, MemoryError):
        with _door, _lock:
            _forget(segment)
        _tell_dropped([segment])
        return None
    return segment


# ---------------------------------------------------------------- blocks


def root_array(segment: Segment, offset: int, nbytes: int, slab: Slab | None) -> Bytes:
    """Enter a block into the table; the array returned keeps it there. The lock is held."""
    root: Bytes = np.frombuffer(memoryview(segment.map)[offset : offset + nbytes], np.uint8)
    block = Block(segment, offset, nbytes, slab)
    # Python loses a Ctrl-C that comes in a weak reference's callback, unless that is none of Python's code.
    # The only slab stays anyway: while it is, what lies there can wait until somebody is here again.
    can_wait = slab is not None and _slabs == [slab]
    # numpy wraps the buffer in a memoryview of its own. Every array over the block refers to that one,
    # through whatever chain of bases, so its death is the death of the last of them.
    block.ref = _Ref(root.base, _released.append if can_wait else _on_release)
    block.ref.block = block
    block.root = weakref.ref(root)
    insort(_blocks, block)
    segment.used += 1
    return root


def allocate_bytes(nbytes: int) -> Bytes:
    """Reserved shared memory as a flat array of at least `nbytes` bytes, aligned to 64.

    Raises
    ------
    SharedMemoryError
        If there is not enough of it.
    OSError
        If there are no descriptors left.
    """
    try:
        return _allocate(nbytes)
    except (SharedMemoryError, OSError) as exc:
        if isinstance(exc, OSError) and exc.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        if not release_spare():  # what is kept for later has both memory and descriptors
            raise
    return _allocate(nbytes)


def _allocate(nbytes: int) -> Bytes:
    if _released:
        take_back_released()
    size = max(ALIGN, -(-nbytes // ALIGN) * ALIGN)
    if size >= SMALL_NBYTES:
        # Or a Ctrl-C could leave a segment with nobody: neither new, nor kept for later, nor in use.
        with Uninterrupted():
            segment = _reuse(nbytes) or _create(nbytes)
            with _door, _lock:
                _segments[segment.id] = segment
                root = root_array(segment, 0, nbytes, None)
    else:
        with _door, _lock:
            for slab in _slabs:
                offset = slab.take(size)
                if offset is not None:
                    break
            else:
                with Uninterrupted():
                    _take_back_at_once()
                    segment = _create(SLAB_NBYTES)
                    _segments[segment.id] = segment
                    slab = Slab(segment)
                    _slabs.append(slab)
                offset = slab.take(size)
                assert offset is not None
            root = root_array(slab.segment, offset, size, slab)
    return root


def is_fresh(root: Bytes) -> bool:
    """Whether the bytes under a root just allocated are known to be zero."""
    block = find_block(root.__array_interface__["data"][0])
    return block is not None and block.slab is None and not block.segment.touched


def _take_back_at_once() -> None:
    """Have no block wait any more: there is more than one slab, or none that stays."""
    for block in _blocks:
        target = None if block.ref is None else block.ref()
        if target is not None:  # else it is on its way already
            block.ref = _Ref(target, _on_release)
            block.ref.block = block


def _on_release(ref: _Ref) -> None:
    _released.append(ref)
    take_back_released()


def take_back_released() -> None:
    """Take back every block whose last array has gone, unless somebody else is at it."""
    while _released:
        if _door.is_taken or is_inside(_lock):
            return  # the holder, who may be this very thread, looks at `_released` after it lets go
        dropped: list[Segment] = []
        with Uninterrupted(), _lock:  # or a block might be taken back by half
            while _released:
                _take_back(_released.popleft().block, dropped)
            is_unwatched = not _is_watched and _spares.next_expiry() is not None
        _tell_dropped(dropped)
        if is_unwatched:
            for listener in list(_drop_listeners):
                listener(0)


def _tell_dropped(segments: list[Segment]) -> None:
    for segment in segments:
        for listener in list(_drop_listeners):
            listener(segment.id)


def _take_back(block: Block, dropped: list[Segment]) -> None:
    block.ref = None  # or the two would refer to each other
    i = bisect_right(_blocks, block) - 1
    while i >= 0 and _blocks[i] is not block:
        i -= 1
    if i < 0:
        return  # forgotten already, in a forked child
    del _blocks[i]
    segment, slab = block.segment, block.slab
    segment.used -= 1
    if slab is not None and not block.kept and block.epoch == _epoch:
        slab.give(block.offset, block.nbytes)
    # One empty slab stays for the next small array, unless part of it is lost to kept views.
    spare = slab is not None and [s for s in _slabs if not s.segment.used] == [slab]
    if slab is None and _can_reuse(block):
        for evicted in _spares.put(segment):
            _forget(evicted)
            dropped.append(evicted)
    elif segment.used == 0 and not (spare and slab and slab.free == [(0, segment.nbytes)]):
        if slab in _slabs:
            _slabs.remove(slab)
        _forget(segment)
        dropped.append(segment)


def _can_reuse(block: Block) -> bool:
    """Whether a whole segment may serve another array. Only with a team: its monitor ends the waiting."""
    segment = block.segment
    return bool(
        segment.is_own
        and not segment.used
        and not block.kept
        and block.epoch == _epoch
        and _drop_listeners
        and segment.nbytes >= SMALL_NBYTES
    )


def _forget(segment: Segment) -> None:
    _segments.pop(segment.id, None)
    for fd in (segment.fd, segment.pour_fd):
        if fd >= 0:
            os.close(fd)
    segment.fd = segment.pour_fd = -1


def release_spare() -> int:
    """Give back what is kept for the next array; the number of bytes is returned."""
    with Uninterrupted(), _door, _lock:
        empty = [slab for slab in _slabs if not slab.segment.used]
        for slab in empty:
            _slabs.remove(slab)
        nbytes = SLAB_NBYTES * len(empty) + _spares.nbytes
        segments = [*(slab.segment for slab in empty), *_spares.clear()]
        for segment in segments:
            _forget(segment)
    _tell_dropped(segments)
    return nbytes


def expire_spare() -> float | None:
    """Give back what has been kept for long enough; when to call again, None if not before a drop."""
    global _is_watched
    with Uninterrupted(), _door, _lock:
        expired = _spares.expire()
        for segment in expired:
            _forget(segment)
        expiry = _spares.next_expiry()
        _is_watched = expiry is not None
    _tell_dropped(expired)
    return expiry


def mark_kept(id: int) -> None:
    """A worker's function kept a view of a segment: what lies there now must not be used again."""
    with _door, _lock:
        for block in _blocks:
            if block.segment.id == id:
                block.kept = True


def find_block(address: int) -> Block | None:
    """The block that holds the byte at `address`, if this process has it in shared memory."""
    with _lock:
        i = _bisect_address(address)
        block = _blocks[i] if i >= 0 else None
    if _released:
        take_back_released()
    if block is not None and address < block.address + block.nbytes:
        return block
    return None


def _bisect_address(address: int) -> int:
    """Index of the last block that starts at or below `address`; -1 if there is none."""
    low, high = 0, len(_blocks)
    while low < high:
        middle = (low + high) // 2
        if _blocks[middle].address <= address:
            low = middle + 1
        else:
            high = middle
    return low - 1


def on_drop(listener: Callable[[int], None]) -> None:
    """Have `listener` told the id of every segment this process lets go; it must not block.

    The id 0 stands for none: it says that `expire_spare` is to be called.
    """
    _drop_listeners.append(listener)


def off_drop(listener: Callable[[int], None]) -> None:
    """Undo `on_drop`."""
    if listener in _drop_listeners:
        _drop_listeners.remove(listener)
    if not _drop_listeners:
        release_spare()


# ---------------------------------------------------------------- attaching (the other side)


def attach_segment(
    id: int, fd: int, nbytes: int, *, keep_fd: bool = False, pour: bool = False
) -> Segment:
    """Map a segment of another process from a descriptor, which this takes over.

    Raises
    ------
    ValueError
        If what the descriptor names is smaller than `nbytes`: it is refused before it is mapped.
    """
    with _door, _lock:
        known = _segments.get(id)
    if known is not None:
        os.close(fd)
        return known
    try:
        size = os.fstat(fd).st_size
        if size < nbytes:
            raise ValueError(f"segment {id} should hold {nbytes} bytes and holds {size}")
        segment = Segment(id, fd if keep_fd else -1, nbytes, map_fd(fd, nbytes))
    except BaseException:
        os.close(fd)
        raise
    if pour:
        segment.pour_fd = fd
    elif not keep_fd:
        os.close(fd)
    with _door, _lock:
        _segments[id] = segment
    return segment


def adopt_memory(fd: int, nbytes: int) -> Bytes:
    """Map memory that other code made, from a descriptor that this takes over."""
    return own_memory(attach_segment(new_segment_id(), fd, nbytes, keep_fd=True))


def own_memory(segment: Segment) -> Bytes:
    """Make an attached segment live and die with the arrays over it, as one created here does."""
    with Uninterrupted(), _door, _lock:
        return root_array(segment, 0, segment.nbytes, None)


def detach_segment(id: int) -> None:
    """Drop this process's references to an attached segment; the mapping goes with the last view."""
    with Uninterrupted(), _door, _lock:
        segment = _segments.get(id)
        if segment is not None:
            _forget(segment)


def discard_segment(id: int) -> bool:
    """Forget an attached segment unless arrays live in it; whether it is gone now."""
    with Uninterrupted(), _door, _lock:
        segment = _segments.get(id)
        if segment is not None and not segment.used:
            _forget(segment)
        return segment is None or not segment.used


def get_segment(id: int) -> Segment:
    """The segment of that identity.

    Raises
    ------
    KeyError
        If this process does not have it.
    """
    return _segments[id]


def find_segment(address: int) -> Segment | None:
    """The attached segment that holds `address`; for processes with no blocks of their own."""
    with _door, _lock:
        for segment in _segments.values():
            if 0 <= address - segment.address < segment.nbytes:
                return segment
    return None


def become_worker() -> None:
    """Start with an empty table: arrays inherited from the caller are not this process's to manage."""
    _spares.clear()
    _blocks.clear()
    _slabs.clear()
    _released.clear()
    for segment in list(_segments.values()):
        _forget(segment)


# ---------------------------------------------------------------- forks


def _before_fork() -> None:
    global _epoch
    if _released:  # what is not taken back by now counts as in use
        take_back_released()
    _epoch += 1


def _after_fork_in_child() -> None:
    """Arrays stay valid in a child; the slabs remain the parent's, which goes on filling them."""
    global _next_id
    _take_back_at_once()
    _slabs.clear()
    _spares.clear()
    _drop_listeners.clear()
    _next_id = _random_id()


at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
