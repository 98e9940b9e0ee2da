"""Cases of maps that fail, write in place, draw random numbers, or run on an executor of the caller's."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import numpy as np

import shmmap
from tests.fuzz import settings
from tests.helpers import assert_same

from .draw import (
    Boom,
    Case,
    Draw,
)


def draw_failure(draw: Draw) -> Case:
    """Functions that fail at some indices, under each `on_error`."""
    n = draw.length() + 1
    bad = {draw.rng.randrange(n) for _ in range(draw.of(1, 1, 2, 5))}
    x = draw.of(shmmap.asshared, np.array)(np.arange(float(n)))
    mode = draw.of("raise", "continue", "call")
    options = {**draw.options(), "chunksize": draw.of(1, 2, 7)}
    options.pop("retries", None)

    def fail(value: Any) -> Any:
        if int(value) in bad:
            raise Boom(int(value))
        return value + 0.5

    def check_values(result: Any, ranges: Any, blank: Callable[[Any], bool]) -> None:
        failed = {i for start, stop in ranges for i in range(start, stop)}
        assert bad <= failed
        for i, value in enumerate(result.tolist()):
            assert blank(value) if i in failed else value == i + 0.5

    def run(engine: Any) -> None:
        keywords = {**options, "engine": engine}
        if mode == "raise":
            try:
                shmmap.pmap(fail, x, **keywords)
            except Boom as exc:
                assert exc.args[0] in bad
                assert f"index {exc.args[0]} " in exc.__notes__[0]
            else:
                raise AssertionError("nothing was raised")
        elif mode == "continue":
            try:
                shmmap.pmap(fail, x, on_error="continue", **keywords)
            except shmmap.MapError as exc:
                assert all(isinstance(each, Boom) for each in exc.exceptions)
                check_values(exc.result, exc.failed, np.isnan) if exc.result is not None else None
            else:
                raise AssertionError("nothing was raised")
        else:
            ranges = []

            def stand_in(exc: Exception, start: int, stop: int) -> float:
                assert isinstance(exc, Boom)
                ranges.append((start, stop))
                return -1.0

            result = shmmap.pmap(fail, x, on_error=stand_in, **keywords)
            check_values(result, ranges, lambda value: value == -1.0)

    return Case(f"failure {n=} {bad=} {mode} {options}", run)


def draw_writes(draw: Draw) -> Case:
    """A function that writes into its item: it lands in shared memory and is refused in private memory."""
    n = draw.length() + 1
    is_shared = draw.often(0.5)
    x = (shmmap.asshared if is_shared else np.array)(np.arange(2.0 * n).reshape(n, 2))
    captured = (shmmap.asshared if is_shared else np.array)(np.zeros(n))
    is_captured = draw.often(0.5)
    options = draw.options()
    options.pop("retries", None)

    def write(i: Any, row: Any) -> None:
        if is_captured:
            captured[int(i)] = 5.0
        else:
            row[:] = 5.0

    def run(engine: Any) -> None:
        if isinstance(engine, Executor) and not isinstance(engine, shmmap.Team):
            return
        before = x.copy()
        try:
            shmmap.pmap(write, np.arange(n), x, engine=engine, **options)
        except ValueError as exc:
            assert not is_shared, exc
            assert "read-only" in str(exc)
            assert_same(np.array(x), before)
            assert not captured.any()
        else:
            assert is_shared
            assert ((captured if is_captured else x) == 5.0).all()
        assert x.flags.writeable
        assert captured.flags.writeable

    return Case(f"writes {n=} {is_shared=} {is_captured=} {options}", run)


def draw_random(draw: Draw) -> Case:
    """Random streams: the same on every engine."""
    n, seed = draw.length() + 1, draw.rng.randrange(1000)
    options = {"workers": draw.of(1, 2, 3), "chunksize": draw.of(1, 3, "auto")}

    def sample(value: Any, rng: Any) -> Any:
        return rng.random() + value

    def run(engine: Any) -> None:
        x = np.arange(float(n))
        expected = shmmap.pmap(sample, x, rng=seed, engine="serial")
        assert_same(shmmap.pmap(sample, x, rng=seed, engine=engine, **options), expected)
        assert len(set(expected.tolist())) == n

    return Case(f"rng {n=} {seed=} {options}", run)


def draw_executor(draw: Draw) -> Case:
    """A team as an executor: `submit` and `map`."""
    n = draw.length()
    options = draw.of({}, {"chunksize": 3}, {"buffersize": 2})

    def work(a: Any, b: Any) -> Any:
        if a == 7:
            raise Boom(a)
        return a * settings.FACTOR, b

    def run(engine: Any) -> None:
        if not isinstance(engine, shmmap.Team):
            return
        xs = [i for i in range(n) if i != 7]
        names = [str(i) for i in xs]
        expected = [work(a, b) for a, b in zip(xs, names, strict=True)]
        assert list(engine.map(work, xs, names, **options)) == expected
        futures = [engine.submit(work, a, b) for a, b in zip(xs[:5], names, strict=False)]
        assert [future.result() for future in futures] == expected[:5]
        assert isinstance(engine.submit(work, 7, 0).exception(), Boom)

    return Case(f"executor {n=} {options}", run)
