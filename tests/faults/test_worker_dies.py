"""Faults 3 and 7, and kills at random moments: what ``tests/processes/test_death.py`` leaves open."""

from __future__ import annotations

import ast
import contextlib
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap._team.workers import Workers
from shmmap.testing import KillSelf, KillWhenPickled, StopSelf, wait_until
from tests import functions
from tests.helpers import assert_next_map_works, assert_same, in_time, process_tree

from .common import IN_CGROUP, memory_cgroup, run_program, times

N = 16


@pytest.fixture
def engine(process_engine: Any) -> Any:
    """Wherever processes do the work."""
    return process_engine


@pytest.mark.privileged
@pytest.mark.parametrize("engine", ["processes", "fork"])
@pytest.mark.quick
def test_3_out_of_memory(tmp_path: Path, engine: str) -> None:
    """The worker dies, not the caller; the message suggests memory, and names the range."""
    with memory_cgroup(200 << 20) as group:
        printed = run_program(
            tmp_path,
            IN_CGROUP
            + """
def hog(i):
    if i == 5:
        return int(np.ones(600 << 20, np.uint8).sum())
    return i

started = time.monotonic()
try:
    shmmap.pmap(hog, np.arange(10), chunksize=1, workers=2, engine=sys.argv[2])
except shmmap.WorkerDied as error:
    print(error, error.failed, time.monotonic() - started < 20, sep="\\n")
works(engine=sys.argv[2])
""",
            group,
            engine,
        )
    text, failed, soon = printed.splitlines()
    assert "SIGKILL" in text and "memory" in text and "pid" in text
    assert any(start <= 5 < stop for start, stop in ast.literal_eval(failed))
    assert soon == "True"


