"""Fault 24: descriptors run out, wherever one is acquired: rolled back, and explained."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap._memory import table
from shmmap._results.collect import Collector
from shmmap._team.team import WorkerTeam
from shmmap._team.workers import Workers
from shmmap.testing import KillSelf, wait_until
from tests import functions
from tests.helpers import (
    assert_next_map_works,
    assert_same,
    descriptor_count,
    in_time,
    run_script,
    shared_memory_in_use,
)


class Test24NoDescriptors:
    """EMFILE at each descriptor acquired: rolled back, and explained."""

    @staticmethod
    def climb(action: Any, most: int) -> list[BaseException]:
        """Run an action with room for 0, 1, 2, ... further descriptors until it works."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        errors: list[BaseException] = []
        gc.collect()
        table.release_spare()
        # Once: a map that is refused may take a control block with it, and the next makes one.
        before = descriptor_count()
        for extra in range(most):
            gc.collect()
            table.release_spare()
            top = max(int(name) for name in os.listdir("/proc/self/fd"))
            fill = []  # every number up to the highest in use, so that the limit counts exactly
            while (fd := os.dup(0)) <= top:
                fill.append(fd)
            os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (top + 1 + extra, hard))
            try:
                action()
                return errors
            except Exception as error:
                # A traceback, also that of the context, keeps frames and what they refer to.
                error.__traceback__ = error.__context__ = error.__cause__ = None
                errors.append(error)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                gc.collect()
                table.release_spare()  # kept for two seconds, for the next array
                for each in fill:
                    os.close(each)
                # A page larger than those that stay goes once nothing has come in it for two seconds.
                with contextlib.suppress(TimeoutError):
                    wait_until(lambda: descriptor_count() <= before)
                lost = descriptor_count() - before
                assert lost <= 0, f"{lost} descriptors lost with room for {extra}"
        raise AssertionError(f"it did not work with room for {most} descriptors: {errors[-1]!r}")

    @staticmethod
    def check(errors: list[BaseException]) -> None:
        """All of them must say that there were no descriptors."""
        assert errors
        for error in errors:
            assert isinstance(error, OSError) and error.errno == errno.EMFILE, repr(error)
            assert "descriptor" in str(error) or "files" in str(error)

    def test_array(self) -> None:
        self.check(self.climb(lambda: shmmap.zeros(1 << 20), 30))

    @pytest.mark.slow
    def test_many_small_arrays(self) -> None:
        """They share segments, hence descriptors."""

        def action() -> None:
            held = [shmmap.zeros(100) for _ in range(2000)]
            assert len(held) == 2000

        self.climb(action, 30)

    @pytest.mark.slow
    @pytest.mark.parametrize("start", ["clean", "fork"])
    def test_team(self, start: str) -> None:
        """A team that finds no descriptors while it starts goes, and takes everything with it."""

        def action() -> None:
            with shmmap.Team(workers=2, start=start) as team:
                result = shmmap.pmap(functions.double, np.arange(10), engine=team, chunksize=1)
                assert_same(result, np.arange(10) * 2)

        shmmap.zeros(1)
        self.check(self.climb(action, 100))

    @pytest.mark.slow
    @pytest.mark.parametrize("start", ["clean", "fork"])
    def test_map_on_a_running_team(self, start: str) -> None:
        """The map is refused; the team and the next map are none the worse."""
        with shmmap.Team(workers=2, start=start) as team:
            make_pages(team, 900 << 10)
            pids = sorted(process.pid for process in team_members(team))
            x = np.arange(180_000, dtype="f4")

            def action() -> None:
                # All that a worker may hand over, for want of an output, is less than its page holds.
                result = shmmap.pmap_chunks(functions.double, x, engine=team, dtype="f8")
                assert result.nbytes > 1 << 20 and x.nbytes < 900 << 10
                assert_same(result, (x * 2).astype("f8"))

            self.check(self.climb(action, 60))
            action()
            assert sorted(process.pid for process in team_members(team)) == pids

    def test_what_is_kept_for_later_goes_first(self, team: Any) -> None:
        """Segments kept for the next array hold descriptors: nothing is refused on their account."""
        shmmap.pmap(functions.double, np.arange(10), engine=team, chunksize=1)
        table.release_spare()
        arrays = [shmmap.zeros((2 + k) << 20, np.uint8) for k in range(8)]
        del arrays
        gc.collect()
        assert table.spares.nbytes
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        top = max(int(name) for name in os.listdir("/proc/self/fd"))
        fill = []
        while (fd := os.dup(0)) <= top:
            fill.append(fd)
        os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (top + 1, hard))
        try:
            assert not shmmap.zeros(32 << 20, np.uint8).any()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for fd in fill:
                os.close(fd)


