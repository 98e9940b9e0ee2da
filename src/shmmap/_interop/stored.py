"""Arrays that are not in memory: zarr arrays and HDF5 datasets, as inputs and as outputs.

A `Stored` stands for one. Bytes never travel: each worker opens the array and reads its ranges itself. Who
writes an output is said in docs/design/0024-stored-arrays-are-opened-by-workers.md. zarr and h5py are never
imported here unless an array of theirs was given.
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from .captured_stores import is_locked, open_hdf5_files, unlock
from .numpy_types import Array, DType

_opened: dict[object, tuple[object, Callable[[], object]]] = {}
"""Arrays open in this process for the call that runs, and how to close them."""

_inherited: set[int] = set()
"""HDF5 files that were open in the caller when this worker was forked from it."""


class Opener(NamedTuple):
    """How another process opens an array."""

    kind: Literal["zarr", "hdf5"]
    where: Any
    """A path; or, for zarr, a store that can be pickled because it is reachable from everywhere."""
    name: str
    """Within the store or file."""
    extra: tuple[object, ...] = ()

    def open(self, mode: str) -> Any:
        """The array, opened once in this process until `forget_opened`."""
        key = (self.kind, str(self.where), self.name, mode)
        if key not in _opened:
            _opened[key] = (_open_zarr if self.kind == "zarr" else _open_hdf5)(self, mode)
        return _opened[key][0]


def _open_zarr(opener: Opener, mode: str) -> tuple[object, Callable[[], object]]:
    import zarr

    where = opener.where
    if isinstance(where, str) and where.endswith(".zip"):
        where = zarr.storage.ZipStore(where, mode="r")
    elif mode == "r+":
        where = unlock(where)
    array = zarr.open_array(where, path=opener.name, mode=mode)
    return array, array.store.close


def _open_hdf5(opener: Opener, mode: str) -> tuple[object, Callable[[], object]]:
    import h5py

    swmr, plugins = opener.extra
    if plugins:  # its import is what makes its compression filters known
        __import__("hdf5plugin")
    file = h5py.File(opener.where, mode, swmr=swmr)
    return file[opener.name], file.close


def forget_opened() -> None:
    """Close what the call that ends has opened."""
    while _opened:
        _opened.popitem()[1][1]()


def note_inherited_stores() -> None:
    """In a worker that was forked from the caller: remember which HDF5 files came along."""
    _inherited.update(file.id for file in open_hdf5_files())


def _close_inherited(path: str) -> None:
    """Close a file that came along: HDF5 would go on with what it knew then, and keep the file locked."""
    import h5py

    for file in open_hdf5_files():
        if file.id not in _inherited or file.get_intent() & h5py.h5f.ACC_RDWR:
            continue
        if os.path.realpath(os.fsdecode(file.name)) == os.path.realpath(path):
            _inherited.discard(file.id)
            # Closing unlocks the description of the file, which the caller has, too: let it have another one.
            fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            os.dup2(fd, file.get_vfd_handle(), inheritable=False)
            os.close(fd)
            h5py.File(file).close()


@dataclasses.dataclass(eq=False, repr=False)
class Stored:
    """A zarr array or an HDF5 dataset."""

    shape: tuple[int, ...]
    dtype: DType
    opener: Opener | None
    """None: no other process can open it."""
    mode: str = "r"
    live: Any = None
    """The array itself, once it is open here."""
    key: tuple[object, ...] = ("",)
    """Equal for objects that stand for the same array; first, what kind of array it is."""
    units: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    """Shape of the smallest part that is read, and that is written, as one; empty if any part is."""
    why_not_read: str = ""
    """Why other processes cannot read it; empty if they can."""
    why_not_write: str = ""
    """Why no process can write it; likewise."""
    has_one_writer: bool = True
    """Whether only the caller can write it."""

    _writer: Any = None

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (self.shape, self.dtype, self.opener, self.mode)

    def elsewhere(self, mode: str = "r") -> Stored:
        """The same array as other processes see it: opened there, at its first use."""
        return _restore(self.shape, self.dtype, self.opener, mode)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self.itemsize * math.prod(self.shape)

    def _array(self) -> Any:
        if self.live is None:
            assert self.opener is not None
            live = self.opener.open(self.mode)
            # A zarr array is opened in the machine's byte order, whatever it was made with.
            dtypes = [dtype.newbyteorder("=") for dtype in (live.dtype, self.dtype)]
            if live.shape != self.shape or dtypes[0] != dtypes[1]:
                raise ValueError(
                    f"{self.opener.name or self.opener.where!r} has shape {live.shape} and dtype "
                    f"{live.dtype} in its file, and {self.shape} and {self.dtype} for its caller: it was "
                    "changed and not written yet, or replaced"
                )
            self.live = live
        return self.live

    def __getitem__(self, index: object) -> Array:
        """Read a part of it, into a private array that is read-only."""
        part = np.asarray(self._array()[index], self.dtype)
        part.flags.writeable = False
        return part

    def __setitem__(self, index: object, value: object) -> None:
        array = self._array()
        if is_locked(getattr(array, "store", None)):  # as the function captures the same store
            if self._writer is None:
                zarr: Any = sys.modules["zarr"]
                self._writer = zarr.open_array(unlock(array.store), path=array.path, mode="r+")
            array = self._writer
        array[index] = np.asarray(value, array.dtype)

    def __repr__(self) -> str:
        return f"<{self.key} of shape {self.shape}, {self.dtype}>"


def _restore(shape: tuple[int, ...], dtype: DType, opener: Opener | None, mode: str) -> Stored:
    if _inherited and opener is not None and opener.kind == "hdf5":
        _close_inherited(opener.where)
    return Stored(shape, dtype, opener, mode)


class Target:
    """A stored output as kernels and collectors see it: axis first.

    `first`: where in it results of item 0 go, if the map is a part of one that fills all of it.
    """

    def __init__(self, stored: Stored, axis: int, first: int = 0) -> None:
        self.stored = stored
        self._first = first
        self._axis = axis % stored.ndim
        shape = stored.shape
        self.shape = (shape[self._axis], *shape[: self._axis], *shape[self._axis + 1 :])
        self.dtype = stored.dtype

    def _index(self, rows: slice) -> tuple[slice, ...]:
        first = self._first
        return (slice(None),) * self._axis + (slice(rows.start + first, rows.stop + first),)

    def part(self, first: int) -> Target:
        """The same for a map that begins with item `first` of this one."""
        return Target(self.stored.elsewhere("r+"), self._axis, self._first + first)

    def __getitem__(self, rows: slice) -> Array:
        return np.moveaxis(self.stored[self._index(rows)], self._axis, 0)

    def __setitem__(self, rows: slice, value: Any) -> None:
        block = np.broadcast_to(value, (rows.stop - rows.start, *self.shape[1:]))
        moved = np.moveaxis(block, 0, self._axis)
        # In one piece and of the right type, as not every codec takes other arrays.
        self.stored[self._index(rows)] = np.ascontiguousarray(moved, self.dtype)


# ---------------------------------------------------------------- recognising


def find_stored(value: object) -> Stored | None:
    """What stands for a zarr array or HDF5 dataset; None for anything else."""
    zarr, h5py = sys.modules.get("zarr"), sys.modules.get("h5py")
    if zarr is not None and isinstance(value, zarr.Array):
        return _find_zarr(value)
    if h5py is not None and isinstance(value, h5py.Dataset):
        if not value:
            raise ValueError("the HDF5 file of this dataset is closed")
        return _find_hdf5(value)
    return None


def _find_zarr(array: Any) -> Stored:
    store, name = array.store, array.path
    kind = type(store).__name__
    where: object = None
    if kind in ("LocalStore", "DirectoryStore", "NestedDirectoryStore"):
        where = os.path.abspath(getattr(store, "root", None) or store.path)
    elif kind == "ZipStore" and store.read_only and str(store.path).endswith(".zip"):
        where = os.path.abspath(store.path)
    elif kind in ("FsspecStore", "ObjectStore") and not _is_in_memory(store):
        where = store
    why_not_read = "" if where is not None else (
        f"no other process can open a zarr array in this {kind}: use engine='threads', or copy it "
        "into a folder (zarr.save_array), or into memory (shmmap.asshared(array[:]))"
    )  # fmt: skip
    place = os.path.realpath(where) if isinstance(where, str) else str(store)
    return Stored(
        array.shape,
        array.dtype,
        None if where is None else Opener("zarr", where, name),
        live=array,
        key=("zarr array", place, name),
        units=(array.chunks, getattr(array, "shards", None) or array.chunks),
        why_not_read=why_not_read,
        why_not_write="was opened read-only" if array.read_only else "",
        has_one_writer=where is None or kind == "ZipStore",
    )


def _is_in_memory(store: Any) -> bool:
    """Whether a store of zarr's reaches memory of this process alone."""
    inner = getattr(store, "fs", None) or getattr(store, "store", None)
    names = (getattr(inner, "protocol", ""), type(inner).__name__, str(store))
    return "memory" in " ".join(map(str, names)).lower()


def _find_hdf5(dataset: Any) -> Stored:
    file = dataset.file
    why = ""
    if file.driver not in ("sec2", "stdio", "direct"):
        why = f"its file is open with the driver {file.driver!r}, which reaches this process alone"
    elif dataset.name is None:
        why = "it has no name in its file"
    elif file.mode != "r":
        why = (
            "its file is open for writing, and HDF5 lets no other process read it then: open it with "
            "mode 'r'"
        )
    opener = None
    if not why:
        extra = (bool(file.swmr_mode), "hdf5plugin" in sys.modules)
        opener = Opener("hdf5", os.path.abspath(file.filename), dataset.name, extra)
        place = os.path.realpath(file.filename)
    else:
        place = file.filename if isinstance(file.filename, str) else str(file.id)
    return Stored(
        dataset.shape or (),
        dataset.dtype,
        opener,
        live=dataset,
        key=("HDF5 dataset", place, dataset.name or dataset.id),
        units=(dataset.chunks or (), ()),
        why_not_read=why
        and f"workers cannot open {dataset.name or 'an HDF5 dataset'}: {why}, or use engine='threads'",
        why_not_write="was opened read-only" if file.mode == "r" else "",
    )
