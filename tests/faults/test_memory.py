"""Faults 18 to 25: memory and descriptors run out, and everything is given back."""

from __future__ import annotations

import contextlib
import errno
import functools
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
from shmmap import Team
from shmmap._memory import table
from shmmap._results.collect import Collector
from shmmap._team.workers import Workers
from shmmap.testing import KillSelf, wait_until
from tests import functions
from tests.helpers import (
    assert_next_map_works,
    assert_same,
    descriptor_count,
    in_time,
    shared_memory_in_use,
)

from .common import IN_CGROUP, memory_cgroup, run_program, run_with_small_shm, times


@pytest.mark.privileged
class Test18And20SmallShm:
    """``/dev/shm`` is smaller than a segment, or filled by others in the middle of a map."""

    @pytest.mark.quick
    def test_memfd_takes_over(self, tmp_path: Path) -> None:
        """64 MiB, as in a container: a larger array lies elsewhere, and works all the same."""
        printed = run_with_small_shm(
            tmp_path,
            64 << 20,
            """
            a = shmmap.full(200 << 20, 3, np.uint8)
            b = shmmap.pmap_chunks(np.negative, a, workers=2)
            assert (b == 253).all() and shmmap.is_shared(b)
            print(os.statvfs("/dev/shm").f_blocks * 4096 >> 20)
            works()
            """,
        )
        assert printed == "64\n"

    def test_filled_by_others_in_the_middle_of_a_map(self, tmp_path: Path) -> None:
        """What is reserved stays ours: no bus error, and the result is right."""
        printed = run_with_small_shm(
            tmp_path,
            64 << 20,
            """
            a = shmmap.full(16 << 20, 3, np.uint8)
            out = shmmap.empty(16 << 20, np.uint8)
            filled = shmmap.zeros(1, bool)

            def func(chunk):
                if not filled[0]:
                    filled[0] = True
                    with open("/dev/shm/filler", "wb", buffering=0) as file:
                        try:
                            while file.write(bytes(1 << 20)):
                                pass
                        except OSError as error:
                            assert error.errno == 28, error
                return chunk + 1

            for start in ("clean", "fork"):
                filled[0] = False
                with shmmap.Team(2, start=start) as team:
                    shmmap.pmap_chunks(func, a, out=out, engine=team, chunksize=1 << 20)
                    assert (out == 4).all()
                    assert os.statvfs("/dev/shm").f_bavail == 0
                    results = shmmap.pmap_chunks(func, a, engine=team, chunksize=1 << 20)
                    assert (results == 4).all()
                    works(engine=team)
                os.unlink("/dev/shm/filler")
            print("right")
            """,
        )
        assert printed == "right\n"

    def test_results_that_do_not_fit_in_it(self, tmp_path: Path) -> None:
        """Large objects come back though the worker's pages find no room in ``/dev/shm``."""
        printed = run_with_small_shm(
            tmp_path,
            8 << 20,
            """
            for engine in ("processes", "fork"):
                got = shmmap.pmap(lambda i: bytes(8 << 20), range(6), workers=2, chunksize=1,
                                  engine=engine)
                assert [len(each) for each in got] == [8 << 20] * 6
            works()
            print("right")
            """,
        )
        assert printed == "right\n"


