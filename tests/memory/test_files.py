"""Memory-mapped files as inputs and outputs: overlap across mappings, files that grow, full disks."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from tests import functions
from tests.helpers import assert_same

pytestmark = pytest.mark.warm


@pytest.fixture
def path(tmp_path: Path) -> Path:
    np.save(tmp_path / "a.npy", np.arange(100.0))
    return tmp_path / "a.npy"


def never(*args: Any) -> Any:
    raise AssertionError("it was called")


def test_out_is_written_in_the_file(path: Path, engine: Any) -> None:
    out = shmmap.load(path, mmap_mode="r+")
    result = shmmap.pmap_chunks(functions.double, np.arange(100.0), out=out, engine=engine)
    assert result is out
    assert_same(np.load(path), np.arange(100.0) * 2)


def test_two_mappings_of_one_file_overlap(path: Path, engine: Any) -> None:
    out = shmmap.load(path, mmap_mode="r+")
    for mode in ("r", "r+", "c"):
        other = shmmap.load(path, mmap_mode=mode)
        for target, source in [(out[1:], other[:-1]), (out, other[::-1]), (out[:50], other[25:75])]:
            with pytest.raises(ValueError, match="at other indices"):
                shmmap.pmap_chunks(never, source, out=target, engine=engine)
        with pytest.raises(ValueError, match="depth= makes every chunk see"):
            shmmap.pmap_chunks(never, other, out=out, depth=1, engine=engine)
    with pytest.raises(ValueError, match="overlap each other"):
        more = shmmap.load(path, mmap_mode="r+")
        shmmap.pmap_chunks(never, np.zeros(50), out=(out[:50], more[49:99]), engine=engine)
    assert_same(np.load(path), np.arange(100.0))


def test_the_same_indices_of_two_mappings_are_in_place(path: Path, engine: Any) -> None:
    out, source = shmmap.load(path, mmap_mode="r+"), shmmap.load(path, mmap_mode="r")
    with pytest.raises(ValueError, match="retries"):
        shmmap.pmap_chunks(never, source, out=out, retries=1, engine=engine)
    # Halves that do not meet are as good as two files.
    shmmap.pmap_chunks(functions.double, source[:50], out=out[50:], engine=engine, workers=2)
    expected = np.concatenate([np.arange(50.0), np.arange(50.0) * 2])
    assert_same(np.load(path), expected)
    if isinstance(engine, str | shmmap.Team):
        shmmap.pmap_chunks(functions.double, source, out=out, engine=engine, chunksize=7)
        assert_same(np.load(path), expected * 2)


def test_a_file_that_grows(tmp_path: Path, engine: Any) -> None:
    np.arange(10.0).tofile(tmp_path / "raw")
    out = np.memmap(tmp_path / "raw", mode="r+", dtype="f8", shape=(5000,))
    assert os.stat(tmp_path / "raw").st_size == 40_000
    part = out[10:]
    assert shmmap.pmap_chunks(functions.double, np.arange(4990.0), out=part, engine=engine) is part
    expected = np.concatenate([np.arange(10.0), np.arange(4990.0) * 2])
    assert_same(np.fromfile(tmp_path / "raw"), expected)


def test_space_is_reserved(tmp_path: Path) -> None:
    out = np.memmap(tmp_path / "raw", mode="w+", dtype="f8", shape=(1 << 17,))
    assert os.stat(tmp_path / "raw").st_blocks * 512 < out.nbytes
    with pytest.raises(ZeroDivisionError):
        shmmap.pmap_chunks(lambda x: 1 // 0, np.zeros(len(out)), out=out, engine="serial")
    assert os.stat(tmp_path / "raw").st_blocks * 512 >= out.nbytes


def test_a_file_that_was_cut_is_refused(path: Path, engine: Any) -> None:
    out = shmmap.load(path, mmap_mode="r+")
    os.truncate(path, 200)
    with pytest.raises(ValueError, match="has become shorter"):
        shmmap.pmap_chunks(never, np.zeros(100), out=out, engine=engine)


@pytest.mark.privileged
def test_a_full_disk_is_told_before_anything_runs(tmp_path: Path) -> None:
    """A file system of 1 MiB and a file of 1.6 MB with nothing in it: an error, and no bus error."""
    mount = f"mount -t tmpfs -o size=1m tmpfs {tmp_path}"
    if not (shutil.which("unshare") and shutil.which("mount")):
        pytest.skip("needs unshare and mount")
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("may not mount a file system")
    script = f"""
import numpy as np, shmmap
out = np.memmap({str(tmp_path / "raw")!r}, mode="w+", dtype="f8", shape=(200_000,))
try:
    shmmap.pmap_chunks(np.sqrt, np.zeros(200_000), out=out, engine="serial")
except OSError as error:
    print(error)
"""
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh", sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "No space left on device: 1,600,000 bytes wanted for out, " in done.stdout


@pytest.mark.parametrize("how", ["returned by the function", "of the input"])
def test_results_in_a_file_hold_it_no_longer_than_they_live(
    tmp_path: Path, engine: Any, how: str
) -> None:
    path = tmp_path / "grows.npy"
    for n in (3, 30):  # the same file again, longer: what was mapped of it is too short
        np.save(path, np.arange(n * 2.0).reshape(n, 2))
        if how == "of the input":
            a = shmmap.load(path, mmap_mode="r")
            rows = shmmap.pmap(np.asarray, a, out=list, engine=engine)
        else:
            rows = shmmap.pmap(
                lambda i: np.asarray(np.load(path, mmap_mode="r")[i]), range(n), engine=engine
            )
        assert np.array_equal(rows, np.load(path))
    rows = a = None
    gc.collect()
    assert str(path) not in Path("/proc/self/maps").read_text()
