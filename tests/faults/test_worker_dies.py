"""Faults 1, 2, 5, 6, 8: a worker dies, and the error names the fault and exactly the ranges that are lost."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap.testing import (
    ExitNow,
    ForkAndLinger,
    KillSelf,
    KillWhenPickled,
    KillWhenUnpickled,
    LibcExit,
    census,
    wait_until,
)
from tests import functions
from tests.helpers import assert_next_map_works, assert_same, in_time, wait_dead

N = 16


@pytest.fixture
def engine(process_engine: Any) -> Any:
    """Wherever processes do the work."""
    return process_engine


class Scene:
    """A map over `N` items in which the last one meets a fault after all others are done."""

    def __init__(self, fault: Any) -> None:
        self.started = shmmap.zeros(N, bool)
        self.pids = shmmap.zeros(N, int)
        self.out = shmmap.full(N, -1.0)
        self.fault = fault

    def __call__(self, i: Any) -> Any:
        i = int(i)
        self.started[i] = True
        self.pids[i] = os.getpid()
        if i == N - 1:
            # Results are put in place after the function has returned, so this looks at those.
            wait_until(lambda: (self.out[: N - 1] >= 0).all())
            self.fault(i)
        return 2.0 * i

    def run(self, engine: Any) -> pytest.ExceptionInfo[shmmap.WorkerDied]:
        """Run the map, which must fail in time."""
        with in_time(), pytest.raises(shmmap.WorkerDied) as caught:
            shmmap.pmap(self, np.arange(N), out=self.out, engine=engine, workers=2, chunksize=1)
        return caught

    def check(self, caught: pytest.ExceptionInfo[shmmap.WorkerDied], *words: str) -> None:
        """Check that the error is exact and the finished work in place."""
        text = str(caught.value) + "\n".join(getattr(caught.value, "__notes__", ()))
        for word in words:
            assert word in text
        assert str(self.pids[N - 1]) in text, "the worker's pid"
        assert f"[{N - 1}, {N})" in text
        assert tuple(map(tuple, caught.value.failed)) == ((N - 1, N),)
        assert self.out[: N - 1].tolist() == [2.0 * i for i in range(N - 1)]


class Test1And2KindsOfDeath:
    """SIGKILL, SIGSEGV, SIGBUS, SIGABRT, `os._exit`, libc's ``exit``."""

    @pytest.mark.few(2)
    @pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGBUS", "SIGABRT", "SIGTERM"])
    def test_signal_is_named(self, engine: Any, name: str) -> None:
        scene = Scene(KillSelf(getattr(signal, name)))
        scene.check(scene.run(engine), name)
        assert_next_map_works(engine)

    @pytest.mark.few(2)
    @pytest.mark.parametrize("fault", [ExitNow(0), ExitNow(3), LibcExit(0), LibcExit(3)], ids=repr)
    def test_exit_code_is_named(self, engine: Any, fault: Any) -> None:
        scene = Scene(fault)
        caught = scene.run(engine)
        scene.check(caught)
        assert re.search(rf"exit\D*{fault.code}\b", str(caught.value))
        assert_next_map_works(engine)


