"""Faults 9 to 17 where ``tests/processes`` and ``tests/engines`` leave something open."""

from __future__ import annotations

import functools
import operator
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap.testing import (
    BadStr,
    CannotUnpickle,
    CloseDescriptors,
    ForkAndReturn,
    Raise,
    UnpicklableError,
    wait_until,
)
from tests.helpers import (
    Terminal,
    assert_next_map_works,
    assert_same,
    in_time,
    is_alive,
    process_tree,
    write_script,
)

N = 16


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
@pytest.mark.quick
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
@pytest.mark.quick
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


@pytest.mark.quick
class SlowToTell(Exception):
    """Takes longer to be put into words than others get to finish after a failure."""

    def __str__(self) -> str:
        time.sleep(1.3)
        return "slow"


@pytest.mark.quick
@pytest.mark.parametrize("options", [{}, {"progress": lambda done, total: None}])
def test_10_a_failure_that_takes_long_to_tell(team: Any, options: Any) -> None:
    def func(i: Any) -> Any:
        if i == 3:
            raise SlowToTell
        return i

    with in_time(10), pytest.raises(SlowToTell):
        shmmap.pmap(func, np.arange(8), engine=team, chunksize=1, **options)
    assert_next_map_works(team)


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


@pytest.mark.parametrize("shape", [(3,), (2, 2), ()])
@pytest.mark.quick
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


@pytest.mark.quick
class Test14And15WhatIsMapped:
    """Functions of every kind; one that cannot be pickled; one that maps itself."""

    def test_lambda_closure_and_method(self, team: Any) -> None:
        factor = 3

        class Scale:
            def times(self, i: Any) -> Any:
                return factor * i

        for func in (lambda i: 3 * i, Scale().times, functools.partial(operator.mul, 3)):
            assert_same(shmmap.pmap(func, np.arange(N), engine=team), 3 * np.arange(N))

    def test_function_that_cannot_be_pickled_says_why(self, team: Any) -> None:
        lock = threading.Lock()

        def func(i: Any) -> Any:
            with lock:
                return i

        with (
            in_time(),
            pytest.raises(TypeError, match=r"func cannot be sent.*lock.*engine='threads'"),
        ):
            shmmap.pmap(func, np.arange(N), engine=team)
        assert_same(shmmap.pmap(func, np.arange(N), engine="threads"), np.arange(N))
        assert_next_map_works(team)

    def test_map_inside_a_worker_is_serial(self, team: Any) -> None:
        def inner(i: Any) -> Any:
            return os.getpid(), shmmap.pmap(lambda k: os.getpid(), range(4), workers=2)

        with in_time():
            results = shmmap.pmap(inner, range(4), engine=team, chunksize=1)
        assert all(pids == [pid] * 4 for pid, pids in results)
        assert os.getpid() not in {pid for pid, _ in results}
        assert_next_map_works(team)


def test_16_descriptors_closed_again_and_again(team: Any) -> None:
    for _ in range(3):
        with in_time():
            try:
                shmmap.pmap(CloseDescriptors(at=5), np.arange(N), engine=team, chunksize=1)
            except (shmmap.WorkerDied, OSError) as error:
                assert "descriptor" in str(error), error
        assert_next_map_works(team)


def test_16_forks_in_every_call(team: Any) -> None:
    """No child ever draws a ticket, whether it returns or raises; and none of them is left."""
    calls = shmmap.zeros(60, int)
    fork = ForkAndReturn()

    def func(i: Any) -> Any:
        calls[i] += 1
        return fork(i)

    with in_time():
        assert_same(shmmap.pmap(func, np.arange(60), engine=team, chunksize=1), np.arange(60))
    assert (calls == 1).all()
    assert_next_map_works(team)


@pytest.mark.quick
def test_16_what_it_changes_around_it_ends_with_the_call(team: Any) -> None:
    """Working directory, umask, environment, NumPy's errors, search path, signals and timers."""

    def look(_: Any = None) -> Any:
        os.umask(umask := os.umask(0))
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGALRM)]
        return (
            os.getcwd(),
            umask,
            os.environ.get("SHMMAP_FAULT"),
            os.environ["HOME"],
            np.geterr(),
            sys.path,
            [getattr(handler, "__name__", handler) for handler in handlers],
            signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        )

    def change(i: Any) -> None:
        os.chdir("/")
        os.umask(0o777)
        os.environ["SHMMAP_FAULT"] = "changed"
        del os.environ["HOME"]
        np.seterr(all="raise")
        sys.path.append("/nowhere")
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

    options: dict[str, Any] = {"engine": team, "chunksize": 1, "workers": 2, "schedule": "static"}
    before = shmmap.pmap(look, range(2), **options)
    assert before[0] == before[1]
    for _ in range(2):
        shmmap.pmap(change, range(2), **options)
        assert shmmap.pmap(look, range(2), **options) == before
        team.submit(change, 0).result()
        assert [team.submit(look).result() for _ in range(4)] == before * 2
    time.sleep(0.3)  # the timers would have gone off by now
    assert shmmap.pmap(look, range(2), **options) == before


@pytest.mark.quick
def test_16_what_an_initializer_changes_stays(tmp_path: Path) -> None:
    def look(_: Any) -> Any:
        return os.getcwd(), os.environ.get("SHMMAP_FAULT"), np.geterr()["divide"]

    def start() -> None:
        os.chdir(tmp_path)
        os.environ["SHMMAP_FAULT"] = "mine"
        np.seterr(divide="raise")

    with shmmap.Team(workers=2, initializer=start) as team:
        expected = [(str(tmp_path), "mine", "raise")] * 4
        assert shmmap.pmap(look, range(4), engine=team) == expected
        shmmap.pmap(lambda i: os.chdir("/"), range(4), engine=team)
        assert shmmap.pmap(look, range(4), engine=team) == expected


def test_16_it_stops_the_signal_that_ends_it(team: Any) -> None:
    """SIGTERM ignored, or blocked: the end of the team does not depend on it."""

    def func(i: Any) -> Any:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        return os.getpid()

    pids = set(shmmap.pmap(func, range(8), engine=team, chunksize=1))
    assert_next_map_works(team)
    team.shutdown()
    wait_until(lambda: not any(map(is_alive, pids)), 2)


def test_17_ctrl_c_while_a_worker_holds_the_gil(tmp_path: Path) -> None:
    """Ctrl-C still ends the call within 5 s: one traceback, nobody left."""
    script = write_script(
        tmp_path,
        """
        import numpy as np, shmmap
        from shmmap.testing import HoldGil
        held = shmmap.zeros(2, bool)
        hold = HoldGil(20)
        def func(i):
            if i == 0:
                print("running", flush=True)
            hold(i)
        shmmap.pmap(func, np.arange(2), workers=2, chunksize=1)
        """,
    )
    with Terminal(script) as terminal:
        terminal.read_until("running\n")
        tree = process_tree(terminal.process.pid)
        with in_time():
            terminal.write("\x03")
            text = terminal.read_to_end()
        assert text.count("Traceback (most recent call last)") == 1, text
        assert text.rstrip().endswith("KeyboardInterrupt")
        wait_until(lambda: not any(map(is_alive, tree)), 2)
