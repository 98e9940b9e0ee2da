"""The arrays of a ``.npz`` file, by name, each read when it is first asked for.

The file is opened for each array anew: there is nothing to close, and an archive can be sent to workers. What
must hold: all arrays are of the file as it was when it was opened first.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from .._interop.numpy_types import Array, any_numpy
from .._system.imports import late_import
from .allocation import check_dtype
from .arrays import empty
from .files import read_npy_header
from .sources import asshared

MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
_Identity = tuple[int, int, int, int]


def _zipfile() -> Any:
    with late_import:  # it takes 5 ms
        import zipfile
    return zipfile


class Archive(Mapping[str, Array]):
    """The arrays of a ``.npz`` file, by name."""

    def __init__(self, path: Any, is_mapped: bool, identity: _Identity | None = None) -> None:
        self._path = os.path.abspath(path)
        self._is_mapped = is_mapped
        self._identity = identity
        self._arrays: weakref.WeakValueDictionary[str, Array] = weakref.WeakValueDictionary()
        with self._open() as file:
            self._identity = _identity_of(file)
            try:
                infos = _zipfile().ZipFile(file).infolist()
            except _zipfile().BadZipFile as exc:
                raise self._damaged(exc) from None
        self._infos = {info.filename.removesuffix(".npy"): info for info in infos}

    @property
    def files(self) -> list[str]:
        """The names, as of what `numpy.load` gives."""
        return list(self._infos)

    def __getitem__(self, name: str) -> Array:
        key = name.removesuffix(".npy") if isinstance(name, str) else name
        info = self._infos.get(name) or self._infos.get(key)
        if info is None:
            raise KeyError(f"{name!r} is not in {self._path!r}, which has {', '.join(self._infos)}")
        known = self._arrays.get(info.filename)
        if known is not None:
            return known
        with self._open() as file:
            try:
                a = self._arrays[info.filename] = self._read(file, info)
            except _zipfile().BadZipFile as exc:
                raise self._damaged(exc) from None
        return a

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __len__(self) -> int:
        return len(self._infos)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (
            name in self._infos or name.removesuffix(".npy") in self._infos
        )

    def __repr__(self) -> str:
        return f"<{os.fspath(self._path)!r} with {', '.join(self._infos) or 'no arrays'}>"

    def __reduce__(self) -> Any:
        return Archive, (self._path, self._is_mapped, self._identity)

    def close(self) -> None:
        """Do nothing, as nothing is open; programs that were written for `numpy.load` call it."""

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _open(self) -> BinaryIO:
        file = open(self._path, "rb")
        if self._identity is not None and _identity_of(file) != self._identity:
            file.close()
            raise ValueError(f"{self._path!r} is another file now than when it was loaded")
        return file

    def _damaged(self, exc: Exception) -> ValueError:
        return ValueError(f"{self._path!r} is damaged, or no .npz file: {exc}")

    def _read(self, file: BinaryIO, info: Any) -> Array:
        """An array: mapped if it may be, else read into shared memory."""
        where = f"{info.filename} in {self._path!r}"
        with _zipfile().ZipFile(file) as archive, archive.open(info) as member:
            header = read_npy_header(member)
            if header is None:
                member.seek(0)
                return asshared(any_numpy.lib.format.read_array(member))
            shape, fortran, dtype = header
            check_dtype(dtype, where)
            order = "F" if fortran else "C"
            if self._is_mapped and info.compress_type == _zipfile().ZIP_STORED:
                offset = _start_of_data(file, info) + member.tell()
                if offset % dtype.alignment == 0 and dtype.itemsize and np.prod(shape):
                    mapped: Array = any_numpy.memmap(self._path, dtype, "r", offset, shape, order)
                    return mapped
            a = empty(shape, dtype, "F" if fortran else "C")
            if a.nbytes:
                rest = memoryview(a.ravel(order="K").view(np.uint8))  # type: ignore[arg-type]
                while len(rest):
                    got = member.readinto(rest)
                    if not got:
                        raise ValueError(f"{where} is cut short: {a.nbytes} bytes expected")
                    rest = rest[got:]
            if self._is_mapped:  # as its other arrays are
                a.flags.writeable = False
            return a


def _identity_of(file: BinaryIO) -> _Identity:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _start_of_data(file: BinaryIO, info: Any) -> int:
    """Where in the file a member that is not compressed begins: after a header of its own."""
    header = os.pread(file.fileno(), 30, info.header_offset)
    name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    return int(info.header_offset) + 30 + name + extra
