"""What a plain array keeps of a value, and what it would lose: a mask, a unit, integers beside missing ones.

Wherever values of others become plain arrays (inputs, results, `asshared`, fill values), they are read by
`read`, which loses nothing that it could keep, and what it gives is refused if `what_is_lost` names anything.
No library is imported for that.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from .masked import is_masked
from .numpy_types import DType

# What a subclass of ndarray defines if it carries something on to what is made of it.
_HOOKS = ("__array_finalize__", "__array_function__", "__array_ufunc__", "__array_wrap__")


def is_open(dtype: DType) -> bool:
    """Whether a dtype leaves its length or its unit to the values: that of ``str``, or ``"M8"``, say."""
    if dtype.kind in "mM":
        return np.datetime_data(dtype)[0] == "generic"
    return dtype.kind in "SUV" and dtype.itemsize == 0


def has_open_field(dtype: DType) -> bool:
    """Whether a structured dtype has such a field, which NumPy gives no length: its values would be lost."""
    inner = [field[0].base for field in (dtype.fields or {}).values()]
    return any(is_open(each) or has_open_field(each) for each in inner)


def _is_foreign(kind: type) -> bool:
    """Whether NumPy leaves arrays of a type to another library, and does not convert them."""
    return hasattr(kind, "__array_function__") and not issubclass(kind, np.ndarray)


def _is_table_with_units(value: Any) -> bool:
    """Whether a value is a table of astropy with units or masks, which a structured array has not."""
    if not hasattr(value, "colnames"):
        return False
    columns = value.columns.values()
    return any(getattr(c, "unit", None) is not None or is_masked(c) for c in columns)


def what_is_lost(value: Any) -> str:
    """What a plain array would lose of an array, or of arrays in lists; empty if nothing.

    A subclass of ndarray carries something if it has attributes of its own, or says how they are passed on.
    NumPy's own subclasses differ from plain arrays in how they are used; of those only masks are lost.
    """
    kind = type(value)
    if kind is np.ndarray or kind is np.memmap:
        return ""
    if kind is list or kind is tuple:
        kinds = {each for each in map(type, value) if each not in (int, float, complex)}
        if any(issubclass(each, (np.ndarray, list, tuple)) or _is_foreign(each) for each in kinds):
            return next(filter(None, map(what_is_lost, value)), "")
        return ""
    if is_masked(value):
        return "the mask of a masked array"
    if isinstance(value, np.ndarray):
        if kind.__module__.partition(".")[0] == "numpy":
            return ""
        hooked = any(getattr(kind, name) is not getattr(np.ndarray, name) for name in _HOOKS)
        carries = hooked or bool(getattr(value, "__dict__", None))
    else:
        carries = _is_foreign(kind) or _is_table_with_units(value)
    return f"all that a {kind.__name__} has besides its numbers (a unit, say)" if carries else ""


def read(value: Any, dtype: Any = None) -> Any:
    """An array-like as an array: ``numpy.asanyarray(value, dtype)``, but with masks, units and integers.

    Where the numbers alone would not do, the result is no plain array: a masked array, one of Python objects
    in place of integers of which some are missing; or `value` itself, an array of another library, or a list
    of arrays of whose masks or units none could be kept.
    """
    if isinstance(value, np.ndarray):
        return np.asanyarray(value, dtype)
    dask, xarray = sys.modules.get("dask.array"), sys.modules.get("xarray")
    if dask is not None and isinstance(value, dask.Array):
        return read(value.compute(), dtype)  # its `__array__` drops masks
    if _is_foreign(type(value)) or _is_table_with_units(value):
        return value
    if type(value) in (list, tuple):
        if any(
            hasattr(kind, "__array__") and not issubclass(kind, (np.ndarray, np.generic))
            for kind in set(map(type, value))
        ):
            value = [read(each) for each in value]
        return value if what_is_lost(value) else np.asanyarray(value, dtype)
    if xarray is not None and isinstance(value, (xarray.DataArray, xarray.Variable)):
        return read(value.data, dtype)
    if not hasattr(value, "__array__"):
        return np.asanyarray(value, dtype)
    a = np.asanyarray(value)  # NumPy would drop a mask together with the dtype
    if what_is_lost(a):
        return a
    if dtype is not None:
        is_numpy = isinstance(getattr(value, "dtype", None), np.dtype)
        return np.asanyarray(a if is_numpy else value, dtype)
    if a.dtype.kind == "f" and any(map(_lacks_integers, _columns_of(value))):
        return np.asarray(value, object)
    return a


def _columns_of(value: Any) -> list[object]:
    """The columns of a frame of pandas or polars, or of an Arrow table; or the value itself."""
    if hasattr(value, "iloc") and getattr(value, "ndim", 1) == 2:
        return [value.iloc[:, j] for j in range(value.shape[1])]
    if hasattr(value, "get_columns"):
        return list(value.get_columns())
    columns = getattr(value, "columns", None)
    return columns if isinstance(columns, list) else [value]


def _lacks_integers(column: object) -> bool:
    """Whether values that are no floats are missing: the others become floats beside NaN."""
    dtype = getattr(column, "dtype", getattr(column, "type", None))
    if dtype is None or isinstance(dtype, np.dtype):
        return False
    if any(word in str(dtype).lower() for word in ("float", "double")):
        return False
    if hasattr(column, "isna"):
        return bool(np.any(column.isna()))
    count = getattr(column, "null_count", 0)
    return bool(count() if callable(count) else count)
