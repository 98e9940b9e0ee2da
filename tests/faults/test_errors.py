"""Faults 9 to 13: the function raises, or returns what does not fit."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap.testing import (
    BadStr,
    CannotUnpickle,
    Raise,
    UnpicklableError,
    wait_until,
)
from tests.helpers import (
    assert_next_map_works,
    in_time,
)

N = 16


class Test9Error:
    """An ordinary exception stops the map soon."""

    def test_running_chunks_below_get_a_chance(self, team: Any) -> None:
        """The lower index fails later, and is the one to be raised."""
        failed = shmmap.zeros(1, bool)

        def func(i: Any) -> None:
            if i == 0:
                wait_until(lambda: failed[0])
                time.sleep(0.05)  # by now the failure of item 1 has been reported
                raise KeyError("item 0")
            failed[0] = True
            raise ValueError("item 1")

        with in_time(), pytest.raises(KeyError, match="item 0"):
            shmmap.pmap(func, np.arange(2), engine=team, chunksize=1)
        assert_next_map_works(team)

    def test_few_further_chunks_start(self, team: Any) -> None:
        """At most one further chunk per worker, but for those under way."""
        raised = shmmap.zeros(1, bool)
        later = shmmap.zeros(10_000, bool)

        def func(i: Any) -> None:
            if raised[0]:
                later[i] = True
                time.sleep(0.01)
            if i == 20:
                raised[0] = True
                raise ValueError("twenty")

        with in_time(), pytest.raises(ValueError, match="twenty"):
            shmmap.pmap(func, np.arange(10_000), engine=team, chunksize=1)
        assert later.sum() <= 20
        assert_next_map_works(team)

    def test_chunk_below_that_never_ends_is_not_waited_for(self, team: Any) -> None:
        entered = shmmap.zeros(2, bool)

        def func(i: Any) -> None:
            entered[i] = True
            wait_until(entered.all)
            if i == 0:
                wait_until(lambda: False, 30)
            raise ValueError("item 1")

        with in_time(), pytest.raises(ValueError, match="item 1"):
            shmmap.pmap(func, np.arange(2), engine=team, chunksize=1)
        assert_next_map_works(team)

    def test_notes_name_the_worker(self, team: Any) -> None:
        pids = shmmap.zeros(1, int)

        def func(i: Any) -> None:
            pids[0] = os.getpid()
            raise ValueError("on purpose")

        with pytest.raises(ValueError, match="on purpose") as caught:
            shmmap.pmap(func, np.arange(1), engine=team)
        notes = "\n".join(caught.value.__notes__)
        assert str(pids[0]) in notes
        assert "raise ValueError" in notes, "the remote traceback"
        assert "func" in notes


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["pmap", "pmap_chunks", "pmap_ranges", "preduce"])
@pytest.mark.parametrize("rows", [False, True])
def test_9_index_and_range_are_exact(engine: Any, verb: str, rows: bool) -> None:
    """Whatever the function returns before: numbers, rows, or nothing at all."""
    if verb == "pmap_ranges" and (isinstance(engine, str) is False and not _is_team(engine)):
        pytest.skip("an Executor's workers have no shared memory")

    def func(*args: Any) -> Any:
        at = args[0]
        if verb == "pmap_ranges":
            if args[0] <= 11 < args[1]:
                raise KeyError("eleven")
            return None
        if np.any(np.asarray(at) == 11):
            raise KeyError("eleven")
        if verb == "preduce":
            return at.sum()
        return np.stack([at, at], axis=-1) if rows else at

    data = N if verb == "pmap_ranges" else np.arange(N)
    options: dict[str, Any] = {"combine": np.add} if verb == "preduce" else {}
    with in_time(), pytest.raises(KeyError, match="eleven") as caught:
        getattr(shmmap, verb)(func, data, engine=engine, chunksize=4, **options)
    notes = "\n".join(caught.value.__notes__)
    assert "[8, 12)" in notes
    if verb == "pmap":
        assert "index 11 " in notes


def _is_team(engine: Any) -> bool:
    return isinstance(engine, shmmap.Team)


@pytest.mark.parametrize("at", [0, 1, 6, 7])
def test_9_index_is_exact_where_nothing_is_returned(engine: Any, at: int) -> None:
    def func(i: Any) -> None:
        if i == at:
            raise KeyError("on purpose")

    with pytest.raises(KeyError) as caught:
        shmmap.pmap(func, np.arange(8), engine=engine, chunksize=8)
    assert f"index {at} " in "\n".join(caught.value.__notes__)


@pytest.mark.parametrize(
    "make", [UnpicklableError, lambda: CannotUnpickle("a", "b"), BadStr], ids=["a", "b", "c"]
)
def test_10_stand_in_inside_a_map_error(team: Any, make: Any) -> None:
    """Errors that do not travel keep name and text in a `MapError` as well."""

    def func(i: Any) -> Any:
        if i == 5:
            raise make()
        return i

    with in_time(), pytest.raises(shmmap.MapError) as caught:
        shmmap.pmap(func, np.arange(N), engine=team, chunksize=1, on_error="continue")
    assert caught.value.failed == ((5, 6),)
    (inner,) = caught.value.exceptions
    assert type(make()).__name__ in repr(inner)
    assert_next_map_works(team)


class SlowToTell(Exception):
    """Takes longer to be put into words than others get to finish after a failure."""

    def __str__(self) -> str:
        time.sleep(1.3)
        return "slow"


@pytest.mark.parametrize("options", [{}, {"progress": lambda done, total: None}])
def test_10_a_failure_that_takes_long_to_tell(team: Any, options: Any) -> None:
    def func(i: Any) -> Any:
        if i == 3:
            raise SlowToTell
        return i

    with in_time(10), pytest.raises(SlowToTell):
        shmmap.pmap(func, np.arange(8), engine=team, chunksize=1, **options)
    assert_next_map_works(team)


@pytest.mark.slow
@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), BaseException("base")], ids=repr
)
@pytest.mark.parametrize("verb", ["pmap", "pmap_chunks", "pmap_ranges", "preduce"])
def test_11_base_exceptions_in_every_verb(team: Any, verb: str, error: BaseException) -> None:
    data = N if verb == "pmap_ranges" else np.arange(N)
    with in_time(), pytest.raises(Exception, match=type(error).__name__):
        options: dict[str, Any] = {"combine": np.add} if verb == "preduce" else {}
        getattr(shmmap, verb)(Raise(error, at=5), data, engine=team, chunksize=2, **options)
    assert_next_map_works(team)


@pytest.mark.slow
def test_12_others_are_counted(team: Any) -> None:
    """Two fail at the same time: the lower one is raised, and says that it was not alone."""
    met = shmmap.zeros(2, bool)

    def func(i: Any) -> None:
        met[i] = True
        wait_until(met.all)
        raise ValueError(f"item {int(i)}")

    with in_time(), pytest.raises(ValueError, match="item 0") as caught:
        shmmap.pmap(func, np.arange(2), engine=team, workers=2, chunksize=1)
    assert "1 other" in "\n".join(caught.value.__notes__)


class Test12SeveralAtOnce:
    """Several workers fail together: one error, the lowest."""

    @pytest.fixture
    def engine(self, process_engine: Any) -> Any:
        """Wherever processes do the work."""
        return process_engine

    def test_lowest_of_two(self, engine: Any) -> None:
        met = shmmap.zeros(2, bool)

        def func(i: Any) -> None:
            met[i] = True
            wait_until(met.all)
            raise ValueError(f"item {int(i)}")

        with in_time(), pytest.raises(ValueError, match="item 0"):
            shmmap.pmap(func, np.arange(2), engine=engine, workers=2, chunksize=1)
        assert_next_map_works(engine)

    def test_error_beside_a_death(self, engine: Any) -> None:
        met = shmmap.zeros(2, bool)

        def func(i: Any) -> None:
            met[i] = True
            wait_until(met.all)
            if i == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("item 1")

        with in_time(), pytest.raises((ValueError, shmmap.WorkerDied)):
            shmmap.pmap(func, np.arange(2), engine=engine, workers=2, chunksize=1)
        assert_next_map_works(engine)


@pytest.mark.parametrize("shape", [(3,), (2, 2), ()])
def test_13_no_neighbour_is_overwritten(engine: Any, shape: tuple[int, ...]) -> None:
    """A result too wide for its row of `out` is refused whole."""
    out = shmmap.full((N, 2), -1.0)

    def func(i: Any) -> Any:
        return np.full(shape if i == 5 else (2,), float(i))

    with in_time(), pytest.raises(Exception, match="shape") as caught:
        shmmap.pmap(func, np.arange(N), out=out, engine=engine, chunksize=4)
    assert "index 5 " in "\n".join(caught.value.__notes__)
    for i in range(N):
        assert out[i].tolist() in ([-1.0, -1.0], [float(i), float(i)])
    assert out[5].tolist() == [-1.0, -1.0]
