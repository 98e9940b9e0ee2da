"""What stands first in claim slots and control blocks, so that another program knows them for what they are.

That program (`sight`) finds them among the descriptors of a process, and may be of another version of this
library: mark and layout stay where they are for ever, and all else may change with the layout.
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

LAYOUT = 1
"""Of claim slots, control blocks and this header. Whoever moves a word in them raises it."""
HEADER_NBYTES = 64
_HEADER = struct.Struct("<8s3q")
SLOTS_MARK, CONTROL_MARK = b"shmmap\0S", b"shmmap\0C"


class Header(NamedTuple):
    """What a header says."""

    mark: bytes
    layout: int
    pid: int
    """The process that made it, by its own number for itself: workers have it mapped as well."""
    id: int
    """Of a control block, unlike any other of that process; 0 for claim slots."""

    @property
    def is_ours(self) -> bool:
        """Whether it is a header at all."""
        return self.mark in (SLOTS_MARK, CONTROL_MARK)


def pack_header(mark: bytes, id: int = 0) -> bytes:
    """The header of what this process makes."""
    return _HEADER.pack(mark, LAYOUT, os.getpid(), id).ljust(HEADER_NBYTES, b"\0")


def unpack_header(data: bytes) -> Header:
    """The header in the first bytes of a file, which may be too few or anything else."""
    return Header(*_HEADER.unpack(data[: _HEADER.size].ljust(_HEADER.size, b"\0")))
