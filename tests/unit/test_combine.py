"""Which functions' partials combine, and by what: the table of `preduce`, against NumPy itself."""

from __future__ import annotations

import functools
import inspect
import operator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import shmmap
from shmmap._results.combine import RECIPES, choose_combine

partial = functools.partial

REDUCTIONS = [
    *(np.sum, np.prod, np.max, np.min, np.any, np.all, np.amax, np.amin),
    *(np.nansum, np.nanprod, np.nanmax, np.nanmin, np.count_nonzero),
    *(
        np.ndarray.sum,
        np.ndarray.prod,
        np.ndarray.max,
        np.ndarray.min,
        np.ndarray.any,
        np.ndarray.all,
    ),
    *(np.ma.sum, np.ma.prod, np.ma.max, np.ma.min, np.ma.any, np.ma.all, np.ma.count),
]
UFUNCS = [
    *(np.add, np.multiply, np.maximum, np.minimum, np.fmax, np.fmin),
    *(np.logical_or, np.logical_and, np.logical_xor, np.hypot, np.logaddexp, np.logaddexp2),
]
INT_UFUNCS = [np.bitwise_or, np.bitwise_and, np.bitwise_xor, np.gcd, np.lcm]
DTYPES = ["?", "i1", "u2", "i8", "f4", "f8", "c16"]


def fold(func: Any, a: Any, axis: int, size: int) -> Any:
    """Partials of chunks along an axis, combined from the left."""
    combine = choose_combine(func, (a,), axis)
    moved = np.moveaxis(a, axis, 0)
    chunks = [moved[at : at + size] for at in range(0, len(moved), size)]
    return functools.reduce(combine, [func(np.moveaxis(chunk, 0, axis)) for chunk in chunks])


def combine_for(func: Any, ndim: int | None, axis: int) -> Any:
    """For an array of so many axes, or a list."""
    return choose_combine(func, ([1.0] if ndim is None else np.ones((1,) * ndim),), axis)


def assert_equal(one: Any, other: Any) -> None:
    one, other = np.asarray(one), np.asarray(other)
    assert one.shape == other.shape
    if one.dtype.kind in "fc":
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-4 if one.dtype == "f4" else 1e-9)
    else:
        np.testing.assert_array_equal(one, other)


@st.composite
def arrays(draw: Any, dtypes: list[str]) -> Any:
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    a = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 3, shape).astype(dtype)
    if dtype.kind in "fc" and draw(st.booleans()):
        a[np.random.default_rng(1).random(shape) < 0.4] = np.nan
    return a


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("func", REDUCTIONS)
@given(data=st.data())
def test_reductions_are_numpys(func: Any, data: Any) -> None:
    """A1: every known function, over every axes that hold the chunks', for all shapes, dtypes and chunks."""
    a = data.draw(arrays(DTYPES))
    axis = data.draw(st.integers(-a.ndim, a.ndim - 1))
    others = data.draw(st.sets(st.integers(0, a.ndim - 1)))
    given: dict[str, Any] = {}
    match data.draw(st.sampled_from(["all", "axis", "axes"])):
        case "axis":
            given["axis"] = axis
        case "axes":
            given["axis"] = tuple(others | {axis % a.ndim})
    if "ma" not in getattr(func, "__module__", "numpy.ma") and data.draw(st.booleans()):
        given["keepdims"] = True
    call = partial(func, **given) if given else func
    assert_equal(fold(call, a, axis, data.draw(st.integers(1, 4))), call(a))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("ufunc", UFUNCS + INT_UFUNCS, ids=lambda ufunc: ufunc.__name__)
@given(data=st.data())
def test_reduce_of_ufuncs_is_numpys(ufunc: Any, data: Any) -> None:
    """A1: `reduce` goes along axis 0 where not told otherwise, and not over all axes as `numpy.sum` does."""
    a = data.draw(arrays(["i1", "u2", "i8"] if ufunc in INT_UFUNCS else ["i8", "f4", "f8"]))
    axis = data.draw(st.integers(0, a.ndim - 1))
    call = ufunc.reduce
    if axis or data.draw(st.booleans()):
        call = partial(ufunc.reduce, axis=data.draw(st.sampled_from([axis, axis - a.ndim])))
    assert_equal(fold(call, a, axis, data.draw(st.integers(1, 4))), call(a))


@given(data=st.data())
def test_a_reduction_over_other_axes_is_refused(data: Any) -> None:
    """A1: its partials lie side by side; added up they would be wrong wherever chunks are of one length."""
    ndim = data.draw(st.integers(1, 4))
    axis = data.draw(st.integers(-ndim, ndim - 1))
    axes = data.draw(st.sets(st.integers(0, ndim - 1), min_size=1))
    assume(axis % ndim not in axes)
    given = tuple(each - ndim * data.draw(st.booleans()) for each in axes)
    for func in (np.sum, np.max, np.nanmin, np.any, np.add.reduce, np.ndarray.sum):
        for reduced in (given, *given[:1]):
            with pytest.raises(ValueError, match="pmap_chunks"):
                combine_for(partial(func, axis=reduced), ndim, axis)
    if axis % ndim:
        with pytest.raises(ValueError, match="pmap_chunks"):
            combine_for(np.add.reduce, ndim, axis)


