"""How what holds large data comes apart when it is pickled: into plain arrays and buffers.

A pickler of the library decides what becomes of those two; all else here is reduced to them, so that nothing
loses its class, its mask or its attributes. Which classes need that is in
docs/design/0020-out-of-band-buffers.md.
"""

from __future__ import annotations

import sys
from types import FunctionType
from typing import Any

import numpy as np

from .masked import is_masked, mask_of

# What a class defines if it says itself how it is pickled.
_PICKLING = ("__reduce__", "__reduce_ex__", "__setstate__")
_IS_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: a class made by a ``class`` statement


def is_plain(a: Any) -> bool:
    """Whether an array is nothing but its bytes; so is a memory-mapped one, wherever it is mapped."""
    kind = type(a)
    return (kind is np.ndarray or kind is np.memmap) and not (
        a.dtype.hasobject or a.dtype.kind == "T"
    )


def reduce_kin(obj: Any) -> object:
    """What to pickle in place of a relative of plain arrays; NotImplemented for anything else."""
    kind = type(obj)  # a proxy may fail to say what it stands for
    if issubclass(kind, np.ndarray):
        if kind is np.ndarray or obj.dtype.hasobject or obj.dtype.kind == "T":
            return NotImplemented
        if is_masked(obj) and kind is np.ma.MaskedArray:
            return restore_masked, _take_apart(obj)
        if _has_own_pickling(kind):
            return _reduce_by_its_own(obj)
        return restore_subclass, (np.ndarray.view(obj, np.ndarray), kind, vars(obj))
    if kind is memoryview:
        return reduce_view(obj)
    pandas: Any = sys.modules.get("pandas")
    if pandas is not None and kind.__module__.startswith("pandas."):
        if isinstance(obj, pandas.arrays.ArrowExtensionArray):
            return restore_instance, (kind, vars(obj))
    polars: Any = sys.modules.get("polars")
    if polars is not None and kind.__module__.startswith("polars."):
        if kind is polars.DataFrame:
            return _reduce_polars(obj, polars)
        if kind is polars.Series:
            return restore_series, (obj.to_frame(),)
    return reduce_exception(obj) if issubclass(kind, BaseException) else NotImplemented


def reduce_exception(exc: BaseException) -> object:
    """What to pickle for an exception whose class has an ``__init__`` of its own; else NotImplemented.

    By the pickling of exceptions ``__init__`` would be called with what it gave to that of its base: one that
    takes other arguments fails then, and one that words the text does so twice.
    """
    kind = type(exc)
    if (
        not isinstance(kind.__init__, FunctionType)
        or kind.__new__ is not base_of(kind).__new__
        or any(getattr(kind, name) is not getattr(BaseException, name) for name in _PICKLING)
        or any(vars(each).get("__slots__") for each in kind.__mro__)
        # What a class of C keeps besides its arguments is set by its own __init__.
        or base_of(kind).__basicsize__ != BaseException.__basicsize__
    ):
        return NotImplemented
    return restore_exception, (kind, exc.args), vars(exc)


def base_of(kind: type) -> type:
    """The class of C underneath a class."""
    return next(each for each in kind.__mro__ if not each.__flags__ & _IS_HEAP_TYPE)


def restore_exception(kind: type, args: tuple[object, ...]) -> object:
    """An exception with some arguments, for which no ``__init__`` is called."""
    return kind.__new__(kind, *args)


def reduce_view(view: memoryview) -> object:
    """What to pickle in place of a view of memory: cloudpickle sends bytes, whatever the items are."""
    a: Any = np.asarray(view)  # a buffer, which a type checker learns from Python 3.12 on
    if memoryview(a).itemsize != view.itemsize or a.dtype.kind not in "biufc":
        raise TypeError(f"cannot pickle a memoryview of format {view.format!r}")
    return memoryview, (a,)


def keep_attributes(a: Any) -> object:
    """What to pickle in place of a subclass of ndarray, whose own pickling leaves its attributes behind."""
    kind = type(a)
    if kind is np.ndarray or is_masked(a) or not vars(a) or _has_own_pickling(kind):
        return NotImplemented
    if isinstance(a, np.memmap):
        return NotImplemented  # its attributes are about the file, and stay here
    return restore_subclass, (np.ndarray.view(a, np.ndarray), kind, vars(a))


def _has_own_pickling(kind: type) -> bool:
    return any(getattr(kind, name) is not getattr(np.ndarray, name) for name in _PICKLING)


def _take_apart(a: Any) -> tuple[Any, ...]:
    """A masked array as data, mask, fill value, and whether its mask is hard."""
    mask = mask_of(a)
    mask = None if mask is None else mask.view(np.ndarray)
    return np.ma.getdata(a), mask, a.fill_value, a.hardmask


def _reduce_by_its_own(a: object) -> object:
    """A subclass that says itself how it is pickled goes by value, read-only as all private arrays."""
    reduced = a.__reduce_ex__(5)
    if not isinstance(reduced, tuple) or len(reduced) != 3:
        return NotImplemented
    return restore_by_its_own, reduced


def restore_by_its_own(function: Any, arguments: tuple[object, ...], state: object) -> object:
    """An array of a subclass with a pickling of its own."""
    restored = function(*arguments)
    restored.__setstate__(state)
    restored.flags.writeable = False
    return restored


def restore_subclass(a: Any, kind: type, attributes: dict[str, object]) -> object:
    """An array of a subclass of ndarray, over the bytes of a plain one."""
    restored: object = np.ndarray.view(a, kind)
    vars(restored).update(attributes)
    return restored


def restore_masked(data: object, mask: Any, fill_value: Any, hard_mask: bool) -> object:
    """A masked array over the bytes of two plain ones."""
    return np.ma.MaskedArray(
        data,
        np.ma.nomask if mask is None else mask,
        fill_value=fill_value,
        hard_mask=hard_mask,
        copy=False,
    )


def restore_instance(kind: type, attributes: dict[str, object]) -> object:
    """An object with the attributes of another."""
    restored: object = object.__new__(kind)
    vars(restored).update(attributes)
    return restored


def view_of(a: Any) -> Any:
    """A view of an array, of its own class and with its attributes."""
    view = a.view()
    if type(a) is not np.ndarray:
        vars(view).update(vars(a))
    return view


def read_only(a: object) -> object:
    """A view of an array, of its own class, through which nothing can be written."""
    if is_masked(a) and type(a) is np.ma.MaskedArray:
        data, mask, *rest = _take_apart(a)
        return restore_masked(read_only(data), mask if mask is None else read_only(mask), *rest)
    view = view_of(a)
    view.flags.writeable = False
    return view


def _reduce_polars(frame: Any, polars: Any) -> object:
    try:
        table = frame.to_arrow(compat_level=polars.CompatLevel.newest())
        faithful = restore_polars(table[:0]).schema == frame.schema
    except Exception:  # no pyarrow, or a column of Python objects
        return NotImplemented
    return (restore_polars, (table,)) if faithful else NotImplemented


def restore_polars(table: object) -> Any:
    """A frame of polars over the bytes of an Arrow table."""
    import polars

    return polars.from_arrow(table, rechunk=False)


def restore_series(frame: Any) -> object:
    """The one column of a frame of polars."""
    return frame.to_series()
