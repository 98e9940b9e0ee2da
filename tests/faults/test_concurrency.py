"""Several maps, several threads, forks of the user's own: no ticket crosses, nothing is stale."""

from __future__ import annotations

import concurrent.futures
import contextlib
import gc
import os
import textwrap
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap.testing import KillSelf, Raise, wait_until
from tests import functions
from tests.helpers import assert_same, in_time, run_script

pytestmark = pytest.mark.quick


class Test42TwoMapsOnOneTeam:
    """One of them is cancelled, or fails; the other is right."""

    def neighbours(self, team: Any, first: Any, end: Any) -> None:
        """Run a map that ends oddly between two others."""
        before = shmmap.pmap(functions.double, np.arange(1000), engine=team, wait=False)
        odd = shmmap.pmap(first, np.arange(1000), engine=team, chunksize=1, wait=False)
        after = shmmap.pmap(lambda i: i * 3, np.arange(1000), engine=team, chunksize=1, wait=False)
        end(odd)
        assert_same(after.result(timeout=30), np.arange(1000) * 3)
        assert_same(before.result(timeout=30), np.arange(1000) * 2)

    def test_cancelled(self, team: Any) -> None:
        for _ in range(4):
            self.neighbours(team, functions.double, lambda odd: odd.cancel())

    def test_failing(self, team: Any) -> None:
        def failed(odd: Any) -> None:
            with pytest.raises(ValueError, match="on purpose"):
                odd.result(timeout=30)

        for at in (0, 500, 999):
            self.neighbours(team, Raise(ValueError("on purpose"), at=at), failed)

    def test_dying(self, team: Any) -> None:
        def died(odd: Any) -> None:
            with pytest.raises(shmmap.WorkerDied):
                odd.result(timeout=30)

        for at in (0, 500):
            self.neighbours(team, KillSelf(at=at), died)

    def test_latecomer_draws_no_ticket_of_the_next_map(self, team: Any) -> None:
        """A worker leaves a cancelled map while the next one already runs."""
        entered, go_on = shmmap.zeros(2, bool), shmmap.zeros(1, bool)

        def slow(i: Any) -> None:
            entered[min(int(i), 1)] = True
            wait_until(lambda: go_on[0], 0.5)

        calls = shmmap.zeros(500, int)

        def count(i: Any) -> None:
            calls[i] += 1

        odd = shmmap.pmap(slow, np.arange(500), engine=team, chunksize=1, wait=False)
        wait_until(entered.any)
        odd.cancel()
        following = shmmap.pmap(count, np.arange(500), engine=team, chunksize=1, wait=False)
        go_on[0] = True
        following.result(timeout=30)
        assert (calls == 1).all()


class Test33Threads:
    """Concurrent calls from several threads, re-entrant ones, and after the end."""

    def test_threads_share_the_default_team(self) -> None:
        start = threading.Barrier(4)

        def work(k: int) -> None:
            start.wait(20)
            for i in range(10):
                a = np.arange(100) + i
                assert_same(shmmap.pmap(lambda x: x * k, a, workers=2), a * k)

        with concurrent.futures.ThreadPoolExecutor(4) as threads:
            for future in [threads.submit(work, k) for k in range(4)]:
                future.result(timeout=60)

    def test_threads_with_teams_of_their_own(self) -> None:
        def work(k: int) -> None:
            with shmmap.Team(workers=1) as team:
                assert_same(
                    shmmap.pmap(lambda x: x * k, np.arange(50), engine=team), np.arange(50) * k
                )

        with concurrent.futures.ThreadPoolExecutor(3) as threads:
            for future in [threads.submit(work, k) for k in range(6)]:
                future.result(timeout=60)

    def test_map_from_a_callback_of_a_map(self) -> None:
        inner: list[Any] = []

        def progress(done: int, total: int) -> None:
            if done == total:
                inner.append(shmmap.pmap(functions.double, np.arange(3), engine="threads"))

        shmmap.pmap(functions.double, np.arange(10), progress=progress)
        assert_same(inner[-1], np.arange(3) * 2)

    def test_map_from_a_done_callback(self) -> None:
        inner: concurrent.futures.Future[Any] = concurrent.futures.Future()
        future = shmmap.pmap(functions.double, np.arange(10), wait=False)
        future.add_done_callback(
            lambda _: inner.set_result(shmmap.pmap(functions.double, np.arange(3), wait=False))
        )
        assert_same(inner.result(timeout=20).result(timeout=20), np.arange(3) * 2)

    @pytest.mark.parametrize("how", ["resolved", "cancelled"])
    def test_callback_that_waits_for_a_lock_of_the_users(self, team: Any, how: str) -> None:
        # Whoever has that lock is about to submit: it must not wait for the callback in turn.
        lock, is_called = threading.Lock(), threading.Event()

        def take_lock(_: Any) -> None:
            is_called.set()
            with lock:
                pass

        with lock, in_time():
            if how == "resolved":
                future = team.submit(functions.double, 1)
                future.add_done_callback(take_lock)
                assert is_called.wait(20)
                assert team.submit(functions.double, 2) is not None
                assert len(team.workers.links) == team.size
            else:
                futures = [team.submit(time.sleep, 0.2) for _ in range(20)]
                futures[-1].add_done_callback(take_lock)
                team.shutdown(wait=False, cancel_futures=True)
                assert is_called.wait(20)
                with pytest.raises(RuntimeError, match="after shutdown"):
                    team.submit(functions.double, 2)

    def test_shutdown_beside_a_map(self) -> None:
        for _ in range(5):
            future = shmmap.pmap(lambda i: i, np.arange(1000), chunksize=1, wait=False)
            with in_time():
                shmmap.shutdown()
                try:
                    assert_same(future.result(timeout=20), np.arange(1000))
                except (concurrent.futures.CancelledError, RuntimeError):
                    pass  # clearly refused; but never half done, and never stuck

    def test_team_of_a_thread_that_has_ended(self) -> None:
        made: list[Any] = []
        thread = threading.Thread(target=lambda: made.append(shmmap.Team(workers=2)))
        thread.start()
        thread.join()
        with made[0] as team:
            for _ in range(3):
                assert_same(
                    shmmap.pmap(functions.double, np.arange(10), engine=team), np.arange(10) * 2
                )


