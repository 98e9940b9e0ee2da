"""Where an array lies, told such that any process of the same user can open it; and opened there.

An array in a segment is told by the process that has it, the number of a descriptor there, and the inode
(`origins`); one in a file by the file. What must hold: memory of which another process was told is never used
again for another array (`Block.kept`, `Segment.exported`). What is mapped already is not mapped once more, so
that overlaps are seen.
"""

from __future__ import annotations

import io
import os
import pickle
import sys
import weakref
from typing import Any, NamedTuple

import numpy as np

from .._errors.exceptions import SharedMemoryError
from .._interop.numpy_types import Array, Bytes
from .._system.forks import make_lock
from .._system.interrupts import Uninterrupted
from .files import FileHandle, handle_in_file
from .handles import SegmentHandle, layout_of, touched, view_over
from .inherited import find_inherited
from .leases import Receipt, confirm, leases
from .mapped_again import map_again, note_mapping
from .mappings import address_of
from .origins import (
    Inode,
    Process,
    find_descriptor,
    inode_of,
    open_memory,
    process_of,
    this_machine,
    this_process,
)
from .reachable import address, anchor, is_plain, is_reachable, take_apart, why_not
from .segments import Segment, byte_bounds
from .table import (
    attach_segment,
    export_block,
    find_block,
    find_segment,
    get_segment,
    lock,
    new_segment_id,
    root_array,
    section,
    slabs,
)

# Descriptors that one spawned process is given: a fork server takes no more than 250 or so.
_PASSED_MOST = 128

_lock = make_lock()
"""Held while memory is looked for and opened, so that it is mapped once."""
_passed: weakref.WeakKeyDictionary[Any, dict[int, Any]] = weakref.WeakKeyDictionary()
"""By what spawns a process: the descriptors that go along, by segment."""


class _Memory(NamedTuple):
    """An array in a segment, and where the segment can be had."""

    owner: tuple[Any, ...]
    fd: int
    passed: Any
    """Takes a descriptor that went along with the process, if one did."""
    inode: Inode
    nbytes: int
    handle: tuple[Any, ...]
    receipt: tuple[Any, ...] | None


class _InFile(NamedTuple):
    """An array in a file."""

    machine: str
    is_memmap: bool
    handle: tuple[Any, ...]


class _Packer(pickle.Pickler):
    """For relatives of plain arrays: those inside go as handles do."""

    def __init__(self, file: io.BytesIO, lease_s: float) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._lease_s = lease_s

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, np.ndarray):
            return NotImplemented
        if not is_plain(obj):
            return take_apart(obj)
        if obj.dtype.hasobject or not is_reachable(obj):
            return NotImplemented  # an attribute, say
        return open_packed, (pack(obj, self._lease_s),)


def pack(a: Array, lease_s: float) -> tuple[Any, ...] | bytes:
    """Plain values that an array can be opened from."""
    if not is_plain(a):
        file = io.BytesIO()
        _Packer(file, lease_s).dump(a)
        return file.getvalue()
    near = anchor(a)
    segment = find_segment(address(a))
    inherited = find_inherited(near) if segment is None else None
    where = segment or inherited
    if where is None:
        in_file = handle_in_file(a)
        if in_file is None:
            raise TypeError(why_not(a, a))
        note_mapping(a, in_file)
        return tuple(_InFile(this_machine(), type(a) is np.memmap, tuple(in_file)))
    passed = receipt = None
    if segment is not None:
        export_block(segment, address(a))
        owner = this_process()
        fd, inode = _descriptor_of(segment)
        passed = _pass_on(segment, fd)
        if passed is None and lease_s > 0:
            receipt = tuple(leases.grant(a, lease_s))
    else:  # its caller keeps it while this worker has it; and does not use it again, as it has forked
        assert inherited is not None
        owner, fd, inode = process_of(inherited.caller), inherited.fd, inherited.inode
    dtype, shape, strides, writeable = layout_of(a)
    offset = address_of(near) - where.address
    return tuple(
        _Memory(
            owner=tuple(owner),
            fd=fd,
            passed=passed,
            inode=inode,
            nbytes=where.nbytes,
            handle=(where.id, offset, shape, strides, dtype, writeable),
            receipt=receipt,
        )
    )


