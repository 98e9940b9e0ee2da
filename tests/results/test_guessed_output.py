"""An output made like that of the call before: no result depends on it.

A call like one before has its output made before it begins. Here one call site gives results of other dtypes,
shapes and kinds every time, and each call gives what the serial engine does.
"""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shmmap

VALUES: list[Any] = [
    None,
    True,
    7,
    -(1 << 40),
    1.5,
    2 - 1j,
    np.float32(0.1),
    np.int8(-3),
    np.uint64(1 << 63),
    np.zeros(3),
    np.arange(3),
    np.ones((2, 2), np.float32),
    np.array(2.0),
    "text",
    np.datetime64("2026-11-30"),
    (1, 2.5),
    (np.zeros(2), 3),
    (1,),
]
N = 12


def _give(which: Any) -> Any:
    return VALUES[int(which)]


def _give_chunk(which: Any) -> Any:
    return np.stack([np.asarray(VALUES[int(each)]) for each in which])


def _outcome(verb: Any, func: Any, which: Any, **options: Any) -> tuple[Any, ...]:
    try:
        result = verb(func, which, **options)
    except (TypeError, ValueError):
        return ("refused",)  # which of two that do not fit is at fault, chance decides
    parts = result if isinstance(result, tuple) else (result,)
    described = [(a.dtype.str, a.shape, a.tobytes()) for a in parts if a is not None]
    return type(result), described


LIKELY = st.sampled_from(range(len(VALUES)))
ALIKE = LIKELY.map(lambda value: [value] * N)
ONE_OTHER = st.tuples(LIKELY, LIKELY, st.integers(0, N - 1)).map(
    lambda drawn: [drawn[0]] * drawn[2] + [drawn[1]] + [drawn[0]] * (N - 1 - drawn[2])
)
MIXED = st.lists(LIKELY, min_size=N, max_size=N)


@settings(deadline=None)
@given(st.lists(ALIKE | ONE_OTHER | MIXED, min_size=2, max_size=6), st.sampled_from([1, 5, "auto"]))
def test_results_are_those_of_the_serial_engine(
    team: shmmap.Team, calls: list[list[int]], chunksize: Any
) -> None:
    for call in calls:
        which = np.array(call)
        expected = _outcome(shmmap.pmap, _give, which, engine="serial", chunksize=chunksize)
        found = _outcome(shmmap.pmap, _give, which, engine=team, chunksize=chunksize)
        assert found == expected, call


@settings(deadline=None)
@given(st.lists(ALIKE | ONE_OTHER, min_size=2, max_size=6))
def test_chunks_are_those_of_the_serial_engine(team: shmmap.Team, calls: list[list[int]]) -> None:
    for call in calls:
        which = np.array(call)
        expected = _outcome(shmmap.pmap_chunks, _give_chunk, which, engine="serial", chunksize=3)
        assert (
            _outcome(shmmap.pmap_chunks, _give_chunk, which, engine=team, chunksize=3) == expected
        )


def _fail_at_zero(value: Any) -> Any:
    if value == 0:
        raise ValueError("zero")
    return np.float32(value)


def test_stand_ins_of_one_call_do_not_widen_the_next(team: shmmap.Team) -> None:
    x = shmmap.asshared(np.arange(8.0))
    for _ in range(3):
        wide = shmmap.pmap(_fail_at_zero, x, engine=team, on_error=lambda *_: np.float64(0.1))
        assert wide.dtype == np.float64 and wide[0] == 0.1
        assert shmmap.pmap(_fail_at_zero, x + 1, engine=team).dtype == np.float32


def test_results_of_calls_alike_are_arrays_of_their_own(team: shmmap.Team) -> None:
    x = shmmap.asshared(np.arange(8.0))
    results = [shmmap.pmap_chunks(np.negative, x, engine=team) for _ in range(4)]
    for a in results:
        a += 1
    assert all(np.array_equal(a, 1 - np.arange(8.0)) for a in results)


@pytest.mark.parametrize("at", [0, 5])
def test_a_worker_that_dies_leaves_a_guessed_output_whole(team: shmmap.Team, at: int) -> None:
    x, calls = shmmap.asshared(np.arange(8.0)), shmmap.zeros(1)

    def die_once(value: Any) -> Any:
        if value == at:
            calls[0] += 1
            if calls[0] == 3:
                os.kill(os.getpid(), signal.SIGKILL)
        return value * 2

    for _ in range(4):
        result = shmmap.pmap(die_once, x, engine=team, chunksize=1)
        assert np.array_equal(result, np.arange(8.0) * 2)
    assert calls[0] == 5
