"""Shared memory, and arrays in it.

In reading order: `nameless` (where memory comes from), `table` (segments: made, attached, released),
`spares`, `refcounts`, `arrays` (new ones), `sources` (`asshared`, `load`, `adopt`), `handles` (what crosses
the process border instead of an array), `copies` and `pages` (bytes into new memory), `files` (memory-mapped
outputs).

What must hold: memory has no name that outlives its process, and is released with its last view.
"""

from .arrays import (
    check_dtype,
    empty,
    empty_like,
    full,
    full_like,
    ones,
    ones_like,
    zeros,
    zeros_like,
)
from .copies import copy_into
from .files import on_one_mapping, reserve_file
from .handles import FileHandle, Handle, SegmentHandle, byte_bounds, from_handle, handle_of, touched
from .nameless import map_fd, open_scratch
from .pages import POUR_NBYTES, PageWriter, fresh_from, make_way
from .refcounts import COUNTS, count_references, is_sole
from .sources import adopt, asshared, is_shared, load, pack_into, packed_nbytes, place, refuse_loss
from .table import (
    ALIGN,
    Segment,
    allocate_bytes,
    attach_segment,
    become_worker,
    detach_segment,
    discard_segment,
    expire_spare,
    find_block,
    get_segment,
    mark_kept,
    new_segment_id,
    off_drop,
    on_drop,
    refuse_reentry_here,
    release_spare,
    take_back_released,
)
