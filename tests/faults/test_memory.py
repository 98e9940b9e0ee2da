"""Faults 3 and 18 to 23: memory runs out, or is used in odd ways."""

from __future__ import annotations

import ast
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from tests.helpers import (
    assert_next_map_works,
    in_time,
)

from .common import IN_CGROUP, memory_cgroup, run_program, run_with_small_shm


@pytest.mark.privileged
@pytest.mark.parametrize("engine", ["processes", "fork"])
def test_3_out_of_memory(tmp_path: Path, engine: str) -> None:
    """The worker dies, not the caller; the message suggests memory, and names the range."""
    with memory_cgroup(200 << 20) as group:
        printed = run_program(
            tmp_path,
            IN_CGROUP
            + """
def hog(i):
    if i == 5:
        return int(np.ones(600 << 20, np.uint8).sum())
    return i

started = time.monotonic()
try:
    shmmap.pmap(hog, np.arange(10), chunksize=1, workers=2, engine=sys.argv[2])
except shmmap.WorkerDied as error:
    print(error, error.failed, time.monotonic() - started < 20, sep="\\n")
works(engine=sys.argv[2])
""",
            group,
            engine,
        )
    text, failed, soon = printed.splitlines()
    assert "SIGKILL" in text and "memory" in text and "pid" in text
    assert any(start <= 5 < stop for start, stop in ast.literal_eval(failed))
    assert soon == "True"


@pytest.mark.privileged
class Test18And20SmallShm:
    """``/dev/shm`` is smaller than a segment, or filled by others in the middle of a map."""

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

    @pytest.mark.slow
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

    @pytest.mark.slow
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

    @pytest.mark.slow
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


def test_19_limited_address_space(tmp_path: Path) -> None:
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


@pytest.mark.slow
def test_19_results_that_the_callers_address_space_has_no_room_for(tmp_path: Path) -> None:
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


class Test3MemoryLimit:
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


@pytest.mark.slow
class Test18FileSize:
    """Not even a memfd may be that large; unprivileged, by a limit on the size of files."""

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


@pytest.mark.slow
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
