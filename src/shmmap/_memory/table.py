"""What this process has mapped: found by address or id, and let go when the last array over it has gone.

Owner of all state here is this process: the tables below are its one record of what it has mapped, made here
(see `_memory.blocks`) or by others.

What must always hold:

- Memory is never unmapped under an array: only references are dropped, and the mapping goes with the
  last of them. A block lives exactly as long as the ``memoryview`` at the root of its arrays.
- A slab's slice, or a whole segment, is used again only if no worker kept a view of it and no handle of it
  was pickled for other processes (`Block.kept`), and this process did not fork while it was in use: a forked
  child or a view elsewhere would read the next array's bytes.
"""

from __future__ import annotations

import os
import weakref
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterable
from operator import attrgetter

import numpy as np

from .._interop.numpy_types import Bytes
from .._system.forks import at_fork, make_lock
from .._system.interrupts import Uninterrupted, refuse_reentry
from .inherited import note_inherited
from .nameless import map_fd
from .segments import Block, BlockRef, Segment, Slab
from .slabs import Slabs
from .spares import Spares


def _random_id() -> int:
    """Where the identities of this process begin: 31 random bits, above a counter of 31."""
    return int.from_bytes(os.urandom(4), "little") >> 1 << 31


lock = make_lock()
"""Held for every change of what follows, but for `_released`."""
slabs = Slabs()
spares = Spares()
_segments: dict[int, Segment] = {}
by_mapping: dict[int, Segment] = {}
"""The same segments by the identity of `Segment.map`, to which all arrays over them refer."""
_blocks: list[Block] = []  # in order of address
_address_of = attrgetter("address")
# Of blocks whose last array has gone. The garbage collector may say so at any moment, in any thread, even
# inside a section that holds the lock; so it only appends here, and the next section takes the blocks back.
_released: deque[BlockRef] = deque()
_drop_listeners: list[Callable[[int], None]] = []
_is_watched = False
"""Whether a listener knows when the next spare segment expires."""
_epoch = 0
"""Number of forks so far."""
_next_id = _random_id()


class _Section:
    """Takes back, at the end of a section that changes the tables, the blocks that were released meanwhile.

    Always as ``with section, lock:``. The lock itself has to be taken and let go by nothing but the ``with``
    statement: a Ctrl-C may come between any two lines of Python, and would leave it locked for good.
    """

    is_taken = False
    """Some thread is probably inside. If an interruption leaves this set, the next section mends it."""

    def __enter__(self) -> None:
        if lock._is_owned():
            refuse_reentry(lock)
        self.is_taken = True

    def __exit__(self, *exc_info: object) -> None:
        self.is_taken = False
        if _released:
            take_back_released()


section = _Section()


def new_segment_id() -> int:
    """An identity no other process of this family uses: 31 random bits, then a counter."""
    global _next_id
    _next_id += 1
    return _next_id


# ---------------------------------------------------------------- entering and finding


def add_segment(segment: Segment) -> Segment:
    """Enter a segment into the table, and return it. The lock is held."""
    by_mapping[id(segment.map)] = segment
    _segments[segment.id] = segment
    return segment


def root_array(segment: Segment, offset: int, nbytes: int, slab: Slab | None) -> Bytes:
    """Enter a block into the table; the array returned keeps it there. The lock is held."""
    root: Bytes = np.frombuffer(memoryview(segment.map)[offset : offset + nbytes], np.uint8)
    block = Block(segment, offset, nbytes, slab, _epoch)
    # A KeyboardInterrupt that is raised in the callback of a weak reference is discarded, unless the callback
    # is no Python code. For the only slab, which stays when it is empty, `deque.append` will do: the block is
    # taken back at the end of the next section.
    can_wait = slab is not None and slabs.is_only(slab)
    # numpy wraps the buffer in a memoryview of its own. Every array over the block refers to that one,
    # through whatever chain of bases, so its death is the death of the last of them.
    block.ref = BlockRef(root.base, _released.append if can_wait else _on_release)
    block.ref.block = block
    block.root = weakref.ref(root)
    insort(_blocks, block, key=_address_of)
    segment.used += 1
    return root


