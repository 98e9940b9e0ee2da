"""How everybody does a kind of call: the library, bare hands, pools, executors, joblib, a plain loop."""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import numpy as np

from harness.calls import Kind, Task
from harness.peers.bare import Crew

Items = Sequence[Any]
MANY = 64
"""Workers of a team that has more of them than there are cores."""


@contextlib.contextmanager
def ours(kind: Kind, items: Items, workers: int) -> Iterator[Task]:
    """The library, on a warm team."""
    import shmmap

    with shmmap.Team(workers) as team:
        yield kind.ours(team, kind, items)


@contextlib.contextmanager
def serial(kind: Kind, items: Items, workers: int) -> Iterator[Task]:
    """A plain loop."""
    func = kind.func
    if kind.verb == "given":
        yield lambda: func(lambda each, those: list(map(each, those)), len(items))
    else:
        yield lambda: [func(item) for item in items]


@contextlib.contextmanager
def pool(kind: Kind, items: Items, workers: int) -> Iterator[Task]:
    """`multiprocessing.Pool`."""
    func = kind.func
    with multiprocessing.Pool(workers) as pool:
        if kind.verb == "given":
            yield lambda: func(pool.map, len(items))
        elif kind.verb == "submit":

            def submit() -> Any:
                results = [pool.apply_async(func, (item,)) for item in items]
                return [result.get() for result in results]

            yield submit
        else:
            yield lambda: pool.map(func, items, kind.chunksize)


def executor(make: Callable[[int], Executor]) -> Callable[..., Any]:
    """An executor of the standard library."""

    @contextlib.contextmanager
    def opened(kind: Kind, items: Items, workers: int) -> Iterator[Task]:
        func = kind.func
        # Its own default is an item at a time; the documentation advises more for long iterables.
        size = kind.chunksize or max(1, len(items) // (4 * workers))
        with make(workers) as executor:
            if kind.verb == "given":
                yield lambda: func(executor.map, len(items))
            elif kind.verb == "submit":

                def submit() -> Any:
                    futures = [executor.submit(func, item) for item in items]
                    return [future.result() for future in futures]

                yield submit
            else:
                yield lambda: list(executor.map(func, items, chunksize=size))

    return opened


@contextlib.contextmanager
def joblib(kind: Kind, items: Items, workers: int) -> Iterator[Task]:
    """joblib with workers that are kept."""
    from joblib import Parallel, delayed

    func = kind.func
    with Parallel(n_jobs=workers) as parallel:
        yield lambda: parallel(delayed(func)(item) for item in items)


@contextlib.contextmanager
def bare(kind: Kind, items: Items, workers: int) -> Iterator[Task]:
    """Forked workers that know the function; items and results lie in mappings they inherited."""
    n = len(items)
    if kind.verb == "submit":
        with errands(kind.func, workers) as run:
            yield lambda: run(items)
        return
    func, lseek, cur = kind.func, os.lseek, os.SEEK_CUR
    size = kind.chunksize or max(1, n // (8 * workers))
    y = _mapped(n)
    x = None if isinstance(items, range) else _mapped(np.size(items)).reshape(n, -1)

    def body(rank: int, tickets: int) -> None:
        while (stop := lseek(tickets, size, cur)) < n + size:
            start = stop - size
            if size == 1 and x is None:
                y[start] = func(start)
            elif x is None:
                y[start:stop] = [func(i) for i in range(start, min(stop, n))]
            elif x.shape[1] == 1:
                y[start:stop] = [func(value) for value in x[start:stop, 0].tolist()]
            else:
                y[start:stop] = [func(row) for row in x[start:stop]]

    crew = Crew(workers, body)

    def call() -> list[float]:
        if x is not None:
            x.reshape(-1)[:] = np.concatenate(items) if x.shape[1] > 1 else items
        crew.call()
        return y.tolist()

    try:
        yield call
    finally:
        crew.end()


def _mapped(n: int) -> np.ndarray[Any, Any]:
    return np.frombuffer(mmap.mmap(-1, max(8, 8 * n)))[:n]


@contextlib.contextmanager
def errands(func: Callable[[Any], float], workers: int) -> Iterator[Callable[[Items], list[float]]]:
    """Run numbers one by one: all workers read one pipe, and write to another."""
    asked, ask = os.pipe()
    hear, told = os.pipe()
    pids = []
    for _ in range(workers):
        pid = os.fork()
        if pid == 0:
            os.close(ask)
            while request := os.read(asked, 8):
                number = int.from_bytes(request, "little")
                os.write(told, struct.pack("qd", number, func(number)))
            os._exit(0)
        pids.append(pid)
    os.close(asked)

    def run(items: Items) -> list[float]:
        for item in items:
            os.write(ask, item.to_bytes(8, "little"))
        results = [0.0] * len(items)
        missing = len(items)
        while missing:
            for number, value in struct.iter_unpack("qd", os.read(hear, 1 << 14)):
                results[number] = value
                missing -= 1
        return results

    try:
        yield run
    finally:
        for fd in (ask, hear, told):
            os.close(fd)
        for pid in pids:
            os.waitpid(pid, 0)


PEERS: dict[str, Callable[[Kind, Items, int], contextlib.AbstractContextManager[Task]]] = {
    # Who forks comes before who has threads, and ends after them.
    "bare": bare,
    "serial": serial,
    "pool": pool,
    "ppe": executor(ProcessPoolExecutor),
    "tpe": executor(ThreadPoolExecutor),
    "joblib": joblib,
    "shmmap": ours,
    "shmmap-many": lambda kind, items, workers: ours(kind, items, MANY),
    "pool-many": lambda kind, items, workers: pool(kind, items, MANY),
}
