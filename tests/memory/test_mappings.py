"""Arrays over files that somebody mapped by a plain `mmap`: they travel by file, and no write is lost."""

from __future__ import annotations

import mmap
import os
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap._wire.pickling import pack
from tests import functions
from tests.helpers import assert_same, run_python

pytestmark = pytest.mark.warm

N = 1 << 19
"""Numbers in the file: 4 MiB, of which even a third of a copy-on-write mapping goes by file."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    np.arange(N, dtype=">f8").tofile(tmp_path / "raw")
    return tmp_path / "raw"


def map_file(path: Path, access: int, dtype: str = ">f8", offset: int = 0) -> Any:
    with open(path, "r+b") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=access)
    return np.frombuffer(mapping, dtype, offset=offset)


def placed(a: Any) -> int:
    """Bytes that are copied into shared memory when an array is sent."""
    return pack(a).placed


@pytest.mark.parametrize("access", [mmap.ACCESS_READ, mmap.ACCESS_WRITE, mmap.ACCESS_COPY])
def test_values_are_read_from_the_file(path: Path, access: int, engine: Any) -> None:
    a = map_file(path, access)
    for view in (a, a[1::3], a[::-1], a.reshape(-1, 64).T, memoryview(a)[10:]):
        assert placed(np.asarray(view)) == 0
    assert shmmap.is_shared(a) == (access != mmap.ACCESS_COPY)
    assert_same(shmmap.pmap_chunks(functions.double, a[7:], engine=engine), np.asarray(a[7:]) * 2)
    items = a.reshape(-1, 64).T
    assert_same(shmmap.pmap(np.sum, items, engine=engine), np.stack([item.sum() for item in items]))


@pytest.mark.parametrize("access", [mmap.ACCESS_READ, mmap.ACCESS_WRITE, mmap.ACCESS_COPY])
def test_it_is_as_writable_as_it_may_be(path: Path, access: int, process_engine: Any) -> None:
    a = map_file(path, access)

    def write(i: int) -> None:
        a[i] = -1.0

    if access == mmap.ACCESS_WRITE:
        shmmap.pmap(write, [3, N - 1], engine=process_engine)
        assert a[3] == a[N - 1] == -1.0
    else:  # a write would vanish with the worker, or is none
        with pytest.raises(ValueError, match="read-only"):
            shmmap.pmap(write, [3], engine=process_engine)
        assert a[3] == 3.0


def test_an_output_in_the_file(path: Path, engine: Any) -> None:
    out = map_file(path, mmap.ACCESS_WRITE)
    assert shmmap.pmap_chunks(functions.double, np.arange(float(N)), out=out, engine=engine) is out
    assert_same(np.fromfile(path, ">f8"), np.arange(N, dtype=">f8") * 2)


def test_two_mappings_of_one_file_overlap(path: Path, engine: Any) -> None:
    out, other = map_file(path, mmap.ACCESS_WRITE), map_file(path, mmap.ACCESS_READ)
    with pytest.raises(ValueError, match="at other indices"):
        shmmap.pmap_chunks(functions.double, other[1:], out=out[:-1], engine=engine)
    with pytest.raises(ValueError, match="at other indices"):
        moved = np.memmap(path, ">f8", "r+", offset=8, shape=(N - 1,))
        shmmap.pmap_chunks(functions.double, other[:-1], out=moved, engine=engine)


# ---------------------------------------------------------------- copy-on-write


def look(i: int, a: Any) -> Any:
    return float(a[i]), float(a.sum())


@pytest.mark.parametrize("at", [0, 511, 512, N // 2, N - 1])
@pytest.mark.parametrize("how", ["mmap", "memmap"])
def test_what_was_written_privately_is_not_lost(path: Path, at: int, how: str) -> None:
    a = np.memmap(path, ">f8", "c") if how == "memmap" else map_file(path, mmap.ACCESS_COPY)
    assert placed(a) == 0
    a.sum()  # all of it is in memory
    assert placed(a) == 0
    for value in (-1.0, -2.0):
        a[at] = value
        assert placed(a) == a.nbytes
        expected = [(value, float(a.sum()))]
        assert shmmap.pmap(look, [at], a, axis=(0, None), workers=2) == expected
        assert shmmap.pmap(lambda i: look(i, a), [at], workers=2) == expected
        assert_same(shmmap.pmap_chunks(functions.double, a, workers=2), np.asarray(a) * 2)
        assert float(np.fromfile(path, ">f8")[at]) == at


def test_a_part_that_was_not_written_goes_by_file(path: Path) -> None:
    a = map_file(path, mmap.ACCESS_COPY)
    a[-1] = -1.0
    assert placed(a[: N // 2 + 1]) == 0
    assert placed(a[N // 4 :]) == a[N // 4 :].nbytes


def test_a_write_after_the_call_is_not_seen_by_it(path: Path) -> None:
    a = map_file(path, mmap.ACCESS_COPY)
    gate = shmmap.zeros(1, bool)

    def wait_and_look(i: int) -> float:
        while not gate[0]:
            pass
        return float(a[i])

    future = shmmap.pmap(wait_and_look, [5], workers=1, wait=False)
    a[5] = -1.0
    gate[0] = True
    assert future.result() == [5.0], "as of any private array"
    assert shmmap.pmap(wait_and_look, [5], workers=1) == [-1.0]


def test_a_user_without_rights(path: Path) -> None:
    """What the kernel tells of pages, it tells every user of their own."""
    if os.geteuid() != 0:
        pytest.skip("needs another user to become")
    source = f"""
