"""B14: a signal handler or a finalizer that calls the library while it interrupts the library itself.

It works, or raises at once; it never waits for itself, and what it interrupts stays in order. The handler is
called at every line of the library in turn, which a program meets only now and then.
"""

from __future__ import annotations

import contextlib
import gc
import linecache
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap import Team
from shmmap.testing import wait_until
from tests import functions
from tests.helpers import assert_next_map_works, run_script

SOURCE = str(Path(shmmap.__file__).parent)
REFUSED = "has called shmmap while it interrupts shmmap itself"


def is_seamless(frame: Any) -> bool:
    """Whether a line has seams for who traces it, but not for signals.

    These are the one between the end of a block and its `__exit__`, and those of inlined comprehensions.
    """
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
    return line.lstrip().startswith("with ") or " for " in line


def call_at(
    line: int, handle: Callable[[], object], operation: Callable[[], Any]
) -> tuple[Any, bool]:
    """What an operation gives, with a thing done at the n-th line of ours; and if it came to that."""
    left = line

    def trace(frame: Any, event: str, arg: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(SOURCE):
            return None
        if event == "line" and not is_seamless(frame):
            left -= 1
            if left == 0:
                handle()
        return trace

    sys.settrace(trace)
    try:
        result = operation()
    finally:
        sys.settrace(None)
    return result, left <= 0


@contextlib.contextmanager
def handler(number: int, func: Callable[[], object]) -> Iterator[None]:
    """Have a signal handled."""
    before = signal.signal(number, lambda *_: func())
    try:
        yield
    finally:
        signal.signal(number, before)


def allocate_small() -> Any:
    a = shmmap.zeros(100)
    a[:] = 3
    return a.sum()


def allocate_large() -> Any:
    a = shmmap.empty(1 << 18)
    a[:] = 3
    return a[-1] * 100


OPERATIONS: dict[str, Callable[[Any], Any]] = {
    "small arrays": lambda team: allocate_small(),
    "large arrays": lambda team: allocate_large(),
    "map": lambda team: (
        sum(shmmap.pmap(functions.double, range(1, 5), engine=team, workers=2)) * 15
    ),
    "warm map": lambda team: shmmap.pmap(functions.double, WARM, engine=team, workers=2).sum() * 15,
    "submit": lambda team: team.submit(abs, -300).result(30),
    "serial": lambda team: shmmap.pmap(functions.double, WARM, engine="serial").sum() * 15,
    "release": lambda team: shmmap.shutdown() or 300,
}
WARM: Any = None


@pytest.fixture
def warm(team: Team) -> Iterator[Team]:
    """A team that has had all operations."""
    global WARM
    WARM = shmmap.asshared(np.arange(1, 5))
    for operation in OPERATIONS.values():
        assert operation(team) == 300
    yield team
    WARM = None


@pytest.mark.few(3)
@pytest.mark.timeout(60)
@pytest.mark.parametrize("inner", ["small arrays", "warm map", "submit"])
@pytest.mark.parametrize("outer", OPERATIONS)
def test_at_every_line(warm: Team, outer: str, inner: str) -> None:
    done, refused, line = 0, 0, 1
    done_by: list[Any] = []
    while True:
        done_by.clear()
        with handler(signal.SIGUSR1, lambda: done_by.append(OPERATIONS[inner](warm))):
            try:
                result, was_reached = call_at(
                    line,
                    lambda: signal.raise_signal(signal.SIGUSR1),
                    lambda: OPERATIONS[outer](warm),
                )
            except RuntimeError as error:
                assert REFUSED in str(error)
                refused += 1
            else:
                assert result == 300
                if not was_reached:
                    break
                assert done_by == [300]
                done += 1
        line += 1 if line < 20 else 29  # else this takes minutes
    assert done
    assert OPERATIONS[outer](warm) == OPERATIONS[inner](warm) == 300
    assert_next_map_works(warm)


class Finalizer:
    """Does something when it goes, in a cycle, so that the garbage collector calls it, anywhere."""

    def __init__(self, func: Callable[[], object]) -> None:
        self.me, self.func = self, func

    def __del__(self) -> None:
        self.func()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("inner", ["large arrays", "warm map"])
@pytest.mark.parametrize("outer", ["small arrays", "map", "submit"])
def test_finalizers(warm: Team, outer: str, inner: str) -> None:
    """What they raise nobody hears of but `sys.unraisablehook`, and the operation goes on."""
    line = 1
    while True:
        done_by: list[Any] = []
        cycle = [Finalizer(lambda done_by=done_by: done_by.append(OPERATIONS[inner](warm)))]  # type: ignore[misc]

        def collect(cycle: list[Any] = cycle) -> None:
            cycle.clear()
            gc.collect(0)

        result, was_reached = call_at(line, collect, lambda: OPERATIONS[outer](warm))
        assert result == 300
        if not was_reached:
            cycle.clear()
            gc.collect()
            break
        line += 17
    assert_next_map_works(warm)


@pytest.mark.parametrize("verb", ["map", "submit"])
def test_while_it_waits(team: Team, verb: str) -> None:
    """Most handlers come here: the main thread waits for workers, and the handler's own call goes through."""
    words = shmmap.zeros(2, bool)

    def hold(i: Any) -> int:
        words[0] = True
        wait_until(lambda: words[1], 30)
        return 300

    got = []

    def handle() -> None:
        got.append(OPERATIONS["small arrays"](team))
        got.append(team.submit(abs, -300).result(30))
        got.append(shmmap.pmap(abs, [-300], engine="processes", workers=1)[0])
        words[1] = True

    def interrupt() -> None:
        wait_until(lambda: words[0], 30)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    thread = threading.Thread(target=interrupt)
    with handler(signal.SIGALRM, handle):
        thread.start()
        if verb == "map":
            assert shmmap.pmap(hold, [0], engine=team, workers=1) == [300]
        else:
            assert team.submit(hold, 0).result(30) == 300
        thread.join()
    assert got == [300, 300, 300]


def test_a_handler_in_a_worker_prints(team: Team, capfd: pytest.CaptureFixture[str]) -> None:
    """Its output goes to the caller by a lock of its own, which the function may hold just then."""

    def func(n: int) -> int:
        import signal
        import sys

        count = 0

        def handle(*_: object) -> None:
            nonlocal count
            count += 1
            if count <= 50:  # one after the other: Python itself refuses a print within a print
                print("handled", file=sys.stderr)
                signal.setitimer(signal.ITIMER_REAL, 0.0005)

        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.0005)
        for _ in range(n):
            print("x" * 1000)
        while count < 50:
            pass
        return n

    assert team.submit(func, 500).result(30) == 500