def _descriptor_of(segment: Segment) -> tuple[int, Inode]:
    """A descriptor of a segment in this process, by which others may open it, and its inode."""
    if segment.fd >= 0:
        return segment.fd, inode_of(segment.fd)
    # Mapped by a worker, and its descriptor closed: the mapping has one of its own.
    fd = find_descriptor(segment.inode)
    if fd < 0:
        raise RuntimeError(
            "this process has no descriptor for the memory of this array (any more), so no other process can "
            "reach it: pickle its handle where the array was made"
        )
    return fd, segment.inode


def _pass_on(segment: Segment, fd: int) -> Any:
    """While `multiprocessing` spawns a process: what takes the descriptor there, so that it needs nobody."""
    context: Any = sys.modules.get("multiprocessing.context")
    popen = None if context is None else context.get_spawning_popen()
    if popen is None or not hasattr(popen, "DupFd"):
        return None
    passed = _passed.setdefault(popen, {})
    if segment.id not in passed:
        if len(passed) >= _PASSED_MOST:
            return None
        passed[segment.id] = popen.DupFd(popen.duplicate_for_child(fd))
    return passed[segment.id]


def open_packed(packed: Any) -> Any:
    if isinstance(packed, bytes):
        return pickle.loads(packed)
    if len(packed) == len(_InFile._fields):
        in_file = _InFile(*packed)
        _refuse_another_machine(in_file)
        return map_again(FileHandle(*in_file.handle), in_file.is_memmap)
    memory = _Memory(*packed)
    owner, handle = Process(*memory.owner), SegmentHandle(*memory.handle)
    with _lock:
        segment = _find_or_open(memory, owner, handle.segment)
        a = _view(segment, handle)
    if memory.receipt is not None:
        inode, number = memory.receipt[1:]
        confirm(owner, this_process(), Receipt(memory.receipt[0], tuple(inode), number))
    return a


def _refuse_another_machine(in_file: _InFile) -> None:
    if this_machine() != in_file.machine:
        path = in_file.handle[0]
        where = "this machine: the handle is of another one, or of before a restart"
        raise SharedMemoryError(0, 0, where, f"send the name of its file, {path!r}")


def _find_or_open(memory: _Memory, owner: Process, id: int) -> Segment:
    try:
        known = get_segment(id)
    except KeyError:
        pass
    else:
        if _inode_of(known) == memory.inode:
            return known
        id = new_segment_id()  # another family of processes has come to the same one
    fd = _take_passed(memory)
    if fd < 0:
        fd = open_memory(owner, memory.fd, memory.inode, memory.nbytes)
    return attach_segment(id, fd, memory.nbytes, keep_fd=True)


def _inode_of(segment: Segment) -> Inode:
    return segment.inode if segment.fd < 0 else inode_of(segment.fd)


def _take_passed(memory: _Memory) -> int:
    """The descriptor that went along with this process; -1 if none did, or it was taken before."""
    if memory.passed is None:
        return -1
    try:
        fd: int = memory.passed.detach()
        if inode_of(fd) != memory.inode:
            return -1
        os.set_inheritable(fd, False)
        return fd
    except OSError:
        return -1


def _view(segment: Segment, handle: SegmentHandle) -> Array:
    """The array of a handle over the mapping of this process, for whose life it then counts."""
    with Uninterrupted(), section, lock:
        block = find_block(segment.address + handle.offset)
        root: Bytes | None = None
        if block is not None and block.root is not None:
            block.kept = True
            root = block.root()  # None where its last array is just going
        if root is not None and block is not None:
            start = block.offset
        elif segment.fd < 0:  # a worker's, attached by its caller
            root, start = segment.root, 0
            touched[segment.id] = touched.get(segment.id, 0) + 1
        else:
            root, start = _enter_again(segment, handle)
    return view_over(root, handle.offset - start, handle)


def _enter_again(segment: Segment, handle: SegmentHandle) -> tuple[Bytes, int]:
    """A new block over memory of which this process has no array (any more). The lock is held.

    Of a slab of its own it is the slice alone, which has never served again since it was exported.
    """
    slab = slabs.find(segment)
    start, nbytes = 0, segment.nbytes
    if slab is not None:
        probe = np.ndarray(
            handle.shape, np.dtype(handle.dtype), segment.root, handle.offset, handle.strides
        )
        low, high = byte_bounds(probe)
        start, nbytes = low - segment.address, max(high - low, 1)
    root = root_array(segment, start, nbytes, slab)
    block = find_block(segment.address + start)
    assert block is not None
    block.kept = True
    return root, start
