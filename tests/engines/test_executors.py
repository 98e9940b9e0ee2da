"""Executors of other libraries: their workers get the chunks' values, and return values."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
from typing import Any

import numpy as np
import pytest

import shmmap
from tests import functions
from tests.helpers import assert_same

from .suite import EngineSuite


class TestThreadPoolExecutor(EngineSuite):
    """The executor of threads of the standard library."""

    name = "executor"
    shares_memory = False
    runs_ranges = False

    def test_ranges_are_refused(self, engine: Any) -> None:
        with pytest.raises((TypeError, ValueError), match=r"range"):
            shmmap.pmap_ranges(functions.limits, 10, engine=engine)


def test_process_pool_executor() -> None:
    a = np.arange(60.0).reshape(20, 3)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor:
        assert_same(shmmap.pmap(np.sum, a, engine=executor), a.sum(axis=1))
        assert_same(
            shmmap.pmap_chunks(functions.double, shmmap.asshared(a), engine=executor, chunksize=6),
            a * 2,
        )
        assert shmmap.preduce(np.sum, a, engine=executor) == shmmap.preduce(
            np.sum, a, engine="serial"
        )
        assert_same(shmmap.pmap(lambda row: row[0], a, engine=executor), a[:, 0].copy())


def _exits_at_7(i: Any) -> Any:
    if i == 7:
        raise SystemExit(3)
    return i


def test_an_item_that_exits_is_named() -> None:
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        with pytest.raises(shmmap.RemoteError, match="SystemExit") as caught:
            shmmap.pmap(_exits_at_7, np.arange(10), engine=executor, chunksize=5)
    assert "index 7 " in "\n".join(caught.value.__notes__)


def _dies_at_3(i: Any) -> Any:
    if i == 3:
        os._exit(1)
    return i


def test_a_broken_pool_is_a_failure_like_others() -> None:
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor:
        with pytest.raises(shmmap.MapError) as caught:
            shmmap.pmap(
                _dies_at_3, np.arange(40), engine=executor, chunksize=1, on_error="continue"
            )
    assert any(start <= 3 < stop for start, stop in caught.value.failed)
    kinds = {type(each) for each in caught.value.exceptions}
    assert kinds == {concurrent.futures.process.BrokenProcessPool}
