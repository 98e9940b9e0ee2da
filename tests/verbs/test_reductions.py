"""Reductions give equal bits for every number of workers, schedule and engine; and what NumPy gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import shmmap
from tests.conftest import ENGINES
from tests.helpers import assert_same

pytestmark = pytest.mark.warm


@pytest.fixture
def every_engine(engines: Callable[[], Any]) -> Iterator[dict[str, Any]]:
    """All engines, open for the whole test."""
    with engines() as opened:
        yield opened


class Sums(NamedTuple):
    """A named tuple of partials, combined one by one."""

    total: Any
    squares: Any


@dataclasses.dataclass
class Moments:
    """An object that combines as Chan, Golub and LeVeque say."""

    n: int
    mean: Any
    m2: Any

    @classmethod
    def of(cls, part: Any) -> Moments:
        mean = part.mean(axis=0)
        return cls(len(part), mean, ((part - mean) ** 2).sum(axis=0))

    def __add__(self, other: Moments) -> Moments:
        n = self.n + other.n
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.n / n)
        return Moments(n, mean, self.m2 + other.m2 + delta**2 * (self.n * other.n / n))


def as_list(partial: Any) -> list[Any]:
    """A partial as a list of what can be compared to the last bit."""
    if isinstance(partial, Moments):
        return [partial.n, partial.mean, partial.m2]
    return list(partial) if isinstance(partial, tuple) else [partial]


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "number": lambda part: part.sum(),
    "array": lambda part: part.T @ part,
    "tuple": lambda part: (part.sum(axis=0), len(part), np.sqrt(np.abs(part)).sum()),
    "named tuple": lambda part: Sums(part.sum(), (part**2).sum(axis=1, keepdims=True)[0]),
    "object": Moments.of,
}


@pytest.mark.few(1)
@pytest.mark.parametrize("func", FUNCTIONS.values(), ids=FUNCTIONS)
@given(
    n=st.integers(1, 200),
    seed=st.integers(0, 1 << 30),
    chunksize=st.sampled_from([1, 3, 16, "256B", "auto"]),
    initial=st.booleans(),
    data=st.data(),
)
def test_equal_bits_everywhere(
    every_engine: Any, func: Any, n: int, seed: int, chunksize: Any, initial: bool, data: Any
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 4)) * 10.0 ** rng.integers(-8, 8, (n, 4))
    options = {"chunksize": chunksize}
    if initial:
        options["initial"] = func(np.ones((3, 4)))
    expected = shmmap.preduce(func, x, combine=np.add, engine="serial", **options)
    name = data.draw(st.sampled_from(ENGINES))
    for workers in (1, 3):
        for schedule in ("dynamic", "static"):
            result = shmmap.preduce(
                func,
                shmmap.asshared(x) if workers == 1 else x,
                combine=np.add,
                engine=every_engine[name],
                workers=workers,
                schedule=schedule,
                **options,
            )
            assert type(result) is type(expected)
            assert_same(as_list(result), as_list(expected))


@given(n=st.integers(1, 300), seed=st.integers(0, 1 << 30), chunksize=st.integers(1, 50))
def test_moments_are_numpys(n: int, seed: int, chunksize: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(1e6, 1.0, (n, 3))
    result = shmmap.preduce(Moments.of, x, combine=np.add, chunksize=chunksize, workers=2)
    np.testing.assert_allclose(result.mean, x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(result.m2 / n, x.var(axis=0), rtol=1e-6, atol=1e-9)


@given(n=st.integers(1, 300), seed=st.integers(0, 99), chunksize=st.integers(1, 50))
def test_draws_do_not_depend_on_anything_but_the_index(n: int, seed: int, chunksize: int) -> None:
    def draw(i: Any, rng: Any) -> Any:
        return rng.random(2), rng.integers(0, 1 << 30, dtype=np.int32), rng.normal()

    key = np.random.SeedSequence(seed).generate_state(2, np.uint64)
    bits = [np.random.Philox(key=key, counter=[0, 0, 0, i]) for i in range(n)]
    expected = [draw(0, np.random.Generator(each)) for each in bits]
    for engine in ("serial", "threads", "processes"):
        options = {"engine": engine, "chunksize": chunksize, "workers": 2}
        result = shmmap.pmap(draw, range(n), rng=seed, **options)
        assert_same(result, expected)
        filled = shmmap.pmap(draw, np.arange(n), rng=seed, **options)
        assert_same(filled, tuple(np.stack(column) for column in zip(*expected, strict=True)))


def test_the_same_call_with_and_without_a_seed() -> None:
    x = shmmap.zeros(100)

    def draw(i: Any, rng: Any = None) -> Any:
        return 0.0 if rng is None else rng.random()

    for _ in range(3):
        assert not shmmap.pmap(draw, x, workers=2).any()
        assert shmmap.pmap(draw, x, workers=2, rng=1).all()
