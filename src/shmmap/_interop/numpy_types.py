"""Types of NumPy as annotations name them; importing `numpy.typing` for that would take 0.5 ms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

DType = np.dtype[Any]
Array = np.ndarray[tuple[Any, ...], DType]
Bytes = np.ndarray[tuple[Any, ...], np.dtype[np.uint8]]
Places = np.ndarray[tuple[Any, ...], np.dtype[np.intp]]

any_numpy: Any = np
"""NumPy itself, where the annotations of its releases differ in what they accept."""

Shape = SupportsIndex | Sequence[SupportsIndex]

if TYPE_CHECKING:
    from numpy.typing import DTypeLike
    from typing_extensions import (
        TypeVar,
    )  # Python's own has defaults from 3.13 on; checkers know them

    ScalarT = TypeVar("ScalarT", bound=np.generic, default=Any)
    DTypeOf = type[ScalarT] | np.dtype[ScalarT] | DTypeLike | None
    """A scalar type of NumPy says what an array holds; of ``"f4"`` or ``float`` a checker learns nothing."""
    ArrayOf = np.ndarray[tuple[Any, ...], np.dtype[ScalarT]]
