"""An OUT that is a zarr array or an HDF5 dataset.

A zarr array is a folder: it is made under a temporary name beside its own, and takes the place of what was
there when it is complete. So does an HDF5 file that is new. Into an HDF5 file that is there already, which
may hold much more, the dataset is written under a temporary name and gets its own at the end. A SIGKILL or
a power cut in the middle of that may damage the file, whoever writes it.
"""

from __future__ import annotations

import math
import os
import shutil
from contextlib import suppress
from typing import Any

from .._interop.numpy_types import DType
from .._memory import sync_file
from .errors import Refused
from .output import Output, partial_beside
from .sources import import_library, is_zarr

# A storage chunk is compressed and written as one. Larger: fewer files; smaller: more workers find work.
_STORED_NBYTES = 1 << 22


class ZarrArray:
    """An OUT that is a zarr array in a folder of its own, or in one of a group's."""

    def __init__(self, target: str, source: str) -> None:
        self.name = target
        self._zarr = import_library("zarr", target)
        self._target = os.path.realpath(target)
        self._temporary = partial_beside(self._target)
        self._parent = os.path.dirname(self._target)
        if not os.path.isdir(self._parent):
            raise Refused(f"cannot write {target}: there is no folder {self._parent}")
        if os.path.exists(self._target):
            if not os.path.isdir(self._target) or not is_zarr(self._target):
                raise Refused(f"cannot write {target}: something that is no zarr array is there")
            if _is_group(self._zarr, self._target):
                raise Refused(f"cannot write {target}: a zarr group is there; name an array in it")
            if os.path.exists(source) and os.path.samefile(source, self._target):
                raise Refused(f"cannot write {target}: it is the same array as IN")

    def open(self) -> None:
        try:
            os.mkdir(self._temporary)
        except OSError as error:
            raise Refused(f"cannot write {self.name}: {error.strerror}") from error

    def allocate(self, shape: tuple[int, ...], dtype: DType, along: int, rows: int) -> Any:
        return self._zarr.create_array(
            self._temporary,
            shape=shape,
            dtype=dtype,
            chunks=stored_chunk(shape, dtype, along, rows),
            overwrite=True,
        )

    def flush(self) -> None:
        """Each of its files was closed as it was written."""

    def commit(self) -> None:
        old = ""
        if os.path.exists(self._target):
            old = partial_beside(self._target)
            os.rename(self._target, old)
        os.rename(self._temporary, self._target)
        with suppress(OSError):
            sync_file(self._parent)
        if old:
            shutil.rmtree(old, ignore_errors=True)

    def discard(self, is_refused: bool) -> None:
        shutil.rmtree(self._temporary, ignore_errors=True)

    def drop(self) -> None:
        """Nothing yet: workers may be writing there, so it is done once they have ended."""


class Hdf5Dataset:
    """An OUT that is a dataset in an HDF5 file."""

    def __init__(self, target: str, source: str) -> None:
        self.name = target
        file, _, self._dataset = target.partition("::")
        if not file or not self._dataset.strip("/"):
            raise Refused(f"{target}: an HDF5 dataset is named as file.h5::dataset")
        self._h5py = import_library("h5py", target)
        self._target = os.path.realpath(file)
        self._folder = os.path.dirname(self._target)
        self._is_new = not os.path.exists(self._target)
        self._path = partial_beside(self._target) if self._is_new else self._target
        self._partial = os.path.basename(partial_beside(self._target))
        self._file: Any = None
        if not os.path.isdir(self._folder):
            raise Refused(f"cannot write {target}: there is no folder {self._folder}")
        its_file = source.partition("::")[0]
        if not self._is_new and os.path.exists(its_file):
            if os.path.samefile(its_file, self._target):
                raise Refused(
                    f"cannot write {target}: IN lies in the same HDF5 file, which cannot be read and "
                    "written at once"
                )
        if not self._is_new and not os.access(self._target, os.W_OK):
            raise Refused(f"cannot write {target}: it is read-only")

    def open(self) -> None:
        try:
            self._file = self._h5py.File(self._path, "w-" if self._is_new else "r+")
        except OSError as error:
            text = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise Refused(f"cannot write {self._target}: {text}") from None
        if isinstance(self._file.get(self._dataset), self._h5py.Group):
            raise Refused(f"cannot write {self.name}: a group of that name is there")

    def allocate(self, shape: tuple[int, ...], dtype: DType, along: int, rows: int) -> Any:
        chunks = stored_chunk(shape, dtype, along, rows) if 0 not in shape else None
        try:
            return self._file.create_dataset(self._partial, shape, dtype, chunks=chunks)
        except TypeError:
            raise Refused(f"cannot write {self.name}: HDF5 cannot hold {dtype}") from None

    def flush(self) -> None:
        self._file.flush()
        sync_file(self._path)

    def commit(self) -> None:
        if self._dataset in self._file:
            del self._file[self._dataset]
        self._file.move(self._partial, self._dataset)
        self._file.close()
        sync_file(self._path)
        if self._is_new:
            os.replace(self._path, self._target)
            with suppress(OSError):
                sync_file(self._folder)

    def discard(self, is_refused: bool) -> None:
        if self._file:
            if not self._is_new and self._partial in self._file:
                del self._file[self._partial]
            self._file.close()
        if self._is_new:
            with suppress(FileNotFoundError):
                os.unlink(self._path)

    def drop(self) -> None:
        """In the middle of HDF5's own code only the name of a new file can be removed."""
        if self._is_new:
            with suppress(FileNotFoundError):
                os.unlink(self._path)


def make_stored_output(target: str, source: str) -> Output | None:
    """The OUT that is meant, if it is one of these."""
    if "::" in target:
        return Hdf5Dataset(target, source)
    if is_zarr(target):
        return ZarrArray(target, source)
    return None


def stored_chunk(shape: tuple[int, ...], dtype: DType, along: int, rows: int) -> tuple[int, ...]:
    """The shape of what is stored as one: some rows, as long as they are not too many bytes."""
    row_nbytes = dtype.itemsize * math.prod(shape[:along] + shape[along + 1 :])
    rows = max(1, min(rows, _STORED_NBYTES // max(1, row_nbytes), shape[along]))
    return tuple(max(1, n) for n in (*shape[:along], rows, *shape[along + 1 :]))


def _is_group(zarr: Any, path: str) -> bool:
    try:
        return isinstance(zarr.open(path, mode="r"), zarr.Group)
    except (
        Exception
    ):  # a folder in which something is amiss: what is there is not lost by our doing
        return True
