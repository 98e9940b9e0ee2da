"""Arrays that are not in memory: what is refused, who opens and closes them, what a death leaves."""

from __future__ import annotations

import gc
import io
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap._chunks import store
from shmmap._interop import stored
from tests import functions
from tests.helpers import assert_same, shared_memory_in_use

h5py = pytest.importorskip("h5py")
zarr = pytest.importorskip("zarr")

pytestmark = pytest.mark.warm

A = np.arange(60.0).reshape(20, 3)


@pytest.fixture(autouse=True, scope="module")
def _zarr_runs() -> None:
    """Start zarr's own thread, which then stays, before anything is guarded."""
    zarr.create_array(zarr.storage.MemoryStore(), data=np.zeros(1))[:]


def in_memory() -> Any:
    return zarr.create_array(zarr.storage.MemoryStore(), data=A, chunks=(3, 3))


def in_folder(folder: Path, name: str = "a.zarr") -> Any:
    return zarr.create_array(folder / name, data=A, chunks=(4, 3))


def save_hdf5(folder: Path, **options: Any) -> Path:
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("a", data=A, **options)
    return folder / "a.h5"


def never(*args: Any) -> Any:
    raise AssertionError("it was called")


SHARING = ["processes", "fork"]
HERE = ["serial", "threads"]


# --- inputs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", SHARING)
def test_what_workers_cannot_open_is_refused(tmp_path: Path, engine: Any) -> None:
    with pytest.raises(ValueError, match="engine='threads'"):
        shmmap.pmap(never, in_memory(), engine=engine)
    assert_same(shmmap.pmap(np.sum, shmmap.asshared(in_memory()[:]), engine=engine), A.sum(axis=1))
    with (
        h5py.File(io.BytesIO(), "w") as file,
        pytest.raises(ValueError, match="this process alone"),
    ):
        shmmap.pmap(never, file.create_dataset("a", data=A), engine=engine)
    with (
        h5py.File("nowhere", "w", driver="core", backing_store=False) as file,
        pytest.raises(ValueError, match="'core'"),
    ):
        shmmap.pmap(never, file.create_dataset("a", data=A), engine=engine)
    with (
        h5py.File(save_hdf5(tmp_path), "r+") as file,
        pytest.raises(ValueError, match="open it with mode 'r', or use engine='threads'"),
    ):
        shmmap.pmap(never, file["a"], engine=engine)


def test_executors_and_threads_take_any(tmp_path: Path, engine: Any) -> None:
    if engine in SHARING or isinstance(engine, shmmap.Team):
        pytest.skip("refused there")
    assert_same(shmmap.pmap(np.sum, in_memory(), engine=engine), A.sum(axis=1))
    with h5py.File(save_hdf5(tmp_path), "r+") as file:
        assert_same(shmmap.pmap(np.sum, file["a"], engine=engine), A.sum(axis=1))


def test_zarr_in_other_stores(tmp_path: Path, engine: Any) -> None:
    with zarr.storage.ZipStore(tmp_path / "a.zip", mode="w") as store:
        zarr.create_array(store, name="inner/a", data=A)
    with zarr.storage.ZipStore(tmp_path / "a.zip", mode="r") as store:
        array = zarr.open_array(store, path="inner/a", mode="r")
        assert_same(shmmap.pmap(np.sum, array, engine=engine, workers=2), A.sum(axis=1))
    pytest.importorskip("fsspec")
    in_folder(tmp_path)
    store = zarr.storage.FsspecStore.from_url(f"file://{tmp_path}/a.zarr", read_only=True)
    array = zarr.open_array(store, mode="r")
    assert_same(shmmap.pmap(np.sum, array, engine=engine, workers=2), A.sum(axis=1))


def test_memory_of_fsspec_is_this_process_s() -> None:
    pytest.importorskip("fsspec")
    array = zarr.create_array("memory://a.zarr", data=A)
    with pytest.raises(ValueError, match="engine='threads'"):
        shmmap.pmap(never, array, engine="processes")


def test_passed_whole(tmp_path: Path, engine: Any) -> None:
    with h5py.File(save_hdf5(tmp_path), "r") as file:
        result = shmmap.pmap(
            lambda i, a: a[i], range(20), file["a"], axis=(0, None), out=np.ndarray, engine=engine
        )
    assert_same(result, A)


