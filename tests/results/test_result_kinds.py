"""Results of every kind: what `np.stack` of them gives, or an error that names ``out=list``, on every engine.

The kind: whatever a function returns. A list holds all of it as it is.
"""

from __future__ import annotations

import array
import datetime
import decimal
import fractions
import os
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import shmmap

Pair = namedtuple("Pair", "first second")


class Triple(tuple[Any, ...]):
    """A class of tuples that takes its parts as one argument, as `tuple` does."""


class Couple(tuple[Any, ...]):
    """One that takes them one by one."""

    def __new__(cls, first: Any, second: Any) -> Couple:
        return super().__new__(cls, (first, second))

    def __getnewargs__(self) -> Any:
        return tuple(self)


class Labelled(tuple[Any, ...]):
    """One that cannot be made of its parts alone."""

    label: str

    def __new__(cls, first: Any, second: Any, *, label: str) -> Labelled:
        new = super().__new__(cls, (first, second))
        new.label = label
        return new

    def __getnewargs_ex__(self) -> Any:
        return tuple(self), {"label": self.label}


class ArrayLike:
    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.arange(3, dtype=dtype)


N = 3

STACKED: dict[str, Callable[[int], Any]] = {
    "number": lambda i: i,
    "Python's float": float,
    "bool": lambda i: i > 1,
    "np.bool_": lambda i: np.bool_(i > 1),
    "complex": lambda i: complex(i, 1),
    "uint64": lambda i: 2**63 + i,
    "int64 and uint64": lambda i: [1, 2**63, 2][i],
    "0-d array": lambda i: np.array(i),
    "array": lambda i: np.full((2, 2), i),
    "np.void": lambda i: np.array([(i, 2.0)], "i4,f8")[0],
    "array of records": lambda i: np.array([(i, 2.0)], "i4,f8"),
    "list": lambda i: [i, 2],
    "list of lists": lambda i: [[i], [2]],
    "range": lambda i: range(i, i + 2),
    "empty list": lambda i: [],
    "str": lambda i: "a" * i,
    "bytes": lambda i: b"ab"[:i],
    "bytearray": lambda i: bytearray([i, 1]),
    "memoryview": lambda i: memoryview(bytes([i, 1])),
    "array.array": lambda i: array.array("d", [i, 1.0]),
    "array-like": lambda i: ArrayLike(),
    "datetime64": lambda i: np.datetime64("2020-01-01") + np.timedelta64(i, "D"),
    "timedelta64 of two units": lambda i: np.timedelta64(1, "sDh"[i]),
    "big-endian": lambda i: np.array([i], ">i4"),
    "read-only view": lambda i: np.broadcast_to(i, (2,)),
    "in Fortran's order": lambda i: np.asfortranarray(np.arange(4).reshape(2, 2) + i),
}

REFUSED: dict[str, Callable[[int], Any]] = {
    "None among numbers": lambda i: None if i == 1 else i,
    "beyond uint64": lambda i: 2**64,
    "Decimal": decimal.Decimal,
    "Fraction": fractions.Fraction,
    "datetime": lambda i: datetime.datetime(2020, 1, 1 + i),
    "date": lambda i: datetime.date(2020, 1, 1 + i),
    "timedelta": datetime.timedelta,
    "set": lambda i: {i},
    "dict": lambda i: {"a": i},
    "Ellipsis": lambda i: ...,
    "class": lambda i: int,
    "exception": lambda i: ValueError,
    "path": lambda i: Path("/"),
    "ragged list": lambda i: [[1], [1, 2]],
    "ragged": lambda i: np.zeros(i),
    "None in a list": lambda i: [1, None],
    "array of objects": lambda i: np.array([None, i]),
    "array of StringDType": lambda i: np.array(["a"], np.dtypes.StringDType()),
    "tuple and array": lambda i: (1, 2) if i == 1 else np.zeros(2),
}