@pytest.mark.privileged
class Test18And19Limited:
    """A memory cgroup: refused before anybody is killed, with bytes wanted and available."""

    LIMIT = 256 << 20

    @pytest.mark.quick
    def test_refused(self, tmp_path: Path) -> None:
        with memory_cgroup(self.LIMIT) as group:
            printed = run_program(
                tmp_path,
                IN_CGROUP
                + """
x = np.ones(1000)
for make in (lambda: shmmap.zeros(400 << 20, np.uint8),
             lambda: shmmap.pmap(lambda i: i, np.broadcast_to(np.int8(1), (400 << 20,))),
             lambda: shmmap.pmap_chunks(lambda c: np.zeros((len(c), 1 << 16)), x, chunksize=10)):
    try:
        make()
    except shmmap.SharedMemoryError as error:
        print(error.wanted >= 400 << 20, 0 < error.available <= 256 << 20, error.where, error)
works()
assert (shmmap.full(64 << 20, 7, np.uint8) == 7).all()
""",
                group,
            )
        lines = printed.splitlines()
        assert len(lines) == 3, printed
        for line in lines:
            assert line.startswith("True True the memory cgroup")
            assert "wanted" in line and "available" in line

    def test_nothing_is_kept_of_what_was_refused(self, tmp_path: Path) -> None:
        with memory_cgroup(self.LIMIT) as group:
            printed = run_program(
                tmp_path,
                IN_CGROUP
                + """
works()
shmmap.shutdown()
before = len(os.listdir("/proc/self/fd"))
for _ in range(20):
    try:
        shmmap.zeros(400 << 20, np.uint8)
    except MemoryError:
        pass
print(len(os.listdir("/proc/self/fd")) - before)
""",
                group,
            )
        assert printed == "0\n"


@pytest.mark.quick
def test_limited_address_space(tmp_path: Path) -> None:
    """``ulimit -v``: refused like any other memory, and nothing is kept of it."""
    printed = run_program(
        tmp_path,
        """
import resource

works()
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
before = len(os.listdir("/proc/self/fd"))
for _ in range(3):
    try:
        shmmap.zeros(5 << 30, np.uint8)
    except shmmap.SharedMemoryError as error:
        print(error.wanted == 5 << 30, 0 < error.available < 4 << 30, error)
print(len(os.listdir("/proc/self/fd")) - before)
works()
""",
    )
    *lines, kept = printed.splitlines()
    assert len(lines) == 3 and int(kept) <= 0
    for line in lines:
        assert line.startswith("True True") and "address space" in line and "ulimit -v" in line


@pytest.mark.quick
def test_results_that_the_callers_address_space_has_no_room_for(tmp_path: Path) -> None:
    """An error of that map, or that function, alone."""
    printed = run_program(
        tmp_path,
        """
import resource

def func(i):
    return bytes(150 << 20) if i == 1 else i

with shmmap.Team(workers=2) as team:
    assert team.submit(int).result() == 0
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (60 << 20), limits[1]))
    for call in (lambda: shmmap.pmap(func, range(4), engine=team, chunksize=1),
                 lambda: team.submit(func, 1).result(20)):
        try:
            call()
        except (OSError, MemoryError) as error:
            print("address space" in str(error))
    resource.setrlimit(resource.RLIMIT_AS, limits)
    works(engine=team)
    assert len(shmmap.pmap(func, range(4), engine=team, chunksize=1)[1]) == 150 << 20
""",
    )
    assert printed == "True\nTrue\n"


@pytest.mark.quick
class TestMemoryLimit:
    """``memory_limit``: what a function takes beyond it is a clean MemoryError, with the index."""

    @pytest.mark.parametrize("start", ["clean", "fork"])
    def test_error_names_the_index(self, start: str) -> None:
        def func(i: Any) -> Any:
            return int(np.ones((400 if i == 5 else 1) << 20, np.uint8)[-1]) * i

        with shmmap.Team(workers=2, start=start, memory_limit=200 << 20) as team:
            for _ in range(2):
                with in_time(), pytest.raises(MemoryError) as caught:
                    shmmap.pmap(func, np.arange(10), engine=team, chunksize=1)
                assert not isinstance(caught.value, shmmap.SharedMemoryError)
                assert "index 5 " in "\n".join(caught.value.__notes__)
                assert_next_map_works(team)
            with pytest.raises(shmmap.MapError) as partial:
                shmmap.pmap(func, np.arange(10), engine=team, on_error="continue")
            assert partial.value.failed == ((5, 6),)
            # Shared memory is the caller's, and does not count.
            big = shmmap.zeros(400 << 20, np.uint8)
            assert shmmap.preduce(np.max, big, engine=team) == 0
            with pytest.raises(MemoryError):
                team.submit(func, 5).result()

    def test_memory_is_freed_for_the_next_call(self, team: Any) -> None:
        with shmmap.Team(workers=1, memory_limit=200 << 20) as limited:
            for _ in range(10):
                assert limited.submit(lambda: int(np.ones(150 << 20, np.uint8)[-1])).result() == 1


