"""The joblib backend beside loky: the same `Parallel` calls, taken in turns within one run.

    python benchmarks/joblib_backend.py              # a table; about a minute on a quiet machine
    python benchmarks/joblib_backend.py --rounds 9 --only array
    python benchmarks/joblib_backend.py --quick      # small, to see that it runs

Each round makes every call once on each backend, whose processes are warm, in an order that changes from
round to round; the table has the medians, in milliseconds, of the time and of the processor time of all
processes. Below it is the load that the machine had before: with much, the processor time means more.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
from joblib import Parallel, delayed

import shmmap
import shmmap.joblib

BACKENDS = ("loky", "shmmap")


class Row(NamedTuple):
    """A kind of call: what is timed, on a backend."""

    name: str
    call: Callable[[], object]


def nothing(i: int) -> int:
    return i


def look(a: Any, i: int) -> float:
    return float(a[i])


def make(n: int) -> Any:
    return np.full(n, 1.0)


def rows(is_quick: bool) -> list[Row]:
    """All kinds of call, with their data made."""
    size = 1 << 16 if is_quick else 20_000_000
    private, shared = np.zeros(size), shmmap.zeros(size)
    found = [
        Row("2 tasks", lambda: Parallel()(delayed(nothing)(i) for i in range(2))),
        Row("400 tiny tasks", lambda: Parallel()(delayed(nothing)(i) for i in range(400))),
        Row(
            "200 tasks, batch_size=1",
            lambda: Parallel(batch_size=1)(delayed(nothing)(i) for i in range(200)),
        ),
        Row(
            "160 MB private array, 200 tasks",
            lambda: Parallel()(delayed(look)(private, i) for i in range(200)),
        ),
        Row(
            "160 MB shared array, 200 tasks",
            lambda: Parallel()(delayed(look)(shared, i) for i in range(200)),
        ),
        Row(
            "20 results of 8 MB",
            lambda: Parallel()(delayed(make)(size // 20) for _ in range(20)),
        ),
    ]
    return found + rows_of_scikit_learn(is_quick)


def rows_of_scikit_learn(is_quick: bool) -> list[Row]:
    try:
        from sklearn.datasets import load_digits
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.linear_model import Ridge
        from sklearn.model_selection import GridSearchCV, cross_val_score
    except ImportError:
        return []
    X, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    wide = rng.standard_normal((2_000 if is_quick else 200_000, 100))
    target = wide @ rng.standard_normal(100)
    grid = {"alpha": np.logspace(-3, 3, 4 if is_quick else 20)}
    return [
        Row("GridSearchCV, ridge, digits", lambda: GridSearchCV(Ridge(), grid).fit(X, y)),
        Row(
            "cross_val_score, 160 MB, 6 folds", lambda: cross_val_score(Ridge(), wide, target, cv=6)
        ),
        Row(
            "RandomForest, digits, 100 trees",
            lambda: RandomForestClassifier(100, random_state=0).fit(X, y),
        ),
    ]


def processor_ns() -> dict[int, int]:
    """The processor time of this process and of all that descend from it, by process."""
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            status = Path(f"/proc/{name}/stat").read_text()
            children.setdefault(int(status.rpartition(")")[2].split()[1]), []).append(int(name))
    found: dict[int, int] = {}
    waiting = [os.getpid()]
    while waiting:
        pid = waiting.pop()
        waiting += children.get(pid, [])
        with suppress(OSError):
            threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
            found[pid] = sum(int(each.read_text().split()[0]) for each in threads)
    return found


def measure(row: Row, backend: str, n_jobs: int) -> tuple[float, float]:
    """Milliseconds of time and of processor time."""
    with joblib.parallel_config(backend=backend, n_jobs=n_jobs):
        before, began = processor_ns(), time.perf_counter()
        row.call()
        took_s, after = time.perf_counter() - began, processor_ns()
    used = sum(ns - before.get(pid, 0) for pid, ns in after.items())
    return took_s * 1e3, used / 1e6


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--n-jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="rows whose name has this in it")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    rounds = 1 if given.quick else given.rounds
    warnings.simplefilter("ignore")
    with open("/proc/loadavg") as file:
        waiting = file.read().split()[0]
    print(
        f"| ms, n_jobs={given.n_jobs}, medians of {rounds} | loky | shmmap | CPU: loky | shmmap |"
    )
    print("| --- | ---: | ---: | ---: | ---: |")
    for row in rows(given.quick):
        if given.only not in row.name:
            continue
        taken: dict[str, list[tuple[float, float]]] = {backend: [] for backend in BACKENDS}
        for backend in BACKENDS:
            measure(row, backend, given.n_jobs)  # imports, and workers
        for k in range(rounds):
            for backend in BACKENDS[:: 1 if k % 2 else -1]:
                taken[backend].append(measure(row, backend, given.n_jobs))
        loky, ours = ([*map(statistics.median, zip(*taken[b], strict=True))] for b in BACKENDS)
        cells = (loky[0], ours[0], loky[1], ours[1])
        print(f"| {row.name} | {' | '.join(f'{cell:.1f}' for cell in cells)} |", flush=True)
    print(
        f"\njoblib {joblib.__version__}, {joblib.cpu_count()} cores; load at the start {waiting}."
    )


if __name__ == "__main__":
    main()
