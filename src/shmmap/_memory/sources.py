"""Arrays of others in shared memory: copied there, or adopted where they lie."""

from __future__ import annotations

import os
from typing import Any, Protocol, cast, overload

import numpy as np

from .._errors.arguments import as_dtype, as_int, check_word, describe
from .._interop.masked import mask_of
from .._interop.numpy_types import Array, ArrayOf, Bytes, DType, ScalarOf, ScalarT, Shape, any_numpy
from .._interop.plain import is_open, read, what_is_lost
from .allocation import Layout, LikeLayout, allocate_like, check_dtype, to_shape
from .blocks import allocate_bytes
from .files import as_in_file
from .handles import handle_of
from .nameless import SHM_FOLDER
from .pages import copy_into_new
from .segments import byte_bounds
from .table import adopt_memory


def is_shared(a: object) -> bool:
    """Tell whether workers reach the bytes of `a` without a copy.

    Parameters
    ----------
    a : object
        Any object; only arrays can be shared.

    Returns
    -------
    bool
        True for arrays made by this library, any view of them, and memory-mapped arrays other than
        copy-on-write ones (``mode="c"``).

    Examples
    --------
    >>> import numpy as np, shmmap
    >>> a = shmmap.zeros((4, 4))
    >>> shmmap.is_shared(a[::2].T), shmmap.is_shared(a.copy()), shmmap.is_shared(np.asarray(a))
    (True, False, True)
    """
    if not isinstance(a, np.ndarray) or handle_of(a) is None:
        return False
    mask = mask_of(a)
    return mask is None or handle_of(mask) is not None


def refuse_loss(value: object, instead: str) -> None:
    """Refuse what a plain array would lose a part of, and say what to do instead."""
    if lost := what_is_lost(value):
        raise TypeError(f"a plain array would lose {lost}; {instead}")


@overload
def asshared(
    a: ArrayOf[ScalarT], dtype: None = None, order: LikeLayout = None
) -> ArrayOf[ScalarT]: ...
@overload
def asshared(
    a: np.typing.ArrayLike, dtype: ScalarOf[ScalarT], order: LikeLayout = None
) -> ArrayOf[ScalarT]: ...
@overload
def asshared(
    a: np.typing.ArrayLike, dtype: np.typing.DTypeLike | None = None, order: LikeLayout = None
) -> Array: ...
def asshared(
    a: np.typing.ArrayLike, dtype: np.typing.DTypeLike | None = None, order: LikeLayout = None
) -> Array:
    """Return :func:`numpy.asarray` of `a` in shared memory.

    Parameters
    ----------
    a : array-like
        An array, or anything :func:`numpy.asarray` takes.
    dtype : dtype-like, optional
        By default that of `a`.
    order : {'C', 'F', 'A', 'K'}, optional
        By default the layout of `a` is kept.

    Returns
    -------
    numpy.ndarray
        Same shape and values. `a` itself if it is shared already and fits `dtype` and `order`;
        otherwise one copy, made by several threads when it is large.

    Raises
    ------
    SharedMemoryError
        If there is not enough shared memory.
    TypeError
        For an object dtype, and for what a plain array would lose the mask or the unit of.

    Examples
    --------
    >>> import numpy as np, shmmap
    >>> x = shmmap.asshared(np.arange(6).reshape(2, 3))
    >>> x
    array([[0, 1, 2],
           [3, 4, 5]])
    >>> shmmap.asshared(x) is x
    True
    """
    check_word(order, "order", (None, "C", "F", "A", "K"))
    if dtype is not None:
        dtype = as_dtype(dtype)
    values: Any = a
    if not isinstance(a, np.ndarray):
        values, dtype = read(a, dtype), None
    refuse_loss(
        values,
        "shmmap.share keeps it; a.filled(value) has no mask, and np.asarray(a) the numbers alone",
    )
    if dtype is not None and _depends_on_values(values.dtype, np.dtype(dtype)):
        values, dtype = np.asarray(values, dtype), None
    check_dtype(values.dtype)
    if is_shared(values):
        same: Array = any_numpy.asarray(values, dtype=dtype, order=order)
        if np.may_share_memory(same, values) or is_shared(same):
            return same
    target = allocate_like(values, dtype, order or "K", None)
    copy_into_new(target, np.asarray(values))
    return target


def _depends_on_values(dtype: DType, wanted: DType) -> bool:
    """Whether what a conversion gives is only known once it is done: its dtype or its shape."""
    return is_open(wanted) or wanted.subdtype is not None or dtype.kind in "OT"


def packed_nbytes(a: Array) -> int:
    """Bytes that `pack_into` needs: less than ``a.nbytes`` where an array overlaps itself."""
    low, high = byte_bounds(a)
    return min(a.nbytes, high - low)


