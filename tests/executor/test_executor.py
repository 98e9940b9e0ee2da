"""A team keeps the promises of `concurrent.futures`: who runs next, states, errors, words."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import os
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap import Team
from shmmap.testing import wait_until
from tests.helpers import in_time


@pytest.fixture
def words() -> Iterator[Any]:
    """Shared memory by which functions in workers and the test talk to each other."""
    yield shmmap.zeros((2, 8), bool)


def hold(words: Any, at: int) -> int:
    """Say that it has begun, and wait until it may end."""
    words[0, at] = True
    wait_until(lambda: words[1, at], 30)
    return at


class TestWhoIsNext:
    """B8: an idle worker takes the next function, none waits behind one that is busy."""

    def test_nine_short_ones_behind_a_long_one(self, team: Team, words: Any) -> None:
        long = team.submit(hold, words, 0)
        short = [team.submit(abs, -i) for i in range(9)]
        assert [future.result(30) for future in short] == list(range(9))
        assert not long.done()
        words[1, 0] = True
        assert long.result(30) == 0

    def test_the_fastest_completes_first(self, team: Team, words: Any) -> None:
        slow, *fast = (team.submit(hold, words, at) for at in range(8))
        order = concurrent.futures.as_completed([slow, *fast], timeout=30)
        for at in (3, 1, 7, 5, 2, 6, 4):
            words[1, at] = True
        done = [next(order) for _ in fast]
        assert set(done) == set(fast)
        words[1, 0] = True
        assert next(order) is slow

    def test_beside_a_map_of_one_worker(self, team: Team, words: Any) -> None:
        work = shmmap.pmap(hold, [words], [0], engine=team, workers=1, wait=False)
        wait_until(lambda: words[0, 0])
        assert team.submit(abs, -1).result(30) == 1
        long = team.submit(hold, words, 1)
        wait_until(lambda: words[0, 1])
        waiting = team.submit(abs, -2)
        words[1, 1] = True
        assert waiting.result(30) == 2, "behind the function, and not behind the map"
        assert long.result(30) == 1 and not work.done()
        words[1, 0] = True
        assert work.result(30) == [0]

    def test_while_maps_follow_each_other(self, team: Team, words: Any) -> None:
        """A function that waits for a function's end is not forgotten over maps that never end."""
        long = team.submit(hold, words, 0)
        wait_until(lambda: words[0, 0])
        maps = [
            shmmap.pmap(hold, [words], [at], engine=team, workers=2, wait=False) for at in (1, 2, 3)
        ]
        waiting = team.submit(abs, -1)
        words[1, 1:4] = True
        assert waiting.result(30) == 1
        words[1, 0] = True
        assert [work.result(30) for work in maps] == [[1], [2], [3]] and long.result(30) == 0


class TestStates:
    """A future is running when a worker has its function, and can be cancelled until then."""

    def test_pending_running_done(self, words: Any) -> None:
        with Team(1, start="fork") as team:
            first, second, third = (team.submit(hold, words, at) for at in range(3))
            wait_until(first.running)
            assert not first.cancel()
            assert not second.running() and not second.done()
            assert third.cancel() and third.cancelled()
            heard: list[Any] = []
            second.add_done_callback(heard.append)
            # It is known at once, while the only worker is busy.
            done, rest = concurrent.futures.wait([first, second, third], 30, "FIRST_COMPLETED")
            assert done == {third} and rest == {first, second}
            words[1, :2] = True
            done, rest = concurrent.futures.wait([first, second, third], 30)
            assert not rest and heard == [second]
            assert [first.result(), second.result()] == [0, 1]
            assert team.submit(abs, -1).result(30) == 1
            assert not words[0, 2], "what was cancelled never runs"

    def test_a_result_that_the_user_sets_is_left_alone(self, words: Any) -> None:
        with Team(1, start="fork") as team:
            first = team.submit(hold, words, 0)
            wait_until(first.running)
            pending = team.submit(hold, words, 1)
            pending.set_result("mine")
            first.set_result("mine, too")
            words[1, 0] = True
            assert team.submit(abs, -1).result(30) == 1
            assert first.result() == "mine, too" and pending.result() == "mine"
            assert not words[0, 1]


class Stop(BaseException):
    """Not an Exception."""