def find_block(address: int) -> Block | None:
    """The block that holds the byte at `address`, if this process has it in shared memory."""
    with lock:
        i = bisect_right(_blocks, address, key=_address_of) - 1
        block = _blocks[i] if i >= 0 else None
    if _released:
        take_back_released()
    if block is not None and address < block.address + block.nbytes:
        return block
    return None


def find_segment(address: int) -> Segment | None:
    """The segment that holds the byte at `address`, made here or attached."""
    block = find_block(address)
    if block is not None:
        return block.segment
    with section, lock:
        for segment in _segments.values():
            if 0 <= address - segment.address < segment.nbytes:
                return segment
    return None


def get_segment(id: int) -> Segment:
    """The segment of that identity. Raises KeyError if this process does not have it."""
    return _segments[id]


# ---------------------------------------------------------------- attaching (the other side)


def attach_segment(
    id: int, fd: int, nbytes: int, *, keep_fd: bool = False, pour: bool = False
) -> Segment:
    """Map a segment of another process from a descriptor, which this takes over.

    Raises ValueError if what the descriptor names is smaller than `nbytes`: it is refused before it is
    mapped.
    """
    with section, lock:
        known = _segments.get(id)
    if known is not None:
        os.close(fd)
        return known
    try:
        status = os.fstat(fd)
        if status.st_size < nbytes:
            raise ValueError(f"segment {id} should hold {nbytes} bytes and holds {status.st_size}")
        # A worker has no other descriptor for handles that it makes.
        mapping = map_fd(fd, nbytes, keeps_fd=not keep_fd)
        segment = Segment(id, fd if keep_fd else -1, nbytes, mapping)
        segment.inode = status.st_dev, status.st_ino
    except BaseException:
        os.close(fd)
        raise
    if pour:
        segment.pour_fd = fd
    elif not keep_fd:
        os.close(fd)
    with section, lock:
        return add_segment(segment)


def adopt_memory(fd: int, nbytes: int) -> Bytes:
    """Map memory that other code made, from a descriptor that this takes over."""
    return own_memory(attach_segment(new_segment_id(), fd, nbytes, keep_fd=True))


def own_memory(segment: Segment) -> Bytes:
    """Make an attached segment live and die with the arrays over it, as one created here does."""
    with Uninterrupted(), section, lock:
        return root_array(segment, 0, segment.nbytes, None)


def detach_segment(id: int) -> None:
    """Drop this process's references to an attached segment; the mapping goes with the last view.

    One with arrays that count for its life, as those have that were made here, goes with the last of them.
    """
    with Uninterrupted(), section, lock:
        segment = _segments.get(id)
        if segment is not None:
            segment.is_handed_over = False
            if segment.fd < 0 or not segment.used:
                forget(segment)


def hand_over_segment(segment: Segment) -> None:
    """Keep a segment of ours until the caller, who has it now too, is done with it: it may come back."""
    with section, lock:
        segment.is_handed_over = True


def discard_segment(id: int) -> bool:
    """Forget an attached segment unless arrays live in it; whether it is gone now."""
    with Uninterrupted(), section, lock:
        segment = _segments.get(id)
        if segment is not None and not segment.used:
            forget(segment)
        return segment is None or not segment.used


# ---------------------------------------------------------------- letting go


def watch_each_release() -> None:
    """Have no block wait any more: there is more than one slab, or none that stays. The lock is held."""
    for block in _blocks:
        target = None if block.ref is None else block.ref()
        if target is not None:  # else it is on its way already
            block.ref = BlockRef(target, _on_release)
            block.ref.block = block


def _on_release(ref: BlockRef) -> None:
    _released.append(ref)
    take_back_released()


def take_back_released() -> None:
    """Take back every block whose last array has gone, unless another section is at it."""
    while _released:
        if section.is_taken or lock._is_owned():
            return  # the holder, who may be this very thread, looks at `_released` after it lets go
        dropped: list[Segment] = []
        with Uninterrupted(), lock:  # or a block might be taken back by half
            while _released:
                for segment in _take_back(_released.popleft().block):
                    forget(segment)
                    dropped.append(segment)
            is_unwatched = not _is_watched and spares.next_expiry() is not None
        if dropped:
            _tell_dropped(segment.id for segment in dropped)
        if is_unwatched:
            _tell_dropped([0])