def pack_into(root: Bytes, offset: int, a: Array) -> Array:
    """Copy a plain array into part of a block, densely and in its order.

    One that overlaps itself (a broadcast, a sliding window) keeps its strides over a copy of the bytes it
    covers, and so takes no more memory than it did.
    """
    low, high = byte_bounds(a)
    if high - low < a.nbytes:
        np.copyto(root[offset : offset + high - low], np.asarray(_Covered(a, low, high)))
        offset += a.__array_interface__["data"][0] - low
        return cast(Array, any_numpy.ndarray(a.shape, a.dtype, root, offset, a.strides))
    axes = sorted(range(a.ndim), key=lambda axis: -abs(a.strides[axis]))
    dims = [a.shape[axis] for axis in axes]
    target = any_numpy.ndarray(dims, a.dtype, root, offset).transpose(np.argsort(axes))
    copy_into_new(target, a)
    return cast(Array, target)


class _Covered:
    """Lends `numpy.asarray` the bytes an array covers, and keeps that array."""

    def __init__(self, a: Array, low: int, high: int) -> None:
        self.a = a
        self.__array_interface__ = {
            "data": (low, True),
            "shape": (high - low,),
            "typestr": "|u1",
            "version": 3,
        }


def place(a: Array) -> Array:
    """A private plain array where workers reach it, read-only, for one call: a copy in shared memory.

    No copy is made of a copy-on-write mapping to which nothing was written: workers map its file.
    """
    in_file = as_in_file(a)
    if in_file is not None:
        return in_file
    placed = pack_into(allocate_bytes(packed_nbytes(a)), 0, a)
    placed.flags.writeable = False
    return placed


class HasName(Protocol):
    """A ``multiprocessing.shared_memory.SharedMemory``; importing that would take 17 ms."""

    @property
    def name(self) -> str: ...


@overload
def adopt(
    shm: HasName | str,
    shape: Shape,
    dtype: ScalarOf[ScalarT],
    offset: int = 0,
    order: Layout = "C",
) -> ArrayOf[ScalarT]: ...
@overload
def adopt(
    shm: HasName | str,
    shape: Shape,
    dtype: np.typing.DTypeLike,
    offset: int = 0,
    order: Layout = "C",
) -> Array: ...
def adopt(
    shm: HasName | str,
    shape: Shape,
    dtype: np.typing.DTypeLike,
    offset: int = 0,
    order: Layout = "C",
) -> Array:
    """Return a shared array over an existing ``SharedMemory`` that other code made.

    Parameters
    ----------
    shm : multiprocessing.shared_memory.SharedMemory or str
        The object, or its name. It must not be unlinked yet.
    shape, dtype, order
        As for :func:`empty`.
    offset : int, default 0
        Byte at which the array starts.

    Returns
    -------
    numpy.ndarray
        It stays valid after the other code closes or unlinks its object, and never destroys it.

    Raises
    ------
    FileNotFoundError
        If the name is unlinked or was never there.
    ValueError
        If the array does not fit into the memory.

    Examples
    --------
    >>> from multiprocessing.shared_memory import SharedMemory
    >>> import shmmap
    >>> shm = SharedMemory(create=True, size=64)
    >>> a = shmmap.adopt(shm, (8,), "f8")
    >>> shm.close(); shm.unlink()
    >>> a[:] = 1
    >>> a.sum()
    np.float64(8.0)
    """
    name = shm if isinstance(shm, str) else getattr(shm, "name", None)
    if not isinstance(name, str) or not (isinstance(shm, str) or hasattr(shm, "buf")):
        raise TypeError(f"shm must be a SharedMemory or its name, not {describe(shm)}")
    name = name.lstrip("/")
    if "/" in name or "\0" in name or name in ("", ".", ".."):
        raise ValueError(f"{name!r} is not the name of shared memory")
    offset = as_int(offset, "offset", 0)
    check_word(order, "order", ("C", "F"))
    dt = as_dtype(dtype)
    check_dtype(dt)
    dims = to_shape(shape)
    nbytes = dt.itemsize * int(np.prod(dims, dtype=object))
    try:
        # The file itself: SharedMemory(name) would have this process's tracker destroy it at exit.
        fd = os.open(f"{SHM_FOLDER}/{name}", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"no shared memory is named {name!r} (any more); adopt it before it is unlinked"
        ) from None
    size = os.fstat(fd).st_size
    if offset + nbytes > size:
        os.close(fd)
        raise ValueError(
            f"an array of {nbytes} bytes at offset {offset} does not fit into the {size} bytes of "
            f"{name!r}"
        )
    root = adopt_memory(fd, size)
    return cast(Array, any_numpy.ndarray(dims, dt, root, offset, order=order))
