"""Views of shared arrays reach the workers as they are: same bytes, no copy."""

from __future__ import annotations

from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap.testing import KillSelf
from tests.helpers import assert_same, run_script

pytestmark = pytest.mark.warm

BASE = (4, 6, 5)

VIEWS = {
    "slice": lambda a: a[1:3],
    "negative strides": lambda a: a[::-1, ::-2],
    "transpose": lambda a: a.T,
    "one item": lambda a: a[2, 3, 4:5],
    "no items": lambda a: a[2:2],
    "0-d": lambda a: a[1, 2, 3, ...],
    "newaxis": lambda a: a[:, None, 1:],
    "reshape": lambda a: a.reshape(8, 15),
    "broadcast": lambda a: np.broadcast_to(a[0], (3, 6, 5)),
    "diagonal": lambda a: a.diagonal(),
    "sliding window": lambda a: np.lib.stride_tricks.sliding_window_view(a, 2, axis=0),
    "other dtype": lambda a: a.view(np.int64),
    "every other byte": lambda a: a.view(np.uint8)[..., ::2],
    "memoryview": lambda a: np.asarray(memoryview(a)),
    "frombuffer": lambda a: np.frombuffer(a, np.uint8)[8:-8],
}


def describe(a: Any) -> tuple[Any, ...]:
    """What of an array must be the same in the worker."""
    return a.shape, a.strides, a.dtype.str, a.flags.writeable, a.tobytes()


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_view_is_the_same_in_a_worker(view: Any) -> None:
    a = shmmap.asshared(np.arange(120.0).reshape(BASE))
    v = view(a)
    assert shmmap.is_shared(v)
    (there,) = shmmap.pmap(lambda i: (describe(v), shmmap.is_shared(v)), [0])
    assert there == (describe(v), True)


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_worker_sees_later_writes(view: Any) -> None:
    a = shmmap.zeros(BASE)
    v = view(a)
    func = lambda i: v.tobytes()  # noqa: E731
    assert shmmap.pmap(func, [0]) == [v.tobytes()]
    a[...] = np.arange(120.0).reshape(BASE)
    assert shmmap.pmap(func, [0]) == [v.tobytes()]


def test_record_arrays_where_nobody_has_asked_for_their_module(tmp_path: Path) -> None:
    """``numpy.rec``, in which their class is found, is imported when somebody first does."""
    source = """
        import numpy as np, shmmap

        rows = np.zeros(10, [("a", "f8"), ("b", "i4")]).view(np.recarray)
        assert shmmap.pmap_chunks(lambda chunk: chunk.a + 1, rows, workers=2).tolist() == [1.0] * 10
    """
    done = run_script(tmp_path, source)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def test_views_of_a_field() -> None:
    a = shmmap.zeros(5, [("name", "U3"), ("value", "f8", (2,))])
    values = a["value"]

    def write(record: Any) -> None:
        record["name"] = "set"

    shmmap.pmap(lambda i: values.__setitem__(int(i), i), np.arange(5))
    assert_same(np.array(values), np.repeat(np.arange(5.0), 2).reshape(5, 2))
    shmmap.pmap_chunks(lambda block: write(block), a)
    assert (a["name"] == "set").all()


def test_arrays_inside_containers_and_results() -> None:
    a = shmmap.zeros(100_000)
    tree = {"a": [a, (a[10:20], {"x": a.T})]}

    def write(i: Any) -> Any:
        tree["a"][0][:] = 5
        return tree["a"][1][0]

    (part,) = shmmap.pmap(write, [0])
    assert (a == 5).all()
    a[:] = 6
    assert (part == 6).all(), "a shared array among the results is the caller's own"


def test_adopted_memory_is_shared_with_workers() -> None:
    memory = shared_memory.SharedMemory(create=True, size=800)
    try:
        a = shmmap.adopt(memory.name, (100,), np.float64)

        def write(i: Any) -> None:
            a[i] = i  # noqa: F821 (it is deleted only later)

        shmmap.pmap(write, np.arange(100))
        assert_same(np.frombuffer(bytes(memory.buf[:800])), np.arange(100.0))
        del a, write
    finally:
        memory.close()
        memory.unlink()


