"""`share` of objects of pandas, polars, pyarrow, SciPy and xarray: equal, without a copy, and read-only."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap._wire.pickling import pack

from .test_share import N


def make_pandas() -> Any:
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    names = [f"n{i % 7}" for i in range(N)]
    try:
        names = pandas.array(names, dtype="string[pyarrow]")
    except ImportError:  # strings are Python objects then, and pickled as such
        names = pandas.Categorical(names)
    return pandas.DataFrame(
        {
            "x": rng.normal(size=N),
            "i": rng.integers(0, 9, N),
            "when": pandas.date_range("2020", periods=N, freq="s"),
            "kind": pandas.Categorical(rng.choice(["a", "b"], N)),
            "maybe": pandas.array(rng.integers(0, 9, N), dtype="Int64"),
            "name": names,
        },
        index=rng.permutation(N),
    )


def make_polars() -> Any:
    polars = pytest.importorskip("polars")
    pytest.importorskip("pyarrow")
    return polars.DataFrame(
        {
            "x": np.arange(float(N)),
            "name": [f"a rather long name {i}" for i in range(N)],
            "list": [[1, 2, None]] * N,
            "maybe": [1, None] * (N // 2),
        }
    )


def make_arrow() -> Any:
    arrow = pytest.importorskip("pyarrow")
    return arrow.table({"x": np.arange(float(N)), "name": [str(i) for i in range(N)]})


def make_sparse() -> Any:
    sparse = pytest.importorskip("scipy.sparse")
    return sparse.random(N, 50, 0.1, format="csr", random_state=0)


def make_xarray() -> Any:
    xarray = pytest.importorskip("xarray")
    values = np.arange(N * 2.0).reshape(N, 2)
    return xarray.Dataset({"v": (("t", "y"), values)}, coords={"t": np.arange(N)})


def is_equal(one: Any, other: Any) -> bool:
    """Equality as each library has it."""
    if hasattr(one, "tocsr"):
        return (one != other).nnz == 0
    return bool(one.identical(other) if hasattr(one, "identical") else one.equals(other))


makers = pytest.mark.parametrize(
    "make",
    [make_pandas, make_polars, make_arrow, make_sparse, make_xarray],
    ids=lambda make: make.__name__.removeprefix("make_"),
)


@pytest.mark.few(2)
@makers
def test_objects_of_libraries(make: Any) -> None:
    obj = make()
    shared = shmmap.share({"it": obj})["it"]
    assert type(shared) is type(obj)
    assert is_equal(shared, obj)
    private, packed = pack(obj), pack(shared)
    assert private.placed > N * 8, "the large part goes through shared memory once per call"
    assert packed.placed == 0, "and not even that if it is there already"
    assert len(packed.data) < 20_000

    class Holder:
        def __init__(self) -> None:
            self.it = shared

        def method(self, i: Any) -> bool:
            return is_equal(self.it, self.it)

    for func in (
        lambda i: is_equal(shared, shared),
        functools.partial(lambda it, i: is_equal(it, it), shared),
        Holder().method,
    ):
        assert shmmap.pmap(func, range(2), workers=2, chunksize=1) == [True, True]
    (there,) = shmmap.pmap(lambda i, it: it, [0], shared, axis=(0, None))
    assert is_equal(there, obj)
    with shmmap.Team(1) as team:  # not forked: the threads of polars would be missing there
        assert is_equal(team.submit(lambda it: it, shared).result(), obj)


def test_writing_to_a_shared_frame_raises_everywhere() -> None:
    frame = shmmap.share(make_pandas())

    def write(i: Any) -> None:
        frame.iloc[0, 0] = 1.0

    with pytest.raises(ValueError, match="read-only"):
        write(0)
    for engine in ("serial", "threads", "processes", "fork"):
        with pytest.raises(ValueError, match="read-only"):
            shmmap.pmap(write, range(1), engine=engine)


def test_a_private_frame_is_read_only_in_func() -> None:
    frame = make_pandas()

    def write(i: Any) -> None:
        frame.iloc[0, 0] = 1.0

    for engine in ("serial", "threads", "processes", "fork"):
        with pytest.raises(ValueError, match="read-only"):
            shmmap.pmap(write, range(1), engine=engine)
    write(0)
    assert frame.iloc[0, 0] == 1.0


def test_usual_work_on_shared_objects() -> None:
    frame = make_pandas()
    shared = shmmap.share(frame)
    for work in (
        lambda f: f.groupby("kind", observed=True)["x"].mean(),
        lambda f: f.sort_values("x"),
        lambda f: f[f["i"] > 3].describe(include="number"),
        lambda f: f.assign(y=f["x"] * 2).drop(columns="x"),
        lambda f: f["name"].str.upper().value_counts(),
    ):
        assert work(shared).equals(work(frame))
    matrix = make_sparse()
    shared = shmmap.share(matrix)
    for work in (
        lambda m: m @ m.T[:, :3],
        lambda m: m[5:10] + m[:5],
        lambda m: m.tocsc().sum(axis=0),
    ):
        assert np.array_equal(np.asarray(work(shared).sum()), np.asarray(work(matrix).sum()))
