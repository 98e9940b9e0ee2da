"""What every engine must do: one suite, subclassed once per engine.

A subclass gives the engine by a fixture and says what it can do by the flags of `EngineSuite`; the
tests themselves are the same everywhere, as the results must be.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import random
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap.testing import (
    Raise,
    wait_until,
)
from tests import functions
from tests.conftest import open_engine
from tests.helpers import assert_same

from .failures import FailureSuite
from .inputs import InputSuite
from .results import ResultSuite
from .stand_ins import StandInSuite


class EngineSuite(ResultSuite, InputSuite, FailureSuite, StandInSuite):
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

    # --- options ------------------------------------------------------------------------------------

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

    # --- wait=False ---------------------------------------------------------------------------------

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

    # --- several threads ----------------------------------------------------------------------------

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
