"""What is said of an array that was written: shape, dtype, range and mean."""

from __future__ import annotations

from typing import Any

import numpy as np

import shmmap

from .._interop.numpy_types import Array
from .._system import limits


def summarize(array: Any, options: dict[str, Any]) -> str:
    """Shape and dtype of an array, and its range and mean if it holds real numbers.

    One that is larger than memory would have to be read from the disk for that, and is not; nor one that is
    stored in another way than an ``.npy`` file.
    """
    text = f"shape {tuple(array.shape)}, {array.dtype}"
    if not isinstance(array, np.ndarray):
        return text
    if array.size and array.dtype.kind in "biuf" and array.nbytes <= limits.available()[0]:
        low, high, total, count = shmmap.preduce(
            measure, array.reshape(-1), combine=combine, **{**options, "progress": False}
        )
        if count:
            text += f", min {low:.6g}, mean {total / count:.6g}, max {high:.6g}"
        if nans := array.size - int(count):
            text += f", {nans:,} NaN"
    return text


def measure(chunk: Array) -> Array:
    """Minimum, maximum, sum and number of the values that are not NaN."""
    values = chunk[~np.isnan(chunk)] if chunk.dtype.kind == "f" else chunk
    if not values.size:
        return np.array([np.inf, -np.inf, 0.0, 0.0])
    return np.array([values.min(), values.max(), values.sum(dtype=np.float64), values.size], float)


def combine(a: Array, b: Array) -> Array:
    """Put two partial results of `measure` together."""
    return np.array([min(a[0], b[0]), max(a[1], b[1]), a[2] + b[2], a[3] + b[3]])
