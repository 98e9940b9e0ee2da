"""A team keeps the promises of `concurrent.futures`: who runs next, states, errors, words."""

from __future__ import annotations

import concurrent.futures
import os
import threading
from collections.abc import Iterator
from typing import Any

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