@pytest.mark.quick
class Test22ViewsOutlive:
    """A view outlives its array, the collector, its team and the program: no crash, and silence."""

    @pytest.mark.parametrize("start", ["clean", "fork"])
    def test_everything_but_the_view(self, tmp_path: Path, start: str) -> None:
        printed = run_program(
            tmp_path,
            """
            import gc
            a = shmmap.asshared(np.arange(1 << 18))
            small = shmmap.asshared(np.arange(100))
            with shmmap.Team(workers=2, start=sys.argv[1]) as team:
                b = shmmap.pmap_chunks(np.negative, a, engine=team)
                views = [a[5::7], b[::-1], small[3:], memoryview(b)]
                del a, b, small
                gc.collect()
                works(engine=team)
            shmmap.shutdown()
            assert views[0][1] == 12 and views[1][0] == 1 - (1 << 18) and views[2][0] == 3
            works()
            print(views[3][2])
            """,
            start,
        )
        assert printed == "-2\n"


class TestFileSize:
    """18: not even a memfd may be that large; unprivileged, by a limit on the size of files."""

    def test_error_names_the_bytes(self, tmp_path: Path) -> None:
        printed = run_program(
            tmp_path,
            """
            import resource
            works()
            shmmap.shutdown()
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (32 << 20,) * 2)
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(3):
                try:
                    shmmap.zeros(64 << 20, np.uint8)
                except shmmap.SharedMemoryError as error:
                    print(error.wanted)
            assert len(os.listdir("/proc/self/fd")) == before
            works()
            """,
        )
        assert printed == f"{64 << 20}\n" * 3


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

    @pytest.mark.quick
    def test_array(self) -> None:
        self.check(self.climb(lambda: shmmap.zeros(1 << 20), 30))

    def test_many_small_arrays(self) -> None:
        """They share segments, hence descriptors."""

        def action() -> None:
            held = [shmmap.zeros(100) for _ in range(2000)]
            assert len(held) == 2000

        self.climb(action, 30)

    @pytest.mark.parametrize("start", ["clean", "fork"])
    def test_team(self, start: str) -> None:
        """A team that finds no descriptors while it starts goes, and takes everything with it."""

        def action() -> None:
            with shmmap.Team(workers=2, start=start) as team:
                result = shmmap.pmap(functions.double, np.arange(10), engine=team, chunksize=1)
                assert_same(result, np.arange(10) * 2)

        shmmap.zeros(1)
        self.check(self.climb(action, 100))

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

    @pytest.mark.quick
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


class TestOutputRefused:
    """24, 18: the output of a map that runs already cannot be had."""

    @pytest.mark.quick
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
                patch.setattr(Collector, "propose", refuse)
                shmmap.pmap_chunks(func, np.arange(2), engine=team, chunksize=1)
            assert descriptor_count() <= before[0]
            assert shared_memory_in_use() <= before[1]
            assert_next_map_works(team)
        assert sorted(process.pid for process in team_members(team)) == pids

    @pytest.mark.quick
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
                patch.setattr(Team, "_ensure", refuse)
                shmmap.pmap_chunks(
                    functions.double, np.arange(1 << 18), engine=team, chunksize=9999
                )
            gc.collect()
            table.release_spare()
            assert descriptor_count() <= before[0] and shared_memory_in_use() <= before[1]
        assert_next_map_works(team)


class TestReplacementRefused:
    """24: a worker dies, and there are no descriptors left for another."""

    @pytest.mark.quick
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
    return list(team.workers.links.values())


def make_pages(team: Any, nbytes: int) -> None:
    """Have each of two workers make the page that results of up to so many bytes are handed over in."""
    met = shmmap.zeros(2, bool)

    def fill(i: Any) -> bytes:
        met[i] = True
        wait_until(met.all)
        return bytes(nbytes)

    shmmap.pmap(fill, range(2), engine=team, chunksize=1, out=list)


