"""What is kept is never taken for another map; what the folder is not, is said in words."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import shmmap
from tests.helpers import assert_same

X = np.arange(40.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def double(v):
    return v * 2


def with_default(v, factor=2):
    return v * factor


def run(folder, func=double, x=X, *, verb=shmmap.pmap, **options):
    return verb(func, x, checkpoint=folder, engine="serial", **options)


def changed_in_the_middle(x):
    x = x.copy()
    x[len(x) // 2] += 1
    return x


@pytest.mark.parametrize(
    "change, word",
    [
        (lambda f: run(f, lambda v: v * 3), "function"),
        (lambda f: run(f, functools.partial(with_default, factor=5)), "function"),
        (lambda f: run(f, x=changed_in_the_middle(X)), "input 0"),
        (lambda f: run(f, x=X.astype(np.float32)), "input 0"),
        (lambda f: run(f, x=X[::-1]), "input 0"),
        (lambda f: run(f, x=list(X)), "input 0"),
        (lambda f: run(f, chunksize=7), "chunks"),
        (lambda f: run(f, x=X[:-1]), "chunks"),
        (lambda f: run(f, verb=shmmap.pmap_chunks), "verb"),
        (lambda f: run(f, out=list), "options"),
        (lambda f: run(f, dtype=np.float32), "options"),
    ],
)
def test_another_map_is_refused(folder, change, word):
    run(folder)
    before = (folder / "ledger").read_bytes(), (folder / "out.npy").read_bytes()
    with pytest.raises(shmmap.CheckpointMismatch, match=word):
        change(folder)
    assert ((folder / "ledger").read_bytes(), (folder / "out.npy").read_bytes()) == before
    assert_same(np.asarray(run(folder)), X * 2)


def test_another_seed_is_refused(folder):
    def draw(v, rng):
        return rng.random()

    first = run(folder, draw, rng=1)
    assert_same(np.asarray(run(folder, draw, rng=1)), np.asarray(first))
    with pytest.raises(shmmap.CheckpointMismatch, match="rng differs"):
        run(folder, draw, rng=2)


def test_to_begin_anew(folder):
    run(folder)
    option = shmmap.Checkpoint(folder, if_changed="restart")
    assert_same(np.asarray(run(option, lambda v: v * 3)), X * 3)
    assert_same(np.asarray(run(folder, lambda v: v * 3)), X * 3)


def test_to_keep_what_is_done_nevertheless(folder):
    run(folder)
    option = shmmap.Checkpoint(folder, if_changed="keep")
    assert_same(np.asarray(run(option, lambda v: v * 3)), X * 2)
    with pytest.raises(shmmap.CheckpointMismatch, match="chunks"):
        run(option, chunksize=7)


def test_workers_engine_and_schedule_are_no_difference(folder):
    run(folder)
    for options in ({"workers": 1}, {"schedule": "static"}, {"retries": 2}, {"timeout": 5}):
        result = shmmap.pmap(double, X, checkpoint=folder, engine="processes", **options)
        assert_same(np.asarray(result), X * 2)


def test_an_output_that_was_written_since_is_noticed(folder):
    run(folder)
    out = np.load(folder / "out.npy", mmap_mode="r+")
    out[:] = 0
    out.flush()
    with pytest.raises(shmmap.CheckpointMismatch, match="not as it was left"):
        run(folder)


def test_one_byte_of_a_large_input_counts_in_full(folder):
    x = np.zeros(1 << 20)
    option = shmmap.Checkpoint(folder, inputs="full")
    run(option, np.sqrt, x, verb=shmmap.pmap_chunks)
    x[300_001] = 1  # on none of the pages that are looked at
    with pytest.raises(shmmap.CheckpointMismatch, match="input 0"):
        run(option, np.sqrt, x, verb=shmmap.pmap_chunks)


@pytest.mark.parametrize("part", [slice(None), slice(None, None, 2)])
def test_a_mapped_file_is_looked_into(folder, tmp_path, part):
    """Its time may be the same: not every file system has another one for what is written by mapping it."""
    path = tmp_path / "x.npy"
    np.save(path, X)
    time = os.stat(path).st_mtime_ns
    run(folder, x=np.load(path, mmap_mode="r")[part])
    assert_same(np.asarray(run(folder, x=np.load(path, mmap_mode="r")[part])), X[part] * 2)
    np.save(path, X + 1)
    os.utime(path, ns=(time, time))
    with pytest.raises(shmmap.CheckpointMismatch, match="input 0"):
        run(folder, x=np.load(path, mmap_mode="r")[part])


@pytest.mark.parametrize("name", ["ledger", "out.npy", "pieces"])
@pytest.mark.parametrize("harm", ["cut short", "gone", "nonsense"])
def test_a_damaged_folder_is_refused(folder, name, harm):
    def words(v):
        return v * 2 if name == "out.npy" else str(v)

    options = {} if name == "out.npy" else {"out": list}
    run(folder, words, **options)
    path = folder / name
    if harm == "gone":
        path.unlink()
    elif harm == "cut short":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        path.write_bytes(bytes(reversed(path.read_bytes())))
    if (
        name == "ledger" and harm == "gone"
    ):  # it is a folder of the library's, with nothing in it that counts
        assert run(folder, words, **options) == [str(v) for v in X]
        return
    with pytest.raises(shmmap.CheckpointMismatch):
        run(folder, words, **options)


def test_what_is_left_without_a_ledger_counts_for_nothing(folder):
    """As after a crash while a folder was given up: its pieces are of another map."""
    run(folder, lambda v: 1 if v < 20 else 1.5, chunksize=4)
    (folder / "ledger").unlink()
    is_stopping = [True]

    def stopped(v):
        if is_stopping[0] and v == 38:
            raise KeyError
        return v * 2

    option = shmmap.Checkpoint(folder, if_changed="keep")
    with pytest.raises(KeyError):
        run(option, stopped, chunksize=4)
    is_stopping[0] = False
    assert_same(np.asarray(run(option, stopped, chunksize=4)), X * 2)


def test_a_folder_of_somebody_else(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(FileExistsError, match="none of a checkpoint"):
        run(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(NotADirectoryError, match="a folder is needed"):
        run(tmp_path / "run")


def test_two_maps_at_once(folder, team):
    def work(v):
        with pytest.raises(BlockingIOError, match=f"in use by process {os.getpid()}"):
            run(folder)
        return v

    run(folder, work, x=X[:1])


def test_two_programs_at_once(folder):
    source = f"""
        import sys
        import numpy as np, shmmap

        def work(v):
            print("in", flush=True)
            sys.stdin.readline()
            return v

        shmmap.pmap(work, np.arange(1.0), checkpoint={str(folder)!r}, engine="serial")
    """
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "in\n"
    try:
        with pytest.raises(BlockingIOError, match=f"in use by process {program.pid}"):
            run(folder)
    finally:
        program.communicate("\n")
    with pytest.raises(shmmap.CheckpointMismatch):
        run(folder)


class TestRefused:
    def test_ranges(self, folder):
        with pytest.raises(ValueError, match="pmap_ranges"):
            shmmap.pmap_ranges(lambda a, b: None, 5, checkpoint=folder)

    def test_in_place(self, folder):
        x = shmmap.asshared(X)
        with pytest.raises(ValueError, match="an out that is not an input"):
            shmmap.pmap_chunks(np.sqrt, x, out=x, checkpoint=folder)

    def test_iterators(self, folder):
        with pytest.raises(ValueError, match="iterator is used up"):
            shmmap.pmap(double, iter(X), checkpoint=folder)

    def test_an_output_in_memory(self, folder):
        for out in (np.zeros(40), shmmap.zeros(40)):
            with pytest.raises(ValueError, match="an out in a file"):
                shmmap.pmap(double, X, out=out, checkpoint=folder)

    def test_hdf5(self, folder, tmp_path):
        h5py = pytest.importorskip("h5py")
        with h5py.File(tmp_path / "a.h5", "w") as file:
            out = file.create_dataset("d", (40,), "f8")
            with pytest.raises(ValueError, match="HDF5"):
                shmmap.pmap(double, X, out=out, checkpoint=folder, engine="serial")

    @pytest.mark.parametrize(
        "arguments, wrong",
        [
            ((3,), TypeError),
            (("x", "y"), TypeError),
        ],
    )
    def test_what_is_no_path(self, arguments, wrong):
        with pytest.raises(wrong):
            shmmap.Checkpoint(*arguments)

    def test_words(self, folder):
        with pytest.raises(ValueError, match="if_changed"):
            shmmap.Checkpoint(folder, if_changed="always")
        with pytest.raises(ValueError, match="interval"):
            shmmap.Checkpoint(folder, interval=0)
        with pytest.raises(TypeError, match="path of a folder"):
            run(3)

    def test_nothing_is_left_of_what_was_refused(self, folder):
        with pytest.raises(ValueError, match="an out in a file"):
            shmmap.pmap(double, X, out=np.zeros(40), checkpoint=folder)
        assert not folder.exists()

    def test_config(self, folder):
        with pytest.raises(TypeError, match="checkpoint"), shmmap.config(checkpoint=folder):
            pass