def _take_back(block: Block) -> list[Segment]:
    """Take a block out of the table; the segments returned are to be let go. The lock is held."""
    block.ref = None  # or the two would refer to each other
    i = bisect_right(_blocks, block.address, key=_address_of) - 1
    while i >= 0 and _blocks[i] is not block:
        i -= 1
    if i < 0:
        return []  # forgotten already, in a forked child
    del _blocks[i]
    segment = block.segment
    segment.used -= 1
    is_clean = not block.kept and block.epoch == _epoch
    if block.slab is not None:
        return slabs.give(block, is_clean)
    if segment.used or segment.is_handed_over:
        return []
    # Kept for the next array only with a team, whose monitor ends the waiting.
    return spares.put(segment) if is_clean and segment.is_own and _drop_listeners else [segment]


def forget(segment: Segment) -> None:
    """Take a segment out of the table and close its descriptors. The lock is held."""
    _segments.pop(segment.id, None)
    by_mapping.pop(id(segment.map), None)
    for fd in (segment.fd, segment.pour_fd):
        if fd >= 0:
            os.close(fd)
    segment.fd = segment.pour_fd = -1


def let_go(segments: list[Segment]) -> None:
    """Forget segments that no array uses, and say so to those that listen."""
    with Uninterrupted(), section, lock:
        for segment in segments:
            forget(segment)
    _tell_dropped(segment.id for segment in segments)


def _tell_dropped(ids: Iterable[int]) -> None:
    for id in ids:
        for listener in list(_drop_listeners):
            listener(id)


def release_spare() -> int:
    """Give back what is kept for the next array; the number of bytes is returned."""
    take_back_released()  # first: they may be the last arrays in the only slab
    with Uninterrupted(), section, lock:
        empty = slabs.take_empty()
        nbytes = sum(segment.nbytes for segment in empty) + spares.nbytes
        segments = empty + spares.clear()
        for segment in segments:
            forget(segment)
    _tell_dropped(segment.id for segment in segments)
    return nbytes


def expire_spare() -> float | None:
    """Give back what has been kept for long enough; when to call again, None if not before a drop."""
    global _is_watched
    with Uninterrupted(), section, lock:
        expired = spares.expire()
        for segment in expired:
            forget(segment)
        expiry = spares.next_expiry()
        _is_watched = expiry is not None
    _tell_dropped(segment.id for segment in expired)
    return expiry


def export_block(segment: Segment, address: int) -> None:
    """Other processes are told of an array, which lies at an address: never use its memory for another."""
    block = find_block(address)
    with section, lock:
        segment.exported = True
        if block is not None:
            block.kept = True


def take_exported(segment: Segment) -> bool:
    """Whether other processes may have been told of arrays in a segment since this was asked last."""
    with lock:
        exported, segment.exported = segment.exported, False
    return exported


def mark_kept(id: int) -> None:
    """A worker's function kept a view of a segment: what lies there now must not be used again."""
    with section, lock:
        for block in _blocks:
            if block.segment.id == id:
                block.kept = True


def on_drop(listener: Callable[[int], None]) -> None:
    """Have `listener` told the id of every segment this process lets go; it must not block.

    The id 0 stands for none: it says that `expire_spare` is to be called.
    """
    _drop_listeners.append(listener)


def off_drop(listener: Callable[[int], None]) -> None:
    if listener in _drop_listeners:
        _drop_listeners.remove(listener)
    if not _drop_listeners:
        release_spare()


# ---------------------------------------------------------------- forks


def become_worker() -> None:
    """Start with an empty table: arrays inherited from the caller are those of the caller."""
    note_inherited(_segments.values())
    spares.clear()
    _blocks.clear()
    slabs.clear()
    _released.clear()
    for segment in list(_segments.values()):
        forget(segment)


def _before_fork() -> None:
    global _epoch
    if _released:  # what is not taken back by now counts as in use
        take_back_released()
    _epoch += 1
    for segment in _segments.values():  # in a worker, whose caller is to know it
        segment.exported = True


def _after_fork_in_child() -> None:
    """Arrays stay valid in a child; the slabs remain the parent's, which goes on filling them."""
    global _next_id
    watch_each_release()
    slabs.clear()
    spares.clear()
    _drop_listeners.clear()
    _next_id = _random_id()


at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
