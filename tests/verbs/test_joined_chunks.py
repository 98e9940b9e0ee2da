"""Automatic chunks of cheap items that were drawn together are gone through as one; nobody can tell.

With up to 4096 items each is a chunk, of which a worker soon holds hundreds. How many is a matter of timing,
so each test takes what happens anywhere in such a range.
"""

from __future__ import annotations

import enum
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shmmap
from shmmap._chunks.plan import ITEM_CHUNKS
from shmmap.testing import wait_until
from tests import functions
from tests.helpers import in_time

pytestmark = pytest.mark.warm

N = 2000


@pytest.fixture
def team() -> Iterator[shmmap.Team]:
    with shmmap.Team(workers=2) as team:
        yield team


def widening(at: int) -> Callable[[Any], Any]:
    """Integers, and from one index on something that does not fit into them."""
    return lambda v: int(v) if v < at else v + 0.5


class Color(enum.IntEnum):
    """A number that is more than that."""

    RED = 1


WAYS: dict[str, Callable[[int], Callable[[Any], Any]]] = {
    "number": lambda at: lambda v: v * 2,
    "widening": widening,
    "boolean": lambda at: lambda v: v > at,
    "array": lambda at: lambda v: np.full(3, v),
    "widening array": lambda at: lambda v: np.full(2, v if v < at else v + 0.5j),
    "tuple": lambda at: lambda v: (v, np.arange(2) + v),
    "text": lambda at: lambda v: f"{v:.0f}",
    "0-d": lambda at: lambda v: np.asarray(v),
    "builtin": lambda at: np.sqrt,
}


def columns(values: list[Any]) -> list[Any]:
    """What stacking results one by one gives."""
    if isinstance(values[0], tuple):
        return [np.stack(column) for column in zip(*values, strict=True)]
    return [np.stack(values)]


@settings(max_examples=40)
@given(
    st.sampled_from(sorted(WAYS)),
    st.integers(1, N) | st.sampled_from([2 * ITEM_CHUNKS, 3 * ITEM_CHUNKS - 1]),
    st.integers(0, N),
)
def test_the_result_is_that_of_a_loop(way: str, n: int, at: int) -> None:
    func = WAYS[way](at)
    x = shmmap.asshared(np.arange(n, dtype=float))
    result = shmmap.pmap(func, x, workers=2)
    results = result if isinstance(result, tuple) else (result,)
    for one, other in zip(results, columns([func(v) for v in x]), strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)


TYPES = (
    np.int8,
    np.uint8,
    np.int16,
    np.uint16,
    np.int64,
    np.uint64,
    np.float32,
    np.float64,
    int,
    float,
)


def outcome(func: Any, x: Any, **options: Any) -> Any:
    """What a map gives, or which error, and where."""
    try:
        result = shmmap.pmap(func, x, workers=2, **options)
    except (TypeError, ValueError) as exc:
        return type(exc), str(exc).splitlines()[0]
    return result.dtype, result.tolist()


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from(range(len(TYPES))), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, 3)), min_size=1, max_size=30),
    st.sampled_from([None, np.int64, np.float32]),
)
def test_no_dtype_depends_on_what_was_drawn_together(
    kinds: list[int], runs: list[tuple[int, int]], dtype: Any
) -> None:
    """Neither by the order in which dtypes are promoted, nor by how many at once."""
    types = [kinds[which % len(kinds)] for count, which in runs for _ in range(count)]
    x = shmmap.asshared(np.array(types))

    def func(which: Any) -> Any:
        return TYPES[which](which)

    assert outcome(func, x, dtype=dtype) == outcome(func, x, dtype=dtype, engine="serial")


@pytest.mark.parametrize("odd", [None, np.datetime64(1, "s"), np.zeros(2), (1, 2)])
def test_what_does_not_fit_is_told_as_by_a_loop(odd: Any) -> None:
    def func(i: Any) -> Any:
        return odd if i == N // 2 else int(i)

    x = shmmap.asshared(np.arange(N))
    with pytest.raises((TypeError, ValueError)) as caught:
        shmmap.pmap(func, x, workers=2)
    notes = " ".join([str(caught.value), *caught.value.__notes__])
    if odd is not None:  # else which of them is the odd one is known at the end only
        assert f"[{N // 2}, {N // 2 + 1})" in notes, notes


def test_none_among_large_arrays() -> None:
    def func(i: Any) -> Any:
        return None if i == 1500 else np.full(1500, float(i))

    with pytest.raises(TypeError, match="None"):
        shmmap.pmap(func, shmmap.asshared(np.arange(N)), workers=2)


