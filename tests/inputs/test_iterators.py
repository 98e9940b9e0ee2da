"""Maps over iterators: read ahead so far and no further, results in order, indices of the whole."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shmmap
from tests import functions

ENGINES = ["serial", "threads", "processes"]


class Counting:
    """An iterator over ``range(n)`` that says how far it was read."""

    def __init__(self, n: int) -> None:
        self.taken = 0
        self._n = n

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        if self.taken == self._n:
            raise StopIteration
        self.taken += 1
        return self.taken - 1


@pytest.mark.parametrize("engine", ENGINES)
def test_results_are_a_list_in_order(engine: str) -> None:
    assert shmmap.pmap(lambda v: v * 2, iter(range(5000)), engine=engine) == list(
        range(0, 10000, 2)
    )
    assert shmmap.pmap(str, (v for v in ()), engine=engine) == []


@given(n=st.integers(0, 60), buffersize=st.none() | st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_as_the_builtin(n: int, buffersize: int | None) -> None:
    mapped = shmmap.pmap(
        lambda a, b: (a, b), iter(range(n)), list(range(n)), engine="serial", buffersize=buffersize
    )
    assert mapped == [(i, i) for i in range(n)]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("buffersize", [1, 7, 64])
def test_is_read_ahead_no_further_than_told(engine: str, buffersize: int) -> None:
    source = Counting(300)
    done = shmmap.zeros(300, int)
    worst = 0

    def watched() -> Iterator[int]:
        nonlocal worst
        for v in source:
            # What is taken now, this one included, and is not done.
            worst = max(worst, source.taken - int(done.sum()))
            yield v

    def func(v: int) -> int:
        done[v] = 1
        return v

    assert shmmap.pmap(func, watched(), engine=engine, buffersize=buffersize) == list(range(300))
    assert worst <= buffersize


def test_an_endless_iterator_is_no_trouble_for_team_map() -> None:
    with shmmap.Team(workers=2) as team:
        squares = team.map(lambda v: v * v, itertools.count(), buffersize=8)
        assert list(itertools.islice(squares, 50)) == [v * v for v in range(50)]
        squares.close()  # type: ignore[attr-defined]
        pairs = team.map(pow, itertools.count(), [2, 2, 2], buffersize=8)
        assert list(pairs) == [0, 1, 4]


@pytest.mark.parametrize("engine", ENGINES)
def test_errors_tell_the_index_in_the_whole(engine: str) -> None:
    def func(v: int) -> int:
        if v == 1234:
            raise KeyError("on purpose")
        return v

    with pytest.raises(KeyError) as caught:
        shmmap.pmap(func, iter(range(10_000)), engine=engine)
    assert any("for index 1234 " in note for note in caught.value.__notes__)
    with pytest.raises(shmmap.MapError) as failed:
        shmmap.pmap(func, iter(range(3000)), engine=engine, on_error="continue")
    assert failed.value.failed == ((1234, 1235),)
    assert failed.value.result == [v if v != 1234 else None for v in range(3000)]
    seen = []

    def stand_in(exc: Exception, start: int, stop: int) -> str:
        seen.append((start, stop))
        return "stand-in"

    mapped = shmmap.pmap(func, iter(range(3000)), engine=engine, on_error=stand_in)
    assert seen == [(1234, 1235)]
    assert mapped[1233:1236] == [1233, "stand-in", 1235]


def test_a_dead_worker_is_told_with_its_range_and_what_was_done() -> None:
    def func(v: int) -> int:
        if v == 700:
            os._exit(3)
        return v

    with pytest.raises(shmmap.WorkerDied) as caught:
        shmmap.pmap(func, iter(range(2000)), chunksize=1, workers=2)
    assert any(start <= 700 < stop for start, stop in caught.value.failed)
    assert caught.value.result[:256] == list(range(256))


@pytest.mark.parametrize("engine", ENGINES)
def test_an_error_of_the_iterator_comes_out_as_it_is(engine: str) -> None:
    def source() -> Iterator[int]:
        yield from range(500)
        raise OSError("the file ended")

    with pytest.raises(OSError, match="the file ended"):
        shmmap.pmap(functions.nothing, source(), engine=engine)
    assert shmmap.pmap(abs, iter([-1, -2]), engine=engine) == [1, 2]


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="ends at index 3"):
        shmmap.pmap(lambda a, b: a, iter(range(5)), [1, 2, 3], workers=2)


@pytest.mark.parametrize("engine", ENGINES)
def test_random_numbers_belong_to_the_index(engine: str) -> None:
    def func(v: int, rng: Any) -> float:
        return float(rng.random())

    whole = shmmap.pmap(func, list(range(600)), rng=7, engine="serial")
    for buffersize in (None, 50):
        assert (
            shmmap.pmap(func, iter(range(600)), rng=7, engine=engine, buffersize=buffersize)
            == whole
        )
    one = shmmap.pmap(func, iter(range(600)), rng=np.random.default_rng(3), engine=engine)
    assert len(set(one)) == 600


def test_where_a_function_is() -> None:
    assert shmmap.pmap(lambda v: shmmap.current().index, iter(range(900)), workers=2) == list(
        range(900)
    )


def test_large_results_come_back() -> None:
    mapped = shmmap.pmap(lambda v: np.full(200_000, v), iter(range(20)), workers=2, buffersize=4)
    assert [int(a[-1]) for a in mapped] == list(range(20))


def test_future_of_a_stream() -> None:
    go_on = threading.Event()

    def source() -> Iterator[int]:
        yield from range(100)
        go_on.wait(20)
        yield from range(100, 200)

    future = shmmap.pmap(abs, source(), workers=2, buffersize=20, wait=False)
    parts = future.in_order()
    start, stop, values = next(parts)
    assert (start, values) == (0, list(range(stop)))
    assert not future.done()
    go_on.set()
    rest = [value for _, _, values in parts for value in values]
    assert values + rest == list(range(200))
    assert future.progress() == (200, 200)


def test_a_stream_can_be_cancelled() -> None:
    future = shmmap.pmap(abs, itertools.count(), workers=2, wait=False)
    while future.progress()[0] < 100:
        pass
    assert future.cancel()
    assert shmmap.pmap(abs, [-1], workers=2) == [1]


def test_progress_counts_what_is_done() -> None:
    seen: list[tuple[int, Any]] = []
    shmmap.pmap(
        abs,
        iter(range(3000)),
        workers=2,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (3000, None)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_bad_buffersizes_are_refused() -> None:
    for bad in (0, -1):
        with pytest.raises(ValueError, match="buffersize"):
            shmmap.pmap(abs, iter([1]), buffersize=bad)
    for wrong in (True, 1.5, "8"):
        with pytest.raises(TypeError, match="buffersize"):
            shmmap.pmap(abs, iter([1]), buffersize=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="use it with pmap"):
        shmmap.pmap_chunks(abs, np.arange(3), buffersize=3)
