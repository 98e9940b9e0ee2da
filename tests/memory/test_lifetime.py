"""Memory lives exactly as long as some array or view over it does, here and in the workers."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap.testing import wait_until
from tests import functions
from tests.helpers import descriptor_count, run_python, shared_memory_in_use

pytestmark = pytest.mark.warm

SIZE = 1 << 30
"""Bytes; more than twice what the library may keep for the next array, so that most must go back at once."""


def released(before: int) -> Callable[[], bool]:
    """Whether shared memory in use is, but for noise, what it was before."""
    return lambda: shared_memory_in_use() < before + SIZE // 2


@pytest.fixture
def before() -> int:
    """Shared memory in use at the start, with a warm team."""
    shmmap.pmap(functions.nothing, range(100), workers=2, chunksize=1)
    return shared_memory_in_use()


def test_del_gives_memory_back_though_the_team_is_warm(before: int) -> None:
    a = shmmap.zeros(SIZE, np.uint8)
    a[:] = 1
    shmmap.pmap_chunks(np.sum, a, out=list, workers=2)
    assert not released(before)()
    view = a[::-2]
    del a
    gc.collect()
    assert not released(before)(), "a view keeps the memory"
    assert view[0] == 1
    del view
    wait_until(released(before), 1)


def test_results_are_given_back(before: int) -> None:
    result = shmmap.pmap_ranges(lambda start, stop: None, 10, workers=2)
    result = shmmap.pmap_chunks(np.negative, shmmap.zeros(SIZE, np.uint8), workers=2)
    assert not released(before)()
    del result
    wait_until(released(before), 1)


@pytest.mark.slow
def test_captured_array_is_given_back(before: int) -> None:
    a = shmmap.zeros(SIZE, np.uint8)
    shmmap.pmap(lambda i, a=a: a.fill(int(i)), np.arange(2), workers=2)
    assert not released(before)()
    del a
    wait_until(released(before), 1)


@pytest.mark.slow
def test_array_of_a_failed_map_is_given_back(before: int) -> None:
    a = shmmap.zeros(SIZE, np.uint8)

    def fail(i: Any, a: Any = a) -> None:
        a[:] = 1
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        shmmap.pmap(fail, np.arange(2), workers=2)
    del a, fail
    gc.collect()
    wait_until(released(before), 1)


def test_view_kept_by_a_worker_reads_right_after_the_caller_dropped_the_array() -> None:
    with shmmap.Team(workers=1) as team:
        a = shmmap.full(1 << 20, 7, np.int64)

        def keep(i: Any, a: Any = a) -> None:
            import builtins

            builtins.kept_by_shmmap_test = a[::2]  # type: ignore[attr-defined]

        def kept(i: Any) -> int:
            import builtins

            return int(builtins.kept_by_shmmap_test.sum())  # type: ignore[attr-defined]

        shmmap.pmap(keep, [0], engine=team)
        del a, keep
        gc.collect()
        others = [shmmap.full(1 << 20, 9, np.int64) for _ in range(4)]
        shmmap.pmap(functions.nothing, others, engine=team)
        assert shmmap.pmap(kept, [0], engine=team) == [7 * (1 << 19)]


def test_view_outlives_its_team() -> None:
    with shmmap.Team(workers=2) as team:
        a = shmmap.pmap(functions.double, np.arange(1 << 17), engine=team)
        view = a[5:]
        del a
    assert view.tolist() == list(range(10, 1 << 18, 2))


def test_many_arrays_leave_nothing() -> None:
    def cycle(n: int) -> None:
        for i in range(n):
            a = shmmap.zeros(1 + i * 37 % 3000)
            a[0] = 1
        for _ in range(n // 10):
            shmmap.zeros(1 << 18)

    cycle(200)
    descriptors = descriptor_count()
    used = shared_memory_in_use()
    cycle(2000)
    assert descriptor_count() <= descriptors + 2
    assert shared_memory_in_use() < used + (64 << 20)


def test_no_python_runs_as_a_small_array_goes() -> None:
    """Or a Ctrl-C that comes just then would be lost: Python ignores exceptions there."""
    ran = []
    kept = shmmap.zeros(3)  # so that there is a slab
    x = shmmap.zeros(3)
    sys.setprofile(lambda frame, event, arg: ran.append((event, frame.f_code.co_name)))
    try:
        del x
    finally:
        sys.setprofile(None)
    assert [name for event, name in ran if event == "call"] == []
    address = kept.ctypes.data
    del kept
    assert shmmap.zeros(3).ctypes.data <= address, "its memory was not used again"


def test_small_arrays_of_more_than_one_slab_are_given_back_at_once() -> None:
    """Also those that were made while there was one slab. In a program where nothing else is in a slab."""
    source = """