def test_adopted_memory_outlives_its_object() -> None:
    memory = shared_memory.SharedMemory(create=True, size=800)
    a = shmmap.adopt(memory, (100,), np.float64)
    memory.close()
    memory.unlink()
    a[:] = 3
    assert_same(shmmap.pmap(np.negative, a), np.full(100, -3.0))


def test_adopt_refuses_what_does_not_fit() -> None:
    memory = shared_memory.SharedMemory(create=True, size=4096)
    try:
        for arguments in (((600,), "f8"), ((2,), "f8", 4090), ((2,), "f8", -8)):
            with pytest.raises(ValueError, match=r"bytes|offset|fit"):
                shmmap.adopt(memory, *arguments)
        with pytest.raises(TypeError, match="object"):
            shmmap.adopt(memory, (2,), object)
    finally:
        memory.close()
        memory.unlink()
    with pytest.raises(FileNotFoundError):
        shmmap.adopt("no-such-memory", (2,), "f8")


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_views_of_memmaps(tmp_path: Path, mode: str) -> None:
    np.save(tmp_path / "a.npy", np.arange(60.0).reshape(6, 10))
    v = shmmap.load(tmp_path / "a.npy", mode)[1::2, ::-3]
    (there,) = shmmap.pmap(lambda i: (v.shape, v.tobytes(), v.flags.writeable), [0])
    assert there == (v.shape, v.tobytes(), mode == "r+")


def test_copy_on_write_memmap_shows_the_callers_changes(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(4))
    a = shmmap.load(tmp_path / "a.npy", "c")
    a[:] = 1
    assert_same(shmmap.pmap(np.negative, a), np.full(4, -1.0))


def test_load_refuses_what_is_not_an_array(tmp_path: Path) -> None:
    (tmp_path / "text.npy").write_text("no array at all")
    with pytest.raises(ValueError):
        shmmap.load(tmp_path / "text.npy")
    np.save(tmp_path / "objects.npy", np.array([1, "a"], object), allow_pickle=True)
    with pytest.raises((TypeError, ValueError), match="object"):
        shmmap.load(tmp_path / "objects.npy")
    np.save(tmp_path / "short.npy", np.zeros(1000))
    with open(tmp_path / "short.npy", "r+b") as file:
        file.truncate(2000)
    with pytest.raises(ValueError):
        shmmap.load(tmp_path / "short.npy")
    with pytest.raises(FileNotFoundError):
        shmmap.load(tmp_path / "none.npy")
    with pytest.raises(ValueError, match="mode"):
        shmmap.load(tmp_path / "short.npy", "w")


def test_small_arrays_are_independent() -> None:
    arrays = [shmmap.full(7, i, "i2") for i in range(1000)]
    shmmap.pmap(lambda i: arrays[i].__setitem__(slice(None), i + 1), range(1000))
    assert all((a == i + 1).all() for i, a in enumerate(arrays))


def test_fresh_zeros_are_zero_though_memory_is_used_again() -> None:
    for nbytes in (1000, 1 << 16, 1 << 21):
        for _ in range(3):
            shmmap.full(nbytes, 255, np.uint8)
            assert not shmmap.zeros(nbytes, np.uint8).any()


def test_what_a_killed_worker_was_writing_is_not_used_again_early() -> None:
    """A write that is under way when its worker is killed lands in no other array."""
    for _ in range(5):
        a = shmmap.zeros(1 << 18)
        kill = KillSelf(at=1)

        def write(i: Any, a: Any = a, kill: Any = kill) -> None:
            a[:] = 7
            kill(i)

        with pytest.raises(shmmap.WorkerDied):
            shmmap.pmap(write, range(2), workers=2, chunksize=1)
        del a, write
        fresh = shmmap.zeros(1 << 18)
        assert not fresh.any()
        assert_same(shmmap.pmap_chunks(np.array, fresh, workers=2), np.zeros(1 << 18))