class Test1MomentsOfDeath:
    """Before the first ticket, inside a chunk, between drawing and marking done, after the last."""

    @pytest.mark.parametrize("at", [0, 5, N - 1])
    @pytest.mark.parametrize("schedule", ["dynamic", "static"])
    @pytest.mark.parametrize("chunksize", [1, 4])
    def test_inside_a_chunk(self, engine: Any, at: int, schedule: str, chunksize: int) -> None:
        out = shmmap.full(N, -1)
        with in_time(), pytest.raises(shmmap.WorkerDied, match="SIGKILL") as caught:
            shmmap.pmap(
                KillSelf(at=at),
                np.arange(N),
                out=out,
                engine=engine,
                workers=2,
                schedule=schedule,
                chunksize=chunksize,
            )
        failed = caught.value.failed
        assert any(start <= at < stop for start, stop in failed)
        finished = np.ones(N, bool)
        for start, stop in failed:
            assert start % chunksize == 0 and stop % chunksize == 0
            finished[start:stop] = False
        assert (out[finished] == np.flatnonzero(finished)).all()
        assert_next_map_works(engine)

    def test_while_the_result_is_pickled(self, engine: Any) -> None:
        def func(i: Any) -> Any:
            return KillWhenPickled() if i == 5 else int(i)

        with in_time(), pytest.raises(shmmap.WorkerDied, match="SIGKILL") as caught:
            shmmap.pmap(func, range(N), engine=engine, workers=2, chunksize=1)
        assert any(start <= 5 < stop for start, stop in caught.value.failed)
        assert_next_map_works(engine)

    @pytest.mark.parametrize("schedule", ["dynamic", "static"])
    def test_beside_a_result_that_does_not_pickle(self, engine: Any, schedule: str) -> None:
        """The map ends with the one or the other; where it goes on, both are named and nothing else."""

        def func(i: Any) -> Any:
            if i == 1:
                return threading.Lock()
            return KillSelf(at=N - 2)(i)

        options: dict[str, Any] = {"workers": 2, "chunksize": 1, "schedule": schedule}
        with in_time(), pytest.raises((TypeError, shmmap.WorkerDied)):
            shmmap.pmap(func, range(N), engine=engine, **options)
        with in_time(), pytest.raises(shmmap.MapError) as caught:
            shmmap.pmap(func, range(N), engine=engine, on_error="continue", **options)
        assert caught.value.failed == ((1, 2), (N - 2, N - 1))
        assert {type(each) for each in caught.value.exceptions} == {TypeError, shmmap.WorkerDied}
        assert_next_map_works(engine)

    def test_after_the_last_chunk(self, engine: Any) -> None:
        pids = {*shmmap.pmap(functions.pid, range(N), engine=engine, workers=2, chunksize=1)}
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                assert engine == "fork"
        assert_next_map_works(engine)

    @pytest.mark.slow
    def test_results_inferred(self, engine: Any) -> None:
        """Death of the worker that was to find out the shape of the result."""
        with in_time(), pytest.raises(shmmap.WorkerDied):
            shmmap.pmap(KillSelf(at=0), np.arange(1000), engine=engine, workers=2, chunksize=1)
        assert_next_map_works(engine)

    @pytest.mark.parametrize("verb", ["pmap_chunks", "pmap_ranges", "preduce"])
    def test_in_every_verb(self, engine: Any, verb: str) -> None:
        data = N if verb == "pmap_ranges" else np.arange(N)
        with in_time(), pytest.raises(shmmap.WorkerDied, match="SIGKILL") as caught:
            options: dict[str, Any] = {"combine": np.add} if verb == "preduce" else {}
            options |= {"engine": engine, "workers": 2, "chunksize": 2}
            getattr(shmmap, verb)(KillSelf(at=5), data, **options)
        assert any(start <= 5 < stop for start, stop in caught.value.failed)
        assert_next_map_works(engine)

    def test_in_place_the_range_may_be_partly_written(self, engine: Any) -> None:
        a = shmmap.asshared(np.arange(float(N)))

        def func(chunk: Any) -> Any:
            if 9 in chunk:
                chunk[0] = -99
                os.kill(os.getpid(), signal.SIGKILL)
            return chunk + 100

        with in_time(), pytest.raises(shmmap.WorkerDied, match=r"\[8, 12\)"):
            shmmap.pmap_chunks(func, a, out=a, engine=engine, workers=2, chunksize=4)
        for start in (0, 4, 12):
            block = a[start : start + 4]
            assert block.tolist() in (
                list(range(start, start + 4)),
                list(range(start + 100, start + 104)),
            )
        assert_next_map_works(engine)


