"""What every engine must do: one suite, subclassed once per engine.

A subclass gives the engine by a fixture and says what it can do by the flags of `EngineSuite`; the
tests themselves are the same everywhere, as the results must be.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import pickle
import random
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap.testing import (
    BadStr,
    CannotUnpickle,
    HugeError,
    Raise,
    UnpicklableError,
    wait_until,
)
from tests import functions
from tests.conftest import open_engine
from tests.helpers import assert_same, in_time

from .stand_ins import StandInSuite


class EngineSuite(StandInSuite):
    """Tests of one engine, given as `name`."""

    name: str
    shares_memory = True
    """Whether the function's writes to a shared array are the caller's too."""
    is_elsewhere = False
    """Whether the function runs in another process."""
    pickles = False
    """Whether the function is pickled on its way to the workers."""
    runs_ranges = True
    """Whether `pmap_ranges` and an ``out`` that is an input are possible."""

    @pytest.fixture
    def engine(self) -> Iterator[Any]:
        """Open what to pass as ``engine=``."""
        with open_engine(self.name) as engine:
            yield engine

    @pytest.fixture
    def pmap(self, engine: Any) -> Any:
        """`shmmap.pmap` on this engine with two workers."""
        return functools.partial(shmmap.pmap, engine=engine, workers=2)

    @pytest.fixture
    def pmap_chunks(self, engine: Any) -> Any:
        """`shmmap.pmap_chunks` on this engine with two workers."""
        return functools.partial(shmmap.pmap_chunks, engine=engine, workers=2)

    @pytest.fixture
    def preduce(self, engine: Any) -> Any:
        """`shmmap.preduce` on this engine with two workers."""
        return functools.partial(shmmap.preduce, engine=engine, workers=2)

    # --- what comes back ------------------------------------------------------------------------

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

    # --- dtypes ---------------------------------------------------------------------------------

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

    # --- empty, short, long ---------------------------------------------------------------------

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

    # --- inputs ---------------------------------------------------------------------------------

    def test_inputs_are_zipped_and_broadcast(self, pmap: Any, pmap_chunks: Any) -> None:
        a, b, c = np.arange(4), np.arange(8.0).reshape(2, 4), np.array([10, 20])
        expected = np.stack([(a[i] + b[:, i]) * c for i in range(4)])
        assert_same(pmap(lambda x, y, z: (x + y) * z, a, b, c, axis=(0, 1, None)), expected)
        result = pmap_chunks(
            lambda x, y, z: x + y + z[:, None], a, b, c, axis=(0, 1, None), out=list
        )
        assert np.concatenate(result, axis=1).tolist() == (a + b + c[:, None]).tolist()

    def test_broadcast_input_may_be_any_object(self, pmap: Any) -> None:
        table = {0: "zero", 1: "one"}
        result = pmap(lambda i, names: names[int(i)], np.arange(2), table, axis=(0, None))
        assert_same(result, np.array(["zero", "one"]))

    def test_lists_and_arrays_are_zipped(self, pmap: Any) -> None:
        result = pmap(lambda x, name: f"{name}{x}", np.arange(3), ["a", "b", "c"])
        assert_same(result, np.array(["a0", "b1", "c2"]))

    def test_options_meant_for_func_go_by_partial(self, pmap: Any) -> None:
        assert_same(
            pmap(functools.partial(np.sum, axis=0), np.ones((3, 2, 4))), np.full((3, 4), 2.0)
        )
        with pytest.raises(TypeError, match=r"functools\.partial"):
            pmap(np.sum, np.ones((3, 2)), keepdims=True)

    def test_memmaps_are_read_and_written_in_place(
        self, pmap: Any, tmp_path: Path, pmap_chunks: Any
    ) -> None:
        np.save(tmp_path / "a.npy", np.arange(20.0).reshape(5, 4))
        np.save(tmp_path / "b.npy", np.zeros((5, 4)))
        a = shmmap.load(tmp_path / "a.npy", "r")
        b = shmmap.load(tmp_path / "b.npy", "r+")
        assert pmap_chunks(functions.double, a, out=b, chunksize=2) is b
        assert_same(np.load(tmp_path / "b.npy"), np.arange(20.0).reshape(5, 4) * 2)
        assert_same(pmap(np.sum, a[::-1, 1:]), np.asarray(a[::-1, 1:]).sum(axis=1))

    # --- writing --------------------------------------------------------------------------------

    def test_writes_to_a_shared_array_land(self, pmap: Any, pmap_chunks: Any) -> None:
        if not self.shares_memory:
            pytest.skip("the workers of another library's executor get values")
        a = shmmap.zeros((6, 3))

        def write(row: Any) -> None:
            row += 1

        assert pmap(write, a) is None
        assert (a == 1).all()
        assert pmap_chunks(write, a.T, axis=1) is None
        assert (a == 2).all()

    def test_captured_shared_array_is_shared(self, pmap: Any) -> None:
        if not self.shares_memory:
            pytest.skip("the workers of another library's executor get values")
        seen = shmmap.zeros(8, int)

        def mark(i: Any) -> None:
            seen[i] = i + 1

        assert pmap(mark, np.arange(8)) is None
        assert seen.tolist() == list(range(1, 9))
        seen[:] = 0
        assert pmap(mark, np.arange(8)) is None
        assert seen.tolist() == list(range(1, 9))

    def test_what_the_caller_writes_between_maps_is_seen(self, pmap: Any) -> None:
        a = shmmap.zeros(4)
        for value in range(3):
            a[:] = value
            assert_same(pmap(functions.double, a), np.full(4, 2.0 * value))

    def test_private_argument_is_read_only(self, pmap: Any, pmap_chunks: Any) -> None:
        a = np.zeros((6, 3))

        def write(row: Any) -> None:
            row += 1

        for verb in (pmap, pmap_chunks):
            with pytest.raises(ValueError, match="read-only"):
                verb(write, a)
        assert (a == 0).all()
        assert a.flags.writeable

    def test_private_arrays_inside_arguments_are_read_only(
        self, pmap: Any, pmap_chunks: Any
    ) -> None:
        def write(a: Any) -> None:
            a[0] = 99

        y = np.zeros(2)
        maps: list[Any] = [
            lambda: pmap(write, [y]),
            lambda: pmap(lambda pair: write(pair[1]), [(0, y)]),
            lambda: pmap_chunks(lambda chunk: write(chunk[0]), [y]),
            lambda: pmap(lambda both, i: write(both["y"]), {"y": y}, range(2), axis=(None, 0)),
        ]
        for run in maps:
            with pytest.raises(ValueError, match="read-only"):
                run()
        assert y.tolist() == [0, 0]
        assert y.flags.writeable

    def test_private_broadcast_argument_is_read_only(self, pmap: Any) -> None:
        table = np.zeros(3)

        def write(i: Any, table: Any) -> None:
            table[0] = i

        with pytest.raises(ValueError, match="read-only"):
            pmap(write, np.arange(3), table, axis=(0, None))
        assert table[0] == 0

    def test_private_captured_array_is_read_only(self, pmap: Any) -> None:
        table = np.zeros(3)

        def write(i: Any) -> None:
            table[0] = 1

        with pytest.raises(ValueError, match="read-only"):
            pmap(write, np.arange(3))
        assert table[0] == 0
        assert table.flags.writeable
        table[0] = 1

    def test_protected_shared_array_is_read_only(self, pmap: Any) -> None:
        a = shmmap.zeros((6, 3))
        a.flags.writeable = False

        def write(row: Any) -> None:
            row += 1

        with pytest.raises(ValueError, match="read-only"):
            pmap(write, a)

    # --- out ------------------------------------------------------------------------------------

    @pytest.mark.parametrize("zeros", [shmmap.zeros, np.zeros])
    def test_out_is_filled_and_returned(self, pmap: Any, pmap_chunks: Any, zeros: Any) -> None:
        a = np.arange(12.0).reshape(4, 3)
        out = zeros((4, 3))
        assert pmap(functions.double, a, out=out) is out
        assert_same(np.asarray(out), a * 2)
        out = zeros((4, 6))[:, ::2]
        assert pmap_chunks(np.negative, a, out=out) is out
        assert_same(np.array(out), -a)

    def test_out_may_be_a_tuple(self, pmap: Any) -> None:
        a = np.arange(12.0).reshape(4, 3)
        out = (shmmap.zeros(4), np.zeros(4, "f4"))
        result = pmap(lambda row: (row.min(), row.max()), a, out=out)
        assert isinstance(result, tuple)
        assert result[0] is out[0] and result[1] is out[1]
        assert_same(out, (a.min(axis=1), a.max(axis=1).astype("f4")))

    def test_out_takes_what_it_is_made_for(self, pmap: Any, pmap_chunks: Any) -> None:
        assert_same(
            np.asarray(pmap(functions.double, np.arange(3.0), out=shmmap.zeros(3, "f4"))),
            np.float32([0, 2, 4]),
        )
        with pytest.raises(TypeError):
            pmap(functions.double, np.arange(3.0), out=shmmap.zeros(3, "i8"))
        one, two = np.zeros(3), (np.zeros(3), np.zeros(3))
        for func, out, what in (
            (lambda v: None, one, "returned None, but out takes an array"),
            (lambda v: (v, v), one, "returned a tuple, but out takes an array"),
            (lambda v: v, two, "returned an array or number, but out takes a tuple"),
            (lambda v: (v,), two, "returned a tuple of 1, but out takes one of 2"),
        ):
            for verb in pmap, pmap_chunks:
                with pytest.raises((TypeError, ValueError), match=what):
                    verb(func, np.arange(3.0), out=out)

    @pytest.mark.parametrize("shape", [(3, 3), (5, 3), (4, 2), (4,), (4, 3, 1)])
    def test_out_of_wrong_shape_is_refused(self, pmap: Any, shape: Any) -> None:
        out = shmmap.full(shape, 7.0)
        with pytest.raises(ValueError, match=r"shape|length|out"):
            pmap(functions.double, np.zeros((4, 3)), out=out)
        assert shape != (5, 3) or (out[4] == 7).all()

    def test_wrong_outs_are_refused(self, pmap: Any) -> None:
        a = np.zeros((4, 3))
        protected = shmmap.zeros((4, 3))
        protected.flags.writeable = False
        for out, error in (
            (protected, ValueError),
            (np.zeros((4, 3), object), TypeError),
            ("text", TypeError),
            (dict, TypeError),
            (np.broadcast_to(shmmap.zeros(3), (4, 3)), ValueError),
            (np.lib.stride_tricks.as_strided(shmmap.zeros(9), (4, 3), (8, 8)), ValueError),
        ):
            with pytest.raises(error, match="out"):
                pmap(functions.double, a, out=out)

    def test_out_that_overlaps_an_input_elsewhere_is_refused(self, pmap: Any) -> None:
        a = shmmap.zeros(11)
        with pytest.raises(ValueError, match="overlap"):
            pmap(functions.double, a[:10], out=a[1:])
        with pytest.raises(ValueError, match="overlap"):
            pmap(functions.double, a[:10], out=a[9::-1])

    def test_outs_that_overlap_each_other_are_refused(self, pmap: Any) -> None:
        a = shmmap.zeros(10)
        with pytest.raises(ValueError, match="overlap"):
            pmap(lambda i: (i, i), np.arange(10.0), out=(a, a))

    def test_in_place(self, pmap: Any, pmap_chunks: Any) -> None:
        a = shmmap.asshared(np.arange(12.0).reshape(4, 3))
        if not self.runs_ranges:
            with pytest.raises((TypeError, ValueError), match="out"):
                pmap_chunks(np.negative, a, out=a)
            return
        assert pmap_chunks(np.negative, a, out=a, chunksize=1) is a
        assert_same(np.asarray(a), -np.arange(12.0).reshape(4, 3))
        assert pmap(np.negative, a, out=a, chunksize=1) is a
        assert_same(np.array(a), np.arange(12.0).reshape(4, 3))

    # --- wrong arguments ------------------------------------------------------------------------

    def test_lengths_that_differ_are_named(self, pmap: Any) -> None:
        with pytest.raises(ValueError, match=r"(?s)4.*5"):
            pmap(lambda x, y: x, np.zeros(4), np.zeros((2, 5)), axis=(0, 1))

    def test_object_dtype_is_refused_with_a_way_out(self, pmap: Any) -> None:
        with pytest.raises(TypeError, match=r"(?s)object.*(list|tolist)"):
            pmap(functions.double, np.array([1, "a", None], object))

    @pytest.mark.parametrize("axis", [2, -3, (0, 1), "x"])
    def test_wrong_axis_is_refused(self, pmap: Any, axis: Any) -> None:
        with pytest.raises((ValueError, TypeError), match="axis"):
            pmap(functions.double, np.zeros((4, 3)), axis=axis)

    def test_no_input_and_no_axis_are_refused(self, pmap: Any) -> None:
        with pytest.raises((ValueError, TypeError)):
            pmap(functions.double)
        with pytest.raises((ValueError, TypeError), match="axis"):
            pmap(functions.double, np.zeros(3), axis=(None,))
        with pytest.raises((ValueError, TypeError)):
            pmap(functions.double, np.array(3))

    @pytest.mark.parametrize(
        "option",
        [
            {"workers": 0},
            {"workers": -2},
            {"workers": 1.5},
            {"chunksize": 0},
            {"chunksize": "many"},
            {"chunksize": -1},
            {"schedule": "guided"},
            {"progress": 3},
        ],
        ids=str,
    )
    def test_wrong_options_are_named(self, engine: Any, option: Any) -> None:
        (name,) = option
        with pytest.raises((TypeError, ValueError), match=name):
            shmmap.pmap(functions.double, np.zeros(3), **{"engine": engine, **option})

    def test_function_that_is_none(self, pmap: Any) -> None:
        with pytest.raises(TypeError, match="call"):
            pmap(None, np.zeros(3))

    # --- functions ------------------------------------------------------------------------------

    def test_lambdas_closures_methods_and_partials(self, pmap: Any) -> None:
        factor = 3

        class Model:
            def __init__(self) -> None:
                self.offset = 5

            def predict(self, i: Any) -> Any:
                return i * factor + self.offset

            def __call__(self, i: Any) -> Any:
                return self.predict(i)

        expected = np.arange(4) * 3 + 5
        assert_same(pmap(lambda i: i * factor + 5, np.arange(4)), expected)
        assert_same(pmap(Model().predict, np.arange(4)), expected)
        assert_same(pmap(Model(), np.arange(4)), expected)
        assert_same(pmap(functools.partial(np.add, 5), np.arange(4)), np.arange(4) + 5)
        assert_same(pmap(np.negative, np.arange(4)), -np.arange(4))

    def test_changed_closures_defaults_and_globals_are_seen(self, pmap: Any) -> None:
        factor = 1

        def func(i: Any, shift: Any = [0]) -> Any:  # noqa: B006
            return i * factor + shift[0]

        assert_same(pmap(func, np.arange(3)), np.arange(3))
        factor = 2
        assert_same(pmap(func, np.arange(3)), np.arange(3) * 2)
        func.__defaults__[0][0] = 10  # type: ignore[index]
        assert_same(pmap(func, np.arange(3)), np.arange(3) * 2 + 10)

    def test_function_that_cannot_be_pickled(self, pmap: Any) -> None:
        lock = threading.Lock()

        def guarded(i: Any) -> Any:
            with lock:
                return i * 2

        if self.pickles:
            with pytest.raises((TypeError, pickle.PicklingError), match=r"guarded|pickle"):
                pmap(guarded, np.arange(3))
        else:
            assert_same(pmap(guarded, np.arange(3)), np.arange(3) * 2)
        assert_same(pmap(functions.double, np.arange(3)), np.arange(3) * 2)

    def test_map_inside_a_map_runs(self, pmap: Any) -> None:
        def inner(i: Any) -> Any:
            return shmmap.pmap(functions.double, np.arange(int(i) + 1)).sum()

        with in_time(20):
            assert_same(pmap(inner, np.arange(5)), np.array([0, 2, 6, 12, 20]))

    # --- errors ---------------------------------------------------------------------------------

    def test_error_keeps_its_type_and_gains_notes(self, pmap: Any) -> None:
        def fail_at_seven(i: Any) -> Any:
            if i == 7:
                raise KeyError("seven")
            return i

        with pytest.raises(KeyError, match="seven") as caught:
            pmap(fail_at_seven, np.arange(10), chunksize=2)
        assert type(caught.value) is KeyError
        assert caught.value.args == ("seven",)
        notes = "\n".join(caught.value.__notes__)
        assert "fail_at_seven" in notes
        assert "[6, 8)" in notes
        assert re.search(r"index\D*7\b", notes)
        if self.is_elsewhere:
            assert "Traceback" in notes
            assert 'raise KeyError("seven")' in notes
            assert re.search(r"pid\D*\d+", notes)

    def test_results_beside_one_that_does_not_pickle_are_not_made_again(
        self, pmap_chunks: Any, tmp_path: Path
    ) -> None:
        if not self.is_elsewhere:
            pytest.skip("results are not pickled here")
        log = tmp_path / "log"

        def note(chunk: Any) -> Any:
            with log.open("a") as file:
                file.write(f"{chunk[0]}\n")
            return threading.Lock() if chunk[0] == 500 else int(chunk[0])

        with pytest.raises(shmmap.MapError) as caught:
            pmap_chunks(note, np.arange(1000), chunksize=1, out=list, on_error="continue")
        assert caught.value.failed == ((500, 501),)
        assert [v for v in caught.value.result if v is not None] == [*range(500), *range(501, 1000)]
        assert sorted(map(int, log.read_text().split())) == list(range(1000))

    def test_error_in_a_chunk_names_its_range(self, pmap_chunks: Any, preduce: Any) -> None:
        for verb in (pmap_chunks, functools.partial(preduce, combine=np.add)):
            with pytest.raises(KeyError) as caught:
                verb(Raise(KeyError("seven"), at=7), np.arange(10), chunksize=3)
            assert "[6, 9)" in "\n".join(caught.value.__notes__)

    def test_lowest_failure_is_raised(self, pmap: Any) -> None:
        def fail(i: Any) -> Any:
            raise ValueError(f"item {int(i)}")

        with pytest.raises(ValueError, match="item 0"):
            pmap(fail, np.arange(100), chunksize=1)

    def test_an_error_stops_the_map(self, pmap: Any) -> None:
        if not self.shares_memory:
            pytest.skip("the workers of another library's executor get values")
        called = shmmap.zeros(10_000, bool)

        def fail(i: Any) -> Any:
            called[i] = True
            if i == 5:
                raise ValueError("five")
            return i

        with pytest.raises(ValueError, match="five"):
            pmap(fail, np.arange(10_000), chunksize=1)
        if self.name == "serial":
            assert called.sum() == 6

    @pytest.mark.parametrize(
        "error",
        [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), StopIteration(1)],
        ids=lambda error: type(error).__name__,
    )
    def test_other_exceptions_are_reported(self, pmap: Any, error: Any) -> None:
        with in_time(), pytest.raises(BaseException) as caught:
            pmap(Raise(error, at=3), np.arange(10))
        assert type(error).__name__ in repr(caught.value) + str(caught.value)
        assert_same(pmap(functions.double, np.arange(3)), np.arange(3) * 2)

    @pytest.mark.parametrize(
        "error",
        [
            functools.partial(UnpicklableError, "odd"),
            functools.partial(CannotUnpickle, "odd", "one"),
            functools.partial(BadStr, "odd"),
        ],
        ids=lambda error: error.func.__name__,
    )
    def test_odd_exceptions_are_reported(self, pmap: Any, error: Any) -> None:
        def fail(i: Any) -> None:
            if i == 3:
                raise error()

        with in_time(), pytest.raises(Exception) as caught:
            pmap(fail, np.arange(10))
        text = repr(caught.value) + "\n".join(getattr(caught.value, "__notes__", ()))
        assert error.func.__name__ in text
        assert re.search(r"index\D*3\b", text)
        assert_same(pmap(functions.double, np.arange(3)), np.arange(3) * 2)

    def test_huge_exception_is_reported(self, pmap: Any) -> None:
        def fail(i: Any) -> None:
            raise HugeError()

        with in_time(10), pytest.raises(Exception) as caught:
            pmap(fail, np.arange(2))
        assert "HugeError" in repr(type(caught.value)) + str(caught.value)[:10_000]

    @pytest.mark.parametrize("given", [False, True])
    def test_item_of_wrong_shape_names_its_index(self, pmap: Any, given: bool) -> None:
        out = shmmap.full((10, 2), -1.0) if given else None
        with pytest.raises(ValueError, match=r"\b7\b"):
            pmap(lambda i: np.zeros(3 if i == 7 else 2), np.arange(10), out=out, chunksize=1)
        assert out is None or (out[7] == -1).all()

    @pytest.mark.parametrize("given", [False, True])
    @pytest.mark.parametrize("shape", [(3, 3), (3,), (2, 4)])
    def test_chunk_of_wrong_shape_names_its_range(
        self, pmap_chunks: Any, given: bool, shape: Any
    ) -> None:
        out = shmmap.full((10, 3), -1.0) if given else None
        with pytest.raises(ValueError, match=r"\b[67]\b"):
            pmap_chunks(
                lambda chunk: np.zeros(shape if 7 in chunk else (2, 3)),
                np.arange(10),
                out=out,
                chunksize=2,
            )
        assert out is None or ((out[6:8] == -1).all() and not (out[8:] > 0).any())

    # --- options --------------------------------------------------------------------------------

    def test_progress_counts_to_the_end(self, pmap: Any) -> None:
        seen: list[tuple[int, int]] = []
        pmap(functions.double, np.arange(10), chunksize=2, progress=lambda *at: seen.append(at))
        assert seen[-1] == (10, 10)
        assert all(total == 10 for _, total in seen)
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)

    def test_config_sets_what_cannot_change_a_result(self, pmap: Any) -> None:
        seen: list[tuple[int, int]] = []
        with shmmap.config(progress=lambda *at: seen.append(at)):
            pmap(functions.double, np.arange(10))
        assert seen[-1] == (10, 10)
        seen.clear()
        pmap(functions.double, np.arange(10))
        assert not seen

    # --- wait=False -----------------------------------------------------------------------------

    def test_future_has_the_result(self, pmap: Any) -> None:
        future = pmap(functions.double, np.arange(10), wait=False)
        assert isinstance(future, shmmap.MapFuture)
        assert isinstance(future, concurrent.futures.Future)
        assert_same(future.result(timeout=20), np.arange(10) * 2)
        assert future.done() and not future.cancelled()
        assert future.exception() is None
        done, total = future.progress()
        assert (done, total) == (10, 10)
        assert concurrent.futures.wait([future]).done == {future}

    def test_future_has_the_error(self, pmap: Any) -> None:
        future = pmap(Raise(KeyError("seven"), at=7), np.arange(10), wait=False)
        assert isinstance(future.exception(timeout=20), KeyError)
        with pytest.raises(KeyError, match="seven"):
            future.result()

    def test_future_can_be_awaited(self, pmap: Any) -> None:
        async def main() -> Any:
            futures = [pmap(functions.double, np.arange(n), wait=False) for n in (3, 5)]
            return [await future for future in futures]

        three, five = asyncio.run(main())
        assert_same(three, np.arange(3) * 2)
        assert_same(five, np.arange(5) * 2)

    def test_chunks_come_as_they_complete(self, pmap: Any, pmap_chunks: Any) -> None:
        for order in ("as_completed", "in_order"):
            future = pmap(functions.double, np.arange(20), chunksize=3, wait=False)
            chunks = list(getattr(future, order)())
            limits = [(int(start), int(stop)) for start, stop, _ in chunks]
            assert sorted(limits) == [(i, min(i + 3, 20)) for i in range(0, 20, 3)]
            assert limits == sorted(limits) or order == "as_completed"
            for start, stop, value in chunks:
                assert np.asarray(value).tolist() == list(range(2 * start, 2 * stop, 2))
            assert_same(future.result(timeout=20), np.arange(20) * 2)
        words = pmap(str.upper, ["a", "b", "c"], chunksize=2, wait=False)
        assert [value for *_, value in words.in_order()] == [["A", "B"], ["C"]]

    def test_iteration_raises_the_error(self, pmap: Any) -> None:
        future = pmap(Raise(KeyError("seven"), at=7), np.arange(10), chunksize=1, wait=False)
        with pytest.raises(KeyError, match="seven"):
            list(future.as_completed())

    def test_maps_on_one_engine_run_in_order_of_submission(self, pmap: Any) -> None:
        futures = [
            pmap(lambda i, k=k: i + k, np.arange(10), chunksize=1, wait=False) for k in range(5)
        ]
        for k, future in enumerate(futures):
            assert_same(future.result(timeout=20), np.arange(10) + k)

    def test_running_map_can_be_cancelled(self, pmap: Any) -> None:
        if self.name == "serial" or not self.shares_memory:
            pytest.skip("the map has run when the future comes back, or cannot see the gate")
        entered = shmmap.zeros(1, int)

        def func(i: Any) -> None:
            entered[0] += 1
            wait_until(lambda: entered[0] < 0, 3)

        future = pmap(func, np.arange(1000), chunksize=1, wait=False)
        wait_until(lambda: entered[0] > 0)
        assert not future.done()
        assert future.cancel()
        entered[0] = -1_000_000
        assert future.cancelled()
        with pytest.raises(concurrent.futures.CancelledError):
            future.result(timeout=20)
        assert_same(pmap(functions.double, np.arange(3)), np.arange(3) * 2)

    def test_cancelled_at_any_moment(self, pmap: Any) -> None:
        """Also just as it ends: it is either done or cancelled, for everybody who waits for it."""
        rng = random.Random(7)
        for _ in range(60):
            future = pmap(functions.double, np.arange(40), chunksize=1, wait=False)
            time.sleep(rng.random() * 3e-3)
            is_cancelled = future.cancel()
            assert concurrent.futures.wait([future], 20).done
            assert future.cancelled() == is_cancelled
            if not is_cancelled:
                assert_same(future.result(), np.arange(40) * 2)

    def test_cancelled_map_leaves_its_successor_alone(self, pmap: Any) -> None:
        if self.name == "serial":
            pytest.skip("the map has run when the future comes back")
        first = pmap(lambda i: i, np.arange(2000), chunksize=1, wait=False)
        second = pmap(functions.double, np.arange(2000), chunksize=1, wait=False)
        first.cancel()
        assert_same(second.result(timeout=20), np.arange(2000) * 2)

    # --- several threads ------------------------------------------------------------------------

    def test_concurrent_maps_from_several_threads(self, pmap: Any) -> None:
        with concurrent.futures.ThreadPoolExecutor(4) as threads:
            futures = [threads.submit(pmap, lambda i, k=k: i * k, np.arange(50)) for k in range(12)]
            for k, future in enumerate(futures):
                assert_same(future.result(timeout=30), np.arange(50) * k)


class RangesSuite(EngineSuite):
    """The suite for engines that run index ranges."""

    @pytest.fixture
    def pmap_ranges(self, engine: Any) -> Any:
        """`shmmap.pmap_ranges` on this engine with two workers."""
        return functools.partial(shmmap.pmap_ranges, engine=engine, workers=2)

    def test_ranges_return_a_list(self, pmap_ranges: Any) -> None:
        assert pmap_ranges(functions.limits, 10, chunksize=4) == [(0, 4), (4, 8), (8, 10)]
        assert pmap_ranges(functions.nothing, 10) is None
        assert not pmap_ranges(functions.limits, 0)

    def test_ranges_fill_a_shared_array(self, pmap_ranges: Any) -> None:
        a = shmmap.zeros(1000)

        def fill(start: int, stop: int) -> None:
            a[start:stop] = np.arange(start, stop)

        assert pmap_ranges(fill, len(a)) is None
        assert_same(np.asarray(a), np.arange(1000.0))

    def test_wrong_extent_is_refused(self, pmap_ranges: Any) -> None:
        for n in (-1, 2.5, "ten"):
            with pytest.raises((TypeError, ValueError)):
                pmap_ranges(functions.limits, n)

    def test_error_in_a_range_names_it(self, pmap_ranges: Any) -> None:
        with pytest.raises(KeyError) as caught:
            pmap_ranges(Raise(KeyError("seven"), at=7), 10, chunksize=3)
        assert "[6, 9)" in "\n".join(caught.value.__notes__)
