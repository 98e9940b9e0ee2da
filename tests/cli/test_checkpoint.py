"""``shmmap map --checkpoint``: the same command goes on, with whatever OUT, and leaves nothing but it."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np
import pytest

from .conftest import Folder

WORK = """
import os, time
from pathlib import Path

def note(row):
    with open("calls", "ab", 0) as calls:
        calls.write(b"%d " % row[0])

def total(row):
    note(row)
    if row[0] == 40 and not Path("go").exists():
        Path("running").touch()
        time.sleep(60)
    return row.sum()

def pair(row):
    note(row)
    if row[0] in (0, 20) and Path("bad").exists():
        raise ValueError("no good")
    return row.sum(), int(row[0])
"""


@pytest.fixture
def folder(tmp_path):
    folder = Folder(tmp_path)
    folder.rows = np.arange(240.0).reshape(60, 4) / 4
    np.save(tmp_path / "in.npy", folder.rows)
    (tmp_path / "ck_work.py").write_text(WORK)
    return folder


def command(func: str, *args: Any) -> list[str]:
    more = "--checkpoint", "kept", "--chunksize", 2, "--engine", "serial"
    return ["map", f"ck_work:{func}", "in.npy", *map(str, (*args, *more))]


def calls(folder: Folder) -> list[int]:
    """For which items FUNC was called since this was last asked for."""
    path = folder.path / "calls"
    said = list(map(int, path.read_text().split())) if path.exists() else []
    path.unlink(missing_ok=True)
    return said


def read(folder: Folder, name: str) -> np.ndarray[Any, Any]:
    if name.endswith(".npy"):
        return np.asarray(np.load(folder.path / name))
    import zarr

    return np.asarray(zarr.open_array(folder.path / name, mode="r")[...])


def names(folder: Folder) -> set[str]:
    return {path.name for path in folder.path.iterdir()}


@pytest.mark.few(2)
@pytest.mark.parametrize("out", ["out.npy", "out.zarr"])
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_goes_on_after_a_signal(folder, zarr_runs, out, sign):
    (folder.path / "go").touch()
    assert folder.run(*command("total", out)).returncode == 0  # an OUT that was there before
    before = read(folder, out)
    for name in ("go", "kept/ledger", "kept/lock"):
        (folder.path / name).unlink()
    calls(folder)

    # What was there stays until the new OUT is complete; here it is one of the same command by accident.
    process = folder.start(*command("total", out))
    folder.wait_for("running", process)
    process.send_signal(sign)
    _, errors = process.communicate(timeout=30)
    if sign != signal.SIGKILL:
        word = "interrupted" if sign == signal.SIGINT else "terminated"
        assert errors == (
            f"shmmap: {word}; what is done is kept in kept, and the same command goes on\n"
        )
        assert process.returncode == 128 + sign
    np.testing.assert_array_equal(read(folder, out), before)
    assert calls(folder) == [0, *range(41)]  # the first: to learn what FUNC gives

    (folder.path / "go").touch()
    done = folder.run(*command("total", out))
    assert (done.returncode, done.stderr) == (0, "")
    np.testing.assert_array_equal(read(folder, out), folder.rows.sum(1))
    assert calls(folder) == [0, *range(0 if sign == signal.SIGKILL else 40, 60)]
    if out.endswith(".npy"):
        (folder.path / out).chmod(0o640)
    again = folder.run(*command("total", out))
    assert not out.endswith(".npy") or (folder.path / out).stat().st_mode & 0o777 == 0o640
    assert (again.returncode, again.stderr) == (0, "")
    assert calls(folder) == [0]
    np.testing.assert_array_equal(read(folder, out), folder.rows.sum(1))
    assert not list(folder.path.glob(".shmmap-*"))


@pytest.mark.few(1)
@pytest.mark.parametrize("ending", ["npy", "zarr"])
def test_what_failed_is_tried_again(folder, zarr_runs, ending):
    outs = f"a.{ending}", f"b.{ending}"
    (folder.path / "bad").touch()
    done = folder.run(*command("pair", *outs, "--on-error", "continue"))
    assert done.returncode == 1
    assert "[0, 1), [20, 21)" in done.stderr and done.stderr.count("\n") == 1
    assert np.flatnonzero(np.isnan(read(folder, outs[0]))).tolist() == [0, 20]
    assert read(folder, outs[1])[[0, 20]].tolist() == [0, 0]
    calls(folder)
    (folder.path / "bad").unlink()
    done = folder.run(*command("pair", *outs, "--on-error", "continue"))
    assert (done.returncode, done.stderr) == (0, "")
    assert calls(folder) == [0, 0, 1, 20, 21]
    np.testing.assert_array_equal(read(folder, outs[0]), folder.rows.sum(1))
    np.testing.assert_array_equal(read(folder, outs[1]), folder.rows[:, 0])
    assert not list(folder.path.glob(".shmmap-*"))


@pytest.mark.few(1)
@pytest.mark.parametrize("out", ["out.npy", "out.zarr"])
def test_another_map_is_refused_and_changes_nothing(folder, zarr_runs, out):
    (folder.path / "go").touch()
    folder.run(*command("total", out))
    before = names(folder)
    for change, complaint in (
        (command("total", "other.npy"), "out differs"),
        (command("total", out, "--dtype", "float32"), "FUNC now gives"),
        (["map", "numpy.sum", "in.npy", out, "--checkpoint", "kept"], "chunks, function differ"),
    ):
        done = folder.run(*change)
        assert done.returncode == 2, done.stderr
        assert complaint in done.stderr and done.stderr.count("\n") == 1
        assert "Checkpoint(" not in done.stderr
        assert names(folder) == before
        np.testing.assert_array_equal(read(folder, out), folder.rows.sum(1))
    os.unlink(folder.path / "kept/ledger")  # to begin anew, with another dtype
    done = folder.run(*command("total", out, "--dtype", "float32"))
    assert (done.returncode, done.stderr) == (0, "")
    assert read(folder, out).dtype == np.float32


def test_an_out_that_was_removed_is_missed(folder):
    (folder.path / "go").touch()
    folder.run(*command("total", "out.npy"))
    os.unlink(folder.path / "out.npy")
    done = folder.run(*command("total", "out.npy"))
    assert done.returncode == 2
    assert "not as it was left" in done.stderr
    assert not list(folder.path.glob(".shmmap-*"))


@pytest.mark.parametrize(
    ("out", "checkpoint", "complaint"),
    [
        ("out.npy", "in.npy", "a folder is needed"),
        ("out.npy", "others", "has files, and none of a checkpoint"),
        ("kept/out.npy", "kept", "lies in the folder of --checkpoint"),
        ("kept", "kept", "lies in the folder of --checkpoint"),
        ("out.h5::a", "kept", "an HDF5 file does not survive a crash"),
    ],
)
def test_refused(folder, out, checkpoint, complaint):
    (folder.path / "others").mkdir()
    (folder.path / "others" / "file").touch()
    code, line = folder.refuse("map", "numpy.sum", "in.npy", out, "--checkpoint", checkpoint)
    assert code == 2
    assert complaint in line


def test_one_program_at_a_time(folder):
    process = folder.start(*command("total", "out.npy"))
    folder.wait_for("running", process)
    before = names(folder)
    second = folder.run(*command("total", "out.npy"))
    assert second.returncode == 2
    assert f"--checkpoint kept is in use by process {process.pid}" in second.stderr
    assert names(folder) == before
    (folder.path / "go").touch()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert folder.run(*command("total", "out.npy")).returncode == 0
