"""Locks at a fork: what another thread holds at that moment is open in the child."""

from __future__ import annotations

import gc
import os
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import shmmap
from shmmap._system import forks, imports
from tests.helpers import run_script


@contextmanager
def held_elsewhere(locks: Iterable[Any]) -> Iterator[None]:
    """Have another thread hold the locks."""
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock)
            held.set()
            over.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert held.wait(10)
        yield
    finally:
        over.set()
        thread.join()


def is_open_for_another_thread(lock: Any) -> bool:
    """Whether another thread can take it."""
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(lock.acquire(blocking=False)))
    thread.start()
    thread.join()
    return found[0]


def child_finds_open(locks: Iterable[Any], mine: Iterable[Any] = ()) -> bool:
    """Whether a forked child can take the locks, and has those that this thread holds."""
    pid = os.fork()
    if pid == 0:
        # Tried in this thread: a new one may have got the identity of the one that held them.
        are_open = all([lock.acquire(blocking=False) for lock in locks])
        os._exit(not are_open or any(map(is_open_for_another_thread, mine)))
    return os.waitpid(pid, 0)[1] == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_open_in_a_child_unless_its_own_thread_holds_them() -> None:
    """Every lock of the library, held by a thread that the child does not have."""
    shmmap.pmap(abs, [-1], engine="serial")  # which imports the modules that have locks
    shmmap.shutdown()  # no monitor is to want two of the locks in another order
    gc.collect()  # nor the fork to take back an array
    # The lock of late imports is one for which a fork waits, so that nobody else holds it then.
    locks = [lock for lock in forks._locks if lock is not imports.late_import._lock]
    mine, late = forks.make_lock(), imports.late_import._lock
    with held_elsewhere(locks), mine:
        assert child_finds_open([*locks, late], [mine])


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_open_in_a_child_that_did_not_wait_any_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread imports for so long that the fork goes on without it."""
    monkeypatch.setattr(imports, "PATIENCE_S", 0.01)
    late = imports.late_import
    with held_elsewhere([late]):
        assert child_finds_open([late._lock])


def test_a_fork_that_gives_up_leaves_the_lock_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two threads that fork at once, the second one does not get the lock of late imports in time."""
    monkeypatch.setattr(imports, "PATIENCE_S", 0.01)
    late = imports._LateImport()

    def fork_without_it() -> None:
        late.before_fork()
        late.after_fork()

    thread = threading.Thread(target=fork_without_it)
    late.before_fork()
    thread.start()
    thread.join()
    assert not is_open_for_another_thread(late._lock)
    late.after_fork()
    assert is_open_for_another_thread(late._lock)


INHERITS = """
    import atexit, threading
    import shmmap

    def note_the_end(i):
        atexit.register(print, "ended calmly")
        return i

    other = shmmap.Team(workers=1, start={start!r})
    other.submit(abs, -1).result()
    held, over = threading.Event(), threading.Event()

    def hold():
        with other._team._lock:
            held.set()
            over.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    # The workers end with the map, by all that Python does at the end of a program, or are killed in the end.
    assert shmmap.pmap(note_the_end, [1, 2], engine="fork", workers=2) == [1, 2]
    over.set()
    thread.join()
    other.shutdown()
    print("over")
"""


@pytest.mark.parametrize("start", ["clean", "fork"])
def test_a_worker_forked_while_another_team_is_locked(tmp_path: Path, start: str) -> None:
    """The worker has inherited that team, and ends without waiting for it."""
    done = run_script(tmp_path, INHERITS.format(start=start), timeout_s=20)
    *ends, last = done.stdout.splitlines()
    assert (set(ends), last, done.stderr) == ({"ended calmly"}, "over", "")


def test_locks_are_made_in_one_place() -> None:
    """Others are gone with the map that they belong to."""
    package = Path(shmmap.__file__).parent
    makers = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"\b(R?Lock|Condition|\w*Semaphore|Barrier)\(\)", path.read_text("utf-8"))
    }
    of_a_map = {
        "_checkpoint/keeper.py",
        "_results/arrivals.py",
        "_verbs/in_order.py",
        "_verbs/progress.py",
        "_engines/rounds.py",
    }
    assert makers == {"_system/forks.py"} | of_a_map