def test_results_stack_as_numpy_stacks_them(engine: str) -> None:
    """C20: values, shape and dtype, whatever the chunks."""
    for name, function in STACKED.items():
        expected = np.stack([np.asarray(function(i)) for i in range(N)])
        for chunksize in (1, N):
            result = shmmap.pmap(
                lambda i, f=function: f(int(i)), np.arange(N), chunksize=chunksize, engine=engine
            )
            assert type(result) is np.ndarray, name
            assert result.dtype == expected.dtype, name
            assert result.tolist() == expected.tolist(), name


def test_what_does_not_stack_is_refused(engine: str) -> None:
    """C20: the error names ``out=list``, which takes all of it."""
    for name, function in REFUSED.items():
        for chunksize in (1, N):
            with pytest.raises((TypeError, ValueError), match="out=list"):
                shmmap.pmap(
                    lambda i, f=function: f(int(i)),
                    np.arange(N),
                    chunksize=chunksize,
                    engine=engine,
                )
                pytest.fail(name)
        listed = shmmap.pmap(lambda i, f=function: f(int(i)), range(N), engine=engine)
        assert list(map(repr, listed)) == [repr(function(i)) for i in range(N)], name


TUPLES: dict[str, tuple[Callable[[int], Any], type]] = {
    "tuple": (lambda i: (i, [i, 1.0]), tuple),
    "named": (lambda i: Pair(i, "a" * i), Pair),
    "as tuple": (lambda i: Triple((i, 2, 3)), Triple),
    "of one": (lambda i: Triple((i,)), Triple),
    "part by part": (lambda i: Couple(i, 2), Couple),
    "with more to it": (lambda i: Labelled(i, 2, label="a"), tuple),
    "struct_time": (lambda i: time.gmtime(1e9 * i), time.struct_time),
    "stat_result": (lambda i: os.stat("/"), os.stat_result),
    "terminal_size": (lambda i: os.terminal_size((i, 2)), os.terminal_size),
}


def test_tuples_keep_their_class(engine: str) -> None:
    """C20: `time.struct_time` and `os.stat_result` failed; they are tuples that take one argument."""
    for name, (function, kind) in TUPLES.items():
        for chunksize in (1, N):
            result = shmmap.pmap(
                lambda i, f=function: f(int(i)), np.arange(N), chunksize=chunksize, engine=engine
            )
            columns = map(np.stack, zip(*[function(i) for i in range(N)], strict=True))
            assert type(result) is kind, name
            assert all(np.array_equal(a, b) for a, b in zip(result, columns, strict=True)), name
        listed = shmmap.pmap(lambda i, f=function: f(int(i)), range(N), engine=engine)
        assert all(type(each) is type(function(0)) for each in listed), name
        blocks = shmmap.pmap_chunks(
            lambda c, f=function: make_like(f(0), c), np.arange(N), chunksize=2, engine=engine
        )
        assert type(blocks) is kind, name


@pytest.mark.slow
def test_a_local_class_of_tuples(engine: str) -> None:
    """C20: workers were told the output together with the class, which does not pickle by its name."""

    class Local(NamedTuple):
        first: Any
        second: Any

    for chunksize in (1, 7):
        result = shmmap.pmap(
            lambda i: Local(i, [i, 1]), np.arange(100), chunksize=chunksize, engine=engine
        )
        assert type(result) is Local
        assert result.first.tolist() == list(range(100))
        with pytest.raises(TypeError, match=r"a Local.*out=list"):
            shmmap.pmap(
                lambda i: Local(i, 1) if i < 90 else (i, 1),
                np.arange(100),
                chunksize=chunksize,
                engine=engine,
            )


def make_like(example: Any, chunk: Any) -> Any:
    """A tuple of the class of `example`, with the chunk in the place of each part."""
    parts = (chunk,) * len(example)
    if isinstance(example, Labelled):
        return Labelled(*parts, label="a")
    kind: Any = type(example)
    return kind(*parts) if isinstance(example, (Pair, Couple)) else kind(parts)


