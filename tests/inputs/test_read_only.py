"""A private array is read-only inside a mapped function, on every engine, and as it was afterwards."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap._chunks import freeze
from shmmap.testing import wait_until

IN_PROCESS = ("serial", "threads", "executor")


@pytest.fixture(params=IN_PROCESS)
def in_process(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Run the test on each engine whose functions see the caller's own arrays."""
    if request.param == "executor":
        with concurrent.futures.ThreadPoolExecutor(2) as executor:
            yield executor
    else:
        yield request.param


def open_one(name: str) -> Any:
    """One of all engines, both starts and executors of processes among them, as a context manager."""
    if name in ("clean", "fork"):
        return shmmap.Team(2, start=name)  # type: ignore[arg-type]
    if name == "pool":
        context = multiprocessing.get_context("spawn")
        return concurrent.futures.ProcessPoolExecutor(1, mp_context=context)
    if name == "executor":
        return concurrent.futures.ThreadPoolExecutor(2)
    return contextlib.nullcontext("fork" if name == "fork engine" else name)


def refused(run: Callable[[], object]) -> bool:
    """Whether a write is refused because the array is read-only."""
    with pytest.raises(ValueError, match="read-only"):
        run()
    return True


def is_writeable(*arrays: Any) -> bool:
    return all(a.flags.writeable for a in arrays)


def test_the_flag_stays_while_a_second_map_holds_the_array(in_process: Any) -> None:
    """A8. Kind: two maps that hold the same array; the first to end must not give it back for both."""
    a = np.zeros(3)
    begun, go_on = threading.Event(), threading.Event()

    def wait_then_write(i: int) -> None:
        begun.set()
        assert go_on.wait(10)
        a[0] = 1

    second = shmmap.pmap(wait_then_write, [0], engine=in_process, workers=2, wait=False)
    assert begun.wait(10)
    assert shmmap.pmap(lambda i: float(a[0]), [0], engine="serial") == [0.0]
    assert not a.flags.writeable
    go_on.set()
    assert refused(second.result)
    assert a.tolist() == [0, 0, 0]
    assert is_writeable(a)


def test_a_view_is_given_back_after_its_base_that_another_map_holds(in_process: Any) -> None:
    """A8 and B13 together. Kind: a base and its view, held by different maps that end in either order."""
    for first in ("view", "base"):
        a = np.zeros(4)
        v = a[1:]
        both = threading.Barrier(3)
        gates = {"view": threading.Event(), "base": threading.Event()}

        def hold(name: str, array: Any, both: Any = both, gates: Any = gates) -> float:
            both.wait(10)
            assert gates[name].wait(10)
            return float(array.sum())

        def hold_view(i: int, hold: Any = hold, v: Any = v) -> float:
            return float(hold("view", v))

        def hold_base(i: int, hold: Any = hold, a: Any = a) -> float:
            return float(hold("base", a))

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            engine = pool if not isinstance(in_process, str) else in_process
            maps = {
                "view": shmmap.pmap(hold_view, [0], engine=engine, workers=1, wait=False),
                "base": shmmap.pmap(hold_base, [0], engine=engine, workers=1, wait=False),
            }
            both.wait(10)
            assert not a.flags.writeable
            assert not v.flags.writeable
            gates[first].set()
            assert maps[first].result() == [0.0]
            other = "base" if first == "view" else "view"
            gates[other].set()
            assert maps[other].result() == [0.0]
        assert is_writeable(a, v)
    assert not freeze._holds


def test_base_and_view_captured_together(engine: Any) -> None:
    """B13. Kind: arrays that share memory, in any order, depth and container."""
    a = np.arange(6.0)
    v = a[1:]
    w = v.reshape(5, 1)[::2]
    for captured in ([a, v, w], [w, v, a], [{"v": v}, (w, [a])]):

        def total(i: int, captured: Any = captured) -> int:
            return len(captured) + i

        assert shmmap.pmap(total, [1, 2], engine=engine) == [len(captured) + 1, len(captured) + 2]
        assert is_writeable(a, v, w)
    assert shmmap.pmap(lambda i: a[0] + v[0], [1, 2], engine=engine) == [1, 1]
    assert is_writeable(a, v)


def test_what_was_read_only_stays_so(engine: Any) -> None:
    """B13. Kind: giving back more than was taken."""
    a = np.arange(3.0)
    v = a[1:]
    v.flags.writeable = False
    fixed = np.arange(3.0)
    fixed.flags.writeable = False
    assert shmmap.pmap(lambda i: a[0] + v[0] + fixed[0], [1], engine=engine) == [1]
    assert a.flags.writeable
    assert not v.flags.writeable
    assert not fixed.flags.writeable


