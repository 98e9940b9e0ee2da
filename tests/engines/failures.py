"""What every engine refuses, and what becomes of the function's exceptions."""

from __future__ import annotations

import functools
import re
import threading
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
)
from tests import functions
from tests.helpers import assert_same, in_time


class FailureSuite:
    """Of every engine, as `EngineSuite`."""

    # --- wrong arguments ----------------------------------------------------------------------------

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

    # --- errors -------------------------------------------------------------------------------------

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
