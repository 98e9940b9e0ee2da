"""Which functions are told where their result goes, and that nobody can see it in the result."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from shmmap._chunks import Input, Job, Plan, Reporter, make_kernel
from shmmap._chunks.told import takes_out
from tests.helpers import assert_same


def asks(x: Any, out: Any = None) -> Any:
    return np.multiply(x, 2, out=out)


def asks_by_keyword(x: Any, *, out: Any = None) -> Any:
    return np.multiply(x, 2, out=out)


class Owner:
    def asks(self, x: Any, out: Any = None) -> Any:
        return np.multiply(x, 2, out=out)


@pytest.mark.parametrize(
    ("func", "given", "expected"),
    [
        (np.sqrt, 1, True),
        (np.add, 2, True),
        (np.add, 1, False),
        (np.modf, 1, False),
        (np.matmul, 2, False),
        (asks, 1, True),
        (asks, 2, False),
        (asks_by_keyword, 1, True),
        (Owner().asks, 1, True),
        (Owner().asks, 2, False),
        (partial(asks), 1, True),
        (partial(asks, out=None), 1, False),
        (partial(asks, 1.0), 1, False),
        (partial(np.multiply, 2.0), 1, True),
        (partial(np.multiply, np.ones(3)), 1, False),
        (partial(np.sqrt, where=True), 1, False),
        (lambda x: x, 1, False),
        (lambda x, out: x, 1, False),
        (lambda x, out=1: x, 1, False),
        (lambda x, *, out: x, 1, False),
        (lambda x, **options: x, 1, False),
        (np.cumsum, 1, False),
        (len, 1, False),
    ],
)
def test_who_takes_out(func: Any, given: int, expected: bool) -> None:
    assert takes_out(func, given) is expected


class Quiet(Reporter):
    """Takes marks, and nothing else."""

    def mark(self, first: int, stop: int, nothing: bool = False) -> None:
        return

    def results(self, pieces: Any) -> None:
        raise AssertionError(pieces)


def run(func: Callable[..., Any], out: Any, *inputs: Any, size: int = 3, **options: Any) -> None:
    """Map a function over chunks into `out`, one chunk after the other."""
    job = Job(
        inputs=tuple(Input("array", each) for each in inputs),
        out=(out,),
        seed=None,
        first=0,
        verb="chunks",
        gather=False,
        plan=Plan(len(out), size),
        axis=0,
        dtypes=None,
        timeout=None,
        keep_going=False,
        retries=0,
        may_join=False,
    )._replace(**options)
    kernel = make_kernel(job, func, Quiet())
    for chunk in range(job.plan.chunks):
        kernel.run(chunk, chunk + 1)


def counting(calls: list[Any]) -> Callable[..., Any]:
    """A function that notes what it is told."""

    def func(x: Any, out: Any = None, rng: Any = None) -> Any:
        calls.append(out)
        return np.multiply(x, 2, out=out)

    return func


DTYPES = [np.dtype(code) for code in "?bBhiIqefdFD"] + [np.dtype(">f8"), np.dtype(">i4")]
UFUNCS = [np.sqrt, np.exp, np.sin, np.negative, np.isnan, np.abs, np.add, np.multiply, np.arctan2]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@given(
    ufunc=st.sampled_from(UFUNCS),
    kinds=st.tuples(st.sampled_from(DTYPES), st.sampled_from(DTYPES), st.sampled_from(DTYPES)),
    shape=st.sampled_from([(10,), (10, 3), (10, 17)]),
    orders=st.tuples(*[st.sampled_from(["C", "F", "strided"])] * 3),
    size=st.integers(1, 11),
)
def test_bits_are_those_of_a_result_of_its_own(
    ufunc: np.ufunc, kinds: Any, shape: Any, orders: Any, size: int
) -> None:
    rng = np.random.default_rng(3)

    def make(dtype: Any, order: str) -> Any:
        values = (rng.random(shape) * 9).astype(dtype)
        if order == "strided":
            return np.repeat(values, 2, axis=-1)[..., ::2]
        return np.asarray(values, order=order)

    inputs = [make(*each) for each in zip(kinds, orders, strict=False)][: ufunc.nin]
    try:
        parts = [ufunc(*[x[at : at + size] for x in inputs]) for at in range(0, 10, size)]
    except TypeError:
        return
    for dtype in {parts[0].dtype, kinds[2]}:
        if not np.can_cast(parts[0].dtype, dtype, "same_kind"):
            continue
        out = make(dtype, orders[2])
        expected = out.copy()
        for i, part in enumerate(parts):
            expected[i * size : (i + 1) * size] = part
        run(ufunc, out, *inputs, size=size)
        assert out.tobytes() == expected.tobytes()


def test_it_is_told_from_the_second_chunk_on() -> None:
    x, out, calls = np.arange(10.0), np.empty(10), []
    run(counting(calls), out, x)
    assert calls[0] is None
    assert [len(part) for part in calls[1:]] == [3, 3, 1]
    assert all(np.shares_memory(part, out) for part in calls[1:])
    assert_same(out, x * 2)


def test_what_it_returns_counts_and_not_what_it_wrote() -> None:
    def func(x: Any, out: Any = None) -> Any:
        if out is not None:
            out[...] = -1
        return x * 2

    x, out = np.arange(10.0), np.empty(10)
    run(func, out, x)
    assert_same(out, x * 2)


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("f8", {"in_place": True}),
        ("f8", {"keep_going": True}),
        ("f8", {"retries": 1}),
        ("f8", {"seed": (1, 2)}),
        ("f4", {}),
    ],
    ids=str,
)
def test_it_is_not_told_where_that_could_show(dtype: str, options: dict[str, Any]) -> None:
    x, out, calls = np.arange(10, dtype=dtype), np.empty(10), []
    run(counting(calls), out, x, **options)
    assert calls == [None] * 4
    assert_same(out, (x * 2).astype(float))


def test_nor_if_the_output_is_strided() -> None:
    x, out, calls = np.arange(10.0), np.empty((10, 2))[:, 0], []
    run(counting(calls), out, x)
    assert calls == [None] * 4
    assert_same(out, x * 2)
