"""Arrays that are read from files of NumPy's, straight into shared memory, or mapped."""

from __future__ import annotations

import os
from typing import Any, Literal, cast, overload

import numpy as np

from .._errors.arguments import check_word, describe
from .._interop.numpy_types import Array, any_numpy
from .allocation import check_dtype
from .arrays import empty
from .files import read_npy_header
from .npz import MAGIC, Archive
from .pages import read_into
from .sources import asshared

MmapMode = Literal["r", "r+", "c"]


@overload
def load(path: str | os.PathLike[str], mmap_mode: Literal["r+", "c"]) -> Array: ...
@overload
def load(path: str | os.PathLike[str], mmap_mode: MmapMode | None = None) -> Any: ...
def load(path: str | os.PathLike[str], mmap_mode: MmapMode | None = None) -> Any:
    """Load a ``.npy`` or ``.npz`` file, by default straight into shared memory.

    Parameters
    ----------
    path : str or path-like
        The file, in NumPy's ``.npy`` format, or one of `numpy.savez` or `numpy.savez_compressed`.
    mmap_mode : {None, 'r', 'r+', 'c'}, optional
        None reads the file into shared memory with no second copy. Otherwise the file is memory-mapped
        as by :func:`numpy.load`; workers then map the file themselves (``"c"`` counts as private).
        Of a ``.npz`` file, ``"r"`` maps arrays that are neither compressed nor at an odd place, and reads
        the others; it knows no other mode.

    Returns
    -------
    numpy.ndarray, numpy.memmap or mapping
        The array. For a ``.npz`` file, its arrays by their names, as of :func:`numpy.load`; each is read when
        it is asked for, and again only once nobody has it any more. There is nothing to close.

    Raises
    ------
    SharedMemoryError
        If there is not enough shared memory; ``mmap_mode="r"`` needs none.
    ValueError
        If it is no such file, or is cut short or damaged.
    TypeError
        If it holds Python objects.

    Examples
    --------
    >>> import numpy as np, os, shmmap, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = os.path.join(folder.name, "a.npy")
    >>> np.save(path, np.arange(5))
    >>> a = shmmap.load(path)
    >>> a, shmmap.is_shared(a)
    (array([0, 1, 2, 3, 4]), True)
    >>> np.savez(os.path.join(folder.name, "b.npz"), x=np.ones(3), y=np.zeros((2, 2)))
    >>> b = shmmap.load(os.path.join(folder.name, "b.npz"))
    >>> list(b), b["x"], shmmap.is_shared(b["x"])
    (['x', 'y'], array([1., 1., 1.]), True)
    >>> folder.cleanup()
    """
    check_word(mmap_mode, "mmap_mode", (None, "r", "r+", "c"))
    if not isinstance(path, (str, bytes, os.PathLike)):
        # An int, too: it would be a descriptor, and be closed.
        raise TypeError(f"path must be a str or path-like, not {describe(path)}")
    if b"\0" in os.fsencode(path):
        raise ValueError(f"path {path!r} has a NUL character")
    with open(path, "rb") as file:
        if file.read(4) in MAGIC:
            if mmap_mode not in (None, "r"):
                raise ValueError(
                    f"mmap_mode={mmap_mode!r}: arrays in a .npz file are mapped for reading only, with 'r'; "
                    "without mmap_mode they are read into shared memory, where they may be written"
                )
            return Archive(path, mmap_mode == "r")
        file.seek(0)
        header = read_npy_header(file)
        if header is None:
            mapped: Array = any_numpy.load(path, mmap_mode=mmap_mode or "r")
            return mapped if mmap_mode else asshared(mapped)
        shape, fortran, dtype = header
        check_dtype(dtype, os.fspath(path))
        offset = file.tell()
        nbytes = dtype.itemsize * int(np.prod(shape, dtype=object))
        if os.fstat(file.fileno()).st_size < offset + nbytes:
            raise ValueError(f"{os.fspath(path)!r} is cut short: {nbytes} bytes of data expected")
        if mmap_mode is not None and nbytes:
            return cast(Array, any_numpy.load(path, mmap_mode=mmap_mode))
        a = empty(shape, dtype, "F" if fortran else "C")
        if nbytes == 0:
            return a
        read_into(a, file.fileno(), offset, os.fspath(path))
        return a
