"""IN: a ``.npy`` file, a zarr array or an HDF5 dataset, none of which is read before its chunks are."""

from __future__ import annotations

import importlib
import math
import os
import stat
from typing import Any

import numpy as np

import shmmap

from .errors import Refused

HDF5_ENDINGS = (".h5", ".hdf5", ".he5", ".hdf", ".nc")
_NAMED_MOST = 8


def open_source(path: str) -> Any:
    """Open IN for reading: an array that has a shape, a dtype and slices."""
    file, separator, name = path.partition("::")
    if separator:
        source = _open_hdf5(path, file, name)
    elif is_zarr(path):
        source = _open_zarr(path)
    else:
        source = _open_npy(path)
    if not source.shape:
        raise Refused(f"{path} holds a single value: there is no axis to map over")
    if np.dtype(source.dtype).hasobject:
        raise Refused(f"cannot read {path}: it holds Python objects and not numbers")
    return source


def is_zarr(path: str) -> bool:
    """Whether a path is, or lies in, a zarr store."""
    if any(part.endswith(".zarr") for part in os.path.normpath(path).split(os.sep)):
        return True
    return any(os.path.exists(os.path.join(path, name)) for name in ("zarr.json", ".zarray"))


def import_library(name: str, path: str) -> Any:
    """The library that a kind of file needs."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise Refused(f"{path} needs the package {name}, which is not installed") from None


def nbytes_of(array: Any) -> int:
    """Bytes of an array, wherever it lies."""
    return int(np.dtype(array.dtype).itemsize * math.prod(array.shape))


def _open_npy(path: str) -> Any:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise Refused(f"{path} is not a regular file")
        with open(path, "rb") as file:
            magic = file.read(len(np.lib.format.MAGIC_PREFIX))
        if magic != np.lib.format.MAGIC_PREFIX:
            hint = ": an .npz or another archive?" if magic.startswith(b"PK") else ""
            if magic.startswith(b"\x89HDF"):
                hint = f": an HDF5 file, in which a dataset is named as {path}::dataset"
            raise Refused(f"{path} is not an .npy file{hint}")
        return shmmap.load(path, mmap_mode="r")
    except OSError as error:
        raise Refused(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, TypeError, EOFError) as error:
        raise Refused(f"cannot read {path}: {' '.join(str(error).split())}") from error


def _open_zarr(path: str) -> Any:
    if not os.path.exists(path):
        raise Refused(f"cannot read {path}: No such file or directory")
    zarr = import_library("zarr", path)
    try:
        found = zarr.open(path, mode="r")
    except Exception as error:
        raise Refused(f"cannot read {path}: it is no zarr array ({type(error).__name__})") from None
    if isinstance(found, zarr.Group):
        names = [name for name, _ in found.arrays()]
        raise Refused(f"{path} is a zarr group, of arrays such as {_examples(path, '/', names)}")
    return found


def _open_hdf5(path: str, file: str, name: str) -> Any:
    if not file or not name.strip("/"):
        raise Refused(f"{path}: an HDF5 dataset is named as file.h5::dataset")
    if not os.path.exists(file):
        raise Refused(f"cannot read {file}: No such file or directory")
    h5py = import_library("h5py", path)
    try:
        opened = h5py.File(file, "r")
    except OSError as error:
        raise Refused(f"cannot read {file}: {_first_line(error)}") from None
    found = opened.get(name)
    if isinstance(found, h5py.Dataset):
        if found.shape is None:
            raise Refused(f"{path} holds nothing: it has no shape")
        return found
    names: list[str] = []

    def note(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            names.append(name)

    opened.visititems(note)
    what = "is no dataset" if found is not None else "is not there"
    raise Refused(f"{path} {what}; datasets of the file: {_examples(file, '::', names)}")


def _examples(path: str, separator: str, names: list[str]) -> str:
    if not names:
        return "none"
    shown = ", ".join(f"{path}{separator}{name}" for name in names[:_NAMED_MOST])
    return shown + (f" and {len(names) - _NAMED_MOST} more" if len(names) > _NAMED_MOST else "")


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
