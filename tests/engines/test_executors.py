"""Executors of other libraries: their workers get the chunks' values, and return values."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
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
    pickles = True
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