import shmmap
from tests.helpers import shared_memory_in_use
shmmap.zeros(1)
before = shared_memory_in_use()
arrays = [shmmap.zeros(100_000) for _ in range(10)]
while arrays:
    arrays.pop()
print(shared_memory_in_use() - before)
"""
    done = run_python("-c", source)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_small_arrays_of_a_forked_child_are_given_back_at_once() -> None:
    """Those that its parent made while there was one slab, which stays the parent's."""
    source = """
import os, shmmap

def count_mapped():
    with open("/proc/self/maps") as file:
        return sum("/dev/shm/shmmap" in line for line in file)

a, b = shmmap.zeros(3), shmmap.ones(3)
pid = os.fork()
if pid == 0:
    counts = [count_mapped()]
    del a
    counts.append(count_mapped())
    assert b.tolist() == [1.0] * 3
    del b
    counts.append(count_mapped())
    os._exit(counts != [1, 1, 0])
print(os.waitpid(pid, 0)[1], count_mapped(), a.tolist())
"""
    done = run_python("-c", source)
    assert (done.stdout, done.stderr) == ("0 1 [0.0, 0.0, 0.0]\n", "")


def test_many_maps_leave_nothing() -> None:
    a = shmmap.zeros(1000)

    def cycle(n: int) -> None:
        for _ in range(n):
            shmmap.pmap_chunks(functions.double, a, out=a, workers=2)
            shmmap.pmap(functions.double, a[:10], workers=2)

    with shmmap.Team(workers=2):
        cycle(50)
        descriptors = descriptor_count()
        used = shared_memory_in_use()
        cycle(500)
        assert descriptor_count() <= descriptors + 2
        assert shared_memory_in_use() < used + (64 << 20)


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "end", ["", "import sys; sys.exit(3)", "raise ValueError('end')", "import os; os._exit(0)"]
)
def test_views_alive_at_exit_are_silent(end: str) -> None:
    source = f"""
import numpy as np, shmmap
a = shmmap.zeros(1 << 20)
view = shmmap.pmap_chunks(np.negative, a, workers=2)[::3]
class Keeper:
    def __init__(self): self.me, self.view = self, view
    def __del__(self): self.view[0] += self.view[-1]
keeper = Keeper()
print('mapped', flush=True)
{end}
"""
    done = run_python("-c", source)
    assert done.stdout == "mapped\n"
    if "raise" in end:
        assert done.stderr.count("Traceback") == 1
        assert done.stderr.endswith("ValueError: end\n")
    else:
        assert done.stderr == ""


def test_the_segment_of_the_last_small_array_is_given_back() -> None:
    """Also where nothing else has taken the array back since it was dropped."""
    source = (
        "import os, shmmap\n"
        "count = lambda: len(os.listdir('/proc/self/fd'))\n"
        "before = count()\na = shmmap.zeros(100)\ndel a\nshmmap.shutdown()\n"
        "print(count() - before)"
    )
    done = run_python("-c", source)
    assert done.stdout.strip() == "0", done.stderr


def test_an_array_that_a_worker_made_comes_back_to_it(team: shmmap.Team) -> None:
    made = shmmap.pmap(lambda i: shmmap.full(1 << 18, float(i)), [1, 2, 3], engine=team)
    for _ in range(2):
        sums = shmmap.pmap(lambda a: float(a[::4].sum()), made, engine=team)
        assert sums == [float(i << 16) for i in (1, 2, 3)]
    assert team.submit(np.sum, made[1]).result(20) == float(2 << 18)


def test_an_array_that_a_worker_made_and_keeps_is_returned_twice() -> None:
    def make() -> Any:
        a = shmmap.zeros(1 << 18)
        functions.kept.append(a)
        return a

    def again() -> Any:
        return functions.kept[-1]

    with shmmap.Team(1) as team:
        first = team.submit(make).result(20)
        first[:] = 3
        del first
        gc.collect()
        second = team.submit(again).result(20)
        assert (second == 3).all() and shmmap.is_shared(second)
        second[0] = 4
        assert team.submit(lambda: float(again()[0])).result(20) == 4
