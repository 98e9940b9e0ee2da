"""Maps over data larger than a memory cgroup's limit: do they finish inside it, and right?

    python benchmarks/larger_than_memory.py --size 8GiB --limit 1GiB --folder /some/disk

makes a ``.npy`` file, a zarr array and an HDF5 dataset of that size, one after the other, maps each into
another one of the same size, checks every value, and tries what cannot fit. Everything runs in a memory
cgroup with that limit, which takes root; the files are removed in the end. A line per step tells the time it
took and the most memory the cgroup held until then (page cache included, so it reaches the limit and stays
there). The exit status is 0 only if everything was right.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import shmmap

ROW_LEN = 1 << 14
"""Values of a row: 128 KiB of float64."""
ROWS = 32
"""Rows of a storage chunk: 4 MiB."""
UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


# --- the cgroup ---------------------------------------------------------------------------------


def parse_size(text: str) -> int:
    match = re.fullmatch(r"(\d+)([KMG]iB)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 8GiB")
    return int(match[1]) * UNITS[match[2]]


def find_files() -> tuple[Path, str, str]:
    """The folder in which memory cgroups are made, and the names of their limit and peak files."""
    root = Path("/sys/fs/cgroup")
    if (root / "memory/memory.limit_in_bytes").exists():
        return root / "memory", "memory.limit_in_bytes", "memory.max_usage_in_bytes"
    return root, "memory.max", "memory.peak"


@contextlib.contextmanager
def memory_cgroup(limit: int) -> Iterator[Path]:
    parent, limit_file, _ = find_files()
    group = parent / f"shmmap-larger-{os.getpid()}"
    group.mkdir()
    try:
        (group / limit_file).write_text(str(limit))
        yield group
    finally:
        for _ in range(500):
            with contextlib.suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.01)


# --- the steps ----------------------------------------------------------------------------------


class Steps:
    """Runs steps, and prints a line for each."""

    def __init__(self, group: Path) -> None:
        self.peak = group / find_files()[2]

    def run(self, what: str, step: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = step()
        seconds = time.perf_counter() - began
        peak = int(self.peak.read_text()) >> 20 if self.peak.exists() else 0
        print(f"{what:<44}{seconds:8.1f} s   peak {peak:6d} MiB", flush=True)
        return result


def rows_of(start: int, stop: int) -> Any:
    """What rows of the input hold: different in every place, and known."""
    return np.arange(start * ROW_LEN, stop * ROW_LEN, dtype=np.float64).reshape(-1, ROW_LEN)


def make_rows(indices: Any) -> Any:
    return rows_of(indices[0], indices[-1] + 1)


def count_wrong(chunk: Any) -> int:
    here = shmmap.current()
    return int(np.count_nonzero(chunk != np.sqrt(rows_of(here.start, here.stop))))


def check(name: str, steps: Steps, source: Any, make_out: Callable[[], Any], n: int) -> None:
    """Fill `source`, map it, and look at every value of the result."""
    steps.run(f"{name}: fill", lambda: fill(source, n))
    source = reopen(source)
    out = make_out()
    steps.run(f"{name}: map", lambda: shmmap.pmap_chunks(np.sqrt, source, out=out))
    wrong = steps.run(
        f"{name}: check", lambda: shmmap.preduce(count_wrong, reopen(out), combine=np.add)
    )
    assert wrong == 0, f"{wrong} values are wrong"


def fill(target: Any, n: int) -> None:
    shmmap.pmap_chunks(make_rows, np.arange(n), out=target, chunksize=ROWS)


def reopen(array: Any) -> Any:
    """The same array for reading: HDF5 lets nobody read what is open for writing."""
    if "h5py" not in type(array).__module__:
        return array
    import h5py

    path, name = array.file.filename, array.name
    array.file.close()
    return h5py.File(path, "r")[name]


def expect_refused(step: Callable[[], Any]) -> None:
    try:
        step()
    except shmmap.SharedMemoryError as error:
        print(f"  refused: {error}")
    else:
        raise AssertionError("this cannot fit, and was not refused")


# --- the kinds ----------------------------------------------------------------------------------


def run_npy(folder: Path, steps: Steps, n: int) -> None:
    def create(name: str) -> Any:
        return np.lib.format.open_memmap(folder / name, "w+", "f8", (n, ROW_LEN))

    check(".npy", steps, create("in.npy"), lambda: create("out.npy"), n)
    source = shmmap.load(folder / "in.npy", mmap_mode="r")
    steps.run(".npy: load", lambda: expect_refused(lambda: shmmap.load(folder / "in.npy")))
    steps.run(
        ".npy: result in memory", lambda: expect_refused(lambda: shmmap.pmap(np.sqrt, source))
    )
    os.unlink(folder / "out.npy")
    command = [sys.executable, "-m", "shmmap", "map", "numpy.sqrt", "in.npy", "out.npy"]
    command += ["--by", "chunk"]
    steps.run("shmmap map", lambda: subprocess.run(command, cwd=folder, check=True))
    out = shmmap.load(folder / "out.npy", mmap_mode="r")
    assert (
        steps.run("shmmap map: check", lambda: shmmap.preduce(count_wrong, out, combine=np.add))
        == 0
    )


def run_zarr(folder: Path, steps: Steps, n: int) -> None:
    import zarr

    def create(name: str) -> Any:
        return zarr.create_array(
            folder / name, shape=(n, ROW_LEN), chunks=(ROWS, ROW_LEN), dtype="f8", compressors=None
        )

    check("zarr", steps, create("in.zarr"), lambda: create("out.zarr"), n)


def run_hdf5(folder: Path, steps: Steps, n: int) -> None:
    import h5py

    def create(name: str) -> Any:
        file = h5py.File(folder / name, "w")
        return file.create_dataset("a", (n, ROW_LEN), "f8", chunks=(ROWS, ROW_LEN))

    check("HDF5", steps, create("in.h5"), lambda: create("out.h5"), n)


KINDS = {"npy": run_npy, "zarr": run_zarr, "hdf5": run_hdf5}


# --- main ---------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=parse_size, default=parse_size("8GiB"))
    parser.add_argument("--limit", type=parse_size, default=parse_size("1GiB"))
    parser.add_argument("--folder", type=Path, default=None, help="where files are made")
    parser.add_argument("--kinds", default="npy,zarr,hdf5")
    args = parser.parse_args()
    n = args.size // (8 * ROW_LEN)
    folder = Path(tempfile.mkdtemp(prefix="shmmap-larger-", dir=args.folder))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        group = stack.enter_context(memory_cgroup(args.limit))
        for kind in args.kinds.split(","):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    (group / "cgroup.procs").write_text(str(os.getpid()))
                    KINDS[kind](folder, Steps(group), n)
                    code = 0
                except BaseException:
                    sys.excepthook(*sys.exc_info())
                finally:
                    shmmap.shutdown()
                    sys.stdout.flush()
                    os._exit(code)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if status:
                print(f"{kind}: exit status {status}")
                return 1
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
