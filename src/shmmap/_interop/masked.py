"""Masked arrays, without importing what NumPy needs for them.

That takes 7 ms and 1 MB in every process, and NumPy does it when ``np.ma`` is first looked at. A process in
which that has not happened yet has no masked array.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np


def is_masked(value: object) -> bool:
    core = sys.modules.get("numpy.ma.core")
    # No class: another thread is just importing it.
    return core is not None and isinstance(value, getattr(core, "MaskedArray", ()))


def mask_of(value: Any) -> Any:
    """The mask of a masked array; None if there is none, or the value is no masked array."""
    if not is_masked(value):
        return None
    mask = np.ma.getmask(value)
    return None if mask is np.ma.nomask else mask
