"""What a function returned, as columns: which kind of thing it is, as arrays of what dtype, and what fits.

Kernels ask for what they store, the collector for what reaches it as pieces. No chunk and no index is known
here: an error says what is wrong with a result, and whoever called notes where.

A value stays what it is: an output whose dtype would change it is too narrow, and does not get it. Only into
an output that the user gave or declared are values cast.
"""

from __future__ import annotations

import functools
import marshal
from typing import Any, cast

import numpy as np

from .._interop.masked import is_masked
from .._interop.numpy_types import Array, Places
from .._interop.plain import is_open, read, what_is_lost
from .tuples import parts_of

_NUMPY_TYPES = cast("set[type]", set(np.sctypeDict.values()))
# Types of which all values have one dtype. NumPy is told which: finding out takes it four times as long.
_DTYPES: dict[type, np.dtype[Any]] = {kind: np.dtype(kind) for kind in (bool, float, complex)} | {
    kind: np.dtype(kind) for kind in _NUMPY_TYPES if issubclass(kind, (np.number, np.bool_))
}
_INT = np.asarray(0).dtype
# How `marshal` writes numbers: the byte for the type, a record, and the dtype of such numbers in an array.
_MARSHALLED: dict[type, tuple[int, np.dtype[Any], np.dtype[Any]]] = {
    float: (ord("g"), np.dtype([("type", "u1"), ("value", "<f8")]), np.dtype(float)),
    int: (ord("i"), np.dtype([("type", "u1"), ("value", "<i4")]), _INT),
}
_MARSHAL_HEAD = 5
_MANY = 100  # for fewer values that is no quicker
Kind = str | type | None
"""What kind of thing a function returned: nothing, ``"array"``, or a tuple, by its class or, in a worker, the
name of that, see `told_kind`; ``"unknown"`` before that is known."""
NUMBERS = frozenset((int, *_DTYPES))
"""Types of numbers, told without a look at the value."""


@functools.lru_cache(64)
def exact_types(dtype: np.dtype[Any]) -> frozenset[type]:
    """The types of numbers that become just this dtype; of ints those that fit into it."""
    kinds = {kind for kind, its in _DTYPES.items() if its == dtype}
    return frozenset(kinds | {int} if dtype == _INT else kinds)


def memory_of(a: Array) -> memoryview | None:
    """The numbers of an array, one after the other, as what they are stored into in half the time.

    None for an array of something else, or laid out in another way.
    """
    dtype = a.dtype
    if dtype.char not in "?bhilqBHILQfd" or not (dtype.isnative and a.flags.carray and a.size):
        return None
    flat: Any = a.reshape(-1)
    numbers = memoryview(flat)
    # A dtype that is not NumPy's own object may say its byte order, which no `memoryview` understands.
    return numbers if numbers.format == dtype.char else None


