"""B1: nothing that is raised in a thread of ours, by whatever of the user's, leaves anybody waiting."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import shmmap
from shmmap import Team
from shmmap.testing import wait_until
from tests import functions
from tests.helpers import assert_next_map_works

ERRORS = (SystemExit, KeyboardInterrupt, GeneratorExit, MemoryError, RecursionError, LookupError)


def throw(kind: type[BaseException]) -> None:
    raise kind("on purpose")


class OnReduce:
    """Raises as it is unpickled, by its own reconstruction."""

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def __reduce__(self) -> Any:
        return throw, (self.kind,)


class OnState:
    """Raises as it is unpickled, by its state; not in the worker, where it is made."""

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def __setstate__(self, state: dict[str, Any]) -> None:
        throw(state["kind"])


class OnArguments(Exception):
    """An exception that cannot be made again of what it was made of."""

    def __init__(self, kind: type[BaseException], pid: int) -> None:
        super().__init__(kind, pid)
        if pid != os.getpid():
            throw(kind)

    def __reduce__(self) -> Any:
        return type(self), self.args


@pytest.fixture
def unraised(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What nobody could catch."""
    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: told.append(what.exc_type))
    yield told


def assert_alive(team: Team) -> None:
    """Assert that a team goes on as before."""
    assert team.submit(abs, -1).result(30) == 1
    assert_next_map_works(team)


@pytest.mark.few(2)
@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("made", [OnReduce, OnState])
def test_results_that_raise_as_they_are_unpickled(
    team: Team, made: Callable[[Any], Any], kind: type[BaseException]
) -> None:
    future = team.submit(made, kind)
    assert type(future.exception(30)) is kind
    with pytest.raises(kind):
        future.result(30)
    others = [team.submit(made, kind), team.submit(abs, -2)]
    _, rest = concurrent.futures.wait(others, 30)
    assert not rest and others[1].result() == 2
    assert_alive(team)


@pytest.mark.few(2)
@pytest.mark.parametrize("kind", ERRORS)
def test_the_same_in_maps(team: Team, kind: type[BaseException]) -> None:
    """There it is unpickled by the thread that waits: the caller's own, or that of the future."""
    for wait in (True, False):
        with pytest.raises(kind):
            result = shmmap.pmap(OnState, [kind], out=list, engine=team, wait=wait)
            result.result(30)
    with pytest.raises(kind):
        list(team.map(OnState, [kind]))
    assert_alive(team)


@pytest.mark.few(2)
@pytest.mark.parametrize("kind", ERRORS)
def test_exceptions_that_raise_as_they_are_unpickled(team: Team, kind: type[BaseException]) -> None:
    def func() -> None:
        raise OnArguments(kind, os.getpid())

    assert isinstance(team.submit(func).exception(30), shmmap.RemoteError)
    with pytest.raises(shmmap.RemoteError):
        shmmap.pmap(lambda i: func(), [1], engine=team)
    assert_alive(team)


@pytest.mark.few(2)
@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("where", ["submit", "map", "cancelled", "failed"])
def test_callbacks(team: Team, unraised: list[Any], where: str, kind: type[BaseException]) -> None:
    """All are called, and so is an event loop's, which would wait for ever without."""
    words = shmmap.zeros(2, bool)

    def hold(i: int) -> int:
        wait_until(lambda: words[0], 30)
        return 1 // i

    call = hold if where != "cancelled" else abs
    blocking = [team.submit(hold, 1) for _ in range(2)] if where == "cancelled" else []
    if where == "map":
        future: Any = shmmap.pmap(call, [1], engine=team, wait=False)
    else:
        future = team.submit(call, 0 if where == "failed" else 1)
    called: list[int] = []

    def call_back(i: int) -> None:
        called.append(i)
        throw(kind)

    for i in range(3):
        future.add_done_callback(lambda _, i=i: call_back(i))

    async def main() -> Any:
        waiting = asyncio.ensure_future(asyncio.wrap_future(future))
        if where == "cancelled":
            threading.Thread(target=future.cancel).start()
        words[0] = True
        return (await asyncio.wait([waiting], timeout=30))[0]

    with_logs = logging.getLogger("concurrent.futures")
    with_logs.disabled = True
    try:
        (waited,) = asyncio.run(main())
    finally:
        with_logs.disabled = False
    assert called == [0, 1, 2] and (waited.cancelled() or waited.done())
    if not waited.cancelled():
        waited.exception()
    assert len(unraised) == (0 if issubclass(kind, Exception) else 3)
    for each in blocking:
        assert each.result(30) == 1
    assert_alive(team)


class Broken:
    """A stream or a log handler that raises."""

    encoding, errors = "utf-8", "strict"

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind
        self.asked = threading.Event()

    def write(self, text: str) -> int:
        self.asked.set()
        raise self.kind("on purpose")

    def flush(self) -> None:
        pass


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_streams(
    team: Team,
    unraised: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    kind: type[BaseException],
) -> None:
    """What a submitted function prints is written by the thread that resolves futures."""
    broken = Broken(kind)
    with monkeypatch.context() as patch:
        patch.setattr(sys, name, broken)
        future = team.submit(eval, f"print('hello', file=__import__('sys').{name}) or 7")
        assert future.result(30) == 7
        assert broken.asked.wait(30)
    assert_alive(team)
    assert unraised and set(unraised) == {kind}


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, ValueError])
def test_log_handlers(team: Team, unraised: list[Any], kind: type[BaseException]) -> None:
    asked, mine = threading.Event(), os.getpid()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if os.getpid() == mine:  # forked workers have it, too
                asked.set()
                throw(kind)

    def func() -> int:
        logging.getLogger("tests.broken").warning("hello")
        return 7

    logger = logging.getLogger("tests.broken")
    handler = Handler()
    logger.addHandler(handler)
    try:
        assert team.submit(func).result(30) == 7
        assert asked.wait(30)
        assert_alive(team)
    finally:
        logger.removeHandler(handler)
    assert unraised == [kind]


