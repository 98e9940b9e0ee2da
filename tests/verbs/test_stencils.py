"""`depth` and `boundary`, against SciPy's filters of the whole array, and against dask itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import shmmap
from tests.helpers import assert_same

pytestmark = pytest.mark.warm

MODES = {"reflect": "reflect", "nearest": "nearest", "periodic": "wrap", 2.5: "constant"}
"""Ours, and SciPy's name for the same."""


@pytest.fixture
def ndimage() -> Any:
    return pytest.importorskip("scipy.ndimage")


def filters(ndimage: Any) -> dict[str, Any]:
    """Filters that reach two items to each side, and do as SciPy does by default at the edges."""
    return {
        "gaussian": lambda a, **edge: ndimage.gaussian_filter(a, 1.0, truncate=2.0, **edge),
        "uniform": lambda a, **edge: ndimage.uniform_filter(a, 5, **edge),
        "median": lambda a, **edge: ndimage.median_filter(a, 5, **edge),
    }


@pytest.mark.few(2)
@pytest.mark.parametrize("name", ["gaussian", "uniform", "median"])
@pytest.mark.parametrize("boundary", MODES, ids=str)
@settings(max_examples=8)  # times six engines, three filters and four boundaries
@given(data=st.data())
def test_filters_of_chunks_are_filters_of_the_whole(
    engine: Any, ndimage: Any, name: str, boundary: Any, data: Any
) -> None:
    func = filters(ndimage)[name]
    shape = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 6)))
    axis = data.draw(st.sampled_from([0, 1, -1]))
    a = np.random.default_rng(data.draw(st.integers(0, 99))).standard_normal(shape)
    if data.draw(st.booleans()):
        a = shmmap.asshared(a)
    result = shmmap.pmap_chunks(
        func,
        a,
        axis=axis,
        depth={0: 2, 1: 2},
        boundary=boundary,
        engine=engine,
        workers=2,
        chunksize=data.draw(st.sampled_from([1, 3, 16, "auto"])),
    )
    cval = {"cval": boundary} if isinstance(boundary, float) else {}
    expected = func(a, mode=MODES[boundary], **cval)
    # SciPy's uniform filter keeps a running sum, which rounds along the whole line.
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-12 if name == "uniform" else 0)


@st.composite
def overlaps(draw: st.DrawFn) -> Any:
    """An array, its axis, a chunk size, and what `dask.array.map_overlap` takes for them."""
    shape = tuple(draw(st.integers(4, 12)) for _ in range(draw(st.integers(1, 3))))
    axis = draw(st.integers(0, len(shape) - 1))
    boundary = {
        i: draw(st.sampled_from(["none", "reflect", "periodic", "nearest", 7]))
        for i in range(len(shape))
    }
    sides = st.integers(0, 4)
    depth = {
        # dask takes before and after apart only where there is no boundary.
        i: draw(st.tuples(sides, sides)) if boundary[i] == "none" else draw(sides)
        for i in range(len(shape))
    }
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    return rng.integers(-99, 99, shape), axis, draw(st.integers(1, 12)), depth, boundary