def throw(error: BaseException) -> None:
    raise error


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt("k"),
        SystemExit(3),
        GeneratorExit(),
        Stop("s"),
        BaseExceptionGroup("g", [SystemExit(1), ValueError("v")]),
        LookupError("l"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_a_submitted_function_raises_comes_as_it_is(team: Team, error: BaseException) -> None:
    """Row 5 of the defects: KeyboardInterrupt, SystemExit and any other BaseException of `submit`."""
    future = team.submit(throw, error)
    raised = future.exception(30)
    assert type(raised) is type(error)
    assert str(raised) == str(error)
    assert "as a submitted function" in raised.__notes__[0]
    with pytest.raises(type(error)):
        future.result()
    assert team.submit(abs, -1).result(30) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt("k"), SystemExit(3)])
def test_in_the_verbs_and_in_map_it_is_a_remote_error(team: Team, error: BaseException) -> None:
    """There it would end the caller, which nobody has asked for."""
    for call in (
        lambda: shmmap.pmap(lambda i: throw(error), range(3), engine=team),
        lambda: list(team.map(lambda i: throw(error), range(3))),
    ):
        with pytest.raises(shmmap.RemoteError, match=type(error).__name__):
            call()


class TestAfterShutdown:
    """The words of `concurrent.futures`, which programs look for."""

    def test_submit_and_map(self, team: Team) -> None:
        team.submit(abs, 1).result(30)
        team.shutdown()
        for call in (
            lambda: team.submit(abs, 1),
            lambda: team.map(abs, [1]),
            lambda: team.map(abs, iter([1]), buffersize=2),
        ):
            with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
                call()

    @pytest.mark.parametrize("wait", [True, False])
    def test_verbs(self, team: Team, wait: bool) -> None:
        team.shutdown()
        with pytest.raises(RuntimeError, match=r"^cannot use a Team after shutdown$"):
            shmmap.pmap(abs, [1], engine=team, wait=wait)


def test_surroundings_are_those_of_who_submits() -> None:
    """Not those of the thread that finds a worker for it, later (A9 and its kind)."""
    with Team(1, start="fork") as team:
        words = shmmap.zeros((2, 8), bool)
        first = team.submit(hold, words, 0)
        os.environ["SHMMAP_TEST_WHEN"] = "then"
        try:
            second = team.submit(os.environ.get, "SHMMAP_TEST_WHEN")
        finally:
            del os.environ["SHMMAP_TEST_WHEN"]
        words[1, 0] = True
        assert (first.result(30), second.result(30)) == (0, "then")


def test_threads_that_submit_at_the_same_time(team: Team) -> None:
    """Each gets its own results."""
    got: dict[int, list[int]] = {}

    def submit(base: int) -> None:
        futures = [team.submit(abs, -base - i) for i in range(50)]
        got[base] = [future.result(30) for future in futures]

    threads = [threading.Thread(target=submit, args=(base,)) for base in (0, 1000, 2000)]
    with in_time(20):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert got == {base: list(range(base, base + 50)) for base in (0, 1000, 2000)}


class Item:
    """A result that can be looked for."""

    def __init__(self, i: Any) -> None:
        self.i = int(i)


def alive() -> int:
    """How many results this process has, without the help of the garbage collector."""
    return sum(type(each) is Item for each in gc.get_objects())


