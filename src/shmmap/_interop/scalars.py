"""Kinds of values that cannot change and refer to nothing, so that nobody has to look into them."""

from __future__ import annotations

import numpy as np

SCALARS = frozenset((bool, int, float, complex, str, bytes, type(None)))
"""Python's own, by their exact types: an object of a class that is derived from one may hold more."""

SCALAR_CLASSES = (int, float, complex, str, bytes, np.generic, type(None))
"""For `isinstance`; NumPy's included."""