import mmap, os, numpy as np
from shmmap._memory.mappings import is_unwritten
file = open({str(path)!r}, "rb")
a = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
os.setuid(65534)
print(is_unwritten(a))
a[9] = 0
print(is_unwritten(a))
"""
    done = run_python("-c", source)
    # A process that has changed its user may not look at itself: then it is copied, as any private array.
    assert done.stdout.split() in (["True", "False"], ["False", "False"]), done.stderr


# ---------------------------------------------------------------- what becomes of the file


@pytest.mark.parametrize("name", ["a b", "a\nb", "\\012", "a (deleted)", "ä\udcff", " a"])
def test_names_of_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    np.arange(N, dtype=">f8").tofile(path)
    a = map_file(path, mmap.ACCESS_READ)
    assert shmmap.pmap(look, [5], a, axis=(0, None), workers=2) == [look(5, a)]
    # The kernel writes a line's end as \012, and so it does not tell that name from this one.
    assert shmmap.is_shared(a) == (name != "\\012")


def test_a_file_that_is_renamed_replaced_or_removed(path: Path) -> None:
    a = map_file(path, mmap.ACCESS_READ)
    assert shmmap.is_shared(a)
    renamed = path.rename(path.with_name("other"))
    assert shmmap.is_shared(a), "it is found under its new name"
    assert shmmap.pmap(look, [5], a, axis=(0, None), workers=2) == [look(5, a)]
    np.zeros(N, ">f8").tofile(path.with_name("new"))
    path.with_name("new").rename(renamed)
    assert not shmmap.is_shared(a)
    assert shmmap.pmap(look, [5], a, axis=(0, None), workers=2) == [look(5, a)]
    b = map_file(renamed, mmap.ACCESS_COPY)
    renamed.unlink()
    assert placed(b) == b.nbytes
    assert shmmap.pmap(look, [5], b, axis=(0, None), workers=2) == [(0.0, 0.0)]


def test_a_file_that_was_cut_is_refused(path: Path) -> None:
    a = map_file(path, mmap.ACCESS_READ)
    os.truncate(path, 4096)
    with pytest.raises(ValueError, match="was cut short"):
        shmmap.pmap(np.sum, a.reshape(-1, 64))


def test_memory_that_is_in_no_file() -> None:
    a = np.frombuffer(mmap.mmap(-1, N * 8))
    assert not shmmap.is_shared(a)
    assert placed(a) == a.nbytes
    assert_same(shmmap.pmap_chunks(np.cos, a), np.ones(N))


def test_shared_memory_of_multiprocessing() -> None:
    memory = shared_memory.SharedMemory(create=True, size=N * 8)
    try:
        a: Any = np.ndarray((N,), buffer=memory.buf)
        a[:] = 1.0

        def write(i: int) -> None:
            a[i] = i  # noqa: F821 (it is deleted only later)

        assert shmmap.is_shared(a)
        shmmap.pmap(write, [7, 8])
        assert a[7] == 7.0 and a[8] == 8.0
        del write
        memory.unlink()
        assert not shmmap.is_shared(a), "no worker could find it any more"
        assert shmmap.pmap_chunks(np.negative, a).sum() == -a.sum()
        del a
    finally:
        memory.close()