@pytest.mark.timeout(1200)
class Test25Flat:
    """Many arrays and many maps: descriptors, shared memory and RSS stay where they were.

    Scaled down unless ``SHMMAP_HEAVY`` is set; ``python -m tests.soak`` goes on for as long as it is asked
    to.
    """

    @staticmethod
    def usage() -> tuple[int, int, int]:
        """Descriptors, shared memory, RSS."""
        gc.collect()
        table.release_spare()
        text = Path("/proc/self/status").read_text()
        rss = next(int(line.split()[1]) for line in text.splitlines() if "VmRSS" in line) << 10
        return descriptor_count(), shared_memory_in_use(), rss

    def check(self, cycle: Any, n: int, rss_slack: int = 8 << 20) -> None:
        """Compare after some cycles with after `n` more."""
        for _ in range(n // 4):
            cycle()
        before = self.usage()
        for _ in range(n):
            cycle()
        after = self.usage()
        # Slabs and pages come and go, a few of two descriptors each; a leak would be one per cycle.
        assert after[0] <= before[0] + min(8, n // 3)
        assert after[1] <= before[1] + (12 << 20)
        assert after[2] <= before[2] + rss_slack

    def test_arrays(self) -> None:
        sizes = iter(range(10**9))

        def cycle() -> None:
            n = next(sizes)
            a = shmmap.zeros(1 + n * 7919 % 400_000)
            a[-1] = 1
            b = a[::2]
            del a
            assert b.size

        self.check(cycle, times(1000, 10_000))

    def test_maps(self, team: Any) -> None:
        x = shmmap.asshared(np.arange(1000))

        def cycle() -> None:
            result = shmmap.pmap_chunks(functions.double, x, engine=team, chunksize=300)
            assert result[-1] == 1998
            big = shmmap.pmap(functions.double, np.arange(200_000).reshape(10, -1), engine=team)
            assert big[-1, -1] == 399_998
            shmmap.pmap(lambda i: str(i), range(20), engine=team)

        self.check(cycle, times(60, 3400))

    def test_failures(self, team: Any) -> None:
        def fail(i: Any) -> None:
            raise ValueError("on purpose")

        def cycle() -> None:
            with pytest.raises(ValueError):
                shmmap.pmap(fail, np.arange(50), engine=team, chunksize=1)

        self.check(cycle, times(30, 1000))

    def test_teams(self) -> None:
        def cycle() -> None:
            with shmmap.Team(workers=2) as team:
                shmmap.pmap(functions.double, np.arange(10), engine=team)

        self.check(cycle, times(8, 200))

    def test_deaths(self, team: Any) -> None:
        def cycle() -> None:
            with pytest.raises(shmmap.WorkerDied):
                shmmap.pmap(KillSelf(at=3), np.arange(10), engine=team, chunksize=1)

        self.check(cycle, times(10, 200))


@pytest.mark.big
@pytest.mark.slow
@pytest.mark.parametrize("start", ["clean", "fork"])
def test_21_more_than_2_to_the_31_bytes(start: str) -> None:
    nbytes = (1 << 31) + 4097
    if _free() < 3 * nbytes:
        pytest.skip("needs 6 GiB of free memory")
    a = shmmap.zeros(nbytes, np.uint8)
    a[-1] = 5
    with shmmap.Team(workers=2, start=start) as team:
        shmmap.pmap_chunks(lambda c: c + 1, a, out=a, engine=team)
        assert a[-1] == 6 and a[0] == 1 and a[1 << 31] == 1
        assert (
            shmmap.preduce(functools.partial(np.sum, dtype=np.int64), a, engine=team) == nbytes + 5
        )


def _free() -> int:
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) << 10


@pytest.mark.quick
def test_23_write_to_a_read_only_input_is_reported(engine: Any) -> None:
    """`ValueError` where it was tried, and nothing is changed."""
    a = shmmap.asshared(np.arange(10.0))
    a.flags.writeable = False

    def func(chunk: Any) -> Any:
        chunk[0] = -1
        return chunk

    with pytest.raises(ValueError, match="read-only") as caught:
        shmmap.pmap_chunks(func, a, engine=engine, chunksize=5)
    assert "[0, 5)" in "\n".join(caught.value.__notes__)
    assert a.tolist() == list(range(10))
