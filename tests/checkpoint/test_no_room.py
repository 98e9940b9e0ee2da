"""Folders that cannot be written, or vanish, and disks that are full: it is said, and no result is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest

import shmmap
from shmmap.testing import wait_until
from tests.helpers import assert_same

X = np.arange(200.0)


def double(v):
    return v * 2


@pytest.mark.filterwarnings("ignore:.*could not be saved")  # a part of it is still there
@pytest.mark.few(4)
@pytest.mark.parametrize("engine", ["serial", "threads", "processes"])
@pytest.mark.parametrize("kind", ["array", "list", "sum", "wider"])
@pytest.mark.parametrize("when", [0, 100])
def test_a_folder_that_is_removed_while_the_map_runs(tmp_path, engine, kind, when):
    folder = tmp_path / "run"

    def func(v):
        if when and np.any(v == when) and kind in ("array", "wider"):
            wait_until((folder / "out.npy").exists)
        while np.any(v == when) and folder.exists():
            shutil.rmtree(folder, ignore_errors=True)  # a save may come in between
        return v * 2 if kind != "wider" else (1 if v < 150 else 1.5)

    # With one worker, the items before are done.
    options = dict(
        engine=engine, workers=1, checkpoint=shmmap.Checkpoint(folder, interval=0.01), chunksize=10
    )

    def run():
        if kind == "sum":
            return shmmap.preduce(lambda c: func(c).sum(), X, combine=np.add, **options)
        return shmmap.pmap(func, X, out=list if kind == "list" else None, **options)

    if when == 0 and kind in ("array", "wider"):  # before there is a place for the result
        with warnings.catch_warnings(), pytest.raises(FileNotFoundError) as caught:
            warnings.simplefilter("ignore")
            run()
        assert "the result, of 1,600 bytes, has no place in the folder" in str(caught.value)
        return
    with pytest.warns(RuntimeWarning, match=r"is gone: nothing of this map is kept"):
        result = run()
    if kind == "sum":
        assert result == (X * 2).sum()
    else:
        expected = X * 2 if kind != "wider" else np.where(X < 150, 1, 1.5)
        assert_same(np.asarray(result), expected)
    assert not folder.exists()


def test_an_error_of_the_function_is_not_hidden(tmp_path):
    folder = tmp_path / "run"

    def fails(v):
        shutil.rmtree(folder)
        raise ArithmeticError(v)

    with pytest.warns(RuntimeWarning, match="is gone"), pytest.raises(ArithmeticError):
        shmmap.pmap(fails, X, out=list, engine="serial", checkpoint=folder)


def run_in_mount(options: str, source: str) -> subprocess.CompletedProcess[str]:
    """Run a program that has a file system of its own, of the given options, at ``/mnt``."""
    setup = f'mount -t tmpfs -o {options} tmpfs /mnt && exec {sys.executable} -c "$0"'
    program = ["unshare", "-m", "sh", "-c", setup, textwrap.dedent(source)]
    try:
        tried = subprocess.run(
            ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True
        )
    except FileNotFoundError:
        pytest.skip("no unshare")
    if tried.returncode:
        pytest.skip("mounts are not allowed here")
    return subprocess.run(program, text=True, capture_output=True, timeout=60, cwd=Path.cwd())


def test_a_folder_that_cannot_be_written():
    done = run_in_mount("ro", """
        import numpy as np, shmmap
        for folder in "/mnt", "/mnt/run":
            try:
                shmmap.pmap(abs, np.arange(3), checkpoint=folder, engine="serial")
            except OSError as error:
                print(type(error).__name__, error)
    """)  # fmt: skip
    assert done.stdout.splitlines() == [
        "OSError checkpoint='/mnt' cannot be used: Read-only file system",
        "OSError checkpoint='/mnt/run' cannot be used: Read-only file system",
    ], done.stderr


FILLS = """
    import os, sys, threading, time, warnings
    import numpy as np, shmmap

    warned = threading.Event()
    warnings.simplefilter("always", RuntimeWarning)

    def show(message, *more):
        print(message, file=sys.stderr)
        warned.set()

    warnings.showwarning = show
    fill = open("/mnt/fill", "wb", 0)
    stop = {stop}

    def func(v):
        if v == 50:
            try:
                while True:
                    fill.write(bytes(4096))
            except OSError:
                pass
        time.sleep(0.002)  # long enough for results to be handed over a few at a time
        if v == 150 and not stop:
            warned.wait(20)
            fill.truncate(0)
        return bytes([int(v)]) * 5000

    def run():
        option = shmmap.Checkpoint("/mnt/run", interval=0.005, if_changed="keep")
        return shmmap.pmap(func, np.arange(200), out=list, engine="serial", checkpoint=option, chunksize=2)

    assert run() == [bytes([v]) * 5000 for v in range(200)]
    marks = open("/mnt/run/ledger", "rb").read().partition(b"\\n")[2]
    print(sum(map(bool, marks)))
    fill.truncate(0)
    stop = False
    assert run() == [bytes([v]) * 5000 for v in range(200)]
    """


@pytest.mark.parametrize("stop", [False, True])
def test_a_disk_that_is_full_for_a_while(stop):
    """What could not be written then is written later; a result is never lost, nor a wrong one kept."""
    done = run_in_mount("size=4m", FILLS.format(stop=stop))
    assert done.returncode == 0, done.stderr
    assert "could not be saved (No space left on device)" in done.stderr
    assert "not concerned" in done.stderr
    assert 0 < int(done.stdout) < 40 if stop else int(done.stdout) == 100, done.stdout


def test_a_full_disk_before_anything_is_run():
    done = run_in_mount("size=64k", """
        import numpy as np, shmmap
        try:
            shmmap.pmap(abs, np.arange(100_000), checkpoint="/mnt/run", engine="serial")
        except OSError as error:
            print(error)
    """)  # fmt: skip
    assert "checkpoint='/mnt/run': the result, of 800,000 bytes, has no place in the folder" in (
        done.stdout
    )


def test_pieces_that_cannot_be_written_do_not_fill_the_memory(tmp_path):
    """They are given up at some time, and what was saved before is what counts."""
    folder = tmp_path / "run"

    def func(v):
        if v == 3:
            shutil.rmtree(folder)
        return bytes(1 << 22)

    with pytest.warns(RuntimeWarning, match="is gone"):
        result = shmmap.pmap(
            func, range(40), out=list, engine="serial", checkpoint=folder, chunksize=1
        )
    assert len(result) == 40
    assert not os.path.exists(folder)