def test_handlers_come_back_and_each_is_called() -> None:
    """In sections that nothing may interrupt, handlers wait; then all are called, whatever one raises."""
    from shmmap._system.interrupts import Uninterrupted

    called: list[str] = []

    def fail() -> None:
        called.append("fail")
        raise LookupError

    with (
        handler(signal.SIGUSR1, fail),
        handler(signal.SIGUSR2, lambda: called.append("two")),
        handler(signal.SIGALRM, lambda: called.append("alarm")),
    ):
        before = [signal.getsignal(n) for n in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)]
        with pytest.raises(LookupError):
            with Uninterrupted():
                for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM):
                    signal.raise_signal(number)
                assert called == []
        assert called == ["fail", "two", "alarm"]
        after = [signal.getsignal(n) for n in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)]
        assert after == before


@pytest.mark.parametrize("first", ["", "shmmap.Team"])
@pytest.mark.parametrize("module", ["_engines.resolve", "_team.team", "_verbs.items"])
def test_in_the_middle_of_an_import(tmp_path: Path, module: str, first: str) -> None:
    """What is not there yet is not there in this library's words; `shutdown` has nothing to end."""
    source = f"""
        import os, signal, sys
        import shmmap

        told = []

        def handle(*_):
            shmmap.shutdown()
            for name in ("Team", "pmap"):
                try:
                    getattr(shmmap, name)
                except RuntimeError as exc:
                    told.append("signal handler" in str(exc))

        class Finder:
            @staticmethod
            def find_spec(name, path=None, target=None):
                if name == "shmmap.{module}":
                    sys.meta_path.remove(Finder)
                    sys.settrace(watch)

        def watch(frame, event, arg):
            if frame.f_globals.get("__name__") == "shmmap.{module}":
                sys.settrace(None)
                signal.raise_signal(signal.SIGUSR1)

        signal.signal(signal.SIGUSR1, handle)
        sys.meta_path.insert(0, Finder)
        {first}
        print(shmmap.pmap(abs, [-1, 2], workers=2), told)
    """
    done = run_script(tmp_path, source)
    assert done.stdout.startswith("[1, 2] [") and "False" not in done.stdout, done.stderr
    assert done.stderr == ""
