"""A13: a store of zarr or HDF5 that workers get by another way than ``out=`` can be read, and not written.

Otherwise two of them write into one storage chunk at the same time, and what one of them wrote is lost.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap.testing import wait_until

zarr = pytest.importorskip("zarr")
h5py = pytest.importorskip("h5py")

N, CHUNK = 100, 30
VALUES = np.arange(float(N))


@pytest.fixture(autouse=True, scope="module")
def _zarr_runs() -> None:
    """Start zarr's own thread, which then stays, before anything is guarded."""
    zarr.create_array(zarr.storage.MemoryStore(), data=np.zeros(1))[:]


@pytest.fixture
def group(tmp_path: Path) -> Any:
    """A group with an array, in a folder."""
    group = zarr.open_group(tmp_path / "group.zarr", mode="w")
    group.create_array("x", shape=(N,), chunks=(CHUNK,), dtype="f8")[:] = VALUES
    return group


@pytest.fixture
def in_memory() -> Any:
    array = zarr.create_array(zarr.storage.MemoryStore(), shape=(N,), chunks=(CHUNK,), dtype="f8")
    array[:] = VALUES
    return array


@pytest.fixture
def dataset(tmp_path: Path) -> Iterator[Any]:
    """A dataset in a file that is open for writing."""
    with h5py.File(tmp_path / "data.h5", "w") as file:
        yield file.create_dataset("x", data=VALUES)


def writers(array: Any, group: Any) -> list[Callable[[int, int], Any]]:
    """Functions that write, each by another way."""

    def set_item(start: int, stop: int) -> None:
        array[start:stop] = -1

    def set_one(start: int, stop: int) -> None:
        array.set_basic_selection(start, -1)

    def by_group(start: int, stop: int) -> None:
        group["x"][start:stop] = -1

    def create(start: int, stop: int) -> None:
        group.create_array(f"new{start}", shape=(3,), dtype="f8")

    def note(start: int, stop: int) -> None:
        array.attrs["start"] = start

    def resize(start: int, stop: int) -> None:
        array.resize((2 * N,))

    def append(start: int, stop: int) -> None:
        array.append(VALUES[start:stop])

    def delete(start: int, stop: int) -> None:
        del group["x"]

    return [set_item, set_one, by_group, create, note, resize, append, delete]


def test_zarr(process_engine: Any, group: Any) -> None:
    """The example of A13, and every other way of writing: an error that names ``out=``; reading works."""
    array = group["x"]
    for write in writers(array, group):
        with pytest.raises(ValueError, match="out="):
            shmmap.pmap_ranges(write, N, chunksize=7, engine=process_engine)
    read = shmmap.pmap_ranges(
        lambda a, b: float(array[a:b].sum() + group["x"][a:b].sum()),
        N,
        chunksize=7,
        engine=process_engine,
    )
    assert sum(read) == 2 * VALUES.sum()
    assert np.array_equal(array[:], VALUES)
    assert set(group.keys()) == {"x"}
    # The caller's own is as it was.
    array[0] = 5.0
    assert array[0] == 5.0


def test_zarr_in_memory(process_engine: Any, in_memory: Any) -> None:
    def write(start: int, stop: int) -> None:
        in_memory[start:stop] = -1

    with pytest.raises(ValueError, match="out="):
        shmmap.pmap_ranges(write, N, chunksize=7, engine=process_engine)
    read = shmmap.pmap_ranges(lambda a, b: float(in_memory[a:b].sum()), N, engine=process_engine)
    assert sum(read) == VALUES.sum()


def test_frozen_before_the_fork(in_memory: Any) -> None:
    """As programs do that fork: the garbage collector does not find what is frozen."""

    def write(start: int, stop: int) -> None:
        in_memory[start:stop] = -1

    gc.collect()
    gc.freeze()
    with pytest.raises(ValueError, match="out="):
        shmmap.pmap_ranges(write, N, chunksize=7, engine="fork", workers=2)
    assert np.array_equal(in_memory[:], VALUES)


def put(array: Any, i: Any = 0) -> None:
    array[int(i)] = -1


def same(array: Any) -> Any:
    return array


def keep(array: Any) -> None:
    global kept
    kept = array


kept: Any = None


def put_kept(i: Any) -> None:
    put(kept, i)


@pytest.mark.slow
def test_by_other_ways(team: shmmap.Team, group: Any) -> None:
    """As an item, an argument, whole, by an initializer, and back as a result."""
    array = group["x"]
    with pytest.raises(ValueError, match="out="):
        shmmap.pmap(put, [array], engine=team)
    with pytest.raises(ValueError, match="out="):
        team.submit(put, array).result()
    with pytest.raises(ValueError, match="out="):
        list(team.map(put, [array]))
    with pytest.raises(ValueError, match="read-only"):  # which has been read into memory
        shmmap.pmap(put, array, range(3), axis=(None, 0), engine=team)
    with (
        shmmap.Team(
            1, start=team._team.workers.start, initializer=keep, initargs=(array,)
        ) as other,
        pytest.raises(ValueError, match="out="),
    ):
        other.submit(put_kept, 0).result()
    result = team.submit(same, array).result()
    assert not result.read_only
    assert type(result.store) is type(array.store)
    assert np.array_equal(array[:], VALUES)


