"""A function with a parameter `out` is told where its result goes; nothing else changes, on no engine."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import shmmap
from tests.helpers import assert_same


def test_a_function_that_asks_is_told(engine: Any) -> None:
    x, out = shmmap.asshared(np.arange(4000.0)), shmmap.empty(4000)
    told = shmmap.zeros(4000, bool)

    def double(chunk: Any, flags: Any, out: Any = None) -> Any:
        flags[...] = out is not None
        return np.multiply(chunk, 2, out=out)

    for target in (None, out):
        told[...] = False
        result = shmmap.pmap_chunks(
            double, x, told, out=target, chunksize=100, engine=engine, workers=2
        )
        assert_same(result, np.arange(4000.0) * 2)
    # Not for the first chunk of each worker; and an executor's workers have no output at all.
    assert told.sum() in ([0] if isinstance(engine, ThreadPoolExecutor) else [3800, 3900])


@pytest.mark.parametrize("target", ["input", "other"])
def test_an_output_that_is_an_input_is_not_written_before_it_is_read(
    engine: Any, target: str
) -> None:
    def centred(chunk: Any, out: Any = None) -> Any:
        if out is None:
            out = np.empty_like(chunk)
        out[...] = 0
        out += chunk
        out -= chunk.mean()
        return out

    if target == "input" and isinstance(engine, ThreadPoolExecutor):
        pytest.skip("refused")
    x = shmmap.asshared(np.arange(4000.0))
    out = x if target == "input" else shmmap.empty(4000)
    blocks = np.arange(4000.0).reshape(40, 100)
    shmmap.pmap_chunks(centred, x, out=out, chunksize=100, engine=engine, workers=2)
    assert_same(out, (blocks - blocks.mean(axis=1, keepdims=True)).ravel())


@pytest.mark.parametrize("private", [False, True])
def test_ufuncs_of_two_inputs(engine: Any, private: bool) -> None:
    make = np.asarray if private else shmmap.asshared
    up, down = np.arange(4000.0), np.arange(4000.0, 0, -1)
    x, y = make(up), make(down)
    out = np.empty(4000) if private else shmmap.empty(4000)
    for _ in range(2):
        out[...] = -1
        shmmap.pmap_chunks(np.arctan2, x, y, out=out, chunksize=100, engine=engine, workers=2)
        assert_same(out, np.arctan2(up, down))


def test_an_output_that_a_function_adds_to_is_its_own(engine: Any) -> None:
    def row_sums(chunk: Any, out: Any = None) -> Any:
        if out is None:
            out = np.zeros(len(chunk))
        for column in chunk.T:
            out += column
        return out

    table = shmmap.asshared(np.arange(12000.0).reshape(4000, 3))
    for _ in range(3):
        out = shmmap.full(4000, 3.0)
        for target in (None, out):
            result = shmmap.pmap_chunks(
                row_sums, table, out=target, chunksize=100, engine=engine, workers=2
            )
            assert_same(result, table.sum(axis=1))
