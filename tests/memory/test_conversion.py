"""What is no array yet becomes one as `numpy.asarray` has it, or is refused as NumPy refuses it.

The kind: values are converted with the dtype that was asked for, and not without it and cast then; a dtype
that leaves its length or unit open takes that of the values; integers do not become floats because some are
missing.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import shmmap

BIG = 2**53 + 1  # no float64 has this value


class WithArray:
    """An array-like by `__array__`."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.arange(3, dtype=dtype)


class WithInterface:
    """An array-like by `__array_interface__`."""

    def __init__(self) -> None:
        self.a = np.arange(3)
        self.__array_interface__ = self.a.__array_interface__


VALUES: dict[str, Any] = {
    "tuples": [(1, 2.0), (3, 4.0)],
    "300": [300],
    "nan": [np.nan],
    "mixed": [BIG, 0.5],
    "beyond int64": [2**63],
    "beyond uint64": [2**64],
    "negative": [-1],
    "None": [None],
    "bool": [True, False],
    "complex": [1 + 2j],
    "nested": [[1, 2], [3, 4]],
    "ragged": [[1], [2, 3]],
    "nothing": [],
    "range": range(4),
    "number": 5,
    "str": ["a", "bcd"],
    "bytes": [b"a", b"bcd"],
    "dates": ["2020-01-01", "2021-01-01T03"],
    "set": {1},
    "bytearray": bytearray(b"abc"),
    "memoryview": memoryview(b"abc"),
    "__array__": WithArray(),
    "__array_interface__": WithInterface(),
    "an array of ints": np.arange(3),
    "of floats": np.arange(3) / 2,
    "in Fortran's order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "of big-endian": np.arange(3, dtype=">i4"),
    "of days": np.array(["2020-01-01"], "M8[D]"),
    "of strings": np.array(["a", "bcd"]),
    "of void": np.array([b"ab", b"c"], "V3"),
    "of records": np.array([(1, 2.0)], "i4,f8"),
    "of Python objects": np.array([1, 2], object),
    "of string objects": np.array(["a", "bcd"], object),
    "of StringDType": np.array(["a", "bcd"], np.dtypes.StringDType()),
}
DTYPES: list[Any] = [
    None, "i4,f8", "u1", "i4", "i8", "f4", complex, bool, ">i2", str, bytes, "V", "U2", "M8", "M8[s]", "m8",
    np.dtype((int, (2,))), [("a", str)], object, "T",
]  # fmt: skip


def outcome(call: Callable[[], Any]) -> Any:
    """What NumPy and this library must agree on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            a = call()
        except Exception as exc:
            return type(exc)
    return a.dtype, a.shape, repr(a.tolist())


def agree(ours: Any, theirs: Any) -> bool:
    is_refused = isinstance(theirs, tuple) and (theirs[0].hasobject or theirs[0].kind == "T")
    return ours is TypeError if is_refused else ours == theirs


@pytest.mark.parametrize("name", VALUES)
def test_asshared_is_asarray(name: str) -> None:
    """A21, A22: `asshared([(1, 2.), (3, 4.)], "i4,f8")`, `[300], "u1"`, `np.array(["a", "bcd"]), str`."""
    value = VALUES[name]
    for dtype, order in itertools.product(DTYPES, (None, "F")):
        theirs = outcome(lambda d=dtype, o=order: np.asarray(value, d, order=o))  # type: ignore[misc]
        ours = outcome(lambda d=dtype, o=order: shmmap.asshared(value, d, order=o))  # type: ignore[misc]
        if theirs is not TypeError and dtype == "T":
            continue  # refused, whatever NumPy says
        if order == "F" and isinstance(dtype, np.dtype):
            continue  # NumPy leaves a part of it unset
        assert agree(ours, theirs), (dtype, order, ours, theirs)


@pytest.mark.parametrize("name", VALUES)
def test_arrays_like_others_and_filled_ones(name: str) -> None:
    """A21, A22, C20: `full(2, "abc", str)`, `zeros(3, str)`, `*_like` with a dtype of several elements."""
    value = VALUES[name]

    def emptied(library: Any, dtype: Any) -> Any:
        new = library.empty_like(value, dtype)
        new[...] = np.zeros((), new.dtype)
        return new

    calls: list[Callable[[Any, Any], Any]] = [
        emptied,
        lambda library, dtype: library.zeros((2, 3), float if dtype is None else dtype),
        lambda library, dtype: library.ones((2, 3), float if dtype is None else dtype),
        lambda library, dtype: library.zeros_like(value, dtype),
        lambda library, dtype: library.ones_like(value, dtype),
        lambda library, dtype: library.full_like(value, 7, dtype),
        lambda library, dtype: library.full_like(np.zeros((2, 2)), value, dtype),
        lambda library, dtype: library.full(np.shape(value) or 2, value, dtype),
    ]
    for j, (call, dtype) in enumerate(itertools.product(calls, DTYPES)):
        if dtype in (object, "T") or (name == "of StringDType" and dtype is None):
            continue  # refused, sometimes before NumPy would refuse something else
        if name == "ragged":
            with pytest.raises(ValueError):
                shmmap.full(2, value)
            break
        theirs = outcome(lambda c=call, d=dtype: c(np, d))  # type: ignore[misc]
        ours = outcome(lambda c=call, d=dtype: c(shmmap, d))  # type: ignore[misc]
        assert agree(ours, theirs), (j // len(DTYPES), dtype, ours, theirs)


def test_a_generator_is_no_array() -> None:
    """A21: NumPy takes a generator for one object; `list` makes an array of it."""
    with pytest.raises(TypeError, match="Python objects"):
        shmmap.asshared(i for i in range(3))


def test_subarrays_keep_the_order_of_axes() -> None:
    """C20: the axes of a dtype's own come last, however the prototype lies in memory."""
    prototype = np.arange(6.0).reshape(2, 3).T
    like = shmmap.zeros_like(prototype, np.dtype((np.int32, (2,))))
    assert like.shape == (3, 2, 2)
    assert like.dtype == np.int32
    like[2, 1] = 5, 6
    assert like[2, 1].tolist() == [5, 6]