def test_an_executor_of_processes(group: Any) -> None:
    """Workers of another library's executor."""
    array = group["x"]
    with ProcessPoolExecutor(1, get_context("spawn")) as executor:
        with pytest.raises(ValueError, match="out="):
            shmmap.pmap(lambda i: put(array, i), [1], engine=executor)
        assert shmmap.pmap(lambda i: array[int(i)], [3], engine=executor) == [3.0]
    assert np.array_equal(array[:], VALUES)


def test_read_only_zarr(process_engine: Any, group: Any) -> None:
    """What was opened for reading goes as it is."""
    array = zarr.open_array(group.store.root, path="x", mode="r")
    assert shmmap.pmap(lambda i: array[int(i)], [3], engine=process_engine) == [3.0]


def test_out_is_what_to_write(process_engine: Any, group: Any) -> None:
    """The advice, followed, gives right results, also with the same array captured."""
    array = group["x"]
    out = group.create_array("out", shape=(N,), chunks=(CHUNK,), dtype="f8")
    shmmap.pmap_chunks(lambda c: c + array[0], array, out=out, chunksize=7, engine=process_engine)
    assert np.array_equal(out[:], VALUES)


def test_hdf5(process_engine: Any, dataset: Any) -> None:
    """It does not travel; what came along with a fork can be read."""

    def write(start: int, stop: int) -> None:
        dataset[start:stop] = -1

    def write_direct(start: int, stop: int) -> None:
        dataset.write_direct(VALUES)

    def create(start: int, stop: int) -> None:
        dataset.parent.create_dataset(f"new{start}", data=VALUES)

    for func in (write, write_direct, create):
        with pytest.raises((ValueError, TypeError), match="out="):
            shmmap.pmap_ranges(func, N, chunksize=7, engine=process_engine)
    if process_engine == "fork":
        read = shmmap.pmap_ranges(lambda a, b: float(dataset[a:b].sum()), N, engine="fork")
        assert sum(read) == VALUES.sum()
    assert np.array_equal(dataset[:], VALUES)
    assert set(dataset.parent) == {"x"}
    dataset[0] = 5.0
    assert dataset[0] == 5.0


def test_in_the_calling_process(group: Any) -> None:
    """In a loop nobody else writes at the same time."""
    array = group["x"]

    def write(start: int, stop: int) -> None:
        array[start:stop] = -VALUES[start:stop]

    shmmap.pmap_ranges(write, N, chunksize=7, engine="serial")
    assert np.array_equal(array[:], -VALUES)


@pytest.fixture(params=["threads", "executor"])
def threads(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Engines of several threads of this process."""
    with ThreadPoolExecutor(2) as executor:
        yield executor if request.param == "executor" else "threads"


def test_threads(threads: Any, group: Any, in_memory: Any) -> None:
    """Two threads that write into one storage chunk lose values, too; afterwards all is as before."""
    array = group["x"]
    for write in writers(array, group):
        with pytest.raises(ValueError, match="out="):
            shmmap.pmap(lambda i, write=write: write(i, i + 1), range(2), engine=threads)
    with pytest.raises(ValueError, match="out="):
        shmmap.pmap(put, [in_memory, in_memory], engine=threads)
    read = shmmap.pmap(lambda i: float(array[i] + group["x"][i]), range(N), engine=threads)
    assert read == list(2 * VALUES)
    assert np.array_equal(array[:], VALUES)
    array[0] = in_memory[0] = 5.0
    assert array[0] == in_memory[0] == 5.0
    assert not array.read_only and not array.store.read_only


def test_threads_write_an_output_of_a_captured_store(threads: Any, group: Any) -> None:
    """What is given as ``out`` is written, whatever the function captures."""
    array = group["x"]
    out = group.create_array("out", shape=(N,), chunks=(CHUNK,), dtype="f8")
    assert shmmap.pmap(lambda v: v + array[1], VALUES, out=out, engine=threads) is out
    assert np.array_equal(out[:], VALUES + 1)
    shmmap.pmap(lambda v: v + out[1], VALUES, out=out, chunksize=N, engine=threads)
    assert np.array_equal(out[:], VALUES + 2)


def test_two_maps_of_threads_at_once(group: Any) -> None:
    """The store is as before when the last of them is over; meanwhile processes get it read-only."""
    array = group["x"]
    may_go = [threading.Event(), threading.Event()]
    maps = [
        shmmap.pmap(
            lambda i, event=event: event.wait(30) and float(array[1]),
            [1],
            engine="threads",
            wait=False,
        )
        for event in may_go
    ]
    wait_until(lambda: array.store.read_only)
    with pytest.raises(ValueError, match="out="):
        shmmap.pmap(lambda i: array.__setitem__(0, 5.0), [1], engine="processes")
    may_go[0].set()
    assert maps[0].result() == [1.0]
    assert array.store.read_only
    may_go[1].set()
    assert maps[1].result() == [1.0]
    array[0] = 5.0
    assert array[0] == 5.0


def test_a_file_written_by_the_function(process_engine: Any, tmp_path: Path) -> None:
    """What the function opens by itself is its own affair: nothing of it is in the way."""

    def write(start: int, stop: int) -> None:
        mine = zarr.create_array(tmp_path / f"{start}.zarr", shape=(3,), dtype="f8")
        mine[:] = start
        with h5py.File(tmp_path / f"{start}.h5", "w") as file:
            file["x"] = VALUES[start:stop]

    shmmap.pmap_ranges(write, N, chunksize=50, engine=process_engine)
    assert list(zarr.open_array(tmp_path / "50.zarr")[:]) == [50.0] * 3
    with h5py.File(tmp_path / "50.h5") as file:
        assert np.array_equal(file["x"][:], VALUES[50:])
