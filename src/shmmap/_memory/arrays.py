"""Shared arrays: plain ndarrays whose bytes lie in a segment.

A shared array has no class of its own: whether an array is shared, and where, is found by its address (see
`_memory.handles`), so that any view counts and nothing leaks into users' results.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Any, Literal, cast, overload

import numpy as np

from .._errors.arguments import as_dtype, check_word, describe
from .._interop.numpy_types import Array, DType, Shape, any_numpy
from .._interop.plain import read, what_is_lost
from .blocks import allocate_bytes, is_fresh
from .pages import fill

if TYPE_CHECKING:
    from .._interop.numpy_types import ArrayOf, DTypeOf, ScalarT

Layout = Literal["C", "F"]
LikeLayout = Literal["C", "F", "A", "K"] | None


def check_dtype(dtype: DType, what: str = "a shared array") -> None:
    """Refuse dtypes whose elements are not plain bytes."""
    if dtype.hasobject or dtype.kind == "T":
        raise TypeError(
            f"{what} cannot have dtype {dtype}: its elements are references to Python objects, which "
            "mean nothing in another process. Use a fixed-size dtype (astype('U16'), a structured "
            "dtype), or pass a list and get a list back"
        )


def to_shape(shape: Any) -> tuple[int, ...]:
    """An argument as a shape.

    Raises TypeError or ValueError if it is neither an int nor a sequence of ints, or a length is negative.
    """
    try:
        dims: tuple[int, ...] = (operator.index(shape),)
    except TypeError:
        try:
            if isinstance(shape, (str, bytes, Mapping, Set)):
                raise TypeError
            dims = tuple(map(operator.index, shape))
        except TypeError:
            raise TypeError(
                f"shape must be an int or a sequence of ints, not {describe(shape)}"
            ) from None
    if any(length < 0 for length in dims):
        raise ValueError(f"shape {dims}: a length is not negative")
    return dims


def complete(dtype: np.typing.DTypeLike | None) -> tuple[DType, tuple[int, ...]]:
    """The dtype that NumPy gives an array made for it, and the axes it adds: a length for ``str``, say."""
    like: Array = np.empty(0, as_dtype(dtype))
    return like.dtype, like.shape[1:]


def allocate(
    shape: object,
    dtype: np.typing.DTypeLike | None,
    order: Layout | None = "C",
    *,
    zero: bool = False,
) -> Array:
    """A shared array, of zeros if asked for."""
    dims = to_shape(shape)
    dt, inner = complete(dtype)
    check_word(order, "order", ("C", "F", None))
    return new_array(dims + inner, dt, "F" if order == "F" else "C", zero=zero)


def new_array(
    shape: tuple[int, ...], dtype: DType, order: Layout = "C", *, zero: bool = False
) -> Array:
    """A shared array; shape and dtype are those of another array, or as complete."""
    check_dtype(dtype)
    nbytes = dtype.itemsize
    for length in shape:
        nbytes *= length
    root = allocate_bytes(nbytes)
    if zero and not is_fresh(root):
        fill(root, 0)
    return cast(Array, any_numpy.ndarray(shape, dtype, root, order=order))


@overload
def empty(shape: Shape, *, order: Layout = "C") -> ArrayOf[np.float64]: ...
@overload
def empty(shape: Shape, dtype: DTypeOf[ScalarT], order: Layout = "C") -> ArrayOf[ScalarT]: ...
def empty(shape: Shape, dtype: np.typing.DTypeLike | None = float, order: Layout = "C") -> Array:
    """Return a new shared array without initialising its entries, as :func:`numpy.empty` does.

    Parameters
    ----------
    shape : int or sequence of int
        Shape of the array.
    dtype : dtype-like, default float64
        Any dtype of plain bytes.
    order : {'C', 'F'}, default 'C'
        Memory layout.

    Returns
    -------
    numpy.ndarray
        An ordinary array in shared memory, reserved up front. It goes back with its last view.

    Raises
    ------
    SharedMemoryError
        If there is not enough shared memory; nothing is left allocated.
    TypeError
        For an object dtype.

    Examples
    --------
    >>> import shmmap
    >>> a = shmmap.empty((2, 3), dtype="f4")
    >>> a.shape, a.dtype, shmmap.is_shared(a)
    ((2, 3), dtype('float32'), True)
    """
    return allocate(shape, dtype, order)


@overload
def zeros(shape: Shape, *, order: Layout = "C") -> ArrayOf[np.float64]: ...
@overload
def zeros(shape: Shape, dtype: DTypeOf[ScalarT], order: Layout = "C") -> ArrayOf[ScalarT]: ...
def zeros(shape: Shape, dtype: np.typing.DTypeLike | None = float, order: Layout = "C") -> Array:
    """Return a new shared array of zeros, as :func:`numpy.zeros` does; see :func:`empty`.

    Examples
    --------
    >>> import shmmap
    >>> shmmap.zeros(3)
    array([0., 0., 0.])
    """
    return allocate(shape, dtype, order, zero=True)


@overload
def ones(shape: Shape, *, order: Layout = "C") -> ArrayOf[np.float64]: ...
@overload
def ones(shape: Shape, dtype: DTypeOf[ScalarT], order: Layout = "C") -> ArrayOf[ScalarT]: ...
def ones(shape: Shape, dtype: np.typing.DTypeLike | None = float, order: Layout = "C") -> Array:
    """Return a new shared array of ones, as :func:`numpy.ones` does; see :func:`empty`.

    Examples
    --------
    >>> import shmmap
    >>> shmmap.ones(2, dtype=int)
    array([1, 1])
    """
    return full(shape, 1, dtype, order)


@overload
def full(
    shape: Shape, fill_value: np.typing.ArrayLike, dtype: None = None, order: Layout = "C"
) -> Array: ...
@overload
def full(
    shape: Shape, fill_value: np.typing.ArrayLike, dtype: DTypeOf[ScalarT], order: Layout = "C"
) -> ArrayOf[ScalarT]: ...
def full(
    shape: Shape,
    fill_value: np.typing.ArrayLike,
    dtype: np.typing.DTypeLike | None = None,
    order: Layout = "C",
) -> Array:
    """Return a new shared array filled with a value, as :func:`numpy.full` does; see :func:`empty`.

    Examples
    --------
    >>> import shmmap
    >>> shmmap.full(2, 7.5)
    array([7.5, 7.5])
    """
    value = _plain_value(fill_value)
    a = empty(shape, value.dtype if dtype is None else dtype, order)
    _fill(a, value if dtype is None else fill_value)
    return a


def _plain_value(fill_value: object) -> Array:
    """A fill value as an array, or an error where that would lose its unit or its mask."""
    value = read(fill_value)
    if lost := what_is_lost(value):
        raise TypeError(f"a plain array filled with this value would lose {lost}; give a number")
    return cast(Array, value)


def _fill(a: Array, value: Any) -> None:
    try:
        if np.ndim(value):
            np.copyto(a, value, casting="unsafe")
        else:
            fill(a, value)
    except (TypeError, ValueError, OverflowError) as exc:
        what = f"of shape {np.shape(value)} " if np.ndim(value) else ""
        raise type(exc)(
            f"fill_value {what}does not fit into an array of shape {a.shape} and dtype {a.dtype}: {exc}"
        ) from None


def allocate_like(
    prototype: np.typing.ArrayLike,
    dtype: np.typing.DTypeLike | None,
    order: LikeLayout,
    shape: object,
    *,
    zero: bool = False,
) -> Array:
    """`allocate` with NumPy's rules for ``order="K"``: keep the order of the axes in memory."""
    check_word(order, "order", ("C", "F", "A", "K", None))
    like = np.asanyarray(prototype)
    dt, inner = complete(like.dtype if dtype is None else dtype)
    dims = like.shape if shape is None else to_shape(shape)
    if order in ("C", "F"):
        return allocate(dims + inner, dt, order, zero=zero)
    if order == "A":
        return allocate(dims + inner, dt, "F" if like.flags.fnc else "C", zero=zero)
    if len(dims) != like.ndim or like.flags.c_contiguous:
        return allocate(dims + inner, dt, "C", zero=zero)
    axes = sorted(range(like.ndim), key=lambda axis: -abs(like.strides[axis]))
    axes += range(like.ndim, like.ndim + len(inner))
    dims += inner
    return allocate([dims[axis] for axis in axes], dt, zero=zero).transpose(np.argsort(axes))


