"""numba: compiled functions are functions, on every engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from tests.helpers import run_script

numba: Any = pytest.importorskip("numba")

SCALE = 3.0


@numba.njit(nogil=True)
def total(row: Any) -> Any:
    result = 0.0
    for value in row:
        result += value * SCALE
    return result


@numba.njit(nogil=True)
def by_way_of(row: Any) -> Any:
    return total(row) + 1


@numba.vectorize(["float64(float64)"])
def plus_one(x: Any) -> Any:
    return x + 1


@numba.guvectorize(["float64[:], float64[:]"], "(n)->()")
def sums(row: Any, result: Any) -> None:
    result[0] = row.sum()


ROWS = np.random.default_rng(0).normal(size=(200, 30))


@pytest.mark.few(4)
@pytest.mark.parametrize("engine", ["serial", "threads", "processes", "fork"])
def test_compiled_functions(engine: str) -> None:
    rows = shmmap.asshared(ROWS)
    for func in (total, by_way_of, lambda row: total(row) * 2):
        expected = np.stack([func(row) for row in rows])
        np.testing.assert_array_equal(shmmap.pmap(func, rows, engine=engine, workers=2), expected)
    for func in (plus_one, sums):
        np.testing.assert_array_equal(
            shmmap.pmap_chunks(func, rows, engine=engine, workers=2), func(rows)
        )


def test_writing_in_place() -> None:
    rows = shmmap.asshared(ROWS)

    @numba.njit
    def double(block: Any) -> None:
        for i in range(block.shape[0]):
            for j in range(block.shape[1]):
                block[i, j] *= 2

    assert shmmap.pmap_chunks(double, rows, workers=2) is None
    np.testing.assert_array_equal(rows, ROWS * 2)
    with pytest.raises(numba.core.errors.TypingError, match="Cannot modify readonly array"):
        shmmap.pmap_chunks(double, np.array(ROWS), workers=2)


def test_in_a_script(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
        import numba, numpy as np, shmmap

        @numba.njit(parallel=True)
        def total(row):
            result = 0.0
            for i in numba.prange(len(row)):
                result += row[i]
            return result

        print(shmmap.pmap(total, np.ones((4, 3)), workers=2))
        """,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[3. 3. 3. 3.]\n", "")
