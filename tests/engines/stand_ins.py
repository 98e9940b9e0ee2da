"""What `on_error` returns in the place of results: the same tests for every engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import shmmap
from tests.helpers import assert_same


def fails_at_7(i: Any) -> int:
    """The index, or a failure."""
    if i == 7:
        raise ValueError("seven")
    return int(i)


def _narrow(i: Any) -> Any:
    return np.uint8(fails_at_7(i))


class StandInSuite:
    """Of every engine, as `EngineSuite`."""

    @pytest.mark.parametrize("value", [0.5, np.nan, -1, 2 + 1j, np.float32(3)])
    def test_it_decides_about_the_dtype_as_a_result_does(self, pmap: Any, value: Any) -> None:
        def same(i: Any) -> Any:
            return value if i == 7 else int(i)

        expected = pmap(same, np.arange(20))
        assert_same(pmap(fails_at_7, np.arange(20), on_error=lambda *_: value), expected)

    def test_text_among_numbers_is_refused_as_a_result_is(self, pmap: Any) -> None:
        with pytest.raises(TypeError, match="out=list"):
            pmap(fails_at_7, np.arange(20), on_error=lambda *_: "failed")

    @pytest.mark.parametrize(
        ("dtype", "value", "expected"),
        [
            ("i4", 0, "i4"),
            ("f4", np.nan, "f4"),
            ("u1", 300, "i8"),
            ("u1", 0.5, "f8"),
            ("?", -1, "i8"),
        ],
    )
    def test_numbers_of_pythons_are_as_beside_arrays(
        self, pmap_chunks: Any, dtype: str, value: Any, expected: str
    ) -> None:
        def func(chunk: Any) -> Any:
            fails_at_7(chunk[0])
            return chunk.astype(dtype)

        result = pmap_chunks(func, np.arange(9), chunksize=1, on_error=lambda *_: value)
        assert_same(
            result,
            np.array([*np.arange(7).astype(dtype), value, 1], expected)
            if dtype == "?"
            else np.array([*range(7), value, 8], expected),
        )

    def test_several_of_different_dtypes(self, pmap: Any) -> None:
        def func(i: Any) -> bool:
            return bool(10 / (i % 5))  # fails for each fifth

        def stand_in(exc: Exception, start: int, stop: int) -> Any:
            return start if start < 10 else start / 2

        result = pmap(func, np.arange(20), on_error=stand_in)
        expected = np.ones(20)
        expected[::5] = 0, 5, 5, 7.5
        assert_same(result, expected)

    def test_none_is_a_blank(self, pmap: Any) -> None:
        result = pmap(fails_at_7, np.arange(10), on_error=lambda *_: None)
        assert_same(result, np.array([*range(7), 0, 8, 9]))
        result = pmap(lambda i: fails_at_7(i) / 1, np.arange(10), on_error=lambda *_: None)
        assert_same(result, np.array([*range(7), np.nan, 8, 9]))

    def test_for_a_function_that_returns_nothing(self, pmap: Any) -> None:
        def func(i: Any) -> None:
            fails_at_7(i)

        assert pmap(func, np.arange(20), chunksize=1, on_error=lambda *_: None) is None
        with pytest.raises(TypeError, match="None at other indices"):
            pmap(func, np.arange(20), chunksize=1, on_error=lambda *_: -1)

    def test_along_another_axis(self, pmap_chunks: Any) -> None:
        a = np.arange(50.0).reshape(5, 10)

        def func(chunk: Any) -> Any:
            if (chunk == 7).any():
                raise ValueError
            return chunk

        for value in (np.arange(25.0).reshape(5, 5), np.arange(5.0), 3.0):
            result = pmap_chunks(func, a, axis=1, chunksize=5, on_error=lambda *_, v=value: v)
            expected = a.copy()
            expected[:, 5:] = value
            assert_same(result, expected)

    def test_numbers_alone_along_an_axis(self, pmap_chunks: Any) -> None:
        def func(chunk: Any) -> Any:
            raise ValueError

        for axis in (0, 1, -1):
            result = pmap_chunks(func, np.zeros((4, 4)), axis=axis, on_error=lambda *_: -1)
            assert_same(result, np.full(4, -1))

    def test_numbers_for_a_narrow_output(self, pmap: Any) -> None:
        """As NumPy assigns numbers of Python's: 0 fits, -1 does not."""
        for options in ({"dtype": "u1"}, {"out": np.zeros(10, "u1")}):
            result = pmap(_narrow, np.arange(10), on_error=lambda *_: 0, **options)
            assert_same(np.asarray(result), np.uint8([*range(7), 0, 8, 9]))
            with pytest.raises(TypeError, match="cannot be cast"):
                pmap(_narrow, np.arange(10), on_error=lambda *_: -1, **options)

    def test_tuples(self, pmap: Any) -> None:
        def func(i: Any) -> tuple[Any, Any]:
            return fails_at_7(i), i / 2

        low, high = pmap(func, np.arange(9), on_error=lambda *_: (-1, -2.5))
        assert_same(low, np.array([*range(7), -1, 8]))
        assert_same(high, np.array([*(np.arange(7) / 2), -2.5, 4]))
        low, high = pmap(func, np.arange(9), on_error=lambda *_: 0)
        assert (low[7], high[7]) == (0, 0)

    @pytest.mark.parametrize(
        ("value", "error"),
        [((1, 2), TypeError), (np.ones(3), ValueError), (object(), TypeError), ({}, TypeError)],
    )
    def test_nonsense_is_told_with_its_index(self, pmap: Any, value: Any, error: Any) -> None:
        with pytest.raises(error) as caught:
            pmap(fails_at_7, np.arange(20), on_error=lambda *_: value)
        assert any("indices [7, 8)" in note for note in caught.value.__notes__)

    def test_a_declared_dtype_is_kept(self, pmap: Any) -> None:
        result = pmap(fails_at_7, np.arange(9), dtype="f4", on_error=lambda *_: np.nan)
        assert_same(result, np.array([*range(7), np.nan, 8], "f4"))
        for given in ({"dtype": "i8"}, {"out": np.zeros(9, "i8")}, {"out": shmmap.zeros(9, "i8")}):
            with pytest.raises(TypeError, match="same_kind"):
                pmap(fails_at_7, np.arange(9), on_error=lambda *_: 0.5, **given)

    @pytest.mark.parametrize("chunksize", [1, 4])
    def test_an_output_keeps_what_it_has_for_what_failed(self, pmap: Any, chunksize: int) -> None:
        freed = shmmap.full(20, 1234.5)
        del freed
        for make in (np.full, shmmap.full):
            out = make(20, 5.0)
            with pytest.raises(shmmap.MapError) as caught:
                pmap(fails_at_7, np.arange(20), chunksize=chunksize, out=out, on_error="continue")
            assert_same(out, np.array([*range(7), 5.0, *range(8, 20)]))
            assert caught.value.result is out

    @pytest.mark.parametrize("other", [None, (1, 2), np.zeros(3), 1j], ids=repr)
    @pytest.mark.parametrize("at", [5, 7])
    def test_result_that_does_not_fit_costs_its_chunk(self, pmap: Any, other: Any, at: int) -> None:
        """What was not stored is named as failed, and the map comes to an end."""

        def misfit(i: Any) -> Any:
            return other if i == at else float(i)

        out = shmmap.full(10, -1.0)
        with pytest.raises(shmmap.MapError) as caught:
            pmap(misfit, np.arange(10), out=out, chunksize=5, on_error="continue")
        assert caught.value.failed == ((5, 10),)
        assert_same(out[:5], np.arange(5.0))