@overload
def empty_like(
    prototype: ArrayOf[ScalarT],
    dtype: None = None,
    order: LikeLayout = "K",
    shape: Shape | None = None,
) -> ArrayOf[ScalarT]: ...
@overload
def empty_like(
    prototype: np.typing.ArrayLike,
    dtype: DTypeOf[ScalarT] = None,
    order: LikeLayout = "K",
    shape: Shape | None = None,
) -> ArrayOf[ScalarT]: ...
def empty_like(
    prototype: np.typing.ArrayLike,
    dtype: np.typing.DTypeLike | None = None,
    order: LikeLayout = "K",
    shape: Shape | None = None,
) -> Array:
    """Return a new shared array with the shape and dtype of another; see :func:`empty`.

    Examples
    --------
    >>> import numpy as np, shmmap
    >>> shmmap.empty_like(np.zeros((2, 3), "f4")).dtype
    dtype('float32')
    """
    return allocate_like(prototype, dtype, order, shape)


@overload
def zeros_like(
    prototype: ArrayOf[ScalarT],
    dtype: None = None,
    order: LikeLayout = "K",
    shape: Shape | None = None,
) -> ArrayOf[ScalarT]: ...
@overload
def zeros_like(
    prototype: np.typing.ArrayLike,
    dtype: DTypeOf[ScalarT] = None,
    order: LikeLayout = "K",
    shape: Shape | None = None,
) -> ArrayOf[ScalarT]: ...
def zeros_like(
    prototype: np.typing.ArrayLike,
    dtype: np.typing.DTypeLike | None = None,
    order: LikeLayout = "K",
    shape: Shape | None = None,
) -> Array:
    """Return a shared array of zeros with the shape and dtype of another; see :func:`zeros`.

    Examples
    --------
    >>> import shmmap
    >>> shmmap.zeros_like([1, 2])
    array([0, 0])
    """
    return allocate_like(prototype, dtype, order, shape, zero=True)


