"""Shared arrays: plain ndarrays whose bytes lie in a segment.

A shared array has no class of its own: whether an array is shared, and where, is found by its address (see
`_memory.handles`), so that any view counts and nothing leaks into users' results.
"""

from __future__ import annotations

from typing import Any, cast, overload

import numpy as np

from .._interop.numpy_types import Array, ArrayOf, ScalarOf, ScalarT, Shape
from .._interop.plain import read, what_is_lost
from .allocation import Layout, LikeLayout, allocate, allocate_like
from .pages import fill


@overload
def empty(shape: Shape, *, order: Layout = "C") -> ArrayOf[np.float64]: ...
@overload
def empty(shape: Shape, dtype: ScalarOf[ScalarT], order: Layout = "C") -> ArrayOf[ScalarT]: ...
@overload
def empty(shape: Shape, dtype: np.typing.DTypeLike | None, order: Layout = "C") -> Array: ...
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
def zeros(shape: Shape, dtype: ScalarOf[ScalarT], order: Layout = "C") -> ArrayOf[ScalarT]: ...
@overload
def zeros(shape: Shape, dtype: np.typing.DTypeLike | None, order: Layout = "C") -> Array: ...
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
def ones(shape: Shape, dtype: ScalarOf[ScalarT], order: Layout = "C") -> ArrayOf[ScalarT]: ...
@overload
def ones(shape: Shape, dtype: np.typing.DTypeLike | None, order: Layout = "C") -> Array: ...
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
    shape: Shape, fill_value: np.typing.ArrayLike, dtype: ScalarOf[ScalarT], order: Layout = "C"
) -> ArrayOf[ScalarT]: ...
@overload
def full(
    shape: Shape,
    fill_value: np.typing.ArrayLike,
    dtype: np.typing.DTypeLike | None,
    order: Layout = "C",
) -> Array: ...
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
    dtype: ScalarOf[ScalarT],
    order: LikeLayout = "K",
    shape: Shape | None = None,
) -> ArrayOf[ScalarT]: ...
@overload
def empty_like(
    prototype: np.typing.ArrayLike,
    dtype: np.typing.DTypeLike | None = None,
    order: LikeLayout = "K",
    shape: Shape | None = None,
) -> Array: ...
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
    dtype: ScalarOf[ScalarT],
    order: LikeLayout = "K",
    shape: Shape | None = None,
) -> ArrayOf[ScalarT]: ...
@overload
def zeros_like(
    prototype: np.typing.ArrayLike,
    dtype: np.typing.DTypeLike | None = None,
    order: LikeLayout = "K",
    shape: Shape | None = None,
) -> Array: ...
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
    dtype: ScalarOf[ScalarT],
    order: LikeLayout = "K",
    shape: Shape | None = None,
) -> ArrayOf[ScalarT]: ...
@overload
def ones_like(
    prototype: np.typing.ArrayLike,
    dtype: np.typing.DTypeLike | None = None,
    order: LikeLayout = "K",
    shape: Shape | None = None,
) -> Array: ...
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
    dtype: ScalarOf[ScalarT],
    order: LikeLayout = "K",
    shape: Shape | None = None,
) -> ArrayOf[ScalarT]: ...
@overload
def full_like(
    prototype: np.typing.ArrayLike,
    fill_value: np.typing.ArrayLike,
    dtype: np.typing.DTypeLike | None = None,
    order: LikeLayout = "K",
    shape: Shape | None = None,
) -> Array: ...
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