@pytest.mark.parametrize("engine", ["serial", "processes"])
@given(case=overlaps())
def test_equal_to_dask(engine: Any, ndimage: Any, case: Any) -> None:
    dask_array = pytest.importorskip("dask.array")
    a, axis, size, depth, boundary = case
    assume(any(each not in (0, (0, 0)) for each in depth.values()))
    weights = np.arange(1, 1 + 9**a.ndim).reshape((9,) * a.ndim)
    for i, each in depth.items():  # only as far as there are neighbours
        before, after = each if isinstance(each, tuple) else (each, each)
        weights = weights.take(range(4 - before, 5 + after), i)
    # The centre of the weights is the item itself, also where there are more before than after.
    origin = [
        (each[0] - (sum(each) + 1) // 2) if isinstance(each, tuple) else 0
        for each in depth.values()
    ]

    def func(chunk: Any) -> Any:
        return ndimage.correlate(chunk, weights, mode="constant", origin=origin)

    whole = dask_array.from_array(a, chunks=tuple(size if i == axis else -1 for i in range(a.ndim)))
    expected = whole.map_overlap(func, depth=depth, boundary=boundary, meta=a[:0])
    result = shmmap.pmap_chunks(
        func, a, axis=axis, depth=depth, boundary=boundary, chunksize=size, engine=engine, workers=2
    )
    assert_same(result, expected.compute(scheduler="synchronous"))


@given(n=st.integers(1, 60), size=st.integers(1, 70), depth=st.integers(0, 70))
def test_several_inputs_and_outputs(engine: Any, n: int, size: int, depth: int) -> None:
    a, b = np.arange(float(n)), np.arange(2.0 * n).reshape(n, 2)

    def func(x: Any, y: Any, factor: Any) -> Any:
        return y * factor, x + y[:, 0]

    result = shmmap.pmap_chunks(
        func,
        a,
        b,
        3.0,
        axis=(0, 0, None),
        depth=[depth, depth, 0],
        boundary="periodic",
        chunksize=size,
        engine=engine,
        workers=2,
    )
    assert_same(result, (b * 3, a + b[:, 0]))


def test_equal_on_every_engine_with_auto_chunks(engine: Any) -> None:
    a = shmmap.asshared(np.random.default_rng(0).standard_normal(3000))
    expected = np.convolve(np.pad(a, 40, mode="wrap"), np.hanning(81), "valid")

    def func(chunk: Any) -> Any:
        return np.convolve(chunk, np.hanning(81), "same")

    result = shmmap.pmap_chunks(func, a, depth=40, boundary="periodic", engine=engine)
    np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-12)
    serial = shmmap.pmap_chunks(func, a, depth=40, boundary="periodic", engine="serial")
    assert_same(result, serial)


def test_out_list_gets_what_was_returned(engine: Any) -> None:
    lengths = shmmap.pmap_chunks(
        len, np.zeros(10), depth=2, boundary="nearest", chunksize=4, out=list, engine=engine
    )
    assert lengths == [8, 8, 6]
    assert shmmap.pmap_chunks(lambda x: None, np.zeros(9), depth=1, engine=engine) is None


def test_chunks_with_neighbours_are_read_only(engine: Any) -> None:
    def write(chunk: Any) -> Any:
        chunk[:] = 0
        return chunk

    for boundary in (None, "nearest"):
        with pytest.raises(ValueError, match="read-only"):
            shmmap.pmap_chunks(
                write, shmmap.ones(20), depth=1, boundary=boundary, chunksize=5, engine=engine
            )


def test_in_place_is_refused(engine: Any) -> None:
    x = shmmap.ones((20, 3))
    with pytest.raises(ValueError, match="depth= makes every chunk see items"):
        shmmap.pmap_chunks(np.copy, x, depth=1, out=x, engine=engine)
    if isinstance(engine, str | shmmap.Team):  # along another axis, no other chunk's items are seen
        shmmap.pmap_chunks(lambda c: c * 2, x, depth={1: 1}, boundary=0, out=x, engine=engine)
        assert_same(np.asarray(x), np.full((20, 3), 2.0))


def test_results_without_the_neighbours_are_refused(engine: Any) -> None:
    with pytest.raises(ValueError, match="neighbours included"):
        shmmap.pmap_chunks(lambda c: c[1:-1], np.zeros(20), depth=1, boundary=0, engine=engine)


def test_nothing_in_nothing_out(engine: Any) -> None:
    result = shmmap.pmap_chunks(
        np.copy, np.zeros((0, 3)), depth=1, boundary="reflect", engine=engine
    )
    assert_same(result, np.zeros(0))


def test_lists_have_no_neighbours(engine: Any) -> None:
    with pytest.raises(TypeError, match="list of depths"):
        shmmap.pmap_chunks(lambda a, b: a, np.zeros(4), [1, 2, 3, 4], depth=1, engine=engine)
    result = shmmap.pmap_chunks(
        lambda a, b: a[1:-1].tolist() + b,
        np.arange(4),
        ["a", "b", "c", "d"],
        depth=[1, 0],
        boundary="nearest",
        chunksize=2,
        out=list,
        engine=engine,
    )
    assert result == [[0, 1, "a", "b"], [2, 3, "c", "d"]]
