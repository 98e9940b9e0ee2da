"""Wrong programs: each line with an ignore is one that both checkers must find, or the ignore is not needed.

Nothing here is run.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import numpy as np
from numpy.typing import NDArray

import shmmap

Floats = NDArray[np.float64]


def norm(row: Floats) -> float:
    return float(np.sqrt(row @ row))


def extremes(row: Floats) -> tuple[np.float64, np.float64]:
    return row.min(), row.max()


def nothing(row: Floats) -> None:
    assert row.ndim


def read(path: str) -> bytes:
    return path.encode()


x: Floats = np.zeros((4, 3))


def options() -> None:
    shmmap.pmap(norm, x, n_jobs=4)  # type: ignore[call-overload]
    shmmap.pmap(norm, x, workers="two")  # type: ignore[call-overload]
    shmmap.pmap(norm, x, timeout="1s")  # type: ignore[call-overload]
    shmmap.pmap(norm, x, engine="loky")  # type: ignore[call-overload]
    shmmap.pmap(norm, x, schedule="guided")  # type: ignore[call-overload]
    shmmap.pmap(norm, x, on_error="ignore")  # type: ignore[call-overload]
    shmmap.pmap(norm, x, on_error=lambda exc: None)  # type: ignore[arg-type, misc]
    shmmap.pmap(norm, x, checkpoint=3)  # type: ignore[call-overload]
    shmmap.pmap(norm, x, rng="seed")  # type: ignore[arg-type]
    shmmap.pmap(norm, x, wait="no")  # type: ignore[call-overload]
    shmmap.pmap(norm, x, axis="rows")  # type: ignore[call-overload]
    shmmap.pmap(norm, x, depth=1)  # type: ignore[call-overload]
    shmmap.pmap_chunks(np.sqrt, x, buffersize=8)  # type: ignore[call-overload]
    shmmap.pmap_ranges(max, x)  # type: ignore[call-overload]
    shmmap.pmap_ranges(norm, 10)  # type: ignore[arg-type]
    shmmap.preduce(np.sum, x, combine="max")  # type: ignore[call-overload]
    shmmap.preduce(np.sum, x, combine=abs)  # type: ignore[arg-type]
    shmmap.config(n_jobs=3)  # type: ignore[call-arg]
    shmmap.config(chunksize=3)  # type: ignore[call-arg]
    shmmap.config(engine="loky")  # type: ignore[arg-type]


def inputs() -> None:
    shmmap.pmap(x, norm)  # type: ignore[call-overload]
    shmmap.pmap("norm", x)  # type: ignore[call-overload]
    shmmap.pmap(norm, 3)  # type: ignore[call-overload]
    shmmap.pmap(norm)  # type: ignore[call-overload]


def results() -> None:
    shmmap.pmap(norm, x).no_such_method()  # type: ignore[attr-defined]
    shmmap.pmap(np.sum, x).append(1)  # type: ignore[attr-defined]
    print(shmmap.pmap(read, ["a"]).shape)  # type: ignore[attr-defined]
    shmmap.pmap(read, ["a"])[0].upper().items()  # type: ignore[attr-defined]
    shmmap.pmap(extremes, x).mean()  # type: ignore[attr-defined]
    shmmap.pmap(nothing, x).sum()  # type: ignore[attr-defined]
    shmmap.pmap(norm, x, wait=False).resutl()  # type: ignore[attr-defined]
    print(shmmap.pmap(norm, x, wait=False).shape)  # type: ignore[attr-defined]
    print(shmmap.pmap(read, ["a"], wait=False).result().shape)  # type: ignore[attr-defined]
    shmmap.pmap(read, ["a"], on_error=lambda exc, a, b: None)[0].upper()  # type: ignore[union-attr]
    print(shmmap.preduce(norm, x, combine=max).shape)  # type: ignore[union-attr]
    names: list[str] = shmmap.pmap(read, ["a"])  # type: ignore[arg-type]
    assert names


def arrays() -> None:
    shmmap.empty("three")  # type: ignore[arg-type]
    shmmap.zeros(3, order="K")  # type: ignore[call-overload]
    shmmap.load("a.npy", mmap_mode="w")  # type: ignore[call-overload]
    shmmap.load("a.npy", mmap_mode="c").keys()  # type: ignore[attr-defined]
    ints: NDArray[np.int64] = shmmap.zeros(3)  # type: ignore[assignment]
    assert ints.size


def teams() -> None:
    shmmap.Team(n_jobs=4)  # type: ignore[arg-type]
    shmmap.Team(start="spawn")  # type: ignore[arg-type]
    shmmap.Team(initializer=read, initargs=(1,))  # type: ignore[arg-type]
    team = shmmap.Team(2)
    team.submit(read, 3)  # type: ignore[arg-type]
    team.submit(read)  # type: ignore[call-arg]
    team.submit(read, "a").result().items()  # type: ignore[attr-defined]
    wrong: Future[int] = team.submit(read, "a")  # type: ignore[arg-type]
    team.map(read, 3)  # type: ignore[arg-type]
    next(team.map(read, ["a"])).items()  # type: ignore[attr-defined]
    team.kill(3, 4)  # type: ignore[attr-defined]
    print(team.workers)  # type: ignore[attr-defined]
    assert wrong


def future(made: shmmap.MapFuture[Any]) -> None:
    made.iterate_items()  # type: ignore[attr-defined]
