"""`shmmap.current`: a function asks where it is, on every engine."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import shmmap
from shmmap import Context, current
from tests.helpers import run_script

pytestmark = pytest.mark.warm


def is_ours(engine: Any) -> bool:
    """Whether the engine's workers have ranks."""
    return isinstance(engine, str | shmmap.Team)


INPUTS = [
    lambda n: range(n),
    lambda n: [str(i) for i in range(n)],
    lambda n: np.zeros((2, n)).T,
    lambda n: shmmap.zeros((n, 3)),
]


@given(
    n=st.integers(1, 40),
    size=st.sampled_from([1, 2, 7, 100]),
    make=st.sampled_from(INPUTS),
    retries=st.integers(0, 1),
    out=st.sampled_from([list, np.ndarray]),
)
def test_items_know_their_index(
    engine: Any, n: int, size: int, make: Any, retries: int, out: Any
) -> None:
    def func(whole: Any, item: Any, i: Any) -> Any:
        here = current()
        assert here is not None and here.index is not None
        assert here.start <= here.index < here.stop
        return np.array([here.start, here.stop, here.index, here.attempt])

    result = shmmap.pmap(
        func, 5, make(n), range(n), axis=(None, 0, 0), out=out, engine=engine, workers=2,
        chunksize=size, retries=retries,
    )  # fmt: skip
    size = min(size, n)
    expected = [[i // size * size, min(i // size * size + size, n), i, 0] for i in range(n)]
    assert np.array(result).tolist() == expected


@given(n=st.integers(1, 40), size=st.sampled_from([1, 2, 7, 100]))
def test_chunks_know_their_limits(engine: Any, n: int, size: int) -> None:
    def func(chunk: Any) -> Any:
        here = current()
        assert here is not None
        return here.start, here.stop, here.index, here.attempt, len(chunk)

    result = shmmap.pmap_chunks(
        func, np.zeros(n), out=list, engine=engine, workers=2, chunksize=size
    )
    size = min(size, n)
    limits = [(start, min(start + size, n)) for start in range(0, n, size)]
    assert result == [(start, stop, None, 0, stop - start) for start, stop in limits]
    if is_ours(engine):
        shmmap.pmap_ranges(same_limits, n, engine=engine, chunksize=size)


def same_limits(start: int, stop: int) -> None:
    here = current()
    assert here is not None and (here.start, here.stop, here.index) == (start, stop, None)


def test_rows_of_sparse_matrices_know_their_index(engine: Any) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    matrix = sparse.csr_array(np.diag(np.arange(1.0, 8.0)))

    def func(row: Any) -> Any:
        here = current()
        assert here is not None
        return here.index

    options: dict[str, Any] = {"engine": engine, "workers": 2, "chunksize": 3}
    assert shmmap.pmap(func, matrix, out=list, **options) == list(range(7))
    with pytest.raises(TypeError, match="list of depths"):
        shmmap.pmap_chunks(func, matrix, depth=1, **options)


def test_rank(engine: Any) -> None:
    together = threading.Barrier(2) if engine == "threads" else None

    def rank(i: int) -> Any:
        if together is not None:
            together.wait(10)
        here = current()
        assert here is not None
        return here.rank

    ranks = shmmap.pmap(rank, range(2), engine=engine, workers=2, chunksize=1)
    if engine == "threads":
        assert sorted(ranks) == [0, 1]
    elif engine == "serial":
        assert ranks == [0, 0]
    elif is_ours(engine):
        assert set(ranks) <= {0, 1}
    else:
        assert ranks == [None, None]


def test_attempts_are_counted(engine: Any) -> None:
    seen = shmmap.zeros(6, int)

    def item(i: int) -> int:
        here = current()
        assert here is not None
        if i == 3 and here.attempt < 2:
            raise OSError("try again")
        return here.attempt

    def chunk(values: Any) -> Any:
        here = current()
        assert here is not None
        if here.start == 4 and here.attempt < 1:
            raise OSError("try again")
        return np.full(len(values), here.attempt)

    options: dict[str, Any] = {"engine": engine, "workers": 2, "chunksize": 2, "retries": 2}
    assert shmmap.pmap(item, range(6), **options) == [0, 0, 0, 2, 0, 0]
    assert shmmap.pmap_chunks(chunk, seen, **options).tolist() == [0, 0, 0, 0, 1, 1]


@pytest.mark.few(1)
@pytest.mark.parametrize("schedule", ["dynamic", "static"])
def test_the_deaths_of_workers_are_attempts(team: Any, schedule: str) -> None:
    def func(i: int) -> int:
        here = current()
        assert here is not None
        if i in (5, 13) and here.attempt == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return here.attempt

    options: dict[str, Any] = {"engine": team, "chunksize": 2, "schedule": schedule}
    attempts = shmmap.pmap(func, range(20), **options)
    assert attempts[5] == attempts[13] == 1
    assert attempts[0] == 0 and attempts[19] == 0


def test_a_stuck_call_is_an_attempt(team: Any) -> None:
    def func(i: int) -> int:
        here = current()
        assert here is not None
        if i == 2 and here.attempt == 0:
            threading.Event().wait()
        return here.attempt

    attempts = shmmap.pmap(func, range(4), engine=team, chunksize=1, timeout=0.5, retries=1)
    assert attempts == [0, 0, 1, 0]


def test_there_is_nothing_outside(engine: Any) -> None:
    assert current() is None
    shmmap.pmap(lambda i: None, range(3), engine=engine)
    assert current() is None
    if isinstance(engine, shmmap.Team):
        assert engine.submit(current).result() is None


def test_maps_within_maps(engine: Any) -> None:
    def outer(i: int) -> Any:
        before = current()
        inner = shmmap.pmap(lambda j: current(), range(2), engine="serial", chunksize=2)
        assert current() == before
        return inner

    for inner in shmmap.pmap(outer, range(4), engine=engine, workers=2):
        assert inner == [Context(0, 2, 0, 0, 0), Context(0, 2, 1, 0, 0)]


def test_threads_are_outside_and_coroutines_inside(engine: Any) -> None:
    def func(i: int) -> Any:
        seen: list[Any] = []
        thread = threading.Thread(target=lambda: seen.append(current()))
        thread.start()
        thread.join()

        async def ask() -> Any:
            here = current()
            return here and here.index

        return seen, asyncio.run(ask())

    assert shmmap.pmap(func, range(3), engine=engine, workers=1) == [([None], i) for i in range(3)]


def test_a_context_is_frozen() -> None:
    here = Context(0, 1, None, 0, 0)
    with pytest.raises(AttributeError):
        here.start = 3  # type: ignore[misc]


# --- what is kept beside it ---------------------------------------------------------------------

CACHES = """
import functools, os, warnings
import shmmap

warnings.simplefilter("ignore", RuntimeWarning)  # what becomes of `made` is what is looked at

made = []

@functools.lru_cache(maxsize=8, typed=True)
def table(n):
    made.append(n)
    return list(range(n))

@functools.cache
def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

def func(n):
    return sum(table(n)), len(made), fibonacci(n), table.cache_parameters()["maxsize"]

with shmmap.Team(workers=1, start="clean") as team:
    first = shmmap.pmap(func, [5, 5, 6], engine=team)
    again = shmmap.pmap(func, [5, 6, 7], engine=team)
print(first, again, made)
"""


def test_caches_of_a_script_live_as_long_as_its_workers(tmp_path: Any) -> None:
    done = run_script(tmp_path, CACHES)
    assert (done.returncode, done.stderr) == (0, "")
    first = "[(10, 1, 5, 8), (10, 1, 5, 8), (15, 2, 8, 8)]"
    assert (
        done.stdout.split("\n")[0] == f"{first} [(10, 2, 5, 8), (15, 2, 8, 8), (21, 3, 13, 8)] []"
    )