class Test29And39Forks:
    """The user forks with live arrays and a live team."""

    SOURCE = """
        import os, sys, warnings
        import numpy as np, shmmap
        warnings.simplefilter("ignore", DeprecationWarning)
        a = shmmap.asshared(np.arange(1000))
        total = shmmap.preduce(np.sum, a)
    """

    def run(self, tmp_path: Path, source: str) -> str:
        """Run what follows the common lines; nothing may come on standard error."""
        done = run_script(tmp_path, textwrap.dedent(self.SOURCE) + textwrap.dedent(source))
        assert done.stderr == ""
        assert done.returncode == 0
        return done.stdout

    def test_parent_is_unharmed_when_the_child_exits(self, tmp_path: Path) -> None:
        assert (
            self.run(
                tmp_path,
                """
            for leave in (os._exit, sys.exit):
                pid = os.fork()
                if not pid:
                    leave(0)
                assert os.waitpid(pid, 0)[1] == 0
                assert shmmap.preduce(np.sum, a) == total
            print("unharmed")
            """,
            )
            == "unharmed\n"
        )

    def test_child_reads_right_after_the_parent_dropped_the_array(self, tmp_path: Path) -> None:
        assert (
            self.run(
                tmp_path,
                """
            b = shmmap.full(1 << 20, 7)
            read, write = os.pipe()
            pid = os.fork()
            if not pid:
                os.read(read, 1)
                os._exit(0 if (b == 7).all() else 1)
            del b
            others = [shmmap.full(1 << 20, 9) for _ in range(4)]
            shmmap.pmap_chunks(np.negative, others[0])
            os.write(write, b"x")
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            """,
            )
            == "0\n"
        )

    def test_childs_own_map_works_or_says_why(self, tmp_path: Path) -> None:
        assert (
            self.run(
                tmp_path,
                """
            pid = os.fork()
            if not pid:
                try:
                    assert shmmap.preduce(np.sum, a) == total
                except RuntimeError as error:
                    assert "fork" in str(error), error
                sys.exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            assert shmmap.preduce(np.sum, a) == total
            print("done")
            """,
            )
            == "done\n"
        )


