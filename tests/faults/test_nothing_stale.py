"""Faults 39 to 47 where other tests leave something open: right answers, and never an old one."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap.testing import wait_until
from tests import functions
from tests.helpers import assert_next_map_works, assert_same, in_time

from .common import run_program


class Test43NarrowThenWide:
    """Narrow results first and wide ones later, in every completion order: NumPy's one answer."""

    RESULTS = (
        (1, 2.5, 3j),
        (True, 2, 3.5),
        (np.int8(1), np.int16(300), np.uint8(200)),
        ("abc", "abcdef", ""),
        (np.float32(1), np.int64(2), np.float64(0.1)),
        (b"x", b"xyz", b"xy"),
    )

    @pytest.mark.parametrize("values", RESULTS, ids=str)
    def test_numbers_and_strings(self, team: Any, values: Any) -> None:
        """Every order of the values, and of the two workers that bring the first and the last."""
        for order in itertools.permutations(range(3)):
            for first in (0, 2):
                done = shmmap.zeros(3, bool)

                def func(i: Any, order: Any = order, first: Any = first, done: Any = done) -> Any:
                    if i in (0, 2) and i != first and not done[first]:
                        wait_until(lambda: done[first])
                    done[i] = True
                    return values[order[i]]

                shares = {"schedule": "static", "workers": 2, "chunksize": 1}
                result = shmmap.pmap(func, np.arange(3), engine=team, **shares)
                expected = np.stack([np.asarray(values[k]) for k in order])
                assert_same(np.array(result), expected)

    @pytest.mark.parametrize("first", [0, 1])
    @pytest.mark.quick
    def test_whoever_is_first(self, team: Any, first: int) -> None:
        """Index 0, from which the output's form is taken, comes first or last."""
        done = shmmap.zeros(2, bool)

        def func(i: Any) -> Any:
            if i != first:
                wait_until(lambda: done[first])
            done[i] = True
            return np.full(3, 1, "i2") if i == 0 else np.full(3, 1e300)

        result = shmmap.pmap(func, np.arange(2), engine=team, workers=2, chunksize=1)
        assert_same(np.array(result), np.array([[1.0] * 3, [1e300] * 3]))

    @pytest.mark.parametrize("first", [0, 1])
    def test_nothing_then_an_array(self, team: Any, first: int) -> None:
        done = shmmap.zeros(2, bool)

        def func(i: Any) -> Any:
            if i != first:
                wait_until(lambda: done[first])
            done[i] = True
            return None if i == 0 else np.zeros(3)

        with in_time(), pytest.raises(TypeError, match="out=list"):
            shmmap.pmap(func, np.arange(2), engine=team, workers=2, chunksize=1)
        assert_next_map_works(team)


class Test45And42Deaths:
    """Results beside deaths: equal to those without, however often a chunk was begun."""

    @pytest.mark.parametrize("workers", [1, 2, 3, 4])
    @pytest.mark.parametrize("schedule", ["dynamic", "static"])
    def test_equal_bytes_after_a_death(self, workers: int, schedule: str) -> None:
        x = shmmap.asshared(np.random.default_rng(0).random((200, 50)))
        died = shmmap.zeros(1, bool)

        def func(chunk: Any) -> Any:
            if not died[0]:
                died[0] = True
                os.kill(os.getpid(), signal.SIGKILL)
            return chunk @ chunk.T[:, :3]

        def fold(chunk: Any) -> Any:
            if not died[0]:
                died[0] = True
                os.kill(os.getpid(), signal.SIGKILL)
            return chunk.sum(axis=0)

        options: dict[str, Any] = {"chunksize": 7}
        died[0] = True
        expected = shmmap.pmap_chunks(func, x, engine="serial", **options)
        total = shmmap.preduce(fold, x, engine="serial", **options)
        with shmmap.Team(workers) as team:
            options |= {"engine": team, "schedule": schedule}
            died[0] = False
            assert_same(np.array(shmmap.pmap_chunks(func, x, **options)), np.array(expected))
            died[0] = False
            assert_same(shmmap.preduce(fold, x, **options), total)

    @pytest.mark.quick
    def test_random_streams_after_a_death(self, team: Any) -> None:
        """``rng=``: a chunk that is run again draws the same numbers."""
        died = shmmap.zeros(1, bool)

        def func(i: Any, rng: Any) -> Any:
            first = rng.random()
            if i == 9 and not died[0]:
                died[0] = True
                os.kill(os.getpid(), signal.SIGKILL)
            return first + rng.random()

        result = shmmap.pmap(func, np.arange(40), engine=team, chunksize=4, rng=5)
        assert died[0]
        expected = shmmap.pmap(func, np.arange(40), engine="serial", chunksize=4, rng=5)
        assert_same(np.array(result), np.array(expected))


