"""A result that is made wider at the end of its map has a file of its own until all is in it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import numpy as np

import shmmap
from tests.helpers import assert_same


def test_wider_twice(tmp_path):
    """By its results, and then by what stands in for those that failed."""

    def work(i):
        if i % 7 == 3:
            raise ValueError
        return np.int32(i) if i < 50 else i + 0.5

    def imaginary(error, start, stop):
        return 1j

    expected = shmmap.pmap(work, np.arange(100), engine="serial", on_error=imaginary)
    for _ in range(2):
        result = shmmap.pmap(work, np.arange(100), on_error=imaginary, checkpoint=tmp_path / "run")
        assert_same(np.asarray(result), expected)
    assert sorted(os.listdir(tmp_path / "run")) == ["ledger", "lock", "out.npy", "pieces"]


def test_no_space_for_a_wider_one(tmp_path):
    """What was done stays, and is taken up once there is space."""
    program = textwrap.dedent("""
        import resource, sys
        import numpy as np, shmmap

        def work(i):
            if is_again:
                assert i == 0, "it was done"
            return np.full(1000, i, "f8" if i == 77 else "f4")

        is_again = len(sys.argv) > 2
        option = shmmap.Checkpoint(sys.argv[1], if_changed="keep")
        if not is_again:
            resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
        try:
            result = shmmap.pmap(work, np.arange(100), engine="serial", checkpoint=option)
        except shmmap.SharedMemoryError as exc:  # the limit counts for memory, too
            print(type(exc).__name__)
        else:
            print(result.dtype, np.array_equal(result[:, 0], np.arange(100)))
    """)

    def run(*arguments):
        command = [sys.executable, "-c", program, str(tmp_path / "run"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert run() == "SharedMemoryError"
    assert sorted(os.listdir(tmp_path / "run")) == ["ledger", "lock", "out.npy", "pieces"]
    assert run("again") == "float64 True"