class TestInputsAreReleased:
    """A future that is kept does not keep what its map has read, nor the function."""

    @pytest.mark.parametrize("engine", ["serial", "threads", "processes", "fork"])
    def test_when_the_map_is_over(self, engine: str) -> None:
        x, held = shmmap.asshared(np.arange(1 << 18)), shmmap.zeros(1 << 18)
        refs = [weakref.ref(x), weakref.ref(held)]
        future = shmmap.pmap_chunks(lambda c, held=held: c + held[0], x, engine=engine, wait=False)
        assert future.result(10)[-1] == len(x) - 1
        del x, held
        wait_until(lambda: gc.collect() >= 0 and not any(ref() is not None for ref in refs))
        assert future.progress() == (1 << 18, 1 << 18)
        assert sum(stop - start for start, stop, _ in future.as_completed()) == 1 << 18

    def test_when_the_last_worker_has_left(self, team: Any) -> None:
        """A worker that sleeps through the end of a cancelled map is ended; then nobody has them."""
        entered = shmmap.zeros(2, bool)
        x = shmmap.asshared(np.arange(2))

        def func(i: Any) -> None:
            entered[i] = True
            time.sleep(20)

        future = shmmap.pmap(func, x, engine=team, chunksize=1, wait=False)
        wait_until(entered.all)
        future.cancel()
        ref = weakref.ref(x)
        del x
        del func
        wait_until(lambda: gc.collect() >= 0 and ref() is None)
        assert future.cancelled()

    @pytest.mark.parametrize("engine", ["serial", "threads", "processes"])
    @pytest.mark.parametrize("how", ["map", "result", "as_completed", "in_order", "stream"])
    @pytest.mark.parametrize("on_error", ["raise", "continue"])
    def test_when_the_error_goes(self, engine: str, how: str, on_error: str) -> None:
        """At once, without the garbage collector: no exception refers to itself by its traceback."""

        def fail(i: Any) -> None:
            raise KeyError("on purpose")

        x = shmmap.asshared(np.arange(10))
        ref = weakref.ref(x)
        refs = [ref]
        options: Any = {"engine": engine, "workers": 2, "on_error": on_error}
        gc.collect()
        gc.disable()
        try:
            with contextlib.suppress(KeyError, shmmap.MapError):
                if how == "map":
                    shmmap.pmap(fail, x, **options)
                inputs: Any = iter([x] * 3) if how == "stream" else x
                result = shmmap.pmap(fail, inputs, wait=False, **options)
                del inputs
                refs.append(weakref.ref(result))
                if how in ("as_completed", "in_order", "stream"):
                    list(getattr(result, how if how != "stream" else "in_order")())
                result.result()
            result = None
            del x
            wait_until(lambda: not any(ref() is not None for ref in refs))
        finally:
            gc.enable()


def test_maps_that_wait_for_their_turn_are_finished_before_the_end() -> None:
    """Leaving the block waits for all that was begun in it, however many maps that are."""
    with shmmap.Team(workers=2) as team:
        futures = [
            shmmap.pmap(functions.double, np.arange(50), engine=team, chunksize=1, wait=False)
            for _ in range(24)
        ]
    for future in futures:
        assert_same(future.result(timeout=20), np.arange(50) * 2)


def test_many_open_files(team: Any, tmp_path: Path) -> None:
    """Descriptors above 1023, which `select` does not take."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip(f"this process may have {hard} descriptors only")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    try:
        with contextlib.ExitStack() as stack:
            for k in range(1100):
                stack.enter_context(open(tmp_path / str(k), "w"))
            with in_time():
                assert_same(
                    shmmap.pmap(functions.double, np.arange(9), engine=team, timeout=20),
                    np.arange(9) * 2,
                )
            with in_time(), pytest.raises(shmmap.WorkerDied):
                shmmap.pmap(KillSelf(at=3), np.arange(9), engine=team, retries=0, chunksize=1)
            team.shutdown()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_team_in_a_worker_is_its_own(team: Any) -> None:
    """Maps in a worker are serial; what it submits to a team of its own has processes of its own."""

    def func(i: Any) -> bool:
        with shmmap.Team(workers=1) as mine:
            elsewhere = mine.submit(os.getpid).result(20)
            doubled = shmmap.pmap(functions.double, np.arange(10), engine=mine)
        return elsewhere != os.getpid() and doubled.tolist() == list(range(0, 20, 2))

    assert shmmap.pmap(func, [0, 1], engine=team) == [True, True]


FORKS = """
    import os, threading, time, warnings
    import numpy as np, shmmap

    warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads: people do it all the same
    x = shmmap.asshared(np.arange(1000.0))

    def fork_and_map():
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = int(not np.array_equal(shmmap.pmap_chunks(np.sqrt, x, workers=2), np.sqrt(x)))
            finally:
                os._exit(status)
        return os.waitpid(pid, 0)[1]

    statuses = []

    def keep_forking():
        while not is_over:
            statuses.append(fork_and_map())

    is_over = False
    forker = threading.Thread(target=keep_forking)
    forker.start()
    maps = 0
    while len(statuses) < 3 or maps < 20:
        assert np.array_equal(shmmap.pmap_chunks(np.sqrt, x, workers=2), np.sqrt(x))
        assert shmmap.pmap(str, [1, 2], workers=2) == ["1", "2"]
        maps += 1
    is_over = True
    forker.join()
    assert not any(statuses), statuses
