"""Values of one type as a column: what NumPy makes of them all, however they are read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmmap._chunks.columns import uniform_column

MANY = 120
INT = np.asarray(0).dtype


def _same(column: Any, expected: Any) -> bool:
    return column.dtype == expected.dtype and column.tobytes() == expected.tobytes()


@given(st.lists(st.floats(), min_size=1, max_size=9))
def test_floats_to_the_last_bit(some: list[float]) -> None:
    values: list[object] = (some * MANY)[:MANY]
    assert _same(uniform_column(values), np.array(values, float))


@given(st.lists(st.integers(-(2**62), 2**62) | st.integers(-9, 9), min_size=1, max_size=9))
def test_ints_small_and_large(some: list[int]) -> None:
    values: list[object] = (some * MANY)[:MANY]
    assert _same(uniform_column(values), np.array(values, INT))


ODD = [1, True, 1.0, 1j, "g" * 8, b"g" * 8, None, np.float64(1), np.float32(1), 2**31, 2**70, [1.0]]


@pytest.mark.parametrize("odd", ODD, ids=repr)
@pytest.mark.parametrize("usual", [0.5, 7], ids=repr)
@pytest.mark.parametrize("at", [1, 50, MANY - 1])
def test_a_value_of_another_type_is_not_taken_for_one_of_them(
    usual: float, odd: object, at: int
) -> None:
    values: list[object] = [usual] * MANY
    values[at] = odd
    column = uniform_column(values)
    if type(odd) is not type(usual):
        assert column is None
    elif odd != 2**70:
        assert _same(column, np.array(values))
    values = [odd] * MANY
    values[at] = usual
    assert (uniform_column(values) is None) == (type(odd) is not type(usual) or odd == 2**70)