class Test18And24OutputRefused:
    """The output of a map that runs already cannot be had."""

    def test_workers_give_up_what_they_keep_for_it(
        self, team: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They neither wait for an output that nobody will make, nor make room for what nobody will take."""
        make_pages(team, 1 << 16)
        pids = sorted(process.pid for process in team_members(team))
        refused = shmmap.zeros(1, bool)

        def refuse(*args: Any) -> Any:
            refused[0] = True
            raise shmmap.SharedMemoryError(1 << 40, 0, "this test", "try again")

        def func(chunk: Any) -> Any:
            if chunk[0]:
                wait_until(lambda: refused[0])
                time.sleep(0.1)  # until the map is over for its caller
            return np.repeat(chunk, 1 << 20)[None]

        for _ in range(3):
            refused[0] = False
            before = descriptor_count(), shared_memory_in_use()
            with monkeypatch.context() as patch, in_time(0.9), pytest.raises(MemoryError):
                patch.setattr(Collector, "allocate_output", refuse)
                shmmap.pmap_chunks(func, np.arange(2), engine=team, chunksize=1)
            assert descriptor_count() <= before[0]
            assert shared_memory_in_use() <= before[1]
            assert_next_map_works(team)
        assert sorted(process.pid for process in team_members(team)) == pids

    def test_map_that_was_sent_to_nobody_keeps_nothing(
        self, team: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A team that finds no descriptors for a missing worker lets go of what the map refers to."""
        assert_next_map_works(team)

        def refuse(*args: Any) -> None:
            raise OSError(errno.EMFILE, "no file descriptor left")

        table.release_spare()
        before = descriptor_count(), shared_memory_in_use()
        for _ in range(5):
            with monkeypatch.context() as patch, in_time(0.9), pytest.raises(OSError, match="left"):
                patch.setattr(WorkerTeam, "_ensure", refuse)
                shmmap.pmap_chunks(
                    functions.double, np.arange(1 << 18), engine=team, chunksize=9999
                )
            gc.collect()
            table.release_spare()
            assert descriptor_count() <= before[0] and shared_memory_in_use() <= before[1]
        assert_next_map_works(team)


class Test24ReplacementRefused:
    """A worker dies, and there are no descriptors left for another."""

    @pytest.mark.parametrize("workers", [1, 2])
    @pytest.mark.parametrize("start", ["clean", "fork"])
    def test_the_others_go_on(
        self, start: str, workers: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        struck = shmmap.zeros(1, bool)
        go = shmmap.ones(1, bool)

        def func(i: Any) -> Any:
            if i == 3 and not struck[0]:
                struck[0] = True
                wait_until(lambda: go[0])
                os.kill(os.getpid(), signal.SIGKILL)
            return i * 2

        def refuse(*args: Any) -> None:
            raise OSError(errno.EMFILE, "no file descriptor left")

        with shmmap.Team(workers, start=start) as team:
            assert_next_map_works(team, workers)
            for _ in range(2):
                struck[0] = False
                with monkeypatch.context() as patch, in_time():
                    patch.setattr(Workers, "_spawn", refuse)
                    # The first seat may be the empty one, and what was lost is run again from there on.
                    try:
                        result = shmmap.pmap(func, np.arange(10), engine=team, chunksize=1)
                    except OSError as error:
                        assert "descriptor" in str(error)
                    else:
                        assert workers == 2
                        assert_same(result, np.arange(10) * 2)
                assert_next_map_works(team, workers)
            struck[0] = False
            with monkeypatch.context() as patch, in_time():
                patch.setattr(Workers, "_spawn", refuse)
                go[0] = False
                futures = [team.submit(func, i) for i in (3, 1, 2)]
                go[0] = True
                with pytest.raises(shmmap.WorkerDied):
                    futures[0].result()
                for i, future in enumerate(futures[1:], 1):
                    if workers == 1:
                        with pytest.raises(shmmap.WorkerDied):
                            future.result()
                    else:
                        assert future.result() == 2 * i
                if workers == 2:
                    assert team.submit(func, 4).result() == 8
            assert_next_map_works(team, workers)


def team_members(team: Any) -> list[Any]:
    """What a team knows of each of its workers."""
    return list(team._team.workers.links.values())


def make_pages(team: Any, nbytes: int) -> None:
    """Have each of two workers make the page that results of up to so many bytes are handed over in."""
    met = shmmap.zeros(2, bool)

    def fill(i: Any) -> bytes:
        met[i] = True
        wait_until(met.all)
        return bytes(nbytes)

    shmmap.pmap(fill, range(2), engine=team, chunksize=1, out=list)


def test_24_many_open_files(team: Any, tmp_path: Path) -> None:
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


def test_24_a_map_that_cannot_begin_when_its_turn_has_come(tmp_path: Path) -> None:
    """It is told, and nobody else."""
    done = run_script(tmp_path, NO_DESCRIPTORS)
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr


def test_24_a_team_that_has_too_few_to_start_says_so(tmp_path: Path) -> None:
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
