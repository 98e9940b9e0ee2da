"""A large array crosses to the workers with no copy."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import shmmap
from shmmap.testing import wait_until
from tests import functions
from tests.helpers import run_script, shared_memory_in_use, tree_pss

GIB = 1 << 30


@pytest.mark.slow
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


@pytest.mark.few(1)
@pytest.mark.parametrize(("nbytes", "n"), [(6 << 20, 8), (48 << 20, 2)])
def test_large_pages_go_when_they_are_not_used(team: shmmap.Team, nbytes: int, n: int) -> None:
    """Objects come back in pages of their worker, of which no more than 2 MiB each stay.

    One that takes long to fill was announced while there was nothing in it yet.
    """
    shmmap.pmap(functions.pid, range(8), engine=team)
    before = shared_memory_in_use()
    for _ in range(2):
        got = shmmap.pmap(lambda i: bytes(nbytes), range(n), engine=team, chunksize=1)
        assert [len(each) for each in got] == [nbytes] * n
        assert shared_memory_in_use() > before + nbytes
        wait_until(lambda: shared_memory_in_use() <= before + (4 << 20), 8, interval_s=0.1)


class TestResultsNobodyTakes:
    """Arrays that a worker made in shared memory, for a map that then came to nothing."""

    @staticmethod
    def make(i: int) -> object:
        return shmmap.full(1 << 20, i)

    def test_map_that_fails(self, team: shmmap.Team) -> None:
        def func(i: int) -> object:
            if i == 7:
                wait_until(lambda: done.sum() >= 7)
                raise KeyError("seven")
            done[i] = True
            return self.make(i)

        done = shmmap.zeros(8, bool)
        shmmap.pmap(functions.pid, range(8), engine=team)
        before = shared_memory_in_use()
        for _ in range(3):
            done[:] = False
            with pytest.raises(KeyError):
                shmmap.pmap(func, range(8), engine=team, chunksize=1)
        wait_until(lambda: shared_memory_in_use() <= before + (4 << 20))

    def test_map_that_is_cancelled(self, team: shmmap.Team) -> None:
        def func(i: int) -> object:
            made[i] = True
            wait_until(made.all)
            return self.make(i)

        made = shmmap.zeros(2, bool)
        shmmap.pmap(functions.pid, range(8), engine=team)
        before = shared_memory_in_use()
        for _ in range(3):
            made[:] = False
            future = shmmap.pmap(func, range(2), engine=team, chunksize=1, wait=False)
            wait_until(lambda: made[0])
            future.cancel()
        wait_until(lambda: shared_memory_in_use() <= before + (4 << 20))

    def test_results_that_are_taken_stay(self, team: shmmap.Team) -> None:
        arrays = shmmap.pmap(self.make, range(8), engine=team, chunksize=1, out=list)
        more = [team.submit(self.make, i).result() for i in range(8)]
        assert [int(a[-1]) for a in [*arrays, *more]] == [*range(8), *range(8)]
        assert all(map(shmmap.is_shared, [*arrays, *more]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["frame", "matrix"])
def test_more_workers_take_no_more_memory_for_a_shared_object(tmp_path: Path, kind: str) -> None:
    """What a data frame or a sparse matrix takes does not depend on how many workers read all of it."""
    pytest.importorskip("pandas" if kind == "frame" else "scipy.sparse")
    # In a program of its own: a forked worker looks at what the user's modules hold, as all tests here are.
    root = str(Path(__file__).resolve().parents[2])
    done = run_script(tmp_path, SHARED_OBJECT, kind, env=os.environ | {"PYTHONPATH": root})
    assert (done.stdout, done.stderr) == ("as before\n", "")


SHARED_OBJECT = """
    import os, sys
    import numpy as np, shmmap
    from shmmap.testing import wait_until
    from tests.helpers import tree_pss

    if sys.argv[1] == "frame":
        import pandas

        a = np.ones((4, 2 << 20))
        obj = shmmap.share(pandas.DataFrame({f"c{i}": column for i, column in enumerate(a)}))
        read = lambda: obj.to_numpy(copy=False).sum()
    else:
        import scipy.sparse

        n = 1 << 19
        data, indices = np.ones(10 * n), np.tile(np.arange(10, dtype=np.int32), n)
        indptr = np.arange(n + 1, dtype=np.int32) * 10
        obj = shmmap.share(scipy.sparse.csr_matrix((data, indices, indptr), shape=(n, 10)))
        read = lambda: obj.data.sum() + obj.indices.sum()
    expected = read()

    def pss(workers):
        done, go_on = shmmap.zeros(workers), shmmap.zeros(1, bool)

        def total(start, stop):
            done[start] = read()
            wait_until(lambda: go_on[0], 60)

        # Forked workers have the library already; a clean one would import it into memory of its own.
        with shmmap.Team(workers, start="fork") as team:
            future = shmmap.pmap_ranges(total, workers, chunksize=1, engine=team, wait=False)
            wait_until(done.all, 60)
            taken = tree_pss(os.getpid())
            go_on[0] = True
            future.result()
        assert (done == expected).all()
        return taken

    # A worker by itself takes about 10 MiB; three more copies would be 192 MiB.
    one, four = pss(1), pss(4)
    print("as before" if four < one + (64 << 20) else (one, four))
"""
