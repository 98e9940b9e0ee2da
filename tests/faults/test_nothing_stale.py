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

    @pytest.mark.slow
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

    @pytest.mark.slow
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

    @pytest.mark.slow
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
        total = shmmap.preduce(fold, x, combine=np.add, engine="serial", **options)
        with shmmap.Team(workers) as team:
            options |= {"engine": team, "schedule": schedule}
            died[0] = False
            assert_same(np.array(shmmap.pmap_chunks(func, x, **options)), np.array(expected))
            died[0] = False
            assert_same(shmmap.preduce(fold, x, combine=np.add, **options), total)

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

    @pytest.mark.slow
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

    @pytest.mark.slow
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


@pytest.mark.slow
def test_41_results_of_functions_by_name(team: Any) -> None:
    """The same function, again and again, on changing arrays."""
    a = shmmap.zeros(100)
    for i in range(20):
        a[:] = i
        assert_same(np.array(shmmap.pmap(functions.double, a, engine=team)), np.full(100, 2.0 * i))


@pytest.mark.slow
def test_41_globals_that_items_brought_along(team: Any, tmp_path: Path) -> None:
    """What the pickle of an item writes into ``__main__`` there is not what a kept function reads."""
    printed = run_program(
        tmp_path,
        """
        import operator
        G = 1
        def f(x):
            return x * G
        def g():
            return G
        with shmmap.Team(workers=2) as team:
            seen = []
            seen += shmmap.pmap(f, [1, 1], engine=team)
            G = 2
            seen += shmmap.pmap(operator.call, [g, g], engine=team)
            G = 1
            seen += shmmap.pmap(f, [1, 1], engine=team)
        print(seen)
        """,
    )
    assert printed == "[1, 1, 2, 2, 1, 1]\n"


@pytest.mark.slow
def test_41_a_helper_that_is_a_default(tmp_path: Path) -> None:
    """And one in a tuple, and in a partial: what they read is seen to change, too."""
    printed = run_program(
        tmp_path,
        """
        import functools
        G = 1
        def f(x):
            return x * G
        def by_default(x, f=f):
            return f(x)
        FUNCS = (f,)
        def by_tuple(x):
            return FUNCS[0](x)
        def apply(f, x):
            return f(x)
        for G in (1, 2, 3):
            for func in (by_default, by_tuple, functools.partial(apply, f)):
                print(*shmmap.pmap(func, [1, 10]), end=" ")
        """,
    )
    assert printed.split() == [str(x * G) for G in (1, 2, 3) for _ in range(3) for x in (1, 10)]


@pytest.mark.slow
def test_41_a_function_that_does_not_load_poisons_nothing(team: Any) -> None:
    """The same call fails in the same way again, and others over the same arrays work."""
    x, func = shmmap.asshared(np.arange(4.0)), Unloadable()
    for _ in range(3):
        with in_time(), pytest.raises(ModuleNotFoundError, match="gone"):
            shmmap.pmap(func, x, engine=team)
        assert_same(shmmap.pmap(np.sqrt, x, engine=team), np.sqrt(x))
        assert_same(shmmap.pmap(lambda i: i + 1, x, engine=team), x + 1)
    assert_next_map_works(team)


class Unloadable:
    """A function that cannot be unpickled."""

    def __call__(self, x: Any) -> Any:
        return x

    def __reduce__(self) -> Any:
        return _fail_to_load, ()


def _fail_to_load() -> Any:
    raise ModuleNotFoundError("it is gone")


@pytest.mark.slow
def test_41_surroundings_of_any_size(team: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment larger than what a socket takes at once, from the start and later."""

    def lengths(i: int) -> list[int]:
        return [len(os.environ.get(name, "")) for name in ("SHMMAP_A", "SHMMAP_B")]

    monkeypatch.setenv("SHMMAP_A", "a" * 120_000)
    monkeypatch.setenv("SHMMAP_B", "b" * 120_000)
    with in_time():
        assert shmmap.pmap(lengths, [0, 1], engine=team) == [[120_000, 120_000]] * 2
    monkeypatch.setenv("SHMMAP_B", "b" * 110_000)
    with in_time():
        assert shmmap.pmap(lengths, [0, 1], engine=team) == [[120_000, 110_000]] * 2
    monkeypatch.delenv("SHMMAP_A")
    assert shmmap.pmap(lengths, [0, 1], engine=team) == [[0, 110_000]] * 2


@pytest.mark.slow
def test_41_a_level_that_is_reset(team: Any) -> None:
    """A logger's level is the caller's, also when that has none of its own any more."""
    import logging

    logger = logging.getLogger("shmmap.test.levels")

    def level(i: int) -> int:
        return logging.getLogger("shmmap.test.levels").level

    for each in (logging.ERROR, logging.NOTSET, logging.DEBUG, logging.NOTSET):
        logger.setLevel(each)
        assert shmmap.pmap(level, [0, 1], engine=team) == [each] * 2
