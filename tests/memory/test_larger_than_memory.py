"""Data larger than a memory cgroup's limit: a small run of the script that does it by hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.faults.common import ROOT, need_root
from tests.helpers import run_python

SCRIPT = ROOT / "benchmarks" / "larger_than_memory.py"


@pytest.mark.slow
@pytest.mark.privileged
@pytest.mark.parametrize(
    ("kind", "library"), [("npy", "numpy"), ("zarr", "zarr"), ("hdf5", "h5py")], ids=str
)
def test_maps_finish_inside_the_limit(tmp_path: Path, kind: str, library: str) -> None:
    pytest.importorskip(library)
    need_root()
    if not any(
        Path("/sys/fs/cgroup", name).exists()
        for name in ("memory/memory.limit_in_bytes", "memory.max")
    ):
        pytest.skip("there is no memory cgroup to make a child of")
    done = run_python(
        str(SCRIPT), "--size", "320MiB", "--limit", "256MiB", "--folder", str(tmp_path),
        "--kinds", kind, timeout_s=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    steps = re.findall(r"^(\S.*?)  +[\d.]+ s +peak +(\d+) MiB$", done.stdout, re.MULTILINE)
    assert len(steps) >= 3
    assert all(int(peak) <= 256 for _, peak in steps)
    assert not list(tmp_path.iterdir())