def test_a_result_is_not_lost_where_a_flag_cannot_be_given_back(in_process: Any) -> None:
    """B13. Kind: restoring that raises: here somebody has made the base read-only meanwhile."""
    a = np.arange(3.0)
    v = a[1:]

    def protect(i: int) -> float:
        base = v.base
        base.setflags(write=False)
        return float(v[0])

    assert shmmap.pmap(protect, [0], engine=in_process, workers=1) == [1.0]
    assert not freeze._holds


def test_broadcast_arrays_are_looked_at_without_a_warning(engine: Any) -> None:
    """B13. Kind: NumPy warns as the flag of an array of `broadcast_arrays` is read."""
    a, _ = np.broadcast_arrays(np.arange(3.0), np.zeros((2, 3)))
    assert shmmap.pmap(lambda i: float(a.sum()), [0, 1], engine=engine) == [6.0, 6.0]


def test_the_callers_array_is_its_own_where_workers_have_copies(process_engine: Any) -> None:
    """B15. Kind: what a map does to the caller's arrays while it runs: on processes nothing."""
    a = np.zeros(3)
    gate = shmmap.zeros(1)
    future = shmmap.pmap(
        lambda i: wait_until(lambda: gate[0] == 1) or float(a[0]),
        [0],
        engine=process_engine,
        wait=False,
    )
    a[0] = 5
    gate[0] = 1
    assert future.result() == [0.0]


@pytest.mark.parametrize("engine", ["serial", "threads"])
def test_arrays_are_given_back_when_a_cancelled_result_has_raised(engine: str) -> None:
    """B15. Kind: after a cancel, also while a call of the function goes on that cannot be ended."""
    a = np.zeros(3)
    begun, stop = threading.Event(), threading.Event()

    def wait(i: int) -> float:
        begun.set()
        stop.wait(20)
        return float(a[0])

    for ask in ("result", "exception"):
        begun.clear()
        future = shmmap.pmap(wait, range(3), engine=engine, workers=2, chunksize=1, wait=False)
        assert begun.wait(10)
        with pytest.raises(ValueError, match="read-only"):
            a[0] = 1
        assert future.cancel()
        with pytest.raises(concurrent.futures.CancelledError):
            getattr(future, ask)()
        a[0] = 1
    stop.set()
    wait_until(lambda: not any(t.name in ("shmmap-0", "shmmap-1") for t in threading.enumerate()))


def test_an_interrupted_map_gives_arrays_back(in_process: Any) -> None:
    """B13. Kind: a Ctrl-C while the map runs."""
    a = np.zeros(3)

    def interrupt(i: int) -> float:
        signal.raise_signal(signal.SIGINT)
        return float(a[0])

    with pytest.raises(KeyboardInterrupt):
        shmmap.pmap(interrupt, [0, 1], engine=in_process, workers=1)
    a[0] = 1


class Late(Exception):
    """What a handler of SIGALRM may raise."""


@pytest.mark.few(1)
@pytest.mark.parametrize("handler", ["interrupt", "map", "raise"])
def test_a_signal_at_any_step_of_taking_and_giving_back(handler: str) -> None:
    """B13. Kind: a Ctrl-C, or a handler that maps or raises, between any two instructions."""
    left = 0
    a = np.zeros(4)
    v = a[1:]

    def trace(frame: Any, event: str, arg: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename != freeze.__file__:
            return None
        frame.f_trace_opcodes = True
        left -= event == "opcode"
        if event == "opcode" and left == 0:
            signal.raise_signal(signal.SIGINT if handler == "interrupt" else signal.SIGALRM)
        return trace

    def handle(number: int, frame: Any) -> None:
        sys.settrace(None)
        if handler == "raise":
            raise Late
        assert shmmap.pmap(lambda i: float(a[0] + v[0]), [0], engine="serial") == [0.0]

    def take_and_give_back(step: int) -> bool:
        """Whether there are as many steps as that."""
        nonlocal left
        left = step
        sys.settrace(trace)
        try:
            with freeze.frozen(lambda: (a, v)):
                assert left <= 0 or not (a.flags.writeable or v.flags.writeable)
        except (KeyboardInterrupt, Late):
            pass
        finally:
            sys.settrace(None)
        return left <= 0

    previous = signal.signal(signal.SIGALRM, handle)
    try:
        take_and_give_back(1)
        step = 2
        while take_and_give_back(step):
            assert is_writeable(a, v), step
            assert not freeze._holds, step
            assert not freeze._waiting, step
            step += 3
        assert step > 200
    finally:
        signal.signal(signal.SIGALRM, previous)


def test_a_forked_child_has_its_arrays_back() -> None:
    """B13. Kind: a child has none of the threads whose maps hold arrays."""
    a = np.zeros(3)
    begun, stop = threading.Event(), threading.Event()
    future = shmmap.pmap(
        lambda i: begun.set() or stop.wait(10) or a[0], [0], engine="serial", wait=False
    )
    assert begun.wait(10)
    assert not a.flags.writeable
    pid = os.fork()
    if not pid:
        os._exit(0 if a.flags.writeable else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not a.flags.writeable
    stop.set()
    future.result()
