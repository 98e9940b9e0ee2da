"""What every engine gives back: kinds of results, their dtypes, and maps of no, one and many items."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap.testing import (
    Raise,
    wait_until,
)
from tests import functions
from tests.helpers import assert_same


class ResultSuite:
    """Of every engine, as `EngineSuite`."""

    # --- what comes back ----------------------------------------------------------------------------

    def test_result_is_a_shared_array(self, pmap: Any) -> None:
        result = pmap(functions.double, np.arange(10))
        assert type(result) is np.ndarray
        assert shmmap.is_shared(result)
        assert result.flags.writeable
        assert_same(result, np.arange(10) * 2)

    def test_none_everywhere_gives_none(self, pmap: Any, pmap_chunks: Any) -> None:
        assert pmap(functions.nothing, np.arange(10)) is None
        assert pmap_chunks(functions.nothing, np.arange(10)) is None

    @pytest.mark.parametrize("at", [0, 3, 9])
    def test_none_at_some_indices_is_refused(self, pmap: Any, at: int) -> None:
        with pytest.raises(TypeError, match="out=list"):
            pmap(lambda i: None if i == at else i, np.arange(10), chunksize=1)

    @pytest.mark.parametrize("at", [0, 3, 9])
    def test_none_at_most_indices_is_refused(self, pmap: Any, at: int) -> None:
        with pytest.raises(TypeError, match="out=list"):
            pmap(lambda i: i if i == at else None, np.arange(10), chunksize=1)

    def test_objects_that_do_not_stack_are_refused(self, pmap: Any) -> None:
        with pytest.raises(TypeError, match="out=list"):
            pmap(lambda i: {"i": i}, np.arange(10))

    def test_a_tuple_gives_a_tuple_of_arrays(self, pmap: Any) -> None:
        rows = np.arange(12.0).reshape(4, 3)
        result = pmap(lambda row: (row.sum(), row[::-1], len(row)), rows)
        assert_same(result, (rows.sum(axis=1), rows[:, ::-1].copy(), np.full(4, 3)))
        assert all(shmmap.is_shared(part) for part in result)

    def test_a_named_tuple_keeps_its_type(self, pmap: Any, pmap_chunks: Any) -> None:
        rows = np.arange(12.0).reshape(4, 3)
        result = pmap(functions.extremes, rows)
        assert_same(result, functions.MinMax(rows[:, 0].copy(), rows[:, 2].copy()))
        result = pmap_chunks(lambda chunk: functions.MinMax(chunk[:, 0], chunk[:, 2]), rows)
        assert_same(result, functions.MinMax(rows[:, 0].copy(), rows[:, 2].copy()))

    def test_tuples_of_different_lengths_are_refused(self, pmap: Any) -> None:
        with pytest.raises((TypeError, ValueError), match="tuple"):
            pmap(lambda i: (1,) * (1 + (i == 7)), np.arange(10), chunksize=1)

    def test_chunks_of_tuples_are_concatenated(self, pmap_chunks: Any) -> None:
        rows = np.arange(40.0).reshape(10, 4)
        result = pmap_chunks(lambda chunk: (chunk + 1, chunk.sum(axis=1)), rows, chunksize=3)
        assert_same(result, (rows + 1, rows.sum(axis=1)))

    def test_lists_come_back_for_other_sequences(self, pmap: Any) -> None:
        words = ["a", "bc", "", "def"]
        assert pmap(str.upper, words) == ["A", "BC", "", "DEF"]
        assert pmap(len, tuple(words)) == [1, 2, 0, 3]
        assert pmap(functions.double, range(5)) == [0, 2, 4, 6, 8]
        assert pmap(functions.nothing, words) == [None] * 4
        assert pmap(len, []) == []

    def test_out_list_gives_a_list_of_any_objects(self, pmap: Any) -> None:
        result = pmap(lambda i: [i] * int(i), np.arange(5), out=list)
        assert result == [[], [1], [2, 2], [3, 3, 3], [4, 4, 4, 4]]
        result = pmap(lambda i: np.zeros(int(i)), np.arange(5), out=list)
        assert [len(item) for item in result] == [0, 1, 2, 3, 4]
        assert pmap(lambda i: None if i % 2 else i, np.arange(4), out=list) == [0, None, 2, None]

    @pytest.mark.parametrize("at", [(), (0,), (2,), range(4)])
    def test_chunks_of_which_some_give_none(self, pmap_chunks: Any, at: Any) -> None:
        def func(chunk: Any) -> Any:
            return None if chunk[0] // 2 in at else float(chunk.sum())

        expected = [None if k in at else 4.0 * k + 1 for k in range(4)]
        assert pmap_chunks(func, np.arange(8), chunksize=2, out=list) == expected
        future = pmap_chunks(func, np.arange(8), chunksize=2, out=list, wait=False)
        assert [value for _, _, value in future.in_order()] == expected

    def test_out_ndarray_forces_an_array(self, pmap: Any) -> None:
        assert_same(pmap(len, ["a", "bc", ""], out=np.ndarray), np.array([1, 2, 0]))

    def test_large_objects_come_back_whole(self, pmap: Any) -> None:
        result = pmap(lambda i: np.full(200_000, i), [1, 2, 3], chunksize=1)
        assert [int(item.sum()) for item in result] == [200_000, 400_000, 600_000]

    # --- dtypes -------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        "results",
        [
            [1, 2.5, 3],
            [2.5, 1, 3],
            [True, 2, 3.5, 4j],
            [4j, 3.5, 2, True],
            ["a", "abcdef", ""],
            ["abcdef", "a", ""],
            [np.int8(1), np.uint8(200), np.int16(3)],
            [np.float32(1), np.int64(2), np.float16(3)],
            [np.datetime64("2020", "D"), np.datetime64(5, "ns"), np.datetime64("NaT", "s")],
            [b"ab", b"abc", b"a"],
        ],
        ids=str,
    )
    def test_dtype_widens(self, pmap: Any, results: Any) -> None:
        expected = np.stack([np.asarray(result) for result in results])
        assert_same(pmap(results.__getitem__, np.arange(len(results)), chunksize=1), expected)

    @pytest.mark.parametrize("late", [0, 1, 2])
    @pytest.mark.parametrize("results", [[1, 2.5, 3j], [3j, 2.5, 1], ["a", "abc", "ab"]], ids=str)
    def test_dtype_widens_in_any_order_of_completion(
        self, pmap: Any, results: Any, late: int
    ) -> None:
        if self.name == "serial" or not self.shares_memory:
            pytest.skip("the order is fixed, or the gate cannot be seen")
        done = shmmap.zeros(3, bool)

        def func(i: Any) -> Any:
            if i == late:
                wait_until(lambda: done.sum() == 2)
            done[i] = True
            return results[i]

        expected = np.stack([np.asarray(result) for result in results])
        assert_same(pmap(func, np.arange(3), chunksize=1), expected)

    def test_wide_arrays_after_narrow_ones(self, pmap: Any, pmap_chunks: Any) -> None:
        def func(i: Any) -> Any:
            return np.full(3, i, np.int64 if i < 5 else np.float64) / (1 if i < 5 else 4)

        expected = np.stack([func(i) for i in np.arange(10)])
        assert_same(pmap(func, np.arange(10), chunksize=1), expected)

        def chunked(block: Any) -> Any:
            return block if block[0] < 5 else block / 4

        expected = np.concatenate([chunked(block) for block in np.arange(10).reshape(5, 2)])
        assert_same(pmap_chunks(chunked, np.arange(10), chunksize=2), expected)

    def test_dtype_is_obeyed(self, pmap: Any, pmap_chunks: Any) -> None:
        assert_same(pmap(functions.double, np.arange(3), dtype="f4"), np.float32([0, 2, 4]))
        assert_same(pmap_chunks(functions.double, np.arange(3), dtype="f4"), np.float32([0, 2, 4]))

    def test_dtype_that_loses_is_refused(self, pmap: Any) -> None:
        with pytest.raises(TypeError):
            pmap(lambda i: i + 0.5, np.arange(3), dtype=np.int64)

    # --- empty, short, long -------------------------------------------------------------------------

    def test_empty_input(self, pmap: Any, pmap_chunks: Any, preduce: Any) -> None:
        fail = Raise(AssertionError("called for nothing"))
        assert_same(pmap(fail, np.zeros((0, 3))), np.zeros(0))
        assert_same(pmap(fail, np.zeros(0), dtype="i2"), np.zeros(0, "i2"))
        assert_same(pmap_chunks(fail, np.zeros(0)), np.zeros(0))
        assert pmap(fail, np.zeros(0), out=list) == []
        with pytest.raises((TypeError, ValueError), match="initial"):
            preduce(fail, np.zeros(0), combine=np.add)
        assert preduce(fail, np.zeros(0), combine=np.add, initial=7) == 7

    def test_items_of_no_size(self, pmap: Any) -> None:
        assert_same(pmap(np.array, np.zeros((3, 0, 2))), np.zeros((3, 0, 2)))

    def test_one_item(self, pmap: Any, pmap_chunks: Any, preduce: Any) -> None:
        assert_same(pmap(functions.double, np.array([4])), np.array([8]))
        assert_same(pmap_chunks(functions.double, np.array([4])), np.array([8]))
        assert preduce(np.sum, np.array([4])) == 4

    @pytest.mark.parametrize("chunks", [1, 2])
    def test_results_of_megabytes_in_the_last_chunks(self, pmap_chunks: Any, chunks: int) -> None:
        """More than is handed over rather than written in place: their worker waits for the output."""
        a = np.arange(chunks << 18, dtype=float)
        assert_same(pmap_chunks(np.negative, a, chunksize=1 << 18), -a)

    def test_many_chunks(self, pmap: Any) -> None:
        assert_same(pmap(functions.double, np.arange(5000), chunksize=1), np.arange(5000) * 2)

    def test_preduce_with_initial_and_tuples(self, preduce: Any) -> None:
        a = np.arange(100)
        assert preduce(np.sum, a, initial=1000) == 5950
        low_high_sum = preduce(
            lambda chunk: (len(chunk), chunk.sum()), a, chunksize=7, combine=np.add
        )
        assert isinstance(low_high_sum, tuple)
        assert low_high_sum == (100, 4950)

    def test_preduce_of_a_buffer_that_the_function_uses_again(self, preduce: Any) -> None:
        a = np.arange(1000)
        assert preduce(functions.buffered, a, combine=np.add, chunksize=1)[:, -1].tolist() == [
            1000,
            499500,
        ]
        assert preduce(functions.buffered_view, a, combine=np.add, chunksize=1).tolist() == [
            1000,
            499500,
        ]
        low, high = preduce(functions.buffered_pair, a, combine=np.add, chunksize=1)
        assert (low.tolist(), high.tolist()) == ([1000], [499500])
        (both,) = preduce(functions.buffered_list, a, chunksize=1, combine=functions.add_dicts)
        assert (both["low"].tolist(), both["high"].tolist()) == ([1000], [499500])

    @pytest.mark.parametrize("chunksize", ["auto", 2, 7])
    def test_list_of_a_buffer_that_the_function_uses_again(self, pmap: Any, chunksize: Any) -> None:
        a = np.arange(100.0)
        for func in (functions.buffered_view, functools.partial(functions.buffered_view)):
            for inputs in (a[:, None], list(a[:, None])):
                rows = pmap(func, inputs, chunksize=chunksize, out=list)
                assert [row[1] for row in rows] == a.tolist()

    def test_rows_and_blocks_in_a_buffer_that_the_function_uses_again(
        self, pmap: Any, pmap_chunks: Any
    ) -> None:
        a = np.arange(600)
        expected = np.stack([np.ones(600, int), a])
        assert_same(pmap(functions.buffered_view, a[:, None], chunksize=1), expected.T + 0.0)
        assert_same(pmap(functions.buffered_view, a[:, None]), expected.T + 0.0)
        result = pmap_chunks(functions.buffered_view, a, chunksize=2)
        assert_same(result, np.stack([np.full(300, 2.0), a[::2] + a[1::2]], 1).ravel())
