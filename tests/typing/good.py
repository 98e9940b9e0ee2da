"""Right programs: checkers find nothing in them and know what comes back, and it does when they run."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import shmmap

if TYPE_CHECKING:
    from typing import assert_type
else:
    from tests.typing.promises import assert_type

Array = NDArray[Any]
Floats = NDArray[np.float64]


class Model:
    """What a function may return for a list."""


class Point(NamedTuple):
    """What a function may return for a tuple of arrays."""

    x: float
    y: float


def norm(row: Floats) -> float:
    return float(np.sqrt(row @ row))


def scaled(row: Floats, factor: float) -> Floats:
    return row * factor


def extremes(row: Floats) -> tuple[np.float64, np.float64]:
    return row.min(), row.max()


def point(row: Floats) -> Point:
    return Point(row[0], row[-1])


def double(chunk: Floats) -> Floats:
    return chunk * 2


def nothing(row: Floats) -> None:
    assert row.ndim


def model(path: str) -> Model:
    assert path
    return Model()


def labelled(name: str, row: Floats) -> float:
    return len(name) * norm(row)


def draw(index: int, rng: np.random.Generator) -> float:
    return rng.normal() + index


def fill(start: int, stop: int) -> None:
    assert start <= stop


def span(start: int, stop: int) -> int:
    return stop - start


def blank(exc: Exception, start: int, stop: int) -> None:
    assert start < stop, exc


class Numbers:
    """A class of the user's own that is iterated over."""

    def __iter__(self) -> Iterator[int]:
        return iter([1, 2])


x: Floats = np.arange(12.0).reshape(4, 3)
names = ["a", "b"]


def rows() -> None:
    assert_type(shmmap.pmap(norm, x), Array)
    assert_type(shmmap.pmap(np.sum, x), Array)
    assert_type(shmmap.pmap(np.linalg.norm, x), Array)
    assert_type(shmmap.pmap(np.sort, x), Array)
    assert_type(shmmap.pmap(lambda row: row.sum(), x), Array)
    assert_type(shmmap.pmap(scaled, x, 2.0, axis=(0, None)), Array)
    assert_type(shmmap.pmap(partial(scaled, factor=2.0), x), Array)
    assert_type(shmmap.pmap(norm, x, dtype=np.float32), NDArray[np.float32])
    assert_type(shmmap.pmap(norm, x, dtype=np.dtype(np.complex128)), NDArray[np.complex128])
    assert_type(shmmap.pmap(norm, x, dtype="f4"), Array)
    assert_type(shmmap.pmap(norm, x, on_error=lambda exc, start, stop: 0.0), Array)
    assert_type(shmmap.pmap(extremes, x), tuple[Array, ...])
    assert_type(shmmap.pmap(point, x), tuple[Array, ...])
    low, high = shmmap.pmap(extremes, x)
    assert_type(low + high, Array)
    shmmap.pmap(nothing, x)


class Tensor:
    """An array of another library, which may hold anything."""

    dtype = np.dtype(float)

    def __iter__(self) -> Iterator[float]:
        return iter([1.0, 2.0])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Floats:
        return np.array([1.0, 2.0])


def show(done: int, total: int) -> None:
    assert done <= total


def numbers() -> None:
    """Those of NumPy are taken, too."""
    four, half = np.int64(4), np.float32(30)
    shmmap.pmap(norm, x, axis=np.int8(0), workers=four, retries=four, timeout=half, chunksize=four)
    shmmap.pmap(draw, range(3), rng=[1, 2], buffersize=four)
    shmmap.pmap(draw, range(3), rng=np.arange(3), progress=show)
    shmmap.pmap_ranges(span, four)
    with shmmap.Team(four, blas_threads=four, memory_limit=np.int64(1 << 30), idle_timeout=half):
        pass


