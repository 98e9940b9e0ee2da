"""A large array crosses to the workers with no copy."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import shmmap
from tests import functions
from tests.helpers import run_script, tree_pss

GIB = 1 << 30


@pytest.mark.parametrize("engine", ["processes", "fork"])
def test_one_gib_crosses_without_a_copy(tmp_path: Path, engine: str) -> None:
    """Summed PSS of the process tree stays below 1.1 GiB while two workers read 1 GiB."""
    source = """
        import os, sys, time
        import numpy as np, shmmap
        sys.path.insert(0, sys.argv[2])
        from tests.helpers import tree_pss

        GIB = 1 << 30
        a = shmmap.zeros(GIB // 8)
        a[:] = 1
        seen = shmmap.zeros(2)
        go_on = shmmap.zeros(1, bool)

        def total(i):
            seen[i] = a.sum()  # touches every page of it
            while not go_on[0]:
                time.sleep(0.001)
            return a[i]

        future = shmmap.pmap(total, np.arange(2), workers=2, engine=sys.argv[1], chunksize=1,
                             wait=False)
        deadline = time.monotonic() + 50
        while not seen.all() and time.monotonic() < deadline:
            time.sleep(0.001)
        print(seen.tolist(), tree_pss(os.getpid()))
        go_on[0] = True
        assert future.result().tolist() == [1, 1]
    """
    root = str(Path(__file__).parents[2])
    done = run_script(tmp_path, source, engine, root)
    assert done.stderr == ""
    totals, pss = done.stdout.rsplit(" ", 1)
    assert totals == str([GIB / 8] * 2)
    assert GIB < int(pss) < 1.1 * GIB


def test_map_takes_no_memory_beyond_input_and_output() -> None:
    a = shmmap.zeros(128 << 20, np.uint8)
    b = shmmap.empty_like(a)
    shmmap.pmap(functions.nothing, range(10), workers=2)
    before = tree_pss(os.getpid())
    shmmap.pmap_chunks(np.negative, a, out=b, workers=2)
    # The pages of both arrays are written or read for the first time here; nothing else is.
    assert tree_pss(os.getpid()) < before + a.nbytes + b.nbytes + (32 << 20)