# ---------------------------------------------------------------- dtype= of a verb


def text(i: Any) -> str:
    return "ab" * int(i)


def test_declared_dtypes_without_a_length(engine: str) -> None:
    """A22: ``dtype=str`` gave three empty strings."""
    for dtype in (str, "U", np.str_):
        for chunksize in (1, 3):
            result = shmmap.pmap(
                text, np.arange(3), dtype=dtype, chunksize=chunksize, engine=engine
            )
            assert result.dtype == "U4"
            assert result.tolist() == ["", "ab", "abab"]
    result = shmmap.pmap_chunks(
        lambda c: np.array([text(i) for i in c]),
        np.arange(3),
        dtype=str,
        chunksize=1,
        engine=engine,
    )
    assert result.tolist() == ["", "ab", "abab"]
    result = shmmap.pmap(lambda i: text(i).encode(), np.arange(3), dtype=bytes, engine=engine)
    assert result.tolist() == [b"", b"ab", b"abab"]
    numbers = shmmap.pmap(
        lambda i: 10 ** int(i), np.arange(3), dtype=str, chunksize=1, engine=engine
    )
    assert numbers.tolist() == ["1", "10", "100"]
    days = shmmap.pmap(
        lambda i: np.datetime64("2020-01-01", "s" if i else "D"),
        np.arange(2),
        dtype="M8",
        chunksize=1,
        engine=engine,
    )
    assert days.dtype == "M8[s]"
    assert days.tolist() == [np.datetime64("2020-01-01").astype("M8[s]").item()] * 2
    strings, floats = shmmap.pmap(
        lambda i: (text(i), i), np.arange(3), dtype=(str, "f4"), chunksize=1, engine=engine
    )
    assert (strings.tolist(), floats.dtype) == (["", "ab", "abab"], np.float32)