def test_a_file_that_was_written_again_is_read_again(tmp_path: Path, team: Any) -> None:
    """Also by workers that were forked while it was open: HDF5 would go on with what it knew then."""
    for i in range(3):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("a", data=np.arange(20.0) + i, chunks=(5 + i,))
        with h5py.File(tmp_path / "a.h5", "r") as file:
            result = shmmap.pmap(float, file["a"], engine=team, workers=2)
        assert_same(result, np.arange(20.0) + i)


def test_chunks_are_read_only(tmp_path: Path, engine: Any) -> None:
    array = in_folder(tmp_path)

    def write(chunk: Any) -> None:
        chunk[:] = 0

    for verb in (shmmap.pmap, shmmap.pmap_chunks):
        with pytest.raises(ValueError, match="read-only"):
            verb(write, array, engine=engine)
    assert_same(array[:], A)


@pytest.mark.parametrize("engine", SHARING)
def test_files_are_open_during_the_call_only(tmp_path: Path, engine: Any) -> None:
    path = str(save_hdf5(tmp_path))

    def opened(item: Any) -> tuple[int, int]:
        links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        return os.getpid(), sum(
            os.path.exists(link) and os.readlink(link) == path for link in links
        )

    with h5py.File(path, "r") as file:
        inside = shmmap.pmap(opened, file["a"], out=list, engine=engine, workers=2, chunksize=1)
    # Forked workers have the caller's descriptor, too.
    assert {count for _, count in inside} <= ({1} if engine == "processes" else {1, 2})
    after = shmmap.pmap(opened, range(20), engine=engine, workers=2, chunksize=1)
    assert {count for _, count in after} == {0}


def test_an_array_that_is_another_by_now_is_refused(tmp_path: Path) -> None:
    stale = in_folder(tmp_path)
    zarr.open_array(tmp_path / "a.zarr", mode="r+").resize((25, 3))
    with pytest.raises(ValueError, match="changed and not written yet, or replaced"):
        shmmap.pmap(np.sum, stale, engine="processes")


def test_objects_and_closed_files_are_refused(tmp_path: Path, engine: Any) -> None:
    with h5py.File(tmp_path / "b.h5", "w") as file:
        words = file.create_dataset("words", data=["a", "bc"])
        number = file.create_dataset("number", data=1.0)
        with pytest.raises(TypeError, match="Python objects"):
            shmmap.pmap(never, words, engine=engine)
        with pytest.raises(ValueError, match="0-dimensional"):
            shmmap.pmap(never, number, engine=engine)
    with pytest.raises(ValueError, match="closed"):
        shmmap.pmap(never, words, engine=engine)


# --- outputs ------------------------------------------------------------------------------------


def test_one_writer_is_the_caller(tmp_path: Path, engine: Any) -> None:
    out = in_memory()
    assert shmmap.pmap_chunks(functions.double, A, out=out, engine=engine, chunksize=5) is out
    assert_same(out[:], A * 2)
    with zarr.storage.ZipStore(tmp_path / "a.zip", mode="w") as store:
        out = zarr.create_array(store, shape=A.shape, dtype="f8", chunks=(5, 3))
        shmmap.pmap_chunks(functions.double, A, out=out, engine=engine, chunksize=5, workers=2)
        assert_same(out[:], A * 2)


def test_what_cannot_be_written_is_refused_before_anything_runs(
    tmp_path: Path, engine: Any
) -> None:
    array = in_folder(tmp_path)
    for out, text in [
        (zarr.open_array(tmp_path / "a.zarr", mode="r"), "read-only"),
        (zarr.create_array(tmp_path / "b.zarr", shape=(19, 3), dtype="f8"), "length 20"),
        (zarr.create_array(tmp_path / "c.zarr", shape=(), dtype="f8"), "length 20"),
        ((array, zarr.open_array(tmp_path / "a.zarr", mode="r+")), "same array"),
    ]:
        with pytest.raises(ValueError, match=text):
            shmmap.pmap_chunks(never, A, out=out, engine=engine)
    with h5py.File(save_hdf5(tmp_path), "r") as file, pytest.raises(ValueError, match="read-only"):
        shmmap.pmap_chunks(never, A, out=file["a"], engine=engine)
    assert_same(array[:], A)