def test_fields_that_a_tuple_does_not_show_are_kept() -> None:
    """C20: without them the times of a `stat_result` would be whole seconds."""
    paths = [os.path.dirname(__file__), __file__]
    stats = shmmap.pmap(lambda i: os.stat(paths[i]), np.arange(2), engine="fork")
    assert stats.st_mtime_ns.tolist() == [os.stat(path).st_mtime_ns for path in paths]
    assert stats.st_mtime.tolist() == [os.stat(path).st_mtime for path in paths]
    times = shmmap.pmap(lambda i: time.gmtime(int(i)), np.arange(2), engine="serial")
    assert times.tm_zone.tolist() == [time.gmtime(0).tm_zone] * 2


def test_scipy_results_have_their_fields() -> None:
    """C20: SciPy's classes have fields beside the parts, and some cannot be made from outside."""
    stats = pytest.importorskip("scipy.stats")
    rows = np.random.default_rng(0).random((4, 5))
    lines = shmmap.pmap(lambda row: stats.linregress(np.arange(5), row), rows, engine="serial")
    expected = [stats.linregress(np.arange(5), row) for row in rows]
    assert type(lines) is type(expected[0])
    assert lines.slope.tolist() == [each.slope for each in expected]
    assert lines.intercept_stderr.tolist() == [each.intercept_stderr for each in expected]
    t, p = shmmap.pmap(lambda row: stats.ttest_1samp(row, 0.5), rows, engine="serial")
    assert p.tolist() == [stats.ttest_1samp(row, 0.5).pvalue for row in rows]
    assert t.tolist() == [stats.ttest_1samp(row, 0.5).statistic for row in rows]


def test_buffers_in_tuples_are_copied_or_kept(engine: str) -> None:
    """C20: a function that returns one buffer every time, in a tuple of a class of its own."""
    buffer = shmmap.zeros(2)

    def count(i: Any) -> Any:
        own = np.array([i, i])
        return Labelled(own, own, label="a"), Pair(own, buffer.sum())

    for i, (labelled, pair) in enumerate(shmmap.pmap(count, range(N), engine=engine)):
        assert labelled[0].tolist() == [i, i]
        assert labelled.label == "a"
        assert pair.first.tolist() == [i, i]


def test_partials_that_are_tuples(engine: str) -> None:
    """C20: element by element, and of their class where it is made of what it shows."""
    for make, kind in ((Pair, Pair), (Couple, Couple), (lambda *p: Triple(p), Triple)):
        total = shmmap.preduce(
            lambda c, make=make: make(c.sum(), len(c)),
            np.arange(10),
            combine=lambda a, b: a + b,
            chunksize=3,
            engine=engine,
        )
        assert type(total) is kind
        assert tuple(total) == (45, 10)
    total = shmmap.preduce(
        lambda c: os.terminal_size((int(c.sum()), len(c))),
        np.arange(10),
        combine=lambda a, b: a + b,
        chunksize=3,
        engine=engine,
    )
    assert total == (45, 10)


@pytest.fixture(scope="module")
def zarr() -> Any:
    """The library, whose own thread, which then stays, is started before anything is guarded."""
    library = pytest.importorskip("zarr")
    library.create_array(library.storage.MemoryStore(), data=np.zeros(1))[:]
    return library


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [">f8", ">i4", "<f4"])
def test_stored_arrays_of_another_byte_order(zarr: Any, dtype: str, tmp_path: Path) -> None:
    """C20: a fresh big-endian zarr array was taken for one that has been replaced."""
    values = np.arange(6, dtype=dtype)
    for engine in ("serial", "fork"):
        out = zarr.create_array(str(tmp_path / engine), shape=(6, 2), chunks=(2, 2), dtype=dtype)
        returned = shmmap.pmap(lambda v: np.array([v, v]), values, out=out, engine=engine)
        assert returned is out
        assert out[:].tolist() == [[v, v] for v in range(6)]
        for opened in (out, zarr.open_array(str(tmp_path / engine), mode="r+")):
            back = shmmap.pmap_chunks(lambda c: c.copy(), opened, engine=engine)
            assert back.dtype == opened.dtype.newbyteorder("=")
            assert back.tolist() == [[v, v] for v in range(6)]
            shmmap.pmap_chunks(lambda c: c + 0, opened, out=opened, engine=engine)
            assert opened[:].tolist() == [[v, v] for v in range(6)]