@overload
def ones_like(
    prototype: ArrayOf[ScalarT],
    dtype: None = None,
    order: LikeLayout = "K",
    shape: Shape | None = None,
) -> ArrayOf[ScalarT]: ...
@overload
def ones_like(
    prototype: np.typing.ArrayLike,
    dtype: DTypeOf[ScalarT] = None,
    order: LikeLayout = "K",
    shape: Shape | None = None,
) -> ArrayOf[ScalarT]: ...
def ones_like(
    prototype: np.typing.ArrayLike,
    dtype: np.typing.DTypeLike | None = None,
    order: LikeLayout = "K",
    shape: Shape | None = None,
) -> Array:
    """Return a shared array of ones with the shape and dtype of another; see :func:`ones`.

    Examples
    --------
    >>> import shmmap
    >>> shmmap.ones_like([2.5, 3.5])
    array([1., 1.])
    """
    return full_like(prototype, 1, dtype, order, shape)


@overload
def full_like(
    prototype: ArrayOf[ScalarT],
    fill_value: np.typing.ArrayLike,
    dtype: None = None,
    order: LikeLayout = "K",
    shape: Shape | None = None,
) -> ArrayOf[ScalarT]: ...
@overload
def full_like(
    prototype: np.typing.ArrayLike,
    fill_value: np.typing.ArrayLike,
    dtype: DTypeOf[ScalarT] = None,
    order: LikeLayout = "K",
    shape: Shape | None = None,
) -> ArrayOf[ScalarT]: ...
def full_like(
    prototype: np.typing.ArrayLike,
    fill_value: np.typing.ArrayLike,
    dtype: np.typing.DTypeLike | None = None,
    order: LikeLayout = "K",
    shape: Shape | None = None,
) -> Array:
    """Return a filled shared array with the shape and dtype of another; see :func:`full`.

    Examples
    --------
    >>> import shmmap
    >>> shmmap.full_like([1, 2], 9)
    array([9, 9])
    """
    _plain_value(fill_value)
    a = empty_like(prototype, dtype, order, shape)
    _fill(a, fill_value)
    return a
