"""What it costs in memory to have eight workers read a data frame or a sparse matrix, instead of one.

For each object, of 2 GB unless told otherwise: it is shared, a map over row ranges reads every byte of it,
once with one worker and once with eight, and the summed PSS of the process tree is taken while all workers
are inside the map, each having read the whole object. It should grow by less than 5 %.

    python benchmarks/shared_objects.py [--nbytes 2e9] [--workers 8] [--start clean|preload|fork]

A clean worker imports pandas or SciPy itself, which takes it tens of megabytes of its own; the third figure
says how much that is. A worker forked from the caller has them already, and with ``Team(preload=...)``
clean ones share what the process has that they are forked from.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

import shmmap

COLUMNS = 16


def make_frame(nbytes: int) -> Any:
    """A frame of float and int columns, with an index of its own."""
    import pandas

    n = nbytes // (8 * (COLUMNS + 1))
    columns = {f"c{i}": np.full(n, float(i)) for i in range(COLUMNS)}
    columns["c1"] = np.arange(n)
    return pandas.DataFrame(columns, index=np.arange(n) * 2)


def make_matrix(nbytes: int) -> Any:
    """A CSR matrix with 100 entries in each row."""
    import scipy.sparse

    n = nbytes // (12 * 100)
    data = np.ones(n * 100)
    indices = np.tile(np.arange(0, 1000, 10, dtype=np.int32), n)
    indptr = np.arange(n + 1, dtype=np.int32) * 100
    return scipy.sparse.csr_matrix((data, indices, indptr), shape=(n, 1000))


def sum_of_frame(frame: Any, start: int, stop: int) -> float:
    """Reads every column and the index."""
    rows = frame.iloc[start:stop]
    return float(sum(rows[name].sum() for name in rows) + rows.index.to_numpy().sum())


def sum_of_matrix(matrix: Any, start: int, stop: int) -> float:
    """Reads data, indices and the pointers to rows; a slice by rows would copy what it takes."""
    first, last = matrix.indptr[start], matrix.indptr[stop]
    return float(matrix.data[first:last].sum() + matrix.indices[first:last].sum())


def tree_pss() -> int:
    """Summed proportional set size of this process and its descendants, in bytes."""

    def tree(pid: int) -> list[int]:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *(each for child in children for each in tree(int(child)))]

    total = 0
    for pid in tree(os.getpid()):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) << 10
    return total


def measure(obj: Any, total: Any, workers: int, start: str) -> tuple[int, float]:
    """PSS with so many workers inside a map, each having read all of the object; and the seconds it took.

    The object is captured, as in any user's code; the map is over ranges of rows, and every worker gets
    one that waits until all of them have arrived, then reads all rows, then waits until PSS was taken.
    """
    n = obj.shape[0]
    arrived, done = shmmap.zeros(workers, bool), shmmap.zeros(workers, bool)
    go_on = shmmap.zeros(1, bool)

    def read(start: int, stop: int) -> float:
        arrived[start] = True
        while not arrived.all():
            time.sleep(0.001)
        part = total(obj, n * start // workers, n * stop // workers)
        for first in range(0, n, 1 << 20):  # the other workers' rows too
            total(obj, first, min(first + (1 << 20), n))
        done[start] = True
        while not go_on[0]:
            time.sleep(0.001)
        return part

    library = type(obj).__module__.partition(".")[0]
    preload = [library, f"{library}.sparse"] if start == "preload" else []
    with shmmap.Team(
        workers, start="fork" if start == "fork" else "clean", preload=preload
    ) as team:
        began = time.perf_counter()
        future = shmmap.pmap_ranges(read, workers, chunksize=1, engine=team, wait=False)
        while not done.all():
            time.sleep(0.01)
        took = time.perf_counter() - began
        pss = tree_pss()
        go_on[0] = True
        parts = future.result()
    assert np.isclose(sum(parts), total(obj, 0, n))
    return pss, took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nbytes", type=float, default=2e9)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--start", choices=["clean", "preload", "fork"], default="clean")
    options = parser.parse_args()
    for name, make, total in (
        ("DataFrame", make_frame, sum_of_frame),
        ("CSR matrix", make_matrix, sum_of_matrix),
    ):
        tiny = shmmap.share(make(200_000))
        obj = shmmap.share(make(int(options.nbytes)))
        (one, first_s), (many, many_s), (one_tiny, _), (many_tiny, _) = (
            measure(each, total, workers, options.start)
            for each in (obj, tiny)
            for workers in (1, options.workers)
        )
        libraries = many_tiny - one_tiny
        print(
            f"{name}: PSS {one / 1e6:,.0f} MB with 1 worker ({first_s:.1f} s), {many / 1e6:,.0f} MB with "
            f"{options.workers} ({many_s:.1f} s): {100 * (many / one - 1):+.1f} %; of this "
            f"{100 * libraries / one:+.1f} % with next to no data",
            flush=True,
        )
        del obj


if __name__ == "__main__":
    main()