def test_stand_ins_count_for_an_open_length() -> None:
    """A22: what `on_error` returns is as long as it is."""
    result = shmmap.pmap(
        lambda i: text(i)[int(i) and 99 :][0:] or text(1 // int(1 - i)),
        np.arange(3),
        dtype=str,
        on_error=lambda *_: "a long word",
        engine="serial",
    )
    assert "a long word" in result.tolist()


def test_an_open_length_is_not_another_kind(engine: str) -> None:
    """A22: strings are no bytes, whichever came first."""
    for results in (["ab", b"ab"], [b"ab", "ab"]):
        with pytest.raises(TypeError, match="cast"):
            shmmap.pmap(
                lambda i, r=results: r[int(i)],
                np.arange(2),
                dtype=bytes,
                chunksize=1,
                engine=engine,
            )


@pytest.mark.parametrize("dtype", [np.dtype((int, (2,))), [("a", str)], [("b", int), ("a", "M8")]])
def test_declared_dtypes_that_hold_no_result_are_refused(dtype: Any) -> None:
    """A22: fields of no length hold nothing, and a dtype of several elements is none of one."""
    with pytest.raises(TypeError, match="dtype="):
        shmmap.pmap(abs, np.arange(3), dtype=dtype)


# ---------------------------------------------------------------- columns with missing values


def with_pandas(dtype: str, values: Any) -> Any:
    return pytest.importorskip("pandas").Series(values, dtype=dtype)


def with_polars(dtype: str, values: Any) -> Any:
    polars = pytest.importorskip("polars")
    return polars.Series(values, dtype=getattr(polars, dtype))


def with_arrow(dtype: str, values: Any) -> Any:
    arrow = pytest.importorskip("pyarrow")
    return arrow.array(values, type=getattr(arrow, dtype)())


NULLABLE: list[tuple[Callable[[str, Any], Any], str, int]] = [
    (with_pandas, "Int64", BIG),
    (with_pandas, "UInt64", 2**64 - 1),
    (with_pandas, "boolean", True),
    (with_polars, "Int64", BIG),
    (with_polars, "UInt64", 2**64 - 1),
    (with_polars, "Boolean", True),
    (with_arrow, "int64", BIG),
    (with_arrow, "uint64", 2**64 - 1),
    (with_arrow, "bool_", True),
]


def plainly(value: Any) -> Any:
    """A scalar of any library as Python has it; None where it is missing."""
    value = value.as_py() if hasattr(value, "as_py") else value
    return None if value is None or type(value).__name__ == "NAType" else int(value)


@pytest.mark.parametrize(("make", "dtype", "value"), NULLABLE)
def test_integers_beside_missing_ones_stay_integers(
    make: Any, dtype: str, value: int, engine: str
) -> None:
    """A17: the last bits of integers above 2**53 were lost beside a missing one."""
    column = make(dtype, [value, None, value])
    expected = [int(value), None, int(value)]
    assert shmmap.pmap(plainly, column, engine=engine) == expected
    parts = shmmap.pmap_chunks(lambda c: [plainly(v) for v in c], column, engine=engine)
    assert [v for part in parts for v in part] == expected
    shared = shmmap.share(column)
    assert shmmap.pmap(lambda i: plainly(shared[i]), range(3), engine=engine) == expected
    if make is not with_arrow:
        for verb in (shmmap.pmap, shmmap.pmap_chunks):
            with pytest.raises(TypeError, match="out=list"):
                verb(lambda part: column, np.arange(3), engine=engine)


@pytest.mark.parametrize(("make", "dtype", "value"), NULLABLE)
def test_missing_integers_are_no_plain_array(make: Any, dtype: str, value: int) -> None:
    """A17: `asshared`; with a dtype, what the library itself says of it."""
    column = make(dtype, [value, None])
    with pytest.raises(TypeError, match="Python objects"):
        shmmap.asshared(column)
    full = make(dtype, [value, value])
    assert shmmap.asshared(full).tolist() == [value, value]
    assert list(map(plainly, np.concatenate(list(shmmap.pmap_chunks(list, full, out=list))))) == [
        value,
        value,
    ]


def test_floats_beside_missing_ones_become_nan() -> None:
    """A17: there NaN is the usual word for a missing one."""
    for column in (with_pandas("Float64", [1.5, None]), with_pandas("float64", [1.5, None])):
        assert np.isnan(shmmap.asshared(column)).tolist() == [False, True]
    assert shmmap.asshared(with_pandas("Int64", [3, None]), float)[0] == 3.0


def test_frames_keep_missing_integers(engine: str) -> None:
    """A17: blocks of rows keep the columns' dtypes; a column of theirs is no array of results."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"i": with_pandas("Int64", [BIG, None, 3]), "f": [1.0, 2.0, 3.0]})
    parts = shmmap.pmap_chunks(lambda c: c, frame, chunksize=2, engine=engine)
    together = pandas.concat(parts)
    assert together["i"].dtype == "Int64"
    assert [plainly(v) for v in together["i"]] == [BIG, None, 3]
    with pytest.raises(TypeError, match="out=list"):
        shmmap.pmap_chunks(lambda c: c["i"], frame, out=np.ndarray, engine=engine)
    with pytest.raises((TypeError, ValueError), match="out=list"):
        shmmap.pmap(lambda i: frame, np.arange(2), engine=engine)


@pytest.mark.parametrize(
    "make",
    [
        lambda pandas: pandas.Series(["a", "b", "a"]).astype("category"),
        lambda pandas: pandas.Series(pandas.date_range("2020", periods=3, tz="Europe/Paris")),
        lambda pandas: pandas.Series(["a", None, "b"], dtype="string"),
        lambda pandas: pandas.Series(pandas.period_range("2020", periods=3)),
        lambda pandas: pandas.Series(pandas.interval_range(0, 3)),
    ],
    ids=["categories", "time zones", "strings", "periods", "intervals"],
)
def test_columns_of_other_values_keep_them(make: Any, engine: str) -> None:
    """A17: what NumPy has no dtype for comes as it is, one by one."""
    column = make(pytest.importorskip("pandas"))
    assert shmmap.pmap(repr, column, engine=engine) == [repr(value) for value in column]
    with pytest.raises(TypeError, match="out=list"):
        shmmap.pmap(lambda i: column, np.arange(2), engine=engine)