@pytest.fixture
def no_gc() -> Iterator[None]:
    """Nothing is to depend on the garbage collector."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_gc")
class TestGivenAway:
    """B3: an iterator over results holds none that it has given away."""

    def test_map(self, team: Team) -> None:
        for chunksize in (1, 7, None):
            results = team.map(Item, range(50), chunksize=chunksize)
            order = iter(range(50))  # `enumerate` would hold the latest one
            for item in results:
                assert item.i == next(order)
                ref = weakref.ref(item)
                del item
                assert ref() is None
            assert alive() == 0

    def test_map_is_done_before_it_is_iterated(self, team: Team) -> None:
        results = team.map(Item, range(50), chunksize=1)
        assert team.submit(abs, 1).result(30) == 1  # each worker has been through the map
        next(results)
        left = 49
        for item in results:
            del item
            left -= 1
            assert alive() <= left

    @pytest.mark.parametrize("buffersize", [1, 2, 8, 32])
    def test_map_with_a_buffer(self, team: Team, buffersize: int) -> None:
        taken = 0

        def source() -> Iterator[int]:
            nonlocal taken
            for i in range(100):
                taken += 1
                yield i

        results = team.map(Item, source(), buffersize=buffersize)
        given = 0
        for item in results:
            assert item.i == given
            assert taken <= given + buffersize, "as concurrent.futures has it, since Python 3.14"
            given += 1
            ref = weakref.ref(item)
            del item
            assert ref() is None
            assert alive() <= buffersize
        assert taken == 100 and alive() == 0

    @pytest.mark.parametrize("order", ["in_order", "as_completed"])
    @pytest.mark.parametrize("verb", ["pmap", "pmap_chunks", "pmap_ranges", "iterator"])
    def test_futures(self, team: Team, verb: str, order: str) -> None:
        x = shmmap.asshared(np.arange(40))
        make: Any = {
            "pmap": lambda **o: shmmap.pmap(Item, x, out=list, chunksize=1, **o),
            "pmap_chunks": lambda **o: shmmap.pmap_chunks(
                lambda c: Item(c[0]), x, out=list, chunksize=1, **o
            ),
            "pmap_ranges": lambda **o: shmmap.pmap_ranges(
                lambda a, b: Item(a), 40, chunksize=1, **o
            ),
            "iterator": lambda **o: shmmap.pmap(
                Item, iter(range(40)), buffersize=4, chunksize=1, **o
            ),
        }[verb]
        future = make(engine=team, wait=False)
        seen = 0
        for start, stop, value in getattr(future, order)():
            ref = weakref.ref(value[0] if isinstance(value, list) else value)
            del value
            wait_until(lambda ref=ref: ref() is None)  # the thread that ends the map may be at it
            seen += stop - start
        assert seen == 40 and alive() == 0
        for ask in (future.result, lambda: asyncio.run(wait_for(future))):
            with pytest.raises(RuntimeError, match="given away"):
                ask()
        assert isinstance(future.exception(), RuntimeError)
        assert future.done() and not future.cancelled()

    def test_what_was_not_given_stays(self, engine: Any) -> None:
        future = shmmap.pmap(Item, range(10), chunksize=1, engine=engine, wait=False)
        first = [value[0].i for _, (_, _, value) in zip(range(3), future.in_order(), strict=False)]
        rest = [value[0].i for _, _, value in future.in_order()]
        assert first + rest == list(range(10)), "a further iterator goes on"

    def test_whoever_does_not_iterate_has_the_whole(self, engine: Any) -> None:
        future = shmmap.pmap(Item, range(10), chunksize=1, engine=engine, wait=False)
        assert [item.i for item in future.result(30)] == list(range(10))
        assert future.result() is future.result() and future.exception() is None

    def test_parts_of_arrays_are_views_of_the_whole(self, engine: Any) -> None:
        future = shmmap.pmap(np.negative, np.arange(10), chunksize=2, engine=engine, wait=False)
        parts = [value.tolist() for _, _, value in future.in_order()]
        assert parts == [[0, -1], [-2, -3], [-4, -5], [-6, -7], [-8, -9]]
        assert future.result().tolist() == [-i for i in range(10)]

    def test_a_reduction_is_still_whole(self, team: Team) -> None:
        future = shmmap.preduce(len, range(10), chunksize=1, engine=team, wait=False)
        assert future.result(30) == 10
        work = shmmap.pmap_ranges(lambda a, b: None, 10, chunksize=1, engine=team, wait=False)
        assert [value for _, _, value in work.in_order()] == [None] * 10
        assert work.result() is None

    def test_a_failure_comes_after_what_went_well(self, team: Team) -> None:
        def func(i: int) -> Item:
            if i == 7:
                raise LookupError("seven")
            return Item(i)

        got = []
        with pytest.raises(LookupError, match="seven"):
            for item in team.map(func, range(10), chunksize=1):
                got.append(item.i)
        assert got == list(range(len(got))) and len(got) <= 7

    def test_a_timeout_counts_from_the_call(self, team: Team, words: Any) -> None:
        results = team.map(hold, [words], [0], timeout=0.2)
        with pytest.raises(TimeoutError):
            next(results)
        words[1, 0] = True
        results = team.map(hold, iter([words]), iter([1]), timeout=0.2, buffersize=2)
        with pytest.raises(TimeoutError):
            next(results)
        words[1, 1] = True


async def wait_for(future: Any) -> Any:
    """Await something."""
    return await future