"""


def test_forks_in_a_thread_while_maps_run(tmp_path: Path) -> None:
    """Of a process that is in the middle of something; each child maps by itself."""
    done = run_script(tmp_path, FORKS)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


LEAVES = """
    import os, sys, warnings
    import shmmap

    warnings.simplefilter("ignore", DeprecationWarning)
    parent = os.getpid()

    def fork(done, total):
        if os.getpid() == parent and done:
            if os.fork() == 0:
                sys.exit(7)
            print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)

    print(shmmap.pmap(abs, [1, -2], workers=2, progress=fork))
"""


def test_a_child_that_leaves_in_the_middle_of_a_map(tmp_path: Path) -> None:
    """Forked by a callback; the map is its parent's, and goes on."""
    done = run_script(tmp_path, LEAVES)
    *codes, result = done.stdout.splitlines()
    assert codes and set(codes) == {"7"}, done.stderr
    assert (result, done.returncode, done.stderr) == ("[1, 2]", 0, "")


FORK_MAPS = """
    import threading
    import numpy as np, shmmap

    x = shmmap.asshared(np.arange(64.0))

    def keep_mapping():
        for _ in range(30):
            assert np.array_equal(shmmap.pmap_chunks(np.sqrt, x, engine="fork", workers=2), np.sqrt(x))

    threads = [threading.Thread(target=keep_mapping) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


def test_fork_maps_in_several_threads(tmp_path: Path) -> None:
    """Each forks this process while the others open and close what belongs to their teams."""
    done = run_script(tmp_path, FORK_MAPS)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


NO_DESCRIPTORS = """
    import os, resource
    import numpy as np, shmmap
    from shmmap.testing import wait_until

    go = shmmap.zeros(1, bool)

    def wait_and_double(v):
        wait_until(lambda: go[0])
        return 2 * v

    with shmmap.Team(workers=2) as team:
        first = [
            shmmap.pmap(wait_and_double, np.arange(2), engine=team, out=shmmap.zeros(2, int), wait=False)
            for _ in range(16)
        ]
        # It waits for its turn, and needs a larger control block than any of those has.
        last = shmmap.pmap(abs, np.arange(9000), engine=team, chunksize=1, wait=False)
        used = max(int(name) for name in os.listdir("/proc/self/fd"))
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, limits[1]))
        go[0] = True
        for future in first:
            assert future.result(30).tolist() == [0, 2]
        try:
            last.result(30)
        except OSError as exc:
            print("descriptor" in str(exc))
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert shmmap.pmap(abs, np.arange(9), engine=team).tolist() == list(range(9))
"""


def test_a_team_that_has_too_few_descriptors_to_start_says_so(tmp_path: Path) -> None:
    """Wherever they run out; and it starts once there are enough."""
    source = """
        import os, resource
        import shmmap

        shmmap.asshared([1.0])
        lowest = os.dup(0)
        os.close(lowest)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        told, result = [], None
        while result is None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 4 + len(told), limits[1]))
            try:
                result = shmmap.pmap(abs, [1, -2], workers=2)
            except OSError as exc:
                told.append("ulimit -n" in str(exc) + "".join(getattr(exc, "__notes__", ())))
        print(len(told) > 9, all(told), result)
    """
    done = run_script(tmp_path, source)
    assert (done.stdout, done.stderr) == ("True True [1, 2]\n", ""), done.stderr


def test_a_map_that_cannot_begin_when_its_turn_has_come(tmp_path: Path) -> None:
    """It is told, and nobody else."""
    done = run_script(tmp_path, NO_DESCRIPTORS)
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr


SHUTDOWNS = """
    import os, random, signal, threading, time
    import shmmap

    def children():
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return file.read().split()

    rng = random.Random(29)
    shmmap.pmap(str, range(4), workers=2)
    shmmap.shutdown()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(12):
        try:
            team = shmmap.Team(workers=2)
            shmmap.pmap(str, range(4), engine=team)
            team.submit(time.sleep, 0.01)
            threading.Timer(rng.random() * 0.03, os.kill, (os.getpid(), signal.SIGINT)).start()
            team.shutdown()
            time.sleep(60)
        except KeyboardInterrupt:
            pass
        team.shutdown()
        del team
    deadline = time.monotonic() + 10
    while (children() or len(os.listdir("/proc/self/fd")) > before) and time.monotonic() < deadline:
        time.sleep(0.01)
    print(children(), len(os.listdir("/proc/self/fd")) - before)
"""


def test_ctrl_c_while_a_team_is_shut_down(tmp_path: Path) -> None:
    """It comes out, and the team ends all the same."""
    done = run_script(tmp_path, SHUTDOWNS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[] 0\n", ""), done.stderr
