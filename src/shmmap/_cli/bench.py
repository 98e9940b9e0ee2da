"""``shmmap bench``: what the machinery costs on this machine, beside the standard pools and joblib.

What must hold: it takes less than a minute, also where all of it is slow, as each figure has its own time.
The others come first: they fork this process, which has no threads of ours then.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import importlib.metadata
import importlib.util
import json
import math
import multiprocessing
import os
import platform
import sys
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

import shmmap

from .._system import limits
from .running import check_workers

BUDGET_S = 0.5
"""How long one figure may take, once it has been measured for the first time."""

COLD_TRIES = 3
ITEMS, CHUNKS, ARRAY_NBYTES = 20_000, 1000, 64 << 20

ROWS = {
    "call": "a call, workers warm",
    "chunk": f"one more chunk, of {CHUNKS:,}",
    "item": f"one more item, of {ITEMS:,}",
    "cold": "a cold start, first result",
    "placing": f"a call on a private array of {ARRAY_NBYTES >> 20} MiB",
}
"""What is measured, by the names that the JSON has."""


def nothing(item: object) -> None:
    """What is called: the rest is the machinery."""


def run(args: argparse.Namespace) -> None:
    check_workers(args.workers)
    workers = args.workers if args.workers > 0 else limits.usable_cores()
    contenders: list[type[Contender]] = [StandardPool, StandardExecutor]
    if importlib.util.find_spec("joblib") is not None:
        contenders.append(Joblib)
    contenders.append(Ours)
    shows = sys.stderr.isatty()
    found: dict[str, dict[str, float]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forks beside threads: those of the others
        for kind in contenders:
            if shows:
                print(f"\r\x1b[Kmeasuring {kind.name} ...", end="", file=sys.stderr, flush=True)
            found[kind.name] = measure(kind, workers)
    if shows:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    found = {Ours.name: found.pop(Ours.name), **found}
    if args.json:
        about = {
            "workers": workers,
            "python": platform.python_version(),
            "shmmap": shmmap.__version__,
        }
        print(json.dumps(about | {"seconds": found}))
    else:
        print("\n".join(table(found)))
        print(f"{workers} workers, {_versions()}; less is better")


def table(found: dict[str, dict[str, float]]) -> list[str]:
    """The figures of each contender, a column each."""
    names = list(found)
    left = max(map(len, ROWS.values()))
    widths = [max(9, len(name)) for name in names]
    lines = [
        " " * left
        + "".join(f"  {name:>{width}}" for name, width in zip(names, widths, strict=True))
    ]
    for key, what in ROWS.items():
        cells = [time_text(found[name][key]) for name in names]
        lines.append(
            f"{what:<{left}}"
            + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        )
    return lines


def time_text(seconds: float) -> str:
    """A time of three digits: ``1.23 us``."""
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")):
        if seconds >= unit or unit == 1e-9:
            value = seconds / unit
            digits = max(0, 2 - int(math.log10(max(1.0, value))))
            return f"{value:.{digits}f} {name}"
    raise AssertionError


def _versions() -> str:
    names = [name for name in ("joblib",) if importlib.util.find_spec(name) is not None]
    others = "".join(f", {name} {importlib.metadata.version(name)}" for name in names)
    return f"shmmap {shmmap.__version__}, Python {platform.python_version()}, NumPy {np.__version__}{others}"


# ------------------------------------------------------------------------------- measuring


def measure(kind: type[Contender], workers: int) -> dict[str, float]:
    """All figures of one contender, in seconds."""
    cold: list[float] = []
    began = time.perf_counter()
    while len(cold) < COLD_TRIES and (not cold or time.perf_counter() - began < 3 * BUDGET_S):
        start = time.perf_counter()
        with kind.started(workers) as contender:
            contender.map(workers, 1)
            cold.append(time.perf_counter() - start)
    with kind.started(workers) as contender:
        call = repeat(lambda: contender.map(workers, 1))
        chunks = repeat(lambda: contender.map(CHUNKS, 1))
        items = repeat(lambda: contender.map(ITEMS, None))
        array = np.ones(ARRAY_NBYTES // 8)
        placing = repeat(lambda: contender.take(array))
    return {
        "call": call,
        "chunk": max(0.0, chunks - call) / CHUNKS,
        "item": max(0.0, items - call) / ITEMS,
        "cold": min(cold),
        "placing": placing,
    }


def repeat(task: Callable[[], object]) -> float:
    """The usual time of a task: the first quartile, as other programs can only make it longer."""
    task()
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 3 or (time.perf_counter() - began < BUDGET_S and len(times) < 1000):
        start = time.perf_counter()
        task()
        times.append(time.perf_counter() - start)
        if time.perf_counter() - began > 4 * BUDGET_S:
            break
    return sorted(times)[len(times) // 4]


class Contender(ABC):
    """Something that maps functions with processes, as its own documentation says to."""

    name: str

    @classmethod
    @contextmanager
    def started(cls, workers: int) -> Iterator[Contender]:
        """One that has no worker yet, or is about to start them, and none afterwards."""
        with ExitStack() as stack:
            yield cls(workers, stack)

    @abstractmethod
    def __init__(self, workers: int, stack: ExitStack) -> None: ...

    @abstractmethod
    def map(self, n: int, chunksize: int | None) -> None:
        """Call `nothing` for so many numbers; None: as many at once as it finds best."""

    @abstractmethod
    def take(self, array: Any) -> None:
        """Have the workers read an array that is this process's own, a part each."""