# --- views of memory ------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["d", "?", "i", "B"])
def test_views_of_memory_stay_what_they_are(engine: str, format: str) -> None:
    """C20. Kind: cloudpickle sends a view as its bytes, so that an item of it was another number."""
    a = np.array([[0, 1, 1], [1, 0, 1]], format)[:, ::2]
    view, flat = memoryview(a), memoryview(a[1].copy())
    options: Any = {"engine": engine, "workers": 2}
    assert shmmap.pmap(lambda i: flat[i], range(2), **options) == [1, 1]
    assert shmmap.pmap(lambda i, v: v[i], range(2), flat, axis=(0, None), **options) == [1, 1]
    assert shmmap.pmap(lambda v: v.tolist(), [view, view], **options) == [a.tolist()] * 2
    for back in shmmap.pmap(lambda i: memoryview(np.array([i, 1], format)), range(2), **options):
        assert type(back) is memoryview
        assert back[1] == 1


def test_views_of_memory_submitted_and_shared(team: Any) -> None:
    """C20, the other ways that objects go."""
    view = memoryview(np.arange(3.0))
    assert team.submit(lambda v: v[2], view).result() == 2.0
    assert team.submit(lambda: memoryview(np.arange(3.0))).result()[2] == 2.0
    assert list(team.map(lambda v: v[2], [view])) == [2.0]
    assert shmmap.share({"view": view})["view"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("first", [0, 1])
def test_kinds_of_tuples_do_not_mix(engine: str, first: int) -> None:
    """A24. Kind: which one came first decided whether both were taken."""

    def one(i: int) -> Any:
        return Pair(i, i) if i == first else (i, i)

    with pytest.raises(TypeError, match="at other indices"):
        shmmap.pmap(one, np.arange(2), engine=engine, workers=2, chunksize=1)
    out = np.zeros(2, int), np.zeros(2, int)
    shmmap.pmap(one, np.arange(2), engine=engine, workers=2, chunksize=1, out=out)
    assert out[0].tolist() == [0, 1]


def test_a_class_of_tuples_that_each_call_makes(engine: str) -> None:
    """A24. Kind: classes that are equal but not one object, as those that a function makes."""

    def one(i: int) -> Any:
        Made = namedtuple("Made", "a b")
        return Made(i, i / 2)

    for chunksize in (1, 4):
        made = shmmap.pmap(one, np.arange(4), engine=engine, workers=2, chunksize=chunksize)
        assert type(made).__name__ == "Made"
        assert made.a.tolist() == [0, 1, 2, 3]
        assert made.b.tolist() == [0, 0.5, 1, 1.5]


def test_a_stand_in_of_another_shape_is_refused() -> None:
    """A24: in words that say so."""
    with pytest.raises(
        ValueError, match=r"shape \(2,\) does not stand in for results of shape \(1,\)"
    ):
        shmmap.pmap(
            lambda i: 1 // i, np.arange(3), on_error=lambda *_: np.zeros(2), engine="serial"
        )


def test_results_that_lie_in_a_file(engine: str, tmp_path: Path) -> None:
    """A26. Kind: attributes that are not about the values: those of a memmap do not pickle."""
    np.save(tmp_path / "x.npy", np.arange(12.0).reshape(4, 3))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    options: Any = {"engine": engine, "workers": 2, "chunksize": 1}
    rows = shmmap.pmap(lambda row: row, x, out=list, **options)
    assert [row.tolist() for row in rows] == x.tolist()
    rows = shmmap.pmap(lambda i: x[i], range(4), **options)
    assert [row.tolist() for row in rows] == x.tolist()
    assert shmmap.preduce(lambda c: c, x, combine=np.maximum, **options).tolist() == [[9, 10, 11]]
