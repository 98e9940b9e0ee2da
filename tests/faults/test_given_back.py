"""Fault 25: after many arrays and many maps all is as it was, and inputs go with their map."""

from __future__ import annotations

import contextlib
import gc
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap._memory import table
from shmmap.testing import KillSelf, wait_until
from tests import functions
from tests.helpers import (
    descriptor_count,
    shared_memory_in_use,
)

from .common import times


@pytest.mark.slow
@pytest.mark.timeout(1200)
class Test25Flat:
    """Many arrays and many maps: descriptors, shared memory and RSS stay where they were.

    Scaled down unless ``SHMMAP_HEAVY`` is set; ``python -m tests.soak`` goes on for as long as it is asked
    to.
    """

    @staticmethod
    def usage() -> tuple[int, int, int]:
        """Descriptors, shared memory, RSS."""
        gc.collect()
        table.release_spare()
        text = Path("/proc/self/status").read_text()
        rss = next(int(line.split()[1]) for line in text.splitlines() if "VmRSS" in line) << 10
        return descriptor_count(), shared_memory_in_use(), rss

    def check(self, cycle: Any, n: int, rss_slack: int = 8 << 20) -> None:
        """Compare after some cycles with after `n` more."""
        for _ in range(n // 4):
            cycle()
        before = self.usage()
        for _ in range(n):
            cycle()
        after = self.usage()
        # Slabs and pages come and go, a few of two descriptors each; a leak would be one per cycle.
        assert after[0] <= before[0] + min(8, n // 3)
        assert after[1] <= before[1] + (12 << 20)
        assert after[2] <= before[2] + rss_slack

    def test_arrays(self) -> None:
        sizes = iter(range(10**9))

        def cycle() -> None:
            n = next(sizes)
            a = shmmap.zeros(1 + n * 7919 % 400_000)
            a[-1] = 1
            b = a[::2]
            del a
            assert b.size

        self.check(cycle, times(1000, 10_000))

    def test_maps(self, team: Any) -> None:
        x = shmmap.asshared(np.arange(1000))

        def cycle() -> None:
            result = shmmap.pmap_chunks(functions.double, x, engine=team, chunksize=300)
            assert result[-1] == 1998
            big = shmmap.pmap(functions.double, np.arange(200_000).reshape(10, -1), engine=team)
            assert big[-1, -1] == 399_998
            shmmap.pmap(lambda i: str(i), range(20), engine=team)

        self.check(cycle, times(60, 3400))

    def test_failures(self, team: Any) -> None:
        def fail(i: Any) -> None:
            raise ValueError("on purpose")

        def cycle() -> None:
            with pytest.raises(ValueError):
                shmmap.pmap(fail, np.arange(50), engine=team, chunksize=1)

        self.check(cycle, times(30, 1000))

    def test_teams(self) -> None:
        def cycle() -> None:
            with shmmap.Team(workers=2) as team:
                shmmap.pmap(functions.double, np.arange(10), engine=team)

        self.check(cycle, times(8, 200))

    def test_deaths(self, team: Any) -> None:
        def cycle() -> None:
            with pytest.raises(shmmap.WorkerDied):
                shmmap.pmap(KillSelf(at=3), np.arange(10), engine=team, chunksize=1)

        self.check(cycle, times(10, 200))


class Test25InputsAreReleased:
    """A future that is kept does not keep what its map has read, nor the function."""

    @pytest.mark.parametrize("engine", ["serial", "threads", "processes", "fork"])
    def test_when_the_map_is_over(self, engine: str) -> None:
        x, held = shmmap.asshared(np.arange(1 << 18)), shmmap.zeros(1 << 18)
        refs = [weakref.ref(x), weakref.ref(held)]
        future = shmmap.pmap_chunks(lambda c, held=held: c + held[0], x, engine=engine, wait=False)
        assert future.result(10)[-1] == len(x) - 1
        del x, held
        wait_until(lambda: gc.collect() >= 0 and not any(ref() is not None for ref in refs))
        assert future.progress() == (1 << 18, 1 << 18)
        assert sum(stop - start for start, stop, _ in future.as_completed()) == 1 << 18

    def test_when_the_last_worker_has_left(self, team: Any) -> None:
        """A worker that sleeps through the end of a cancelled map is ended; then nobody has them."""
        entered = shmmap.zeros(2, bool)
        x = shmmap.asshared(np.arange(2))

        def func(i: Any) -> None:
            entered[i] = True
            time.sleep(20)

        future = shmmap.pmap(func, x, engine=team, chunksize=1, wait=False)
        wait_until(entered.all)
        future.cancel()
        ref = weakref.ref(x)
        del x
        del func
        wait_until(lambda: gc.collect() >= 0 and ref() is None)
        assert future.cancelled()

    @pytest.mark.parametrize("engine", ["serial", "threads", "processes"])
    @pytest.mark.parametrize("how", ["map", "result", "as_completed", "in_order", "stream"])
    @pytest.mark.parametrize("on_error", ["raise", "continue"])
    def test_when_the_error_goes(self, engine: str, how: str, on_error: str) -> None:
        """At once, without the garbage collector: no exception refers to itself by its traceback."""

        def fail(i: Any) -> None:
            raise KeyError("on purpose")

        x = shmmap.asshared(np.arange(10))
        ref = weakref.ref(x)
        refs = [ref]
        options: Any = {"engine": engine, "workers": 2, "on_error": on_error}
        gc.collect()
        gc.disable()
        try:
            with contextlib.suppress(KeyError, shmmap.MapError):
                if how == "map":
                    shmmap.pmap(fail, x, **options)
                inputs: Any = iter([x] * 3) if how == "stream" else x
                result = shmmap.pmap(fail, inputs, wait=False, **options)
                del inputs
                refs.append(weakref.ref(result))
                if how in ("as_completed", "in_order", "stream"):
                    list(getattr(result, how if how != "stream" else "in_order")())
                result.result()
            result = None
            del x
            wait_until(lambda: not any(ref() is not None for ref in refs))
        finally:
            gc.enable()