class Ours(Contender):
    """A team."""

    name = "shmmap"

    def __init__(self, workers: int, stack: ExitStack) -> None:
        self._team = stack.enter_context(shmmap.Team(workers))

    def map(self, n: int, chunksize: int | None) -> None:
        shmmap.pmap(nothing, range(n), chunksize=chunksize or "auto", engine=self._team)

    def take(self, array: Any) -> None:
        shmmap.preduce(np.sum, array, engine=self._team)


class StandardPool(Contender):
    """`multiprocessing.Pool`."""

    name = "Pool"

    def __init__(self, workers: int, stack: ExitStack) -> None:
        self._workers = workers
        self._pool = stack.enter_context(multiprocessing.Pool(workers))

    def map(self, n: int, chunksize: int | None) -> None:
        self._pool.map(nothing, range(n), chunksize)

    def take(self, array: Any) -> None:
        self._pool.map(np.sum, np.array_split(array, self._workers), 1)


class StandardExecutor(Contender):
    """`concurrent.futures.ProcessPoolExecutor`."""

    name = "ProcessPoolExecutor"

    def __init__(self, workers: int, stack: ExitStack) -> None:
        self._workers = workers
        self._executor = stack.enter_context(concurrent.futures.ProcessPoolExecutor(workers))

    def map(self, n: int, chunksize: int | None) -> None:
        # It leaves the size to its user; this is how `Pool` chooses it.
        chunksize = chunksize or -(-n // (4 * self._workers))
        list(self._executor.map(nothing, range(n), chunksize=chunksize))

    def take(self, array: Any) -> None:
        list(self._executor.map(np.sum, np.array_split(array, self._workers)))


class Joblib(Contender):
    """`joblib.Parallel`, with its own processes."""

    name = "joblib"

    def __init__(self, workers: int, stack: ExitStack) -> None:
        self._joblib: Any = importlib.import_module("joblib")
        self._parallel = stack.enter_context(self._joblib.Parallel(workers))
        loky = importlib.import_module("joblib.externals.loky")
        # It keeps them for the next one otherwise.
        stack.callback(lambda: loky.get_reusable_executor().shutdown(kill_workers=True))

    def map(self, n: int, chunksize: int | None) -> None:
        self._parallel.batch_size = chunksize or "auto"
        call = self._joblib.delayed(nothing)
        self._parallel(call(i) for i in range(n))

    def take(self, array: Any) -> None:
        self._parallel.batch_size = "auto"
        call = self._joblib.delayed(np.sum)
        parts = np.array_split(array, os.cpu_count() or 1)
        self._parallel(call(part) for part in parts)