def lists() -> None:
    assert_type(shmmap.pmap(model, names), list[Model])
    assert_type(shmmap.pmap(model, iter(names), buffersize=8), list[Model])
    assert_type(shmmap.pmap(model, {"a": 1, "b": 2}), list[Model])
    assert_type(shmmap.pmap(str, Numbers()), list[str])
    assert_type(shmmap.pmap(str, Path(__file__).parent.glob("*.py")), list[str])
    assert_type(shmmap.pmap(pow, range(3), range(3)), list[int])
    assert_type(shmmap.pmap(lambda name: Model(), names), list[Model])
    assert_type(shmmap.pmap(draw, range(3), rng=1), list[float])
    assert_type(shmmap.pmap(model, names, on_error=blank), list[Model | None])
    assert_type(shmmap.pmap(model, names, on_error="continue", retries=1), list[Model])
    assert_type(shmmap.pmap(extremes, x, out=list), list[tuple[np.float64, np.float64]])
    assert_type(shmmap.pmap(nothing, x, out=list), list[None])


def outputs() -> None:
    y: NDArray[np.float32] = shmmap.empty(4, np.float32)
    assert_type(shmmap.pmap(norm, x, out=y), NDArray[np.float32])
    assert_type(
        shmmap.pmap(extremes, x, out=(y, y.copy())), tuple[NDArray[np.float32], NDArray[np.float32]]
    )
    z = x.copy()
    assert_type(shmmap.pmap_chunks(double, z, out=z), Floats)
    with tempfile.TemporaryDirectory() as folder:
        kept = shmmap.Checkpoint(Path(folder, "b"), interval=5, if_changed="keep")
        assert_type(shmmap.pmap(norm, x, checkpoint=f"{folder}/a"), Array)
        assert_type(shmmap.pmap(model, names, checkpoint=kept), list[Model])
        assert_type(shmmap.pmap(extremes, x, checkpoint=f"{folder}/c"), tuple[Array, ...])


def chunks() -> None:
    assert_type(shmmap.pmap_chunks(double, x), Array)
    assert_type(shmmap.pmap_chunks(np.sqrt, x), Array)
    assert_type(shmmap.pmap_chunks(double, x, depth=1, boundary="reflect", chunksize="8MiB"), Array)
    assert_type(shmmap.pmap_chunks(lambda chunk: (chunk, chunk), x), tuple[Array, ...])
    assert_type(shmmap.pmap_chunks(len, x, out=list, chunksize=2), list[int])
    assert_type(shmmap.pmap_chunks(len, names), list[int])


def ranges() -> None:
    assert_type(shmmap.pmap_ranges(span, 10), list[int])
    assert_type(shmmap.pmap_ranges(span, 10, on_error=blank), list[int | None])
    assert_type(shmmap.pmap_ranges(span, 10, wait=False), shmmap.MapFuture[list[int]])
    shmmap.pmap_ranges(fill, 10, engine="threads", schedule="static", workers=2)


def reductions() -> None:
    assert_type(shmmap.preduce(len, x), int)
    assert_type(shmmap.preduce(norm_of_all, x, combine=max), float | Any)
    assert_type(shmmap.preduce(norm_of_all, x, combine=np.hypot, initial=0.0), float | Any)
    assert_type(shmmap.preduce(double_sum, x, combine=add, wait=False), shmmap.MapFuture[Floats])
    largest: float = shmmap.preduce(np.max, x)
    assert largest == 11


def norm_of_all(chunk: Floats) -> float:
    return float(np.sqrt((chunk * chunk).sum()))


def double_sum(chunk: Floats) -> Floats:
    return np.asarray((chunk * 2).sum(axis=0))


def add(left: Floats, right: Floats) -> Floats:
    return left + right


