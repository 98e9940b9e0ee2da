"""Every verb gives what plain NumPy gives, to the last bit, on every engine."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import shmmap
from tests import functions
from tests.conftest import ENGINES, open_engine
from tests.helpers import assert_same
from tests.strategies import NUMERIC, PLAIN, arrays, arrays_and_axis, dtypes, fill, options, shapes

pytestmark = pytest.mark.warm

NUMBERS = st.sampled_from(NUMERIC)
EXACT = st.sampled_from([dtype for dtype in NUMERIC if dtype.kind in "iu"])


@pytest.fixture
def every_engine(engines: Callable[[], Any]) -> Iterator[dict[str, Any]]:
    """All engines, open for the whole test."""
    with engines() as opened:
        yield opened


def items(a: Any, axis: int) -> list[Any]:
    """What a function of items is to see."""
    return list(np.moveaxis(a, axis, 0))


def stacked(results: list[Any]) -> Any:
    """What `pmap` is to return for these results."""
    return np.stack([np.asarray(result) for result in results]) if results else np.zeros(0)


# --- one engine at a time -----------------------------------------------------------------------


@pytest.mark.parametrize("func", [functions.copy, lambda item: np.array([item, item])])
@given(case=arrays_and_axis(), options=options())
def test_pmap_stacks_as_numpy_does(engine: Any, func: Any, case: Any, options: Any) -> None:
    a, axis = case
    expected = stacked([func(item) for item in items(a, axis)])
    assert_same(shmmap.pmap(func, a, axis=axis, engine=engine, **options), expected)


@given(case=arrays_and_axis(dtype=NUMBERS), options=options())
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_pmap_computes_as_numpy_does(engine: Any, case: Any, options: Any) -> None:
    a, axis = case

    def func(item: Any) -> Any:
        with np.errstate(all="ignore"):
            return np.multiply(item, 3) + np.sum(item)

    expected = stacked([func(item) for item in items(a, axis)])
    assert_same(shmmap.pmap(func, a, axis=axis, engine=engine, **options), expected)


@given(case=arrays_and_axis(), options=options())
def test_pmap_chunks_concatenates_as_numpy_does(engine: Any, case: Any, options: Any) -> None:
    a, axis = case
    assume(a.shape[axis])
    result = shmmap.pmap_chunks(np.array, a, axis=axis, engine=engine, **options)
    assert_same(result, np.concatenate([a], axis=axis))


@given(n=st.integers(0, 300), options=options(), chunksize=st.integers(1, 40))
def test_pmap_ranges_covers_the_extent_once(
    engine: Any, n: int, options: Any, chunksize: int
) -> None:
    if not isinstance(engine, str | shmmap.Team):
        pytest.skip("another library's executor runs no index ranges")
    ranges = shmmap.pmap_ranges(
        functions.limits, n, engine=engine, **options | {"chunksize": chunksize}
    )
    starts = range(0, n, chunksize)
    assert (ranges or []) == [(start, min(start + chunksize, n)) for start in starts]


@given(case=arrays_and_axis(dtype=EXACT), options=options())
def test_preduce_sums_as_numpy_does(engine: Any, case: Any, options: Any) -> None:
    a, axis = case
    assume(a.shape[axis])
    func = functools.partial(np.sum, axis=axis)
    result = shmmap.preduce(func, a, axis=axis, engine=engine, **options)
    assert_same(np.asarray(result), np.asarray(func(a)))


@given(a=arrays(dtype=NUMBERS, shape=shapes(1, 1)), options=options())
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_preduce_takes_any_combine(engine: Any, a: Any, options: Any) -> None:
    assume(len(a))
    assume(a.dtype.kind != "c")
    result = np.asarray(shmmap.preduce(np.min, a, combine=np.minimum, engine=engine, **options))
    assert result.dtype == a.dtype.newbyteorder("=")
    np.testing.assert_array_equal(result, np.min(a))  # not by bits: 0.0 and -0.0 are both minimal


@given(n=st.integers(1, 50), options=options())
def test_preduce_combines_in_order(engine: Any, n: int, options: Any) -> None:
    result = shmmap.preduce(
        lambda chunk: chunk.tolist(),
        np.arange(n),
        combine=lambda left, right: left + right,
        engine=engine,
        **options,
    )
    assert result == list(range(n))


@given(case=arrays_and_axis(dtype=st.sampled_from(PLAIN)), options=options(), data=st.data())
def test_out_is_written_in_any_layout(engine: Any, case: Any, options: Any, data: Any) -> None:
    a, axis = case
    expected = np.moveaxis(a, axis, 0)
    out = data.draw(arrays(dtype=st.just(a.dtype), shape=st.just(expected.shape)))
    assume(out.flags.writeable)
    assert shmmap.pmap(np.array, a, axis=axis, out=out, engine=engine, **options) is out
    assert_same(np.asarray(out), np.ascontiguousarray(expected))


@given(
    first=arrays(shape=st.just((4, 3))),
    second=arrays(shape=st.just((2, 4))),
    whole=arrays(shape=shapes(1, 2)),
    options=options(),
)
def test_several_inputs_are_zipped(
    engine: Any, first: Any, second: Any, whole: Any, options: Any
) -> None:
    def func(one: Any, other: Any, whole: Any) -> Any:
        return np.array(one), np.array(other), np.array(whole)

    result = shmmap.pmap(func, first, second, whole, axis=(0, 1, None), engine=engine, **options)
    rows = [func(first[i], second[:, i], whole) for i in range(4)]
    assert_same(result, tuple(np.stack(column) for column in zip(*rows, strict=True)))


# --- one call on every engine -------------------------------------------------------------------


def calls(verb: str, a: Any, axis: int) -> Callable[..., Any]:
    """A call of one verb whose result shows chunk limits, order of combining and dtype."""

    def fraction(block: Any) -> Any:
        return np.divide(block, 3).sum(axis=axis, keepdims=True)

    match verb:
        case "pmap":
            return functools.partial(
                shmmap.pmap, lambda item: np.divide(item, 3).sum(), a, axis=axis
            )
        case "pmap_chunks":
            return functools.partial(
                shmmap.pmap_chunks, lambda block: np.divide(block, len(block)), a, axis=axis
            )
        case "pmap_ranges":
            return functools.partial(
                shmmap.pmap_ranges, lambda start, stop: (stop - start) / 3, a.shape[axis]
            )
        case _:
            return functools.partial(shmmap.preduce, fraction, a, axis=axis, combine=np.add)


@pytest.mark.few(1)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("verb", ["pmap", "pmap_chunks", "pmap_ranges", "preduce"])
@given(
    case=arrays_and_axis(dtype=NUMBERS),
    chunksize=st.sampled_from([1, 2, 3, "48B", "auto"]),
    schedule=st.sampled_from(["dynamic", "static"]),
)
def test_every_engine_gives_equal_bits(
    every_engine: dict[str, Any], verb: str, case: Any, chunksize: Any, schedule: str
) -> None:
    a, axis = case
    assume(a.shape[axis])
    call = calls(verb, a, axis)
    with np.errstate(all="ignore"):
        expected = call(engine="serial", chunksize=chunksize)
        for i, name in enumerate(ENGINES):
            if verb == "pmap_ranges" and name == "executor":
                continue
            result = call(
                engine=every_engine[name],
                chunksize=chunksize,
                schedule=schedule,
                workers=1 + (i + len(a)) % 4,
            )
            assert_same(np.asarray(result), np.asarray(expected))


@pytest.mark.few(1)
@pytest.mark.parametrize("workers", [1, 2, 3, 4])
@pytest.mark.parametrize("name", [name for name in ENGINES if name != "serial"])
def test_blas_and_reductions_give_equal_bits(name: str, workers: int) -> None:
    rng = np.random.default_rng(5)
    a = shmmap.asshared(rng.standard_normal((600, 40)))
    b = rng.standard_normal((40, 30))

    def product(block: Any) -> Any:
        return block @ b

    def gram(block: Any) -> Any:
        return block.T @ block

    with open_engine(name) as engine:
        for verb, func in (
            (shmmap.pmap, np.linalg.norm),
            (shmmap.pmap_chunks, product),
            (functools.partial(shmmap.preduce, combine=np.add), gram),
            (shmmap.preduce, np.sum),
        ):
            assert_same(
                np.asarray(verb(func, a, engine=engine, workers=workers)),
                np.asarray(verb(func, a, engine="serial")),
            )


@pytest.mark.few(2)
@pytest.mark.parametrize("dtype", PLAIN, ids=str)
def test_every_dtype_crosses_on_every_engine(every_engine: dict[str, Any], dtype: Any) -> None:
    a = shmmap.zeros((5, 4), dtype)
    fill(a, 3)
    for axis in (0, 1):
        expected = np.stack([np.array(item) for item in np.moveaxis(a, axis, 0)])
        for engine in every_engine.values():
            assert_same(shmmap.pmap(np.array, a, axis=axis, engine=engine), expected)


@given(dtype=dtypes(), n=st.integers(0, 5))
def test_dtype_option_is_obeyed(dtype: Any, n: int) -> None:
    a = np.zeros((n, 2), dtype)
    result = shmmap.pmap(np.array, a, dtype=dtype, engine="processes")
    assert result.dtype == dtype
    assert result.shape == ((n, 2) if n else (0,))
