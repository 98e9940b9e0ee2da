"""What `profile` notes of maps, on every engine: who ran what, and when."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import signal
import threading
import time
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap._profile import log as profiling
from shmmap._profile.records import Kind
from shmmap.testing import wait_until
from tests.helpers import run_script

N = 60


def calls_of(record: Any) -> Any:
    return record.bars[record.bars["kind"] == Kind.CALL]


def chunks_run(record: Any) -> list[int]:
    """The chunks of all rows that are calls, none of which is merged."""
    calls = calls_of(record)
    assert not calls["merged"].any()
    assert (calls["stop"] - calls["first"] == calls["chunks"]).all()
    return sorted(k for row in calls for k in range(row["first"], row["stop"]))


def assert_adds_up(record: Any) -> None:
    """Parts are as much as the whole, and rows of a rank stand one after the other."""
    phases = record.phases
    assert phases.before + phases.at_work + phases.after == pytest.approx(phases.wall)
    for worker in record.workers:
        assert min(worker.busy, worker.between, worker.waiting, worker.handing) >= 0
        whole = worker.busy + worker.between + worker.waiting
        assert whole == pytest.approx(phases.at_work, rel=0.01)
    assert sum(worker.chunks for worker in record.workers) == calls_of(record)["chunks"].sum()
    for rank in np.unique(record.bars["rank"]):
        rows = record.bars[(record.bars["rank"] == rank) & (record.bars["kind"] != Kind.SPAN)]
        assert (rows["began_ns"] <= rows["ended_ns"]).all()
        assert (rows["began_ns"][1:] >= rows["ended_ns"][:-1]).all()
    stamps = record.stamps
    in_order = [stamps.called, stamps.bound, stamps.placed, stamps.posted]
    if not record.is_running:
        in_order += [stamps.heard, stamps.returned]
    assert in_order == sorted(in_order)


def slow(i: Any) -> Any:
    time.sleep(0.001)
    return i * 2.0


@pytest.mark.few(6)
def test_every_chunk_is_there_once(engine: Any) -> None:
    with shmmap.profile() as report:
        result = shmmap.pmap(slow, np.arange(N), chunksize=3, engine=engine, workers=2)
    assert result.tolist() == [2.0 * i for i in range(N)]
    (record,) = report.maps
    assert (record.verb, record.func, record.n, record.chunks) == ("pmap", "slow", N, 20)
    assert not record.is_running and not record.failed
    assert chunks_run(record) == list(range(20))
    assert_adds_up(record)
    calls = calls_of(record)
    assert (calls["start_index"] == calls["first"] * 3).all()
    assert (calls["stop_index"] == calls["stop"] * 3).all()
    # Each chunk sleeps for 3 ms.
    assert (calls["busy_ns"] >= 2_900_000 * calls["chunks"]).all()
    assert sum(worker.busy for worker in record.workers) >= 0.058
    slowest = record.slowest[0]
    assert slowest.seconds == max(calls["busy_ns"]) / 1e9


@pytest.mark.few(6)
@pytest.mark.parametrize("verb", ["pmap_chunks", "pmap_ranges", "preduce", "list"])
def test_every_verb(engine: Any, verb: str) -> None:
    if verb == "pmap_ranges" and isinstance(engine, concurrent.futures.ThreadPoolExecutor):
        pytest.skip("an executor's workers get values")
    options: dict[str, Any] = {"engine": engine, "workers": 2, "chunksize": 7}
    x = np.arange(N)
    with shmmap.profile() as report:
        if verb == "pmap_chunks":
            shmmap.pmap_chunks(np.sqrt, x, **options)
        elif verb == "pmap_ranges":
            shmmap.pmap_ranges(lambda start, stop: None, N, **options)
        elif verb == "preduce":
            shmmap.preduce(np.sum, x, **options)
        else:
            shmmap.pmap(str, list(range(N)), **options)
    (record,) = report.maps
    assert record.verb == ("pmap" if verb == "list" else verb)
    assert chunks_run(record) == list(range(9))
    assert record.bars["stop_index"].max() == N
    assert_adds_up(record)


def test_a_share_each() -> None:
    with shmmap.profile() as report:
        shmmap.pmap(slow, np.arange(N), schedule="static", chunksize=1, workers=2)
    (record,) = report.maps
    assert chunks_run(record) == list(range(N))
    assert [worker.chunks for worker in record.workers] == [N // 2, N // 2]


@pytest.mark.parametrize("schedule", ["dynamic", "static"])
def test_a_worker_that_is_killed(schedule: Any) -> None:
    def func(i: Any) -> float:
        time.sleep(0.001)
        if i == 20 and shmmap.current().attempt == 0:  # type: ignore[union-attr]
            os.kill(os.getpid(), signal.SIGKILL)
        return float(i)

    with shmmap.Team(2) as team, shmmap.profile() as report:
        result = shmmap.pmap(func, np.arange(N), chunksize=1, engine=team, schedule=schedule)
    assert result.tolist() == list(range(N))
    (record,) = report.maps
    assert not record.failed
    assert_adds_up(record)
    calls = calls_of(record)
    # What was done and not told is done again, and both rows are there, of which the second is marked.
    first_runs = np.concatenate(
        [np.arange(row["first"], row["stop"]) for row in calls if not row["attempt"]]
    )
    again = calls[calls["attempt"] > 0]
    assert 20 in again["first"]
    assert sorted({*first_runs, *again["first"]}) == list(range(N))
    assert len(set(first_runs)) == len(first_runs)
    (death,) = record.bars[record.bars["kind"] == Kind.DEATH]
    assert death["first"] <= 20 < death["stop"]
    (dead,) = [worker for worker in record.workers if worker.deaths]
    assert (dead.rank, dead.deaths, dead.cpu) == (death["rank"], 1, None)
    assert death["pid"] not in {row["pid"] for row in calls if row["began_ns"] > death["ended_ns"]}
    assert "1 died" in str(report)


def test_a_worker_that_is_killed_for_good() -> None:
    def func(start: int, stop: int) -> None:
        if start == 20:
            os.kill(os.getpid(), signal.SIGKILL)

    with shmmap.Team(2) as team, shmmap.profile() as report:
        with pytest.raises(shmmap.WorkerDied):
            shmmap.pmap_ranges(func, N, chunksize=1, engine=team)
    (record,) = report.maps
    assert any(each.start <= 20 < each.stop and "SIGKILL" in each.error for each in record.failed)
    assert not record.advice
    assert "SIGKILL" in str(report)


@pytest.mark.few(6)
def test_what_fails_is_told(engine: Any) -> None:
    def func(i: Any) -> float:
        if i % 20 == 7:
            raise KeyError(f"no {i}")
        return float(i)

    with shmmap.profile() as report:
        with pytest.raises(shmmap.MapError):
            shmmap.pmap(func, np.arange(N), engine=engine, workers=2, on_error="continue")
        with pytest.raises(KeyError):
            shmmap.pmap(func, np.arange(N), engine=engine, workers=2, chunksize=1)
    both = report.maps
    assert [(each.start, each.stop) for each in both[0].failed] == [(7, 8), (27, 28), (47, 48)]
    assert both[0].failed[0].error == "KeyError: 'no 7'"
    assert both[1].failed[0].start == 7
    assert not any(record.is_running for record in both)
    assert "!! [7, 8) KeyError: 'no 7'" in str(report)


@pytest.mark.few(3)
def test_what_is_run_again_in_another_round_is_marked(engine: Any) -> None:
    """And each chunk is there as often as it was run."""
    tried = shmmap.zeros(N, int)

    def func(i: Any) -> float:
        tried[i] += 1
        if i == 5 and tried[i] < 3:
            raise ValueError
        return float(i)

    with shmmap.profile() as report:
        shmmap.pmap(func, np.arange(N), engine=engine, workers=2, retries=2, chunksize=1)
    (record,) = report.maps
    assert sorted(set(chunks_run(record))) == list(range(N))
    assert not record.failed


def test_a_map_that_runs_is_shown() -> None:
    done = shmmap.zeros(1, bool)
    begun = shmmap.zeros(1, int)

    def func(i: Any) -> int:
        if i == 39:
            begun[0] = 1
            wait_until(done.all)
        time.sleep(0.001)
        return int(i)

    with shmmap.profile() as report:
        future = shmmap.pmap(func, range(40), chunksize=1, workers=2, wait=False)
        wait_until(lambda: bool(begun[0]))
        wait_until(lambda: sum(worker.chunks for worker in report.maps[0].workers) == 39)
        (record,) = report.maps
        assert record.is_running and record.stamps.returned is None and not record.advice
        assert "still running" in str(report) and "39 of 40 chunks done" in str(report)
        done[0] = True
        future.result()
    wait_until(lambda: not report.maps[0].is_running)
    assert chunks_run(report.maps[0]) == list(range(40))


def test_a_map_outlives_the_block() -> None:
    go_on = shmmap.zeros(1, bool)
    with shmmap.profile() as report:
        future = shmmap.pmap(lambda i: wait_until(go_on.all), range(4), workers=2, wait=False)
    go_on[0] = True
    future.result()
    wait_until(lambda: not report.maps[0].is_running)
    shmmap.pmap(abs, range(3), engine="serial")
    assert len(report.maps) == 1


def test_blocks_are_nested() -> None:
    with shmmap.profile() as outer:
        shmmap.pmap(abs, range(3), engine="serial")
        with shmmap.profile() as inner:
            shmmap.pmap(abs, range(4), engine="serial")
        shmmap.pmap(abs, range(5), engine="serial")
    assert [record.n for record in inner.maps] == [4]
    assert [record.n for record in outer.maps] == [3, 4, 5]
    assert [record.number for record in outer.maps] == [0, 1, 2]


def test_maps_of_other_threads_and_of_asyncio() -> None:
    async def main() -> None:
        await asyncio.gather(
            *(shmmap.pmap(slow, range(9), workers=2, wait=False) for _ in range(3))
        )

    with shmmap.profile() as report:
        threads = [
            threading.Thread(
                target=lambda: shmmap.pmap(slow, range(10), workers=2), name=f"other {i}"
            )
            for i in range(3)
        ]
        for each in threads:
            each.start()
        asyncio.run(main())
        for each in threads:
            each.join()
    assert sorted(record.n for record in report.maps) == [9, 9, 9, 10, 10, 10]
    assert {record.thread for record in report.maps if record.n == 10} == {
        "other 0",
        "other 1",
        "other 2",
    }
    for record in report.maps:
        assert_adds_up(record)
        assert sorted(chunks_run(record)) == list(range(record.chunks))


def test_team_map_and_windows_of_an_iterator() -> None:
    with shmmap.Team(2) as team, shmmap.profile() as report:
        assert list(team.map(abs, range(-5, 5))) == [abs(i) for i in range(-5, 5)]
        given = (i for i in range(100))
        assert shmmap.pmap(abs, given, engine=team, buffersize=40) == list(range(100))
    first, *windows = report.maps
    assert (first.n, first.is_running) == (10, False)
    assert len(windows) > 2
    assert sum(record.n for record in windows) == 100
    assert [record.first for record in windows] == np.cumsum(
        [0, *(record.n for record in windows)]
    )[:-1].tolist()
    assert max(record.bars["stop_index"].max() for record in windows) == 100


def test_a_map_inside_a_worker_is_the_functions_own() -> None:
    def func(i: Any) -> int:
        return int(sum(shmmap.pmap(abs, range(int(i)))))

    with shmmap.profile() as report:
        shmmap.pmap(func, range(5), workers=2, engine="fork")
        shmmap.pmap(func, range(5), workers=2)
    assert [record.n for record in report.maps] == [5, 5]


def test_a_forked_child_has_its_own_maps(tmp_path: Any) -> None:
    done = run_script(
        tmp_path,
        """
        import os, shmmap
        with shmmap.profile() as report:
            shmmap.pmap(abs, range(3), workers=2)
            child = os.fork()
            shmmap.pmap(abs, range(5 if child else 4), workers=2)
            print([record.n for record in report.maps], flush=True)
            if child:
                os.waitpid(child, 0)
            else:
                shmmap.shutdown()
        """,
    )
    assert sorted(done.stdout.splitlines()) == ["[3, 5]", "[4]"], done.stderr


def test_a_million_chunks_take_no_more_memory() -> None:
    n = 1_000_000
    with shmmap.profile() as report:
        shmmap.pmap_ranges(lambda start, stop: None, n, chunksize=1, workers=2)
    (record,) = report.maps
    assert calls_of(record)["chunks"].sum() == n
    assert len(record.bars) <= 2 * 4096


def test_chunks_of_20_us_have_rows_of_their_own_until_they_are_too_many() -> None:
    n = 10_000

    def func(start: int, stop: int) -> None:
        until = time.perf_counter_ns() + 40_000
        while time.perf_counter_ns() < until:
            pass

    with shmmap.profile() as report:
        shmmap.pmap_ranges(func, n, chunksize=1, workers=1)
    (record,) = report.maps
    calls = calls_of(record)
    assert calls["chunks"].sum() == n
    assert 1_000 < len(calls) <= 4096
    assert calls["merged"].any()
    assert calls["merged"].sum() + len(calls) > 0.9 * n  # each was a row once
    assert calls["busy_ns"].sum() >= n * 40_000
    assert_adds_up(record)


@pytest.mark.few(6)
def test_stacks(engine: Any) -> None:
    def inner(until: float) -> None:
        while time.perf_counter() < until:
            pass

    def func(i: Any) -> float:
        inner(time.perf_counter() + 0.1)
        return float(i)

    with shmmap.profile(stacks=True) as report:
        shmmap.pmap(func, np.arange(4), engine=engine, workers=2, chunksize=1)
    stacks = report.maps[0].stacks
    assert stacks
    seen = {tuple(frame.split(" (")[0].rpartition(".")[2] for frame in each) for each in stacks}
    assert ("func", "inner") in seen
    assert all(frame[0] == "func" for frame in seen if "inner" in frame)
    assert sum(stacks.values()) >= 4


def test_without_stacks_there_are_none() -> None:
    with shmmap.profile() as report:
        shmmap.pmap(slow, range(30), workers=2)
    assert report.maps[0].stacks is None


def test_more_maps_than_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shmmap._profile.log.MAPS_MOST", 5)
    with shmmap.profile() as report:
        for n in range(1, 9):
            shmmap.pmap(abs, range(n), engine="serial")
    assert [record.n for record in report.maps] == [4, 5, 6, 7, 8]
    assert report.maps[0].number == 3
    assert "3 maps that ran before the last 5 are not kept" in str(report)


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match="stacks is True or False"):
        with shmmap.profile(stacks="yes"):  # type: ignore[arg-type]
            pass
    with shmmap.profile() as report:
        pass
    with pytest.raises(ValueError, match=r"\.html"):
        report.save("run.txt")


def test_memory_of_profiled_maps_is_given_back() -> None:
    """Once a map that is not profiled is made on the same team."""
    with shmmap.Team(2) as team:
        shmmap.pmap(abs, range(10), engine=team)
        with shmmap.profile():
            shmmap.pmap(abs, range(10), engine=team)
        controls = team._team.open_maps._controls
        assert any(control.profiled for control in controls)
        shmmap.pmap(abs, range(10), engine=team)
        assert not any(control.profiled for control in controls)


def spin(i: Any) -> Any:
    until = time.perf_counter_ns() + 30_000
    while time.perf_counter_ns() < until:
        pass
    return i


def test_memory_of_many_maps_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that were over first fewer rows are kept, with the same sums."""
    monkeypatch.setattr(profiling, "ROWS_NBYTES_MOST", 15 * 300 * 64)
    with shmmap.profile() as report:
        for _ in range(40):
            shmmap.pmap(spin, range(300), chunksize=1, engine="serial")
            report.maps  # noqa: B018
    rows = [len(each.bars) for each in report.maps]
    assert min(rows[-10:]) > 290
    assert max(rows[:20]) <= 128
    for each in report.maps:
        (worker,) = each.workers
        assert worker.chunks == each.chunks == 300
        assert worker.busy + worker.between + worker.waiting == pytest.approx(each.phases.at_work)
        assert worker.busy > 300 * 30e-6