def test_error_beside_what_does_not_pickle() -> None:
    def func(i: Any) -> Any:
        if i == 1001:
            raise ZeroDivisionError
        return (v for v in [1]) if i == 1000 else 1

    for options in ({}, {"chunksize": 1}):
        with pytest.raises((TypeError, ZeroDivisionError)) as caught:
            shmmap.pmap(func, np.arange(N), out=list, workers=2, **options)
        at = 1000 if caught.type is TypeError else 1001
        assert f"[{at}, {at + 1})" in " ".join(caught.value.__notes__)


class Slices(list[Any]):
    """Its slices are of its class, which workers cannot import."""

    def __getitem__(self, index: Any) -> Any:
        value = super().__getitem__(index)
        return Slices(value) if isinstance(index, slice) else value


@pytest.mark.parametrize(
    "items",
    [
        Slices(range(N)),
        tuple(range(N)),
        [b""] * 64 + [b"x" * 20_000] * 64,
        [Color.RED, 1, True, None, "a"] * 100,
        [(1, (2, 3)), (4,)] * 300,
        [[1], {2: 3}] * 200,
    ],
    ids=["subclass", "tuple", "small and large", "enum", "nested", "mutable"],
)
def test_any_sequence_of_items(items: Any) -> None:
    def func(item: Any) -> Any:
        return type(item).__name__, item

    assert shmmap.pmap(func, items, workers=2) == [func(item) for item in items]


def test_dear_items_in_the_middle_are_shared() -> None:
    """Cheap ones before them must not have a worker draw them all."""
    n, dear = 4000, 300
    pids = shmmap.zeros(n, np.int64)

    def func(i: Any) -> float:
        if 2000 <= i < 2000 + dear:
            time.sleep(0.003)
        pids[int(i)] = os.getpid()
        return 1.0

    shmmap.pmap(func, shmmap.asshared(np.arange(n)), workers=2)
    _, counts = np.unique(pids[2000 : 2000 + dear], return_counts=True)
    assert len(counts) == 2 and counts.min() > dear // 5


@pytest.mark.parametrize("gather", [False, True], ids=["array", "list"])
def test_several_inputs_in_any_form(gather: bool) -> None:
    x = shmmap.asshared(np.arange(N, dtype=float))
    texts = [str(i) for i in range(N)]
    pairs = [(i, None, b"x" * (i % 3)) for i in range(N)]
    out = list if gather else None

    def join(v: Any, text: str, pair: Any, whole: Any, i: int) -> Any:
        return v + float(text) + len(pair[2]) + whole[0] + i

    result = shmmap.pmap(
        join,
        x,
        texts,
        pairs,
        np.ones(3),
        range(N),
        axis=(0, 0, 0, None, 0),
        out=out,
        workers=2,
    )
    expected = [3.0 * i + i % 3 + 1 for i in range(N)]
    assert list(result) == expected
    assert isinstance(result, list) == gather


def test_nothing_but_side_effects() -> None:
    y = shmmap.zeros(N, np.int64)

    def count(i: Any) -> None:
        y[int(i)] += 1

    assert shmmap.pmap(count, np.arange(N), workers=2) is None
    assert (y == 1).all()


def test_random_numbers_are_those_of_the_index() -> None:
    def draw(v: Any, rng: Any) -> Any:
        return rng.random()

    x = shmmap.asshared(np.zeros(N))
    several = shmmap.pmap(draw, x, rng=3, workers=2)
    assert np.array_equal(several, shmmap.pmap(draw, x, rng=3, engine="serial"))