def is_just(result: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bool:
    """Whether a result is a plain array of a dtype and shape."""
    return type(result) is np.ndarray and result.dtype == dtype and result.shape == shape


def split_result(result: object) -> tuple[Kind, tuple[object, ...]]:
    """Kind and columns of what a function returned, see `_chunks.job.Form`."""
    if result is None:
        return None, ()
    if isinstance(result, tuple):
        return type(result), parts_of(result)
    return "array", (result,)


def as_column(value: object) -> Array:
    """A result as an array, or an error that says what to do instead."""
    if type(value) is np.ndarray or type(value) in NUMBERS:
        a = np.asarray(value)
    else:
        try:
            a = read(value)
        except ValueError as exc:
            text = f"the function's result is not an array: {exc}; pass out=list"
            raise ValueError(text) from None
        if lost := what_is_lost(a):
            instead = "plain numbers: np.asarray(result) in the unit you mean"
            if is_masked(a):
                instead = "a tuple (data, mask), or result.filled(value)"
            raise TypeError(
                f"an array of results would lose {lost}, which the function returned; return {instead}; "
                "or pass out=list"
            )
        a = np.asarray(a)
    if a.dtype.hasobject or a.dtype.kind == "T":
        raise TypeError(
            f"the function returned {type(value).__name__!r}, which does not fit into an array; pass "
            "out=list to get a list of any objects"
        )
    return a


def is_number(value: object) -> bool:
    """Whether a result is a number of a class of its own or a string, rather than an array or a tuple."""
    return not isinstance(value, (np.ndarray, tuple)) and as_column(value).ndim == 0


def begins_at(a: Array, other: Array) -> bool:
    """Whether two arrays have their first item in one place."""
    return bool(a.__array_interface__["data"][0] == other.__array_interface__["data"][0])


class Mixed:
    """A chunk's items of several dtypes, each as it is.

    The dtype that holds them is told by all results of the map together: what two of them become, and that
    with a third one, may be another one, and would depend on which items are in one chunk.
    """

    dtype = np.dtype(object)
    """No result's: these are refused."""
    base = None

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._parts: list[tuple[Places, Array]] = []
        self._cells: dict[object, tuple[list[int], list[Array]]] = {}

    def __setitem__(self, i: int, a: Array) -> None:
        a = as_column(a)
        places, cells = self._cells.setdefault(a.dtype, ([], []))
        places.append(i)
        cells.append(a.copy())  # the function may return the same buffer every time

    def put_rows(self, rows: Array) -> None:
        """Enter the first items, which are of one dtype."""
        self._parts.append((np.arange(len(rows)), rows.copy()))

    def parts(self) -> list[tuple[Places, Array]]:
        """Places and values, by dtype."""
        for places, cells in self._cells.values():
            self._parts.append((np.array(places), np.stack(cells)))
        self._cells = {}
        return self._parts

    def __reduce__(self) -> tuple[object, ...]:
        return _mixed, (self.shape, self.parts())

    @property
    def nbytes(self) -> int:
        return sum(values.nbytes for _, values in self.parts())


def _mixed(shape: tuple[int, ...], parts: list[Any]) -> Mixed:
    mixed = Mixed(shape)
    mixed._parts = parts
    return mixed


Column = Array | Mixed
"""Results of a chunk, one for each item."""


def dtypes_of(column: Column) -> list[object]:
    if isinstance(column, Mixed):
        return [values.dtype for _, values in column.parts()]
    return [column.dtype]


def put_column(target: Array, column: Column) -> None:
    """Write a column where it belongs; each item is cast once, from its own dtype."""
    if not isinstance(column, Mixed):
        np.copyto(target, column, casting="same_kind")
        return
    for places, values in column.parts():
        target[places] = values


def as_array(column: Column) -> Array:
    """A column by itself, as `numpy.stack` gives it."""
    if not isinstance(column, Mixed):
        return column
    a = np.empty(column.shape, promote(*dtypes_of(column)))
    put_column(a, column)
    return a


def copied(column: Column) -> Column:
    """A column that will stay as it is."""
    return column if isinstance(column, Mixed) else np.array(column)


def stack_items(items: list[Array]) -> Column:
    """A column of items of one shape."""
    kinds = {item.dtype for item in items}
    if len(kinds) == 1 or {dtype.kind for dtype in kinds} in ({"U"}, {"S"}):
        return np.stack(items)
    mixed = Mixed((len(items), *items[0].shape))
    for i, item in enumerate(items):
        mixed[i] = item
    return mixed


def holds(target: Any, column: Column) -> bool:
    """Whether an output of dtype `target` takes values as they are, and would be of no other dtype by them.

    Numbers only ever go where each is the same number; what that becomes in a still wider dtype is then what
    it would have become at once.
    """
    if isinstance(column, Mixed):
        return all(holds(target, values) for _, values in column.parts())
    dtype = column.dtype
    if dtype == target:
        return True
    try:
        if np.result_type(dtype, target) != target:
            return False
    except TypeError:
        return False
    if dtype.kind not in "biufc" or target.kind not in "biufc":
        # Of two units of time, or of a number and one, the wider one may not have what the third has.
        return bool(dtype.kind == target.kind and dtype.kind not in "mM")
    if dtype.kind in "iu" and dtype.itemsize == 8 and target.kind in "fc" and column.size:
        exact = 2 ** (np.finfo(target).nmant + 1)
        return bool(-exact <= int(column.min()) and int(column.max()) <= exact)
    return True


def told_kind(kind: Kind) -> Kind:
    """A kind as workers are told it: of a class of tuples, which may be local to a function, the name."""
    if isinstance(kind, type) and kind is not tuple:
        return f"{kind.__module__}.{kind.__qualname__}"
    return kind


def _describe(kind: Kind) -> str:
    if kind is None:
        return "None"
    if kind == "array":
        return "an array or number"
    name = kind.__name__ if isinstance(kind, type) else kind.rpartition(".")[2]
    return f"a {name}"


def check_kind(
    kind: Kind, width: int, expected: Kind, expected_width: int, declared: bool = False
) -> None:
    """Refuse results of different kinds within one map, or, if it is `declared`, than the output takes."""
    text = "the function returned {}, but out takes {}"
    if not declared:
        text = "the function returned {} here and {} at other indices"
    # A named tuple into out=(...).
    both_tuples = declared and isinstance(kind, type) and expected is tuple
    if kind is not expected and told_kind(kind) != told_kind(expected) and not both_tuples:
        both = text.format(_describe(kind), _describe(expected))
        raise TypeError(f"{both}; pass out=list to get a list of any objects")
    if width != expected_width:
        raise ValueError(text.format(f"a tuple of {width}", f"one of {expected_width}"))


def check_shape(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if shape != expected:
        raise ValueError(
            f"the function returned shape {shape} here and {expected} at other indices; results "
            "of different shapes do not stack: pass out=list"
        )


def check_declared(column: Column, target: Any) -> None:
    """Refuse results that an output which the user gave or declared does not take."""
    shape, expected = column.shape[1:], target.shape[1:]
    if shape != expected:
        raise ValueError(f"the function returned shape {shape}, but out holds items of {expected}")
    for dtype in dtypes_of(column):
        check_cast(dtype, target.dtype, "out's")


def check_axis(shape: tuple[int, ...], axis: int, length: int, ndims: tuple[int, ...]) -> None:
    """Refuse a chunk's result that has not `length` items along the axis of the chunks, or may not have.

    `ndims`: see `_chunks.job.Job`.
    """
    if not -len(shape) <= axis < len(shape) or shape[axis] != length:
        raise ValueError(
            f"the function returned shape {shape} for a chunk of {length} items: length {length} along axis "
            f"{axis} was expected; use shmmap.preduce for one result per chunk, or pass out=list"
        )
    if is_ambiguous(shape, axis, length, ndims):
        raise ValueError(
            f"a result of shape {shape} for a chunk of {length} items with {ndims[0]} axes does not tell "
            f"which axis is the chunk's axis {axis}, along which results are joined; keep the axes "
            "(keepdims=True), or give another chunksize=, or out="
        )


def is_ambiguous(shape: tuple[int, ...], axis: int, length: int, ndims: tuple[int, ...]) -> bool:
    """Whether a function that has dropped or added axes may have moved that of the chunks."""
    if not ndims or len(shape) in ndims:
        return False
    changed = len(shape) - ndims[0]
    before = axis % ndims[0]
    first, last = sorted((before, before + changed))
    expected = axis % len(shape)
    places = range(max(0, first), min(last, len(shape) - 1) + 1)
    return any(shape[place] == length for place in places if place != expected)


def check_cast(dtype: Any, target: Any, whose: str) -> None:
    """Refuse results of a dtype from which no value is cast to another."""
    if not np.can_cast(dtype, target, "same_kind"):
        raise TypeError(
            f"the function returned dtype {dtype}, which cannot be cast to {whose} {target} (casting is "
            "'same_kind')"
        )


def declared_dtype(dtype: Any, wanted: np.dtype[Any]) -> Any:
    """The dtype of an output that was declared, for results of `dtype`: they tell what is left open."""
    if is_open(wanted) and dtype.kind == wanted.kind:
        return dtype
    check_cast(dtype, wanted, "the declared")
    if not is_open(wanted):
        return wanted
    return np.empty(0, dtype).astype(wanted).dtype


def promote(*dtypes: Any) -> Any:
    """The dtype that holds values of all these; it depends on neither their order nor their number."""
    kinds = {dtype.kind in "US" for dtype in dtypes}
    try:
        if len(kinds) > 1:
            raise TypeError  # text of numbers: which, would depend on what they were before
        return np.result_type(*sorted(set(dtypes), key=str))
    except TypeError:
        names = [*dict.fromkeys(map(str, dtypes))]
        raise TypeError(
            f"results of dtype {', '.join(names[:-1])} and {names[-1]} have no common dtype; pass out=list"
        ) from None


def _as_marshalled(values: list[object]) -> Array | None:
    """A column of floats, or of ints of 32 bits; None if not all of the values are just that.

    `marshal` writes each as a byte for its type, and its value. If all bytes are that of the first type which
    have to be so if all values are of this type, then all are. That takes a third of the time of a look at
    each type, and NumPy's at each value.
    """
    found = _MARSHALLED.get(type(values[0]))
    if found is None:
        return None
    code, record, dtype = found
    try:
        data = marshal.dumps(values, 2)
    except ValueError:
        return None
    if len(data) != _MARSHAL_HEAD + len(values) * record.itemsize:
        return None
    records = np.frombuffer(data, record, offset=_MARSHAL_HEAD)
    if (records["type"] != code).any():
        return None
    column: Array = records["value"].astype(dtype)
    return column


def uniform_column(values: list[object]) -> Array | None:
    """A column, if the values are of one type that has a dtype of its own: then all at once."""
    if len(values) >= _MANY and (column := _as_marshalled(values)) is not None:
        return column
    kinds = set(map(type, values))
    if len(kinds) > 1:
        return None
    (kind,) = kinds
    dtype = _DTYPES.get(kind)
    if dtype is not None:
        return np.array(values, dtype)
    if kind is not int and kind is not str and kind is not bytes:
        return None
    try:
        column = np.asarray(values)
    except OverflowError:
        return None
    # Python ints that need different dtypes must not be promoted all at once.
    fits_int = kind is not int or column.dtype == np.asarray(values[0]).dtype
    return column if fits_int and not column.dtype.hasobject else None
