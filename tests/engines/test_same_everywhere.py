"""Whatever a function returns or raises, and however a map is cut, each engine gives what a loop gives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import shmmap
from tests.conftest import ENGINES
from tests.helpers import assert_same

DTYPES = [np.dtype(code) for code in "?bBhiqQfdD"] + [
    np.dtype(">f8"),
    np.dtype("U3"),
    np.dtype("M8[s]"),
]
CHUNKSIZES = ["auto", 1, 2, 7, "64B", 1000]


@pytest.fixture(scope="module")
def every_engine(engines: Any) -> Iterator[Any]:
    with engines() as opened:
        yield opened


class Failed(Exception):
    """What the function raises on purpose."""


@st.composite
def tables(draw: st.DrawFn) -> list[Any]:
    """What a function returns for each index: rows or numbers, of one dtype mostly."""
    n = draw(st.integers(1, 60))
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.sampled_from([(), (3,), (2, 2)]))
    values = np.arange(n * int(np.prod(shape))).reshape(n, *shape) % 99
    rows = list(values.astype("i4" if dtype.kind == "M" else dtype).astype(dtype))
    if dtype.kind in "iufc" and draw(st.booleans()):
        wide = np.result_type(dtype, "f8")
        for i in draw(st.lists(st.integers(0, n - 1), max_size=3)):
            rows[i] = rows[i].astype(wide)
    if shape == () and dtype.kind in "if" and draw(st.booleans()):
        rows = [row.item() if row.dtype == dtype else row for row in rows]
    return rows


@pytest.mark.warm
@pytest.mark.parametrize("name", ENGINES)
@given(data=st.data(), rows=tables(), chunksize=st.sampled_from(CHUNKSIZES), gather=st.booleans())
def test_results(
    every_engine: Any, name: str, data: Any, rows: list[Any], chunksize: Any, gather: bool
) -> None:
    options: dict[str, Any] = {"engine": every_engine[name], "workers": 2, "chunksize": chunksize}
    if gather:
        result = shmmap.pmap(lambda i: rows[i], range(len(rows)), out=list, **options)
        assert_same(result, rows)
        return
    expected = np.stack(rows)
    result = shmmap.pmap(lambda i: rows[i], np.arange(len(rows)), **options)
    assert_same(result, expected)
    target = shmmap.empty_like(expected) if data.draw(st.booleans()) else np.empty_like(expected)
    result = shmmap.pmap(lambda i: rows[i], range(len(rows)), out=target, **options)
    assert result is target
    assert_same(result, expected)


@pytest.mark.warm
@pytest.mark.parametrize("name", ENGINES)
@given(
    rows=tables(),
    chunksize=st.sampled_from(CHUNKSIZES),
    failing=st.sets(st.integers(0, 59), min_size=1),
)
def test_failures(
    every_engine: Any, name: str, rows: list[Any], chunksize: Any, failing: set[int]
) -> None:
    options: dict[str, Any] = {"engine": every_engine[name], "workers": 2, "chunksize": chunksize}
    n = len(rows)
    failing &= set(range(n))

    def func(i: int) -> Any:
        if i in failing:
            raise Failed(i)
        return rows[i]

    if not failing:
        assert_same(shmmap.pmap(func, range(n), out=list, **options), rows)
        return
    with pytest.raises(Failed) as raised:
        shmmap.pmap(func, range(n), **options)
    assert raised.value.args[0] in failing
    if name == "serial":
        assert raised.value.args[0] == min(failing)
    with pytest.raises(shmmap.MapError) as caught:
        shmmap.pmap(func, range(n), on_error="continue", **options)
    assert {i for start, stop in caught.value.failed for i in range(start, stop)} == failing
    kept = [None if i in failing else row for i, row in enumerate(rows)]
    assert_same(caught.value.result, kept)
    result = shmmap.pmap(func, range(n), on_error=lambda exc, start, stop: start, **options)
    assert_same(result, [i if i in failing else row for i, row in enumerate(rows)])


@pytest.mark.warm
@pytest.mark.parametrize("name", ENGINES)
@given(
    dtype=st.sampled_from(DTYPES[:11]),
    n=st.integers(1, 200),
    func=st.sampled_from([np.negative, np.sqrt, np.isnan, np.add]),
    chunksize=st.sampled_from(CHUNKSIZES),
    place=st.sampled_from(["fresh", "shared", "private", "wider"]),
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_blocks(
    every_engine: Any, name: str, dtype: Any, n: int, func: Any, chunksize: Any, place: str
) -> None:
    """Ufuncs are told where their result goes on some engines, and on some not."""
    x = shmmap.asshared((np.arange(n * 3) % 50).reshape(n, 3).astype(dtype))
    inputs = [x, x[::-1]][: func.nin]
    try:
        like = func(*[each[:1] for each in inputs])
    except TypeError:
        return
    out: Any = None
    if place != "fresh":
        wider = np.result_type(like.dtype, "f8") if like.dtype.kind in "iuf" else like.dtype
        make = np.empty if place == "private" else shmmap.empty
        out = make((n, 3), wider if place == "wider" else like.dtype)
    options: dict[str, Any] = {"engine": every_engine[name], "workers": 2, "chunksize": chunksize}
    result = shmmap.pmap_chunks(func, *inputs, out=out, **options)
    serial = func(*[np.array(each) for each in inputs])
    assert_same(result, serial if out is None else serial.astype(out.dtype))
