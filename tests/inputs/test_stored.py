"""zarr arrays and HDF5 datasets as inputs and outputs, against what is in memory, on every engine."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shmmap
from tests import functions
from tests.conftest import open_engine
from tests.helpers import assert_same
from tests.strategies import fill

pytestmark = [
    pytest.mark.warm,
    # zarr says so of fixed-width strings and the like in its format 3.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification.*"),
]

ENGINES = ("serial", "threads", "processes", "fork", "executor")
NAMES = itertools.count()
KINDS = ("zarr2", "zarr3", "sharded", "hdf5", "contiguous")
DTYPES = ["f8", "f4", "i2", "u1", "?", "c16"]


pytestmark = pytest.mark.usefixtures("zarr_runs")


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Any:
    with open_engine(request.param) as engine:
        yield engine


class Shelf:
    """Makes stored arrays, and closes their files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: list[Any] = []

    def make(self, kind: str, a: Any, chunks: tuple[int, ...]) -> Any:
        """A stored copy of `a`, open for reading and writing."""
        path = self.folder / f"{next(NAMES)}"
        if kind in ("hdf5", "contiguous"):
            h5py = pytest.importorskip("h5py")
            file = h5py.File(path, "w")
            self.files.append(file)
            return file.create_dataset("group/x", data=a, chunks=chunks if kind == "hdf5" else None)
        zarr = pytest.importorskip("zarr")
        shards = None
        if kind == "sharded":
            shards = tuple(c * 2 for c in chunks)
        return zarr.create_array(
            path, data=a, chunks=chunks, shards=shards, zarr_format=2 if kind == "zarr2" else 3
        )

    def make_input(self, kind: str, a: Any, chunks: tuple[int, ...]) -> Any:
        """The same, read-only."""
        stored = self.make(kind, a, chunks)
        if "zarr" in type(stored).__module__:
            return stored
        name = stored.file.filename
        stored.file.close()
        import h5py

        self.files[-1] = h5py.File(name, "r")
        return self.files[-1]["group/x"]

    def close(self) -> None:
        for file in self.files:
            file.close()
        self.files.clear()


@pytest.fixture
def shelf(tmp_path: Path) -> Any:
    shelf = Shelf(tmp_path)
    yield shelf
    shelf.close()


@st.composite
def arrays(draw: st.DrawFn, dims: int = 2) -> Any:
    """An array, and the shape of storage chunks for it."""
    shape = tuple(draw(st.integers(1, 12)) for _ in range(dims))
    a = np.zeros(shape, draw(st.sampled_from(DTYPES)))
    fill(a, draw(st.integers(0, 99)))
    return a, tuple(draw(st.integers(1, length)) for length in shape)


@pytest.mark.few(2)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10)
@given(case=arrays(), axis=st.integers(-2, 1), size=st.sampled_from([1, 3, "64B", "auto"]))
def test_inputs(engine: Any, shelf: Shelf, kind: str, case: Any, axis: int, size: Any) -> None:
    a, chunks = case
    stored = shelf.make_input(kind, a, chunks)
    options: dict[str, Any] = {"axis": axis, "engine": engine, "workers": 2, "chunksize": size}
    assert_same(
        shmmap.pmap(np.array, stored, **options),
        np.stack([np.array(item) for item in np.moveaxis(a, axis, 0)]),
    )
    assert_same(shmmap.pmap_chunks(np.array, stored, **options), a.copy())
    both = shmmap.pmap_chunks(lambda x, y: (x, y), a, stored, **options)
    assert_same(both, (a.copy(), a.copy()))
    total = shmmap.preduce(np.size, stored, **options)
    assert total == a.size
    shelf.close()


@pytest.mark.few(2)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10)
@given(case=arrays(), axis=st.integers(-2, 1), size=st.sampled_from([1, 3, "64B", "auto"]))
def test_outputs(engine: Any, shelf: Shelf, kind: str, case: Any, axis: int, size: Any) -> None:
    a, chunks = case
    options: dict[str, Any] = {"axis": axis, "engine": engine, "workers": 2, "chunksize": size}
    out = shelf.make(kind, np.zeros_like(a), chunks)
    assert shmmap.pmap_chunks(np.array, a, out=out, **options) is out
    assert_same(np.asarray(out[...]), a.copy())
    rows = np.stack([np.array(item) for item in np.moveaxis(a, axis, 0)])
    out = shelf.make(
        kind,
        np.zeros_like(rows),
        tuple(min(c, n) for c, n in zip(chunks, rows.shape, strict=False)),
    )
    assert shmmap.pmap(np.array, a, out=out, **options) is out
    assert_same(np.asarray(out[...]), rows)
    shelf.close()


@pytest.mark.few(2)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10)
@given(
    case=arrays(),
    axis=st.integers(0, 1),
    depth=st.integers(1, 4),
    boundary=st.sampled_from([None, "reflect", "periodic", 1]),
)
def test_neighbours(
    engine: Any, shelf: Shelf, kind: str, case: Any, axis: int, depth: int, boundary: Any
) -> None:
    a, chunks = case
    stored = shelf.make_input(kind, a, chunks)
    options: dict[str, Any] = {"axis": axis, "depth": {0: depth, 1: 1}, "boundary": boundary}
    options |= {"engine": engine, "workers": 2, "chunksize": 2}
    assert_same(shmmap.pmap_chunks(np.array, stored, **options), a.copy())
    shapes = shmmap.pmap_chunks(np.array, stored, out=list, **options)
    expected = shmmap.pmap_chunks(np.array, a, out=list, **options)
    for one, other in zip(shapes, expected, strict=True):
        assert_same(one, other)
    shelf.close()


