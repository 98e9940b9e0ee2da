"""Where the memory for a new array comes from: a slice of a slab, a segment just released, or a new one.

Called by `allocation` and `sources`. What must hold: all that is returned is reserved, so that
writing to it cannot fail.
"""

from __future__ import annotations

import errno
import os

from .._errors.exceptions import SharedMemoryError
from .._interop.numpy_types import Bytes
from .._system.interrupts import Uninterrupted
from .._system.limits import available
from .nameless import CHECK_NBYTES, HUGE_NBYTES, map_fd, open_nameless, populate, wants_advice
from .segments import Segment
from .slabs import SLAB_NBYTES
from .table import (
    add_segment,
    find_block,
    let_go,
    lock,
    new_segment_id,
    release_spare,
    root_array,
    section,
    slabs,
    spares,
    take_back_released,
    watch_each_release,
)

# Two descriptors per segment: arrays smaller than this share slabs, or thousands of small arrays would
# exhaust the descriptors. Larger: slabs fill up with few arrays and waste more of themselves.
SMALL_NBYTES = 1 << 20
ALIGN = 64


def allocate_bytes(nbytes: int) -> Bytes:
    """Reserved shared memory as a flat array of at least `nbytes` bytes, aligned to 64.

    Raises SharedMemoryError if there is not enough of it, and OSError if there are no descriptors left.
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
    take_back_released()
    size = max(ALIGN, -(-nbytes // ALIGN) * ALIGN)
    if size >= SMALL_NBYTES:
        # Or a Ctrl-C could leave a segment that is neither in use, nor kept for later, nor closed.
        with Uninterrupted():
            segment = _reuse(nbytes) or _create(nbytes)
            with section, lock:
                add_segment(segment)
                return root_array(segment, 0, nbytes, None)
    with section, lock:
        found = slabs.take(size)
        if found is None:
            with Uninterrupted():
                watch_each_release()
                slabs.add(add_segment(_create(SLAB_NBYTES)))
            found = slabs.take(size)
            assert found is not None
        slab, offset = found
        return root_array(slab.segment, offset, size, slab)


def _create(nbytes: int) -> Segment:
    fd = open_nameless(nbytes)
    try:
        return Segment(new_segment_id(), fd, nbytes, map_fd(fd, nbytes), is_own=True)
    except BaseException:
        os.close(fd)
        raise


def _reuse(nbytes: int) -> Segment | None:
    """A segment just released that is large enough; all of it reserved again."""
    with section, lock:
        segment = spares.take(nbytes)
    if segment is None or segment.touched == segment.nbytes:
        return segment
    missing = segment.nbytes - segment.touched
    try:
        if missing >= CHECK_NBYTES:
            free, _ = available()
            if free < missing:
                raise MemoryError
            with section, lock:
                spares.note_miss(nbytes, free - missing)
        if missing >= HUGE_NBYTES and wants_advice(segment.fd):
            populate(segment.map, segment.touched, missing)
        os.posix_fallocate(segment.fd, 0, segment.nbytes)
    except (OSError, MemoryError):
        let_go([segment])
        return None
    return segment


def is_fresh(root: Bytes) -> bool:
    """Whether the bytes under a root just allocated are known to be zero."""
    block = find_block(root.__array_interface__["data"][0])
    return block is not None and block.slab is None and not block.segment.touched