def test_current_tells_the_plans_chunks() -> None:
    def where(i: Any) -> Any:
        at = shmmap.current()
        assert at is not None
        return at.start, at.stop, at.index

    n = 3 * ITEM_CHUNKS - 1
    told = shmmap.pmap(where, list(range(n)), workers=2)
    assert told == [(i // 3 * 3, min(i // 3 * 3 + 3, n), i) for i in range(n)]


@pytest.mark.parametrize("at", [0, 1, 5, N // 2, N - 1])
@pytest.mark.parametrize("kind", ["raises", "shape", "kind", "does not pickle"])
def test_an_error_names_its_index_and_chunk(kind: str, at: int) -> None:
    def func(i: Any) -> Any:
        if kind == "shape":
            return np.zeros(3 if i == at else 2)
        if i == at:
            if kind == "raises":
                raise ZeroDivisionError("on purpose")
            return (lambda: 1) if kind == "kind" else (v for v in [1])
        return 1.0

    wanted: type[Exception] = {"raises": ZeroDivisionError, "shape": ValueError}.get(
        kind, TypeError
    )
    out = list if kind == "does not pickle" else None
    with pytest.raises(wanted) as caught:
        shmmap.pmap(func, shmmap.asshared(np.arange(N)), out=out, workers=2)
    notes = " ".join([str(caught.value), *caught.value.__notes__])
    if at or kind in ("raises", "does not pickle"):  # else those after it are the odd ones
        assert f"[{at}, {at + 1})" in notes, notes


def test_of_several_errors_the_first_index_is_raised() -> None:
    def func(i: Any) -> Any:
        if i in (700, 701, 1500):
            raise ValueError(int(i))
        return i

    for _ in range(10):
        with pytest.raises(ValueError, match="700"):
            shmmap.pmap(func, shmmap.asshared(np.arange(N)), workers=2)


@pytest.mark.parametrize("at", [1, N // 2, N - 1])
def test_death_once_is_made_good(team: shmmap.Team, at: int) -> None:
    killed = shmmap.zeros(1, np.int64)

    def func(i: Any) -> Any:
        if i == at and not killed[0]:
            killed[0] = 1
            os.kill(os.getpid(), signal.SIGKILL)
        return i * 2

    result = shmmap.pmap(func, shmmap.asshared(np.arange(N)), engine=team)
    assert killed[0] == 1
    assert np.array_equal(result, np.arange(N) * 2)


@pytest.mark.parametrize("at", [1, N // 2, N - 1])
def test_death_again_and_again_names_the_one_item(team: shmmap.Team, at: int) -> None:
    def func(i: Any) -> Any:
        if i == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return i * 2

    with pytest.raises(shmmap.MapError) as caught:
        shmmap.pmap(
            func,
            shmmap.asshared(np.arange(N)),
            engine=team,
            on_error="continue",
        )
    assert caught.value.failed == ((at, at + 1),)
    with pytest.raises(shmmap.WorkerDied) as died:
        shmmap.pmap(func, shmmap.asshared(np.arange(N)), engine=team)
    assert f"[{at}, {at + 1})" in str(died.value)


def test_what_may_have_been_begun_is_not_begun_again(team: shmmap.Team) -> None:
    """A function that returns nothing works by what it writes: it is told which of it is in doubt."""
    y = shmmap.zeros(N, np.int64)

    def count(i: Any) -> None:
        if i == N // 2:
            os.kill(os.getpid(), signal.SIGKILL)
        y[int(i)] += 1

    with pytest.raises(shmmap.WorkerDied) as caught:
        shmmap.pmap(count, shmmap.asshared(np.arange(N)), engine=team)
    doubtful = np.zeros(N, bool)
    for start, stop in caught.value.failed:
        doubtful[start:stop] = True
    assert doubtful[N // 2]
    assert (y[~doubtful] == 1).all()
    assert (y <= 1).all()


def test_a_long_item_among_cheap_ones_is_waited_for() -> None:
    def func(i: Any) -> Any:
        if i == N // 2:
            time.sleep(0.3)
        return i

    x = shmmap.asshared(np.arange(N))
    assert np.array_equal(shmmap.pmap(func, x, workers=2), x)


def test_chunks_done_come_one_by_one() -> None:
    future = shmmap.pmap(functions.square, shmmap.asshared(np.arange(N)), workers=2, wait=False)
    parts = sorted((start, stop, *value) for start, stop, value in future.as_completed())
    assert parts == [(i, i + 1, i * i) for i in range(N)]


def test_chunks_that_were_asked_for_are_not_joined() -> None:
    """Each is in place before the next one begins: the last item may wait for the results of all others."""
    n = 500
    out = shmmap.full(n, -1)

    def func(i: Any) -> Any:
        if i == n - 1:
            wait_until(lambda: (out[:-1] >= 0).all())
        return i

    shmmap.pmap(func, shmmap.asshared(np.arange(n)), out=out, chunksize=1, workers=2)
    assert np.array_equal(out, np.arange(n))


def test_cancelled_in_time_where_items_turn_out_to_be_slow() -> None:
    reached = shmmap.zeros(1, bool)

    def func(i: Any) -> None:
        if i > N // 4:
            reached[0] = True
            time.sleep(0.05)

    future = shmmap.pmap(func, shmmap.asshared(np.arange(N)), workers=2, wait=False)
    wait_until(lambda: reached[0])
    with in_time(3):
        future.cancel()
        with pytest.raises(CancelledError):
            future.result()