def futures() -> None:
    future = shmmap.pmap(norm, x, wait=False)
    assert_type(future, shmmap.MapFuture[Array])
    assert_type(future.result(), Array)
    for start, stop, part in future.in_order():
        assert_type((start, stop), tuple[int, int])
        assert_type(part, Array)
    assert_type(future.progress(), tuple[int, int])
    assert_type(
        shmmap.pmap(norm, x, dtype=np.float32, wait=False), shmmap.MapFuture[NDArray[np.float32]]
    )
    assert_type(shmmap.pmap(extremes, x, wait=False), shmmap.MapFuture[tuple[Array, ...]])
    z = x.copy()
    assert_type(shmmap.pmap_chunks(double, z, out=z, wait=False), shmmap.MapFuture[Floats])
    models = shmmap.pmap(model, names, wait=False)
    assert_type(models, shmmap.MapFuture[list[Model]])
    for _, _, several in shmmap.pmap(model, names, wait=False).as_completed():
        assert_type(several, list[Model])
    stdlib: Future[list[Model]] = models
    assert len(stdlib.result()) == 2

    async def wait() -> Array:
        awaitable: Awaitable[Array] = shmmap.pmap(norm, x, wait=False)
        return await awaitable

    assert_type(asyncio.run(wait()), Array)


def undecided(wait: bool, func: Callable[..., object], data: Any) -> None:
    """What is not known is not promised, nor refused."""
    shmmap.pmap(norm, x, wait=wait)
    shmmap.pmap(func, data)
    shmmap.pmap(func, data, out=list)
    shmmap.pmap_chunks(func, data, out=list)
    shmmap.pmap_ranges(span, 3, wait=wait)
    shmmap.preduce(len, x, wait=wait)
    assert_type(shmmap.pmap(labelled, names, x[:2]), Any)
    assert_type(shmmap.pmap(str, Tensor()), Any)
    assert_type(shmmap.pmap(labelled, names, x[:2], out=list), list[float])


def teams() -> None:
    with shmmap.Team(
        2, start="clean", initializer=print, initargs=("",), memory_limit="1GiB"
    ) as team:
        executor: Executor = team
        assert_type(team, shmmap.Team)
        assert_type(team.submit(model, "a"), Future[Model])
        assert_type(team.submit(pow, 2, 5).result(), int)
        assert_type(team.submit(scaled, x, factor=3.0), Future[Floats])
        assert_type(team.map(model, names), Iterator[Model])
        assert_type(team.size, int)
        shmmap.pmap(norm, x, engine=team)
        shmmap.pmap(norm, x, engine=executor)
    with ThreadPoolExecutor(1) as threads:
        shmmap.pmap(norm, x, engine=threads)
    with shmmap.config(workers=2, engine="threads", progress=False, timeout=None, retries=1):
        shmmap.pmap(norm, x)


def arrays() -> None:
    assert_type(shmmap.zeros((2, 3)), Floats)
    assert_type(shmmap.empty(np.int64(3), dtype=np.int16), NDArray[np.int16])
    assert_type(shmmap.ones([2], dtype="f4", order="F"), Array)
    assert_type(shmmap.full(3, 7), Array)
    assert_type(shmmap.full(3, 7, np.uint8), NDArray[np.uint8])
    assert_type(shmmap.zeros_like(x), Floats)
    assert_type(shmmap.full_like(x, 1, dtype=np.int8), NDArray[np.int8])
    assert_type(shmmap.empty_like([1, 2]), Array)
    assert_type(shmmap.asshared(x), Floats)
    assert_type(shmmap.asshared([1, 2]), Array)
    assert_type(shmmap.asshared(x, np.float32, order="C"), NDArray[np.float32])
    assert_type(shmmap.share({"a": x}), dict[str, Floats])
    assert_type(shmmap.is_shared(x), bool)
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/a.npy", x)
        assert_type(shmmap.load(f"{folder}/a.npy", mmap_mode="r+"), Array)
        assert_type(shmmap.load(f"{folder}/a.npy", "c"), Array)
        assert_type(shmmap.load(f"{folder}/a.npy"), Any)  # or the arrays of a .npz file, by name
    assert_type(shmmap.handle(shmmap.asshared(x)).array(), Floats)
    with shmmap.profile() as report:
        shmmap.pmap(norm, x)
    assert_type(report, shmmap.Report)


def main() -> None:
    """All of it, also where shapes and threads would differ."""
    for each in (rows, numbers, lists, outputs, chunks, ranges, reductions, futures, teams, arrays):
        each()
    undecided(True, np.max, x)


if __name__ == "__main__":
    main()