class Test41AfterADeath:
    """The replacement of a dead worker knows what its predecessor knew, and nothing older."""

    def test_functions_and_surroundings(self, tmp_path: Path) -> None:
        printed = run_program(
            tmp_path,
            """
            factor = 1
            def scaled(i):
                return factor * i
            for start in ("clean", "fork"):
                with shmmap.Team(workers=2, start=start) as team:
                    for factor in (2, 3):
                        expected = [factor * i for i in range(6)]
                        assert shmmap.pmap(scaled, range(6), engine=team) == expected
                        try:
                            shmmap.pmap_ranges(lambda a, b: os.kill(os.getpid(), 9), 2, engine=team)
                        except shmmap.WorkerDied:
                            pass
                        os.environ["SHMMAP_FAULT"] = str(factor)
                        assert shmmap.pmap(scaled, range(6), engine=team) == expected
                        assert set(shmmap.pmap(lambda i: os.environ["SHMMAP_FAULT"], range(6),
                                               engine=team)) == {str(factor)}
            print("fresh")
            """,
        )
        assert printed == "fresh\n"

    @pytest.mark.quick
    def test_arrays_made_since(self, team: Any) -> None:
        """Arrays that its predecessor had attached, and those it never saw."""
        old = shmmap.asshared(np.arange(1000))
        assert shmmap.preduce(np.sum, old, engine=team) == 499500
        for i in range(3):
            with pytest.raises(shmmap.WorkerDied):
                shmmap.pmap_ranges(_die, 2, engine=team, chunksize=1)
            new = shmmap.full(1000, i)
            assert shmmap.pmap(lambda k, a=old, b=new: int((a + b).sum()), [0], engine=team) == [
                499500 + 1000 * i
            ]


@pytest.mark.quick
class Test46Recycling:
    """Memory a worker may still be writing is never another array's."""

    def test_stopped_worker_that_is_killed_late(self, team: Any) -> None:
        """It has begun to write when its map is given up; what it writes lands nowhere else."""
        entered = shmmap.zeros(2, bool)
        go_on = shmmap.zeros(1, bool)

        def write(i: Any, a: Any = None) -> None:
            entered[i] = True
            wait_until(lambda: go_on[0], 20)
            held[0][:] = 7

        held = [shmmap.zeros(1000)]
        future = shmmap.pmap(write, np.arange(2), engine=team, chunksize=1, wait=False)
        wait_until(entered.all)
        future.cancel()
        held.clear()
        del write
        fresh = [shmmap.zeros(1000) for _ in range(50)]
        go_on[0] = True
        assert_next_map_works(team)
        assert not any(a.any() for a in fresh)


@pytest.mark.quick
def test_47_private_array_is_read_only_after_a_death(team: Any) -> None:
    private = np.zeros(10)

    def func(i: Any) -> None:
        private[0] = 1

    for _ in range(2):
        with pytest.raises(ValueError, match="read-only"):
            shmmap.pmap(func, range(4), engine=team)
        with pytest.raises(shmmap.WorkerDied):
            shmmap.pmap_ranges(_die, 2, engine=team, chunksize=1)
    assert not private.any() and private.flags.writeable


@pytest.mark.quick
def test_44_replacements_draw_other_random_numbers(team: Any) -> None:
    """Each worker forked from the template is seeded afresh, replacements included."""
    seen: list[float] = []
    for _ in range(3):
        both = shmmap.zeros(2, bool)

        def func(i: Any, both: Any = both) -> Any:
            both[i] = True
            wait_until(both.all)
            return np.random.random()

        seen += shmmap.pmap(func, range(2), engine=team, workers=2, chunksize=1)
        with pytest.raises(shmmap.WorkerDied):
            shmmap.pmap_ranges(_die, 2, engine=team, chunksize=1)
    assert len(set(seen)) == len(seen)


def _die(start: int, stop: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.quick
def test_40_class_of_main_after_a_death(tmp_path: Path) -> None:
    printed = run_program(
        tmp_path,
        """
        import dataclasses
        @dataclasses.dataclass
        class Point:
            x: int
        own = Point
        with shmmap.Team(workers=2) as team:
            for _ in range(2):
                got = shmmap.pmap(lambda i: Point(i), range(4), engine=team)
                assert [type(p) for p in got] == [own] * 4 and Point is own
                try:
                    shmmap.pmap_ranges(lambda a, b: os.kill(os.getpid(), 9), 2, engine=team)
                except shmmap.WorkerDied:
                    pass
        print("own")
        """,
    )
    assert printed == "own\n"


def test_results_of_functions_by_name(team: Any) -> None:
    """41: the same function, again and again, on changing arrays."""
    a = shmmap.zeros(100)
    for i in range(20):
        a[:] = i
        assert_same(np.array(shmmap.pmap(functions.double, a, engine=team)), np.full(100, 2.0 * i))
