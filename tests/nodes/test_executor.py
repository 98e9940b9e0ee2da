"""`Nodes(executor)`: any executor whose workers are nodes."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import shmmap
from tests import functions
from tests.engines.suite import EngineSuite
from tests.helpers import assert_same

pytestmark = pytest.mark.unguarded("the executor's workers outlive each test")


@pytest.fixture(scope="module")
def executor() -> Iterator[Any]:
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor:
        yield executor


@pytest.mark.slow
class TestNodes(EngineSuite):
    """Two processes, each of which keeps a team."""

    name = "nodes"
    shares_memory = False
    is_elsewhere = True
    pickles = True
    runs_ranges = False

    @pytest.fixture
    def engine(self, executor: Any) -> Iterator[Any]:
        yield shmmap.Nodes(executor)


def test_nodes_give_what_one_machine_gives(executor: Any) -> None:
    x = np.random.default_rng(0).random((300, 3))
    engine = shmmap.Nodes(executor)
    assert_same(shmmap.pmap(np.sum, x, engine=engine), shmmap.pmap(np.sum, x, engine="serial"))
    assert_same(
        shmmap.preduce(np.sum, x, chunksize=7, engine=engine),
        shmmap.preduce(np.sum, x, chunksize=7, engine="serial"),
    )
    assert shmmap.pmap(str, list(range(50)), engine=engine) == list(map(str, range(50)))


def test_an_executor_that_breaks_is_an_error_with_the_ranges() -> None:
    context = multiprocessing.get_context("spawn")

    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        engine = shmmap.Nodes(executor)
        assert_same(shmmap.pmap(functions.double, np.arange(9), engine=engine), np.arange(9) * 2)
        node = executor.submit(os.getpid).result()

        def kill(i: Any) -> Any:
            if i == 30:
                os.kill(node, 9)
            return i

        with pytest.raises(shmmap.WorkerDied, match="the executor is broken") as caught:
            shmmap.pmap(kill, np.arange(40), engine=engine, chunksize=1)
    assert any(start <= 30 < stop for start, stop in caught.value.failed)


def test_what_is_no_executor_is_refused() -> None:
    with pytest.raises(TypeError, match="Nodes takes an Executor, not 'here'"):
        shmmap.Nodes("here")  # type: ignore[arg-type]

    class Mute(concurrent.futures.Executor):
        pass

    with pytest.raises(TypeError, match=r"Nodes\(executor, nodes=...\)"):
        shmmap.Nodes(Mute())
    with pytest.raises(ValueError, match="nodes"):
        shmmap.Nodes(Mute(), nodes=0)
