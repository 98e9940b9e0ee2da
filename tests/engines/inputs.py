"""What every engine takes: inputs, ``out=`` and functions, and whose writes are seen."""

from __future__ import annotations

import functools
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from tests import functions
from tests.helpers import assert_same, in_time


class InputSuite:
    """Of every engine, as `EngineSuite`."""

    # --- inputs -------------------------------------------------------------------------------------

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

    # --- writing ------------------------------------------------------------------------------------

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

    # --- out ----------------------------------------------------------------------------------------

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

    # --- functions ----------------------------------------------------------------------------------

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