@pytest.mark.parametrize(
    ("func", "combine"),
    [(sum, operator.add), (len, operator.add), (any, operator.or_), (all, operator.and_)],
)
def test_pythons_own(func: Any, combine: Any) -> None:
    assert combine_for(func, None, 0) is combine
    assert combine_for(func, 1, -1) is combine
    with pytest.raises(ValueError, match="axis 0"):
        combine_for(func, 2, 1)
    with pytest.raises(TypeError, match="combine="):
        combine_for(partial(func, start=3), 1, 0)


def test_pythons_max_does_not_guess_about_nan() -> None:
    """Where a NaN is decides what it gives, and a partial no longer knows."""
    assert combine_for(max, 1, 0)(1, 2) == 2
    assert combine_for(min, 1, 0)("a", "b") == "a"
    with pytest.raises(ValueError, match=r"numpy\.nanmin"):
        combine_for(max, 1, 0)(np.nan, 2.0)


@pytest.mark.parametrize(
    "func",
    [
        lambda chunk: chunk.sum(),
        partial(np.sum, np.zeros(3)),
        partial(np.sum, out=np.zeros(())),
        partial(np.sum, where=[True, False]),
        partial(np.nanmax, where=[True, False], initial=0),
        np.add.accumulate,
        np.frompyfunc(operator.add, 2, 1).reduce,
        np.bincount,
        np.asarray,
        [].append,
        type("Unhashable", (), {"__hash__": None, "__call__": len})(),
    ],
    ids=range(11),
)
def test_others_need_combine(func: Any) -> None:
    """A1: nothing is guessed."""
    with pytest.raises(TypeError, match=r"give combine=.*np\.add"):
        combine_for(func, 1, 0)


def test_several_inputs_and_frames_need_combine() -> None:
    for func in (np.sum, np.maximum.reduce, sum, len):
        with pytest.raises(TypeError, match="give combine="):
            choose_combine(func, (np.ones(1), np.ones(1)), 0)
    frame = pd.DataFrame({"x": [1.0]})
    for func in (np.sum, np.max, sum):
        with pytest.raises(TypeError, match="give combine="):
            choose_combine(func, (frame,), 0)
    assert choose_combine(len, (frame,), 0) is operator.add


def test_what_every_chunk_would_bring_along() -> None:
    """A1: `initial=` of a sum counts once per chunk; of a maximum it does no harm."""
    for func in (np.sum, np.prod, np.add.reduce, np.nansum):
        with pytest.raises(ValueError, match="to preduce"):
            combine_for(partial(func, initial=5), 1, 0)
    assert combine_for(partial(np.max, initial=5), 1, 0) is np.maximum
    nested = partial(partial(np.sum, axis=1), axis=0)
    assert combine_for(nested, 2, 0) is np.add


UNORDERED = [np.subtract, np.divide, np.power, np.arctan2, np.floor_divide, np.greater]


@pytest.mark.parametrize("ufunc", UNORDERED, ids=lambda ufunc: ufunc.__name__)
def test_reduce_in_an_order_is_refused(ufunc: Any) -> None:
    with pytest.raises(TypeError, match="do not combine"):
        combine_for(ufunc.reduce, 1, 0)


def values(name: str) -> Any:
    x = np.random.default_rng(3).normal(5.0, 2.0, 120)
    if name.startswith("nan"):
        x[::7] = np.nan
    return x.reshape(40, 3) if name == "cov" else x


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_right(name: str) -> None:
    """A1: what the error says to write gives what the function gives."""
    x = values(name)
    function = getattr(np, name, None) or getattr(np.linalg, name)
    with pytest.raises(TypeError, match="do not combine") as caught:
        choose_combine(function, (x,), 0)
    recipe = str(caught.value).partition("write: ")[2].split("; ")
    q = 0.3
    bins = 10
    scope: dict[str, Any] = {"np": np, "shmmap": shmmap, "x": x, "q": q, "bins": bins}
    with shmmap.config(engine="serial"):
        for statement in recipe[:-1]:
            exec(statement, scope)
        result = eval(recipe[-1], scope)
    extra: dict[str, Any] = {}
    if "q" in inspect.signature(function).parameters:
        extra["q"] = q
    expected = function(x.T) if name == "cov" else function(x, **extra)
    np.testing.assert_allclose(result, expected[0] if name == "histogram" else expected, rtol=1e-10)


@pytest.mark.parametrize("name", ["mean", "std", "var", "average"])
def test_recipes_for_masked_arrays_count_what_is_there(name: str) -> None:
    x = np.ma.array(np.arange(12.0), mask=np.arange(12) % 3 == 0)
    for function in (getattr(np, name), getattr(np.ma, name)):
        with pytest.raises(TypeError) as caught:
            choose_combine(function, (x,), 0)
        recipe = str(caught.value).partition("write: ")[2].split("; ")
        scope: dict[str, Any] = {"np": np, "shmmap": shmmap, "x": x}
        with shmmap.config(engine="serial"):
            for statement in recipe[:-1]:
                exec(statement, scope)
            np.testing.assert_allclose(eval(recipe[-1], scope), function(x))
    with pytest.raises(TypeError, match=r"whole$"):
        choose_combine(np.median, (x,), 0)