def test_in_place(tmp_path: Path, engine: Any) -> None:
    array, again = in_folder(tmp_path), zarr.open_array(tmp_path / "a.zarr", mode="r+")
    options: dict[str, Any] = {"engine": engine, "workers": 2, "chunksize": 1}
    for refused in ({"depth": 1}, {"axis": (1, 0)}, {"retries": 1}):
        inputs = (A.T, again) if "axis" in refused else (again,)
        with pytest.raises(ValueError, match="out"):
            shmmap.pmap_chunks(never, *inputs, out=array, **options, **refused)
    if not isinstance(engine, str | shmmap.Team):
        with pytest.raises(ValueError, match="out that is an input"):
            shmmap.pmap_chunks(never, again, out=array, **options)
        return
    sizes: list[int] = shmmap.pmap_chunks(len, again, out=list, **options)
    assert sizes == [1] * 20  # read-only, any limits will do
    shmmap.pmap_chunks(functions.double, again, out=array, **options)
    assert_same(array[:], A * 2)


@pytest.mark.parametrize("engine", HERE)
def test_hdf5_in_place(tmp_path: Path, engine: Any) -> None:
    with h5py.File(save_hdf5(tmp_path), "r+") as file:
        shmmap.pmap_chunks(functions.double, file["a"], out=file["a"], engine=engine)
        assert_same(file["a"][:], A * 2)


def test_chunks_are_whole_storage_chunks(tmp_path: Path) -> None:
    out = zarr.create_array(tmp_path / "a", shape=(100,), dtype=int, chunks=(5,), shards=(20,))
    for size, expected in [(1, 20), (20, 20), (21, 40), (1000, 100), ("8B", 20), ("auto", 20)]:
        shmmap.pmap_chunks(
            lambda x: np.full(len(x), len(x)), np.arange(100), out=out, chunksize=size
        )
        assert out[0] == expected


# --- deaths, and bounds -------------------------------------------------------------------------


@pytest.mark.few(1)
@pytest.mark.parametrize("kind", ["zarr", "hdf5"])
def test_a_death_costs_nothing_that_is_written(tmp_path: Path, team: Any, kind: str) -> None:
    def func(chunk: Any) -> Any:
        here = shmmap.current()
        assert here is not None
        if here.start == 8 and here.attempt == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return chunk * 2

    with h5py.File(save_hdf5(tmp_path), "r+") as file:
        out = in_folder(tmp_path) if kind == "zarr" else file["a"]
        shmmap.pmap_chunks(func, A, out=out, engine=team, chunksize=4)
        assert_same(out[:], A * 2)

        def dies(chunk: Any) -> Any:
            here = shmmap.current()
            assert here is not None
            if here.start == 8:
                os.kill(os.getpid(), signal.SIGKILL)
            return chunk * 3

        with pytest.raises(shmmap.WorkerDied) as caught:
            shmmap.pmap_chunks(dies, A, out=out, engine=team, chunksize=4, on_error="raise")
        assert (8, 12) in caught.value.failed


@pytest.mark.slow
def test_what_is_handed_over_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a slow writer, workers wait instead of piling results up."""
    monkeypatch.setattr(store, "HAND_NBYTES", 1 << 20)
    write, peak = stored.Target.__setitem__, 0

    def write_slowly(self: Any, rows: slice, value: Any) -> None:
        nonlocal peak
        time.sleep(0.002)
        peak = max(peak, shared_memory_in_use())
        write(self, rows, value)

    monkeypatch.setattr(stored.Target, "__setitem__", write_slowly)
    item = np.zeros(1 << 15)  # 256 KiB
    with h5py.File(tmp_path / "a.h5", "w") as file, shmmap.Team(workers=2, start="fork") as team:
        out = file.create_dataset("a", shape=(200, len(item)), dtype="f8")
        shmmap.pmap(lambda i: item + i, range(200), out=out, engine=team, chunksize=1)
        assert_same(out[:, 0], np.arange(200.0))
    assert peak < 20 << 20  # of 50 MiB
    gc.collect()


@pytest.mark.parametrize("engine", SHARING)
def test_a_failing_write_ends_the_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Any
) -> None:
    def write(self: Any, rows: slice, value: Any) -> None:
        raise OSError(28, "No space left on device")

    with h5py.File(save_hdf5(tmp_path), "r+") as file:
        with monkeypatch.context() as patch:
            patch.setattr(stored.Target, "__setitem__", write)
            with pytest.raises(OSError, match="No space left"):
                shmmap.pmap_chunks(functions.double, A, out=file["a"], engine=engine, chunksize=1)
        shmmap.pmap_chunks(functions.double, A, out=file["a"], engine=engine, chunksize=1)
        assert_same(file["a"][:], A * 2)