@pytest.mark.slow
@settings(max_examples=10)
@given(
    n=st.integers(1, 200),
    reads=st.integers(1, 60),
    writes=st.integers(1, 60),
    size=st.sampled_from([1, 7, "auto"]),
)
def test_limits_do_not_depend_on_the_engine(
    shelf: Shelf, n: int, reads: int, writes: int, size: Any
) -> None:
    source = shelf.make("zarr3", np.arange(n), (min(reads, n),))
    out = shelf.make("sharded", np.zeros(n, int), (min(writes, n),))
    lengths = []
    for name in ENGINES:
        with open_engine(name) as engine:
            options: dict[str, Any] = {
                "out": out,
                "engine": engine,
                "workers": 2,
                "chunksize": size,
            }
            shmmap.pmap_chunks(lambda x: np.full(len(x), len(x)), source, **options)
            lengths.append(out[:].tolist())
    assert lengths == [lengths[0]] * len(ENGINES)
    shard = 2 * min(writes, n)
    assert lengths[0][0] == n or lengths[0][0] % shard == 0
    if size == "auto" and lengths[0][0] != n:
        assert lengths[0][0] % min(reads, n) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_several_outputs_of_several_kinds(engine: Any, shelf: Shelf, kind: str) -> None:
    a = np.arange(60.0).reshape(20, 3)
    outs = (shelf.make(kind, np.zeros((20, 3)), (4, 2)), np.zeros(20), shmmap.zeros((20, 3), "f4"))

    def func(chunk: Any) -> Any:
        return chunk * 2, chunk.sum(axis=1), chunk

    assert shmmap.pmap_chunks(func, a, out=outs, engine=engine, workers=2, chunksize=3) is outs
    assert_same(tuple(np.asarray(out[...]) for out in outs), (a * 2, a.sum(axis=1), a.astype("f4")))


@pytest.mark.parametrize("kind", KINDS)
def test_results_that_do_not_fit_are_refused(engine: Any, shelf: Shelf, kind: str) -> None:
    out = shelf.make(kind, np.zeros((20, 3), "i4"), (4, 2))
    before = np.zeros((20, 3), "i4")
    cases: list[tuple[Any, type[Exception], str]] = [
        (lambda chunk: chunk[:, :2], ValueError, "shape"),
        (lambda chunk: chunk + 0.5, TypeError, "same_kind"),
        (lambda chunk: (chunk, chunk), TypeError, "tuple"),
        (lambda chunk: None, TypeError, "None"),
    ]
    for func, error, text in cases:
        with pytest.raises(error, match=text):
            shmmap.pmap_chunks(func, before, out=out, engine=engine, workers=2)
        assert_same(np.asarray(out[...]), before)


@pytest.mark.few(2)
@pytest.mark.parametrize("kind", KINDS)
def test_failures(engine: Any, shelf: Shelf, kind: str) -> None:
    out = shelf.make(kind, np.full(20, 7.0), (3,))

    def func(i: int) -> float:
        if i in (4, 11):
            raise OSError("no")
        return i + 1.0

    options: dict[str, Any] = {"engine": engine, "workers": 2, "chunksize": 3, "out": out}
    with pytest.raises(OSError, match="no"):
        shmmap.pmap(func, range(20), **options)
    with pytest.raises(shmmap.MapError) as caught:
        shmmap.pmap(func, range(20), on_error="continue", **options)
    assert caught.value.failed == ((4, 5), (11, 12))
    expected = np.arange(1.0, 21.0)
    expected[[4, 11]] = np.nan
    np.testing.assert_array_equal(out[...], expected)
    shmmap.pmap(func, range(20), on_error=lambda exc, start, stop: -1.0, **options)
    expected[[4, 11]] = -1
    np.testing.assert_array_equal(out[...], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_futures(engine: Any, shelf: Shelf, kind: str) -> None:
    out = shelf.make(kind, np.zeros(20), (3,))
    future = shmmap.pmap_chunks(
        functions.double,
        np.arange(20.0),
        out=out,
        wait=False,
        engine=engine,
        chunksize=6,
        workers=2,
    )
    values = [(start, stop, value.tolist()) for start, stop, value in future.in_order()]
    assert values == [
        (start, min(start + 6, 20), [2.0 * i for i in range(start, min(start + 6, 20))])
        for start in range(0, 20, 6)
    ]
    assert future.result() is out
    assert future.progress() == (20, 20)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "hdf5"])  # has no empty chunks
def test_nothing_in_nothing_out(engine: Any, shelf: Shelf, kind: str) -> None:
    a = np.zeros((0, 3))
    out = shelf.make(kind, a, (1, 3))
    assert shmmap.pmap_chunks(np.array, out, engine="threads").shape == (0,)
    assert shmmap.pmap_chunks(np.array, a, out=out, engine=engine) is out
