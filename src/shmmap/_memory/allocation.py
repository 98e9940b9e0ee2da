"""Arrays in shared memory by shape, dtype and layout; NumPy's rules about them, and what is refused.

Called by `arrays` and `sources`, which are what users call, and for the outputs of maps.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Set
from typing import Any, Literal, cast

import numpy as np

from .._errors.arguments import as_dtype, check_word, describe
from .._interop.numpy_types import Array, DType, any_numpy
from .blocks import allocate_bytes, is_fresh
from .pages import fill

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
