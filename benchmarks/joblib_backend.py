"""The joblib backend beside loky: the same `Parallel` calls, taken in turns within one run.

    python benchmarks/joblib_backend.py              # a table; about a minute on a quiet machine
    python benchmarks/joblib_backend.py --rounds 9 --only array
    python benchmarks/joblib_backend.py --quick      # small, to see that it runs

Each round makes every call once on each backend, whose processes are warm, in an order that changes from
round to round; the table has the medians, in milliseconds. Below it is the load that the machine had before:
with much, only ratios mean something.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
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


def time_of(row: Row, backend: str, n_jobs: int) -> float:
    with joblib.parallel_config(backend=backend, n_jobs=n_jobs):
        began = time.perf_counter()
        row.call()
        return (time.perf_counter() - began) * 1000


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
    print(f"| ms, n_jobs={given.n_jobs}, median of {rounds} | loky | shmmap | loky / shmmap |")
    print("| --- | ---: | ---: | ---: |")
    for row in rows(given.quick):
        if given.only not in row.name:
            continue
        times: dict[str, list[float]] = {backend: [] for backend in BACKENDS}
        for backend in BACKENDS:
            time_of(row, backend, given.n_jobs)  # imports, and workers
        for k in range(rounds):
            for backend in BACKENDS[:: 1 if k % 2 else -1]:
                times[backend].append(time_of(row, backend, given.n_jobs))
        loky, ours = (statistics.median(times[backend]) for backend in BACKENDS)
        print(f"| {row.name} | {loky:.3g} | {ours:.3g} | {loky / ours:.2f} |", flush=True)
    print(
        f"\njoblib {joblib.__version__}, {joblib.cpu_count()} cores; load at the start {waiting}."
    )


if __name__ == "__main__":
    main()