class Test7Stopped:
    """SIGSTOP: ``timeout=`` fires, names the index and the worker; the stopped worker is replaced."""

    @pytest.mark.quick
    def test_timeout_names_the_index(self, engine: Any) -> None:
        pids = shmmap.zeros(N, int)
        stop = StopSelf(at=5)

        def func(i: Any) -> Any:
            pids[i] = os.getpid()
            return stop(i)

        with in_time(), pytest.raises(TimeoutError, match=r"longer than 0\.5 s") as caught:
            shmmap.pmap(func, np.arange(N), engine=engine, workers=2, chunksize=4, timeout=0.5)
        notes = "\n".join(caught.value.__notes__)
        assert "index 5 " in notes
        assert f"pid {pids[5]}" in notes
        assert_next_map_works(engine)

    @pytest.mark.parametrize("verb", ["pmap_chunks", "pmap_ranges", "preduce"])
    def test_timeout_names_the_range(self, engine: Any, verb: str) -> None:
        data = N if verb == "pmap_ranges" else np.arange(N)
        options: dict[str, Any] = {"workers": 2, "chunksize": 4, "timeout": 0.5}
        if verb == "preduce":
            options["combine"] = np.add
        with in_time(), pytest.raises(TimeoutError) as caught:
            getattr(shmmap, verb)(StopSelf(at=5), data, engine=engine, **options)
        assert "[4, 8)" in "\n".join(caught.value.__notes__)
        assert_next_map_works(engine)

    def test_others_go_on(self, engine: Any) -> None:
        with in_time(), pytest.raises(shmmap.MapError) as caught:
            shmmap.pmap(
                StopSelf(at=5),
                np.arange(N),
                engine=engine,
                workers=2,
                chunksize=1,
                timeout=0.5,
                on_error="continue",
            )
        assert caught.value.failed == ((5, 6),)
        assert [type(each) for each in caught.value.exceptions] == [TimeoutError]
        expected = np.arange(N)
        expected[5] = 0
        assert_same(np.array(caught.value.result), expected)
        assert_next_map_works(engine)

    def test_retries_start_afresh(self, engine: Any) -> None:
        """Stuck once, right the second time."""
        tries = shmmap.zeros(1, int)
        stop = StopSelf()

        def func(i: Any) -> Any:
            if i == 5:
                tries[0] += 1
                if tries[0] == 1:
                    stop(i)
            return i

        with in_time():
            result = shmmap.pmap(
                func, np.arange(N), engine=engine, workers=2, chunksize=2, timeout=0.5, retries=1
            )
        assert_same(result, np.arange(N))
        assert tries[0] == 2

    @pytest.mark.quick
    @pytest.mark.parametrize("start", ["clean", "fork"])
    def test_replaced_slowly(self, start: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """What a dead worker's slot still says is not taken for its successor being late."""
        real = Workers._spawn

        def spawn(workers: Workers, rank: int) -> None:
            time.sleep(0.2)  # while the waiting thread looks at the slot several times
            real(workers, rank)

        monkeypatch.setattr(Workers, "_spawn", spawn)
        options: dict[str, Any] = {"timeout": 0.3, "retries": 2, "on_error": "continue"}
        with shmmap.Team(workers=1, start=start) as team, in_time():
            with pytest.raises(shmmap.MapError) as caught:
                shmmap.pmap(StopSelf(at=3), np.arange(6), engine=team, chunksize=1, **options)
        assert caught.value.failed == ((3, 4),)

    def test_slow_but_in_time(self, engine: Any) -> None:
        """The limit is for each call of the function, not for the chunk or the map."""

        def func(i: Any) -> Any:
            time.sleep(0.1)
            return i

        result = shmmap.pmap(func, np.arange(20), engine=engine, chunksize=10, timeout=1.0)
        assert_same(result, np.arange(20))

    def test_calls_that_end_as_they_are_ended(self, engine: Any) -> None:
        """Each is either done and right, or named as one that took too long."""
        n = 24

        def func(i: Any) -> Any:
            time.sleep(0.08 + 0.004 * i)  # its limit is looked at every 0.05 s
            return 2 * i + 1

        late: tuple[tuple[int, int], ...] = ()
        with in_time():
            try:
                result = shmmap.pmap(
                    func,
                    np.arange(n),
                    engine=engine,
                    workers=2,
                    chunksize=1,
                    timeout=0.1,
                    on_error="continue",
                )
            except shmmap.MapError as error:
                result, late = error.result, error.failed
                assert {type(each) for each in error.exceptions} == {TimeoutError}
        expected = np.arange(n) * 2 + 1
        for start, stop in late:
            expected[start:stop] = 0
        assert_same(np.array(result), expected)
        assert_next_map_works(engine)


class TestFinishedWork:
    """What is done stays done: no chunk that is finished is run again, whoever dies when."""

    @pytest.mark.parametrize("schedule", ["dynamic", "static"])
    @pytest.mark.parametrize("workers", [1, 2])
    def test_in_place_every_chunk_runs_once(self, engine: Any, schedule: str, workers: int) -> None:
        """A function that is applied twice would show: there is no way back in place."""
        x = shmmap.asshared(np.arange(40))
        kills = {7, 23}

        def func(chunk: Any) -> Any:
            if int(chunk[0]) in kills:
                os.kill(os.getpid(), signal.SIGKILL)
            return chunk + 1000

        with in_time(), pytest.raises(shmmap.MapError) as caught:
            shmmap.pmap_chunks(
                func,
                x,
                out=x,
                engine=engine,
                workers=workers,
                chunksize=1,
                schedule=schedule,
                on_error="continue",
            )
        assert caught.value.failed == ((7, 8), (23, 24))
        expected = np.arange(40) + 1000
        expected[[7, 23]] -= 1000
        assert_same(np.array(x), expected)
        assert_next_map_works(engine)

    @pytest.mark.parametrize("schedule", ["dynamic", "static"])
    @pytest.mark.quick
    def test_lost_chunk_is_run_again_where_that_is_safe(self, engine: Any, schedule: str) -> None:
        calls = shmmap.zeros(40, int)

        def func(i: Any) -> Any:
            calls[i] += 1
            if i == 23 and calls[i] == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return i * 3

        out = shmmap.zeros(40, int)
        with in_time():
            shmmap.pmap(
                func,
                np.arange(40),
                out=out,
                engine=engine,
                workers=2,
                chunksize=1,
                schedule=schedule,
            )
        assert_same(np.array(out), np.arange(40) * 3)
        assert calls[23] == 2
        assert calls.sum() == 41

    @pytest.mark.quick
    @pytest.mark.parametrize("at", [0, 5])
    @pytest.mark.parametrize("workers", [1, 2])
    def test_death_while_a_failure_is_told(self, engine: Any, at: int, workers: int) -> None:
        """The map had been stopped for it; its chunk is done again, which takes its time, and the others."""
        tries = shmmap.zeros(N, int)

        def func(i: Any) -> int:
            tries[i] += 1
            if i == at:
                if tries[i] == 1:
                    raise KillWhenPickled
                time.sleep(1.5)  # longer than chunks get that are at work when another one fails
            return 2 * int(i)

        for items in (np.arange(N), list(range(N))):
            tries[:] = 0
            with in_time():
                result = shmmap.pmap(func, items, engine=engine, workers=workers, chunksize=1)
            assert list(result) == list(range(0, 2 * N, 2))
            assert tries[at] == 2
            assert tries[at + 1 :].max() == 1, "only what it had begun is done again"
        assert_next_map_works(engine)

    @pytest.mark.quick
    @pytest.mark.parametrize("schedule", ["dynamic", "static"])
    @pytest.mark.parametrize("fault", [KillSelf(), StopSelf()], ids=["dies", "is stuck"])
    def test_ranges_that_are_done_stay_done(self, engine: Any, schedule: str, fault: Any) -> None:
        """Also those whose results would have been handed over together with others."""
        runs = shmmap.zeros(100, int)

        def func(start: int, stop: int) -> int:
            runs[start:stop] += 1
            if start == 52:
                fault(start)
            return start

        with in_time(), pytest.raises(shmmap.MapError) as caught:
            shmmap.pmap_ranges(
                func,
                100,
                engine=engine,
                workers=2,
                chunksize=2,
                schedule=schedule,
                timeout=0.4,
                on_error="continue",
            )
        assert caught.value.failed == ((52, 54),)
        assert runs.tolist() == [1] * 100
        assert_next_map_works(engine)

    @pytest.mark.quick
    @pytest.mark.parametrize("first", ["dies", "is stuck"])
    @pytest.mark.parametrize("verb", ["pmap", "pmap_chunks"])
    @pytest.mark.parametrize("on_error", ["raise", "continue"])
    def test_failure_after_a_loss(self, engine: Any, first: str, verb: str, on_error: str) -> None:
        """A loss leaves a chunk its retries; once it has failed in spite of them, that is told."""
        tries = shmmap.zeros(1, int)

        def func(value: Any) -> Any:
            if np.all(value == 5):
                tries[0] += 1
                if tries[0] == 1:
                    (KillSelf() if first == "dies" else StopSelf())(value)
                raise KeyError("five")
            return value

        error = KeyError if on_error == "raise" else shmmap.MapError
        options: dict[str, Any] = {"timeout": 0.3} if first == "is stuck" else {}
        with in_time(), pytest.raises(error) as caught:
            getattr(shmmap, verb)(
                func,
                np.arange(N),
                engine=engine,
                workers=2,
                chunksize=1,
                retries=1,
                on_error=on_error,
                **options,
            )
        if isinstance(caught.value, shmmap.MapError):
            assert caught.value.failed == ((5, 6),)
            assert [type(each) for each in caught.value.exceptions] == [KeyError]
        assert tries[0] == 3
        assert_next_map_works(engine)

    def test_loss_for_good_beside_one_that_is_made_up_for(self, engine: Any) -> None:
        """The map has no more than a second left; that another chunk is done again does not change it."""
        n = 60
        done, lost = shmmap.zeros(n, bool), shmmap.zeros(n, int)

        def func(value: Any) -> Any:
            i = int(value)
            if i == 0 or (i == n // 2 and not lost[i]):
                if i:
                    wait_until(lambda: lost[0] > 1)
                    time.sleep(0.2)  # the other loss is known by now
                lost[i] += 1
                KillSelf()(value)
            time.sleep(0.2)
            done[i] = True
            return value

        with in_time(), pytest.raises(shmmap.WorkerDied) as caught:
            shmmap.pmap(
                func, np.arange(n), engine=engine, workers=2, chunksize=1, schedule="static"
            )
        assert caught.value.failed[0][0] == 0
        assert done.sum() < n // 2
        assert_next_map_works(engine)

    def test_ranges_lost_in_place_may_be_partly_written(self, engine: Any) -> None:
        """1: the error says so, and the ranges next to it are whole."""
        x = shmmap.zeros(40)

        def func(start: int, stop: int) -> None:
            x[start] = 1
            if start == 20:
                os.kill(os.getpid(), signal.SIGKILL)
            x[start:stop] = 1

        with in_time(), pytest.raises(shmmap.MapError, match=r"\[20, 30\)") as caught:
            shmmap.pmap_ranges(
                func, 40, engine=engine, workers=2, chunksize=10, on_error="continue"
            )
        assert caught.value.failed == ((20, 30),)
        assert x.tolist() == [1.0] * 21 + [0.0] * 9 + [1.0] * 10


@pytest.mark.timeout(900)
class Test1And4RandomMoments:
    """SIGKILL of workers at random moments: NumPy's result, or the exact ranges that are missing."""

    @pytest.mark.parametrize("start", ["clean", "fork"])
    @pytest.mark.parametrize("schedule", ["dynamic", "static"])
    def test_result_or_exact_ranges(self, start: str, schedule: str) -> None:
        rng = random.Random(7)
        x = shmmap.asshared(np.arange(300_000))
        expected = -np.asarray(x)
        wrong: list[Any] = []

        def func(chunk: Any) -> Any:
            time.sleep(0.0005)
            return -chunk

        with shmmap.Team(workers=2, start=start) as team:
            assert_next_map_works(team)
            for _ in range(times(6, 125)):
                out = shmmap.full(len(x), 1)
                future = shmmap.pmap_chunks(
                    func, x, out=out, engine=team, chunksize=2000, schedule=schedule, wait=False
                )
                for _ in range(rng.randint(1, 3)):
                    time.sleep(rng.random() * 0.02)  # the moment is the point
                    kill_a_worker(rng, team)
                try:
                    future.result(timeout=20)
                    failed = np.zeros(len(x), bool)
                except shmmap.WorkerDied as error:
                    failed = np.zeros(len(x), bool)
                    for a, b in error.failed:
                        failed[a:b] = True
                    assert failed.any()
                wrong.extend(np.flatnonzero((out != expected) & ~failed))
                assert not wrong
            assert_next_map_works(team)


def kill_a_worker(rng: random.Random, team: Any) -> None:
    """Kill one of this process's workers: a process without children that the team started."""
    me = os.getpid()
    leaves = [
        pid
        for pid in process_tree(me) - {me}
        if len(process_tree(pid)) == 1 and "resource_tracker" not in command(pid)
    ]
    if leaves:
        with contextlib.suppress(ProcessLookupError):  # replaced meanwhile
            os.kill(rng.choice(leaves), signal.SIGKILL)


def command(pid: int) -> str:
    """The command line of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


class Test4Bounded:
    """Replacements are bounded: a map whose every chunk kills gives up soon."""

    @pytest.mark.parametrize("schedule", ["dynamic", "static"])
    def test_each_chunk_kills_at_most_twice(self, engine: Any, schedule: str) -> None:
        calls = shmmap.zeros(6, int)

        def func(i: Any) -> Any:
            calls[i] += 1
            os.kill(os.getpid(), signal.SIGKILL)

        with in_time(), pytest.raises(shmmap.MapError) as caught:
            shmmap.pmap(
                func,
                np.arange(6),
                engine=engine,
                workers=2,
                chunksize=1,
                schedule=schedule,
                on_error="continue",
            )
        assert caught.value.failed == ((0, 6),)
        assert calls.max() <= 2
        assert_next_map_works(engine)


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