def test_warnings(team: Team, unraised: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The filter "error", and a `showwarning` that raises."""

    def func() -> int:
        warnings.simplefilter("always")
        warnings.warn("hello", UserWarning, stacklevel=1)
        return 7

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert team.submit(func).result(30) == 7
        assert_alive(team)
    asked = threading.Event()

    def show(*args: Any, **kwargs: Any) -> None:  # workers have one of their own
        asked.set()
        throw(SystemExit)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", show)
        assert team.submit(func).result(30) == 7
        assert asked.wait(30)
        assert_alive(team)
    assert unraised == [SystemExit]


class OnDel:
    """Raises as it goes."""

    def __del__(self) -> None:
        throw(SystemExit)


def test_finalizers(team: Team, unraised: list[Any]) -> None:
    for _ in range(3):
        team.submit(OnDel).result(30)
    gc.collect()
    wait_until(lambda: len(unraised) >= 3)
    assert_alive(team)


@pytest.mark.few(2)
@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("option", ["progress", "on_error"])
def test_options_that_are_called(team: Team, option: str, kind: type[BaseException]) -> None:
    """They are called by the thread that waits; of a future, that is one of ours."""
    options: Any = {option: lambda *_: throw(kind)}
    func = functions.double if option == "progress" else (lambda i: 1 // 0)
    future = shmmap.pmap(func, range(4), engine=team, wait=False, **options)
    assert type(future.exception(30)) is kind
    assert_alive(team)


@pytest.mark.few(2)
@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("verb", ["pmap", "map"])
def test_iterators(team: Team, verb: str, kind: type[BaseException]) -> None:
    def source() -> Iterator[int]:
        yield from range(5)
        throw(kind)

    with pytest.raises(kind):
        if verb == "pmap":
            shmmap.pmap(abs, source(), engine=team, wait=False).result(30)
        else:
            list(team.map(abs, source(), buffersize=4))
    assert_alive(team)


def test_what_cannot_be_sent_fails_alone(team: Team) -> None:
    """No memory for the arguments, when their turn has come: the others go on."""
    words = shmmap.zeros(1, bool)
    busy = [team.submit(wait_until_set, words) for _ in range(2)]
    wait_until(lambda: all(each.running() for each in busy))
    waiting = team.submit(abs, -3)
    words[0] = True
    assert waiting.result(30) == 3
    assert all(each.result(30) for each in busy)


def wait_until_set(words: Any) -> bool:
    wait_until(lambda: words[0], 30)
    return True


def test_a_hook_that_raises(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even what is told of all that may raise."""
    monkeypatch.setattr(sys, "unraisablehook", lambda what: throw(SystemExit))
    future = team.submit(abs, -1)
    future.add_done_callback(lambda _: throw(KeyboardInterrupt) if not is_main() else None)
    assert future.result(30) == 1
    assert_alive(team)


def is_main() -> bool:
    return threading.current_thread() is threading.main_thread()


class TestEndingWorkers:
    """`kill_workers` and `terminate_workers`: functions and maps fail, and the team goes on."""

    @pytest.mark.parametrize("how", ["kill_workers", "terminate_workers"])
    def test_everything_ends(self, team: Team, how: str) -> None:
        words = shmmap.zeros(4, bool)

        def hold(i: int) -> None:
            words[i] = True
            wait_until(lambda: False, 60)

        running = team.submit(hold, 0)
        wait_until(lambda: words[0])
        work = shmmap.pmap(hold, [1, 2], engine=team, chunksize=1, wait=False)
        wait_until(lambda: words[1:3].any())
        pending = [team.submit(hold, 3) for _ in range(3)]
        getattr(team, how)()
        with pytest.raises(shmmap.WorkerDied, match=f"ended by Team.{how}"):
            running.result(30)
        with pytest.raises(shmmap.WorkerDied, match=f"ended by Team.{how}") as caught:
            work.result(30)
        assert caught.value.failed == ((0, 2),)
        assert all(future.cancelled() for future in pending)
        assert not words[3]
        assert_alive(team)
        getattr(team, how)()
        assert_alive(team)

    @pytest.mark.parametrize("how", ["kill_workers", "terminate_workers"])
    def test_nobody_there(self, team: Team, how: str) -> None:
        getattr(team, how)()
        assert_alive(team)
        team.shutdown()
        getattr(team, how)()

    def test_by_a_callback(self, team: Team) -> None:
        """In the very thread that ends them."""
        future = team.submit(abs, -1)
        done = threading.Event()
        future.add_done_callback(lambda _: (team.kill_workers(), done.set()))
        assert done.wait(30)
        assert_alive(team)

    def test_handlers_of_sigterm_are_called(self, team: Team) -> None:
        """And a function that stays all the same is killed in the end."""
        words = shmmap.zeros(2, bool)

        def stay(i: int) -> None:
            import signal

            def handle(*_: object) -> None:
                words[1] = True

            signal.signal(signal.SIGTERM, handle)
            words[0] = True
            wait_until(lambda: False, 60)

        future = team.submit(stay, 0)
        wait_until(lambda: words[0])
        team.terminate_workers()
        assert words[1]
        assert isinstance(future.exception(30), shmmap.WorkerDied)
        assert_alive(team)
