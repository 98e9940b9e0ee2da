"""Whatever scientists have as data goes in: arrays of any class, dtype and view, frames, sparse matrices."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import shmmap
from shmmap.testing import wait_until
from tests.helpers import assert_same, shared_memory_in_use, value_bytes
from tests.strategies import NUMERIC, arrays, dtypes, fill, options, shapes

pytestmark = pytest.mark.warm

ENGINES = ("serial", "threads", "processes")
windows = np.lib.stride_tricks.sliding_window_view


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    return request.param


# --- dtypes and views ---------------------------------------------------------------------------


@given(dtype=dtypes(), shared=st.booleans(), options=options(), data=st.data())
def test_every_dtype_through_all_four_verbs(
    engine: str, dtype: Any, shared: bool, options: Any, data: Any
) -> None:
    a = (shmmap.zeros if shared else np.zeros)((7, 3), dtype)
    fill(a, data.draw(st.integers(0, 1 << 30)))
    joined = np.concatenate([a])  # in the byte order of the machine
    assert_same(shmmap.pmap(np.array, a, engine=engine, **options), joined)
    assert_same(shmmap.pmap_chunks(np.array, a, engine=engine, **options), joined)
    out = shmmap.zeros((7, 3), dtype)

    def fill_range(start: int, stop: int) -> None:
        out[start:stop] = a[start:stop]

    shmmap.pmap_ranges(fill_range, 7, engine=engine, **options)
    assert_same(np.array(out), np.array(a))
    folded = shmmap.preduce(
        np.array, a, combine=lambda x, y: np.concatenate([x, y]), engine=engine, **options
    )
    assert_same(np.concatenate([folded]), joined)


@given(
    base=arrays(shape=st.tuples(st.integers(4, 9), st.integers(1, 4))),
    width=st.integers(1, 4),
    options=options(),
)
def test_sliding_windows(engine: str, base: Any, width: int, options: Any) -> None:
    v = windows(base, width, axis=0)
    expected = np.concatenate([v])
    assert_same(shmmap.pmap(np.array, v, engine=engine, **options), expected)
    assert_same(shmmap.pmap_chunks(np.array, v, axis=1, engine=engine, **options), expected)
    assert shmmap.pmap(lambda i: value_bytes(v), [0], engine=engine) == [value_bytes(v)]


@given(a=arrays(shape=shapes(0, 3)))
def test_any_array_may_be_passed_whole(engine: str, a: Any) -> None:
    def look(i: Any, a: Any) -> Any:
        return a.shape, a.dtype, value_bytes(a), a.flags.writeable

    writeable = a.flags.writeable and shmmap.is_shared(a)
    expected = a.shape, a.dtype, value_bytes(a), writeable
    assert shmmap.pmap(look, range(2), a, axis=(0, None), engine=engine) == [expected] * 2


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
@given(dtype=dtypes(), step=st.sampled_from([1, -1, 2, -3]))
def test_memory_mapped_files(
    tmp_path_factory: Any, engine: str, mode: str, dtype: Any, step: int
) -> None:
    a = np.zeros((6, 2), dtype)
    fill(a, 1)
    path = tmp_path_factory.mktemp("map") / "a.npy"
    np.save(path, a)
    a = np.load(path)  # the format has no place for align=True
    mapped = shmmap.load(path, mode)[::step]
    expected = np.concatenate([a[::step]])
    assert_same(shmmap.pmap(np.array, mapped, engine=engine), expected)
    assert_same(shmmap.pmap_chunks(np.array, mapped, engine=engine), expected)

    def write(item: Any) -> None:
        item[...] = np.zeros((), dtype)

    if mode == "r+":
        shmmap.pmap(write, mapped, engine=engine)
        assert_same(np.load(path)[::step], np.zeros_like(a[::step]))
    else:
        with pytest.raises(ValueError, match="read-only"):
            shmmap.pmap(write, mapped, engine=engine)
        assert_same(np.load(path), a)


def test_a_private_view_that_overlaps_itself_takes_no_more_memory(engine: str) -> None:
    a = np.arange(2000.0)
    before = shared_memory_in_use()
    assert_same(shmmap.pmap(np.sum, windows(a, 1000), engine=engine), windows(a, 1000).sum(axis=1))
    many = np.broadcast_to(a, (1 << 16, 2000))  # 1 GB, if it were copied
    assert shmmap.pmap(lambda i: many[i].sum(), range(2), engine=engine) == [a.sum()] * 2
    assert shmmap.preduce(len, many, engine=engine) == 1 << 16
    wait_until(lambda: shared_memory_in_use() < before + (1 << 23), 5)


# --- classes ------------------------------------------------------------------------------------


@given(
    data=arrays(dtype=st.sampled_from(NUMERIC), shape=st.tuples(st.integers(1, 8), st.just(3))),
    seed=st.integers(0, 99),
    axis=st.sampled_from([0, 1]),
    shared=st.booleans(),
    options=options(),
)
def test_masked_arrays_keep_their_mask(
    engine: str, data: Any, seed: int, axis: int, shared: bool, options: Any
) -> None:
    mask = np.random.default_rng(seed).random(data.shape) < 0.5
    a = np.ma.masked_array(data, mask, fill_value=3)
    given = shmmap.share(a) if shared else a

    def take(item: Any) -> Any:
        assert isinstance(item, np.ma.MaskedArray)
        return item.filled(7), np.ma.getmaskarray(item)

    filled = np.concatenate([a.filled(7)])
    result = shmmap.pmap(take, given, axis=axis, engine=engine, **options)
    assert_same(result, (np.moveaxis(filled, axis, 0), np.moveaxis(mask, axis, 0)))
    result = shmmap.pmap_chunks(take, given, axis=axis, engine=engine, **options)
    assert_same(result, (filled, mask))
    count = shmmap.preduce(np.ma.count, given, axis=axis, engine=engine, **options)
    assert count == a.count()


def test_results_that_are_masked_are_refused_or_listed(engine: str) -> None:
    def mask(i: Any) -> Any:
        return np.ma.masked_array([1, 2], [i % 2, 0])

    with pytest.raises(TypeError, match="mask"):
        shmmap.pmap(mask, np.arange(3), engine=engine)
    listed = shmmap.pmap(mask, np.arange(3), out=list, engine=engine)
    assert [each.mask.tolist() for each in listed] == [
        [False, False],
        [True, False],
        [False, False],
    ]
    with pytest.raises(TypeError, match="mask"):
        shmmap.pmap(np.sum, np.zeros((3, 2)), out=np.ma.zeros(3), engine=engine)
    with pytest.raises(TypeError, match="mask"):
        shmmap.asshared(np.ma.zeros(3))


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # NumPy's, of its matrices
@pytest.mark.parametrize("wrap", [lambda a: a, shmmap.share], ids=["private", "shared"])
def test_matrices_and_records_keep_their_class(engine: str, wrap: Any) -> None:
    matrix = wrap(np.arange(12.0).reshape(4, 3).view(np.matrix))
    assert (
        shmmap.pmap(lambda row: (type(row), row.shape), matrix, out=list, engine=engine)
        == [(np.matrix, (1, 3))] * 4
    )
    assert_same(
        shmmap.pmap_chunks(lambda block: block @ block.T, matrix, chunksize=4, engine=engine),
        np.asarray(matrix @ matrix.T),
    )
    records = wrap(np.rec.array([(1, 2.5), (3, 4.5)], dtype=[("a", "i4"), ("b", "f8")]))
    assert shmmap.pmap(lambda record: record.b, records, engine=engine).tolist() == [2.5, 4.5]
    assert_same(shmmap.pmap_chunks(lambda part: part.a, records, engine=engine), records.a.copy())


# --- frames and sparse matrices -----------------------------------------------------------------


def frames() -> Iterator[Any]:
    """A frame of each library at hand."""
    pandas = pytest.importorskip("pandas")
    n = 300
    frame = pandas.DataFrame(
        {"x": np.arange(float(n)), "name": [f"n{i}" for i in range(n)]}, index=np.arange(n)[::-1]
    )
    yield frame
    try:
        import polars
        import pyarrow
    except ImportError:
        return
    yield polars.DataFrame({"x": frame["x"].to_numpy(), "name": list(frame["name"])})
    yield pyarrow.table({"x": frame["x"].to_numpy(), "name": list(frame["name"])})


@pytest.mark.parametrize("wrap", [lambda a: a, shmmap.share], ids=["private", "shared"])
def test_frames_are_cut_into_rows(engine: str, wrap: Any) -> None:
    for frame in map(wrap, frames()):
        parts = shmmap.pmap_chunks(lambda part: part, frame, chunksize=77, engine=engine)
        assert [type(part) for part in parts] == [type(frame)] * 4
        assert [len(part) for part in parts] == [77, 77, 77, 69]
        names = [name for part in parts for name in np.asarray(part["name"]).tolist()]
        assert names == [f"n{i}" for i in range(300)]
        assert shmmap.preduce(len, frame, engine=engine) == 300
        with pytest.raises(TypeError, match="pmap_chunks"):
            shmmap.pmap(len, frame, engine=engine)


@pytest.mark.parametrize("wrap", [lambda a: a, shmmap.share], ids=["private", "shared"])
def test_sparse_matrices_are_cut_into_rows(engine: str, wrap: Any) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    rng = np.random.default_rng(0)
    x = rng.standard_normal(40)
    for kind in (sparse.csr_matrix, sparse.csr_array):
        matrix = wrap(kind(rng.standard_normal((50, 40)) * (rng.random((50, 40)) < 0.2)))
        result = shmmap.pmap_chunks(
            lambda rows: rows @ x, matrix, out=np.ndarray, chunksize=7, engine=engine
        )
        assert_same(result, matrix @ x)
        with_array = shmmap.pmap_chunks(
            lambda rows, y: rows @ x + y, matrix, np.ones(50), engine=engine
        )
        assert_same(with_array, matrix @ x + 1)
        assert_same(
            shmmap.pmap(lambda row: row.sum(), matrix, out=np.ndarray, engine=engine),
            np.array([row.sum() for row in matrix]),
        )
        with pytest.raises(TypeError, match="tocsr"):
            shmmap.pmap_chunks(len, matrix.tocsc(), engine=engine)


def test_columns_of_frames_are_their_values(engine: str) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"x": [1.0, 2.0, 3.0], "name": ["a", "b", "c"]}, index=[5, 6, 7])
    assert_same(shmmap.pmap(np.negative, frame["x"], engine=engine), -frame["x"].to_numpy())
    assert shmmap.pmap(str.upper, frame["name"], engine=engine) == ["A", "B", "C"]
    (index,) = shmmap.pmap(
        lambda i, column: list(column.index), [0], frame["x"], axis=(0, None), engine=engine
    )
    assert index == [5, 6, 7], "passed whole, it is itself"


# --- private arrays that a function captures ----------------------------------------------------


class Model:
    """Something with a method."""

    def __init__(self, weights: Any) -> None:
        self.weights = weights

    def predict(self, i: Any) -> Any:
        return self.weights[i]


def functions_with(a: Any) -> list[Any]:
    """Functions that refer to an array in each of the ways there are."""
    return [
        lambda i: a[i],
        lambda i, a=a: a[i],
        functools.partial(lambda a, i: a[i], a),
        functools.partial(lambda i, a: a[i], a=a),
        Model(a).predict,
    ]


def test_large_private_arrays_are_hinted_at_once_for_each_line() -> None:
    a = np.zeros(9 << 20)
    for func in functions_with(a):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            for _ in range(2):
                shmmap.pmap(func, range(2), workers=2)
        assert [each.category for each in caught] == [shmmap.PerformanceWarning]
        assert caught[0].filename == __file__
        assert "72 MiB" in str(caught[0].message)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["serial", "threads", "fork"])
def test_no_hint_where_nothing_is_copied(engine: str) -> None:
    a = np.zeros(9 << 20)
    shmmap.pmap(lambda i: a[i], range(2), engine=engine)
    shared = shmmap.share(Model(a))
    shmmap.pmap(shared.predict, range(2), engine="processes")


def test_items_that_refer_to_one_array_make_one_copy() -> None:
    a = np.zeros(4 << 20)
    before = shared_memory_in_use()
    seen = shmmap.pmap(
        lambda item: (item[0].sum(), shared_memory_in_use()),
        [(a, i) for i in range(20)],
        workers=1,
        chunksize=1,
    )
    assert [total for total, _ in seen] == [0.0] * 20
    # Each process maps it, so it is counted by what the worker alone has.
    assert max(nbytes for _, nbytes in seen) < before + 4 * a.nbytes


@pytest.mark.parametrize("make", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_captured_arrays_go_by_value_to_other_executors(make: Any) -> None:
    arguments = {"mp_context": get_context("spawn")} if make is ProcessPoolExecutor else {}
    with make(2, **arguments) as executor:
        shared = shmmap.asshared(np.arange(1e5))
        # Threads of this process have the shared array itself, and what they write there is seen.
        for a in (np.arange(1e5), shared) if make is ProcessPoolExecutor else (np.arange(1e5),):
            assert shmmap.pmap(lambda i, a=a: a[i], range(3), engine=executor) == [0, 1, 2]

            def write(i: Any, a: Any = a) -> None:
                a[i] = 1

            with pytest.raises(ValueError, match="read-only"):
                shmmap.pmap(write, range(3), engine=executor)


def test_object_columns_cross_as_they_are(tmp_path: Path, engine: str) -> None:
    pandas = pytest.importorskip("pandas")
    frame = shmmap.share(pandas.DataFrame({"o": [{"a": 1}, tmp_path, None], "x": [1.0, 2.0, 3.0]}))
    (there,) = shmmap.pmap(lambda i: frame["o"].tolist(), [0], engine=engine)
    assert there == [{"a": 1}, tmp_path, None]


@pytest.mark.parametrize("boundary", [None, "reflect", "periodic", "nearest", 0.0])
def test_neighbours_keep_mask_and_class(engine: str, boundary: Any) -> None:
    a = np.ma.masked_array(np.arange(10.0), np.arange(10) % 3 == 0)

    def look(part: Any) -> Any:
        return type(part), part.filled(-1).tolist(), np.ma.getmaskarray(part).tolist()

    parts = shmmap.pmap_chunks(
        look, a, depth=2, boundary=boundary, out=list, chunksize=5, engine=engine
    )
    modes = {"reflect": "symmetric", "periodic": "wrap", "nearest": "edge", 0.0: "constant"}
    width = 2
    if boundary is None:
        data, mask = a.filled(-1), np.ma.getmaskarray(a)
        limits = [(0, 7), (3, 10)]
    else:
        data = np.pad(a.filled(-1), width, modes[boundary])
        mask = np.pad(np.ma.getmaskarray(a), width, modes[boundary])
        limits = [(0, 9), (5, 14)]
    assert parts == [
        (np.ma.MaskedArray, data[low:high].tolist(), mask[low:high].tolist())
        for low, high in limits
    ]
    matrix = np.arange(20.0).reshape(10, 2).view(np.matrix)
    classes = shmmap.pmap_chunks(
        type, matrix, depth=2, boundary=boundary, out=list, chunksize=5, engine=engine
    )
    assert classes == [np.matrix] * 2


def test_neighbours_of_rows_are_refused() -> None:
    pandas = pytest.importorskip("pandas")
    with pytest.raises(TypeError, match="depth"):
        shmmap.pmap_chunks(len, pandas.DataFrame({"x": [1, 2]}), depth=1)