class Test5WhileStarting:
    """A function that cannot be loaded in a worker."""

    def test_function_that_kills_whoever_loads_it(self, team: Any) -> None:
        with in_time(), pytest.raises(shmmap.WorkerDied, match="SIGKILL"):
            shmmap.pmap(KillWhenUnpickled(), range(N), engine=team)
        assert_next_map_works(team)

    def test_function_whose_module_is_missing_there(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "goes_away.py").write_text("def func(i):\n    return i\n")
        monkeypatch.syspath_prepend(tmp_path)
        import goes_away  # type: ignore[import-not-found]

        (tmp_path / "goes_away.py").write_text("raise ImportError('broken by now')\n")
        for file in (tmp_path / "__pycache__").glob("goes_away*"):
            file.unlink()
        with shmmap.Team(workers=2) as team:
            with in_time(), pytest.raises(Exception, match="broken by now") as caught:
                shmmap.pmap(goes_away.func, range(N), engine=team)
            assert not isinstance(caught.value, shmmap.WorkerDied)
            assert_next_map_works(team)


class Test6Grandchild:
    """It forked a grandchild that lives on with all its descriptors, then died."""

    def test_death_is_noticed_at_once(self, engine: Any, tmp_path: Path) -> None:
        path = str(tmp_path / "pid")
        died_at = shmmap.zeros(1)

        def func(start: int, stop: int) -> None:
            if start == 5:
                died_at[0] = time.monotonic()
                ForkAndLinger(path)(start)

        try:
            # Ranges: a lost one is not run again by itself, so there is one grandchild.
            with in_time(), pytest.raises(shmmap.WorkerDied, match="SIGKILL"):
                shmmap.pmap_ranges(func, N, engine=engine, workers=2, chunksize=1)
            took_s = time.monotonic() - died_at[0]
            assert took_s < census.waiting_per_core()  # 100 ms, and what a busy machine adds
            assert_next_map_works(engine)
        finally:
            grandchild = int(Path(path).read_text())
            os.kill(grandchild, signal.SIGKILL)
            wait_dead(grandchild)


class Test8WhileSendingItsError:
    """Death while sending an error blocks nobody."""

    def test_others_go_on(self, engine: Any) -> None:
        def func(i: Any) -> None:
            if i == 5:
                raise KillWhenPickled

        with in_time(), pytest.raises(shmmap.WorkerDied, match="SIGKILL") as caught:
            shmmap.pmap(func, range(N), engine=engine, workers=2, chunksize=1)
        assert any(start <= 5 < stop for start, stop in caught.value.failed)
        assert_next_map_works(engine)


class DieAtFlush:
    """A standard output whose flush, after the last chunk and before the worker leaves, kills."""

    def __init__(self, armed: Any) -> None:
        self.armed = armed

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        if self.armed[0]:
            self.armed[0] = False
            os.kill(os.getpid(), signal.SIGKILL)


def test_1_results_on_their_way_are_not_done(engine: Any) -> None:
    """A worker that dies between its last chunk and telling the caller of it takes that chunk along."""
    armed = shmmap.full(1, True)

    def func(x: float) -> float:
        import sys

        if armed[0]:
            sys.stdout = DieAtFlush(armed)
        return x + 1

    result = shmmap.pmap(func, np.arange(4.0), engine=engine)
    assert result.tolist() == [1, 2, 3, 4]
    assert not armed[0]
    assert_next_map_works(engine)


@pytest.mark.slow
def test_2_death_beside_a_thread_that_maps(team: Any) -> None:
    """One map's dead worker is replaced for the other maps of the team too."""
    results: list[Any] = []
    go = threading.Barrier(2)

    def beside() -> None:
        go.wait(20)
        for _ in range(5):
            results.append(shmmap.pmap(functions.double, np.arange(200), engine=team))

    thread = threading.Thread(target=beside)
    thread.start()
    go.wait(20)
    for _ in range(3):
        with in_time(), pytest.raises(shmmap.WorkerDied, match="SIGKILL"):
            shmmap.pmap(KillSelf(at=3), np.arange(N), engine=team, chunksize=1)
    thread.join(30)
    assert not thread.is_alive()
    assert len(results) == 5
    for result in results:
        assert_same(result, np.arange(200) * 2)
    wait_until(lambda: shmmap.pmap(functions.pid, range(8), engine=team) is not None)
