"""Shared memory, and arrays in it.

In reading order: `nameless` (where memory comes from), `segments` (the data), `table` (what is mapped
here), `slabs` and `spares` (what is kept for the next array), `blocks` (memory for a new array),
`refcounts`, `allocation`, `arrays` (new ones), `pages` (bytes into new memory), `sources` (`asshared`,
`adopt`), `loading` and `npz` (`load`), `handles` (what goes to a worker instead of an array), `mappings`
(which file an array is a mapping of), `files` (memory-mapped files), `sharing` (any object with its
large data there). Imported when they are used: `exports`
(handles for any other process), and below it `locations`, `reachable`, `mapped_again`, `leases`, `origins`.

What must hold: memory has no name that outlives its process, and is released with its last view.
"""

from .allocation import check_dtype, new_array
from .arrays import (
    empty,
    empty_like,
    full,
    full_like,
    ones,
    ones_like,
    zeros,
    zeros_like,
)
from .blocks import ALIGN, allocate_bytes
from .files import (
    FileHandle,
    create_npy,
    dtype_code,
    handle_in_file,
    on_one_mapping,
    open_npy,
    reserve_file,
    sync_file,
)
from .handles import (
    Handle,
    PortableHandle,
    SegmentHandle,
    from_handle,
    handle_of,
    layout_of,
    lend,
    locate,
    touched,
)
from .loading import load
from .nameless import (
    SHM_FOLDER,
    SHMEM_ENABLED,
    kernel_setting,
    map_fd,
    mount_setting,
    open_scratch,
    shm_room,
)
from .pages import POUR_NBYTES, PageWriter, copy_into, fresh_from, make_page_writer
from .refcounts import COUNTS, count_references, is_sole
from .segments import Segment, byte_bounds
from .sharing import share
from .sources import adopt, asshared, is_shared, pack_into, packed_nbytes, place, refuse_loss
from .table import (
    attach_segment,
    become_worker,
    detach_segment,
    discard_segment,
    expire_spare,
    find_block,
    get_segment,
    hand_over_segment,
    mark_kept,
    new_segment_id,
    off_drop,
    on_drop,
    release_spare,
    take_back_released,
    take_exported,
)
from .table import lock as table_lock
