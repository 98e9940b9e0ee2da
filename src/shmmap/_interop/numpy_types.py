"""Types of NumPy as annotations name them; importing `numpy.typing` for that would take 0.5 ms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsIndex, TypeVar

import numpy as np

DType = np.dtype[Any]
Array = np.ndarray[tuple[Any, ...], DType]
Bytes = np.ndarray[tuple[Any, ...], np.dtype[np.uint8]]
Places = np.ndarray[tuple[Any, ...], np.dtype[np.intp]]

any_numpy: Any = np
"""NumPy itself, where the annotations of its releases differ in what they accept."""

Int = int | np.integer[Any]
Seconds = float | Int | np.floating[Any]
Shape = SupportsIndex | Sequence[SupportsIndex]

ScalarT = TypeVar("ScalarT", bound=np.generic)
ScalarOf = type[ScalarT] | np.dtype[ScalarT]
"""What says to a checker what an array holds; of ``"f4"`` or ``float`` it learns nothing."""
ArrayOf = np.ndarray[tuple[Any, ...], np.dtype[ScalarT]]
