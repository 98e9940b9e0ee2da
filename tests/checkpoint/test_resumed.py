"""A map with ``checkpoint=`` that has ended early goes on where it was, on every engine, to the same bits."""

from __future__ import annotations

import concurrent.futures
import signal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import shmmap
from shmmap.testing import wait_until
from tests.helpers import assert_same

N = 60
ROWS = np.arange(N * 4.0).reshape(N, 4) / 7


class Stop(Exception):
    """What ends the first run."""


class Pair(NamedTuple):
    low: float
    high: float


pytestmark = pytest.mark.usefixtures("zarr_runs")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def calls() -> Any:
    """How often each index was run, counted in shared memory."""
    return shmmap.zeros(N, np.int64)


def run_twice(verb, func, *inputs, stop_at, calls, folder, **options):
    """Run a map that stops at an index, and run it again; the result of the second.

    What was run twice is what was not kept: the chunk that failed, and those that were not begun.
    """
    is_stopping = shmmap.ones(1)

    def counted(item, i, *rest, **keywords):
        for k in np.atleast_1d(i):
            calls[k] += 1
        if is_stopping[0] and stop_at in np.atleast_1d(i):
            raise Stop
        return func(item, *rest, **keywords)

    option = shmmap.Checkpoint(folder, if_changed="keep")
    numbers = np.arange(N)
    with pytest.raises(Stop):
        verb(counted, inputs[0], numbers, *inputs[1:], checkpoint=option, **options)
    before = calls.copy()
    is_stopping[0] = 0
    result = verb(counted, inputs[0], numbers, *inputs[1:], checkpoint=option, **options)
    again = np.flatnonzero((before > 0) & (calls > before))
    assert np.all(calls > 0)
    return result, again


@pytest.mark.parametrize("schedule", ["dynamic", "static"])
def test_only_what_is_missing_is_run(engine, folder, calls, schedule):
    result, again = run_twice(
        shmmap.pmap, np.sum, ROWS, stop_at=37, calls=calls, folder=folder, engine=engine, workers=2,
        chunksize=5, schedule=schedule,
    )  # fmt: skip
    assert_same(np.asarray(result), ROWS.sum(1))
    assert set(again) <= set(range(35, 40))


@pytest.mark.parametrize("out", [None, list])
def test_runs_that_end_early_again_and_again(engine, folder, out):
    """Each goes on where the one before has ended, also if that one has brought little, or nothing."""
    stop_at = shmmap.zeros(1, np.int64)

    def work(v):
        if v >= stop_at[0]:
            raise Stop
        return v * 2

    option = shmmap.Checkpoint(folder, if_changed="keep")
    options = {"checkpoint": option, "engine": engine, "workers": 2, "chunksize": 5, "out": out}
    for stop_at[0] in (0, 0, 22, 22, 23, 41):
        with pytest.raises(Stop):
            shmmap.pmap(work, np.arange(N), **options)
    stop_at[0] = N
    assert list(shmmap.pmap(work, np.arange(N), **options)) == [2 * v for v in range(N)]


def test_nothing_is_run_when_all_is_done(engine, folder):
    counted = shmmap.zeros(1, np.int64)

    def square(v):
        counted[0] += 1
        return v * v

    option = shmmap.Checkpoint(folder, if_changed="keep")
    first = shmmap.pmap(square, np.arange(N), checkpoint=option, engine=engine, workers=1)
    assert counted[0] == N
    second = shmmap.pmap(square, np.arange(N), checkpoint=option, engine=engine, workers=1)
    assert counted[0] == N
    assert_same(second, first)
    assert not first.flags.writeable and not second.flags.writeable
    assert_same(np.load(folder / "out.npy"), np.asarray(first))


@pytest.mark.parametrize(
    "func",
    [
        lambda row: row * 2,
        lambda row: (row.sum(), row[:2]),
        lambda row: Pair(row.min(), row.max()),
        lambda row: None,
        lambda row: 1 if row[0] < 30 else 1.5,
    ],
    ids=["rows", "tuple", "named tuple", "None", "a wider dtype later"],
)
def test_kinds_of_results(engine, folder, calls, func):
    result, _ = run_twice(
        shmmap.pmap, func, ROWS, stop_at=41, calls=calls, folder=folder, engine=engine, chunksize=3,
    )  # fmt: skip
    assert_same(result, shmmap.pmap(func, ROWS, engine="serial"))


def test_lists_and_objects(engine, folder, calls):
    def words(row):
        return {"sum": float(row.sum()), "row": row.copy()} if row[0] < 20 else None

    result, again = run_twice(
        shmmap.pmap, words, ROWS, stop_at=44, calls=calls, folder=folder, engine=engine, chunksize=4,
        out=list,
    )  # fmt: skip
    expected = [words(row) for row in ROWS]
    assert [each and each["sum"] for each in result] == [each and each["sum"] for each in expected]
    assert set(again) <= set(range(44, 48))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_chunks_along_an_axis(engine, folder, axis):
    x = np.arange(600.0).reshape(20, 30)
    is_stopping = shmmap.ones(1)

    def work(chunk):
        if is_stopping[0] and 7 in chunk:
            raise Stop
        return np.sqrt(chunk)

    option = shmmap.Checkpoint(folder, if_changed="keep")
    with pytest.raises(Stop):
        shmmap.pmap_chunks(work, x, axis=axis, chunksize=3, checkpoint=option, engine=engine)
    is_stopping[0] = 0
    result = shmmap.pmap_chunks(work, x, axis=axis, chunksize=3, checkpoint=option, engine=engine)
    assert_same(np.ascontiguousarray(result), np.sqrt(x))


def test_neighbours(engine, folder, calls):
    x = np.arange(float(N))

    def smooth(chunk, i):
        return np.convolve(chunk, [0.25, 0.5, 0.25], "same")

    expected = shmmap.pmap_chunks(smooth, x, x, depth=[1, 1], chunksize=7, engine="serial")
    result, _ = run_twice(
        shmmap.pmap_chunks, lambda c: np.convolve(c, [0.25, 0.5, 0.25], "same"), x, stop_at=31,
        calls=calls, folder=folder, engine=engine, depth=[1, 1], chunksize=7,
    )  # fmt: skip
    assert_same(np.asarray(result), expected)


def test_random_numbers_are_those_of_the_index(engine, folder, calls):
    def draw(row, rng):
        return rng.random() + row[0]

    result, _ = run_twice(
        shmmap.pmap, draw, ROWS, stop_at=23, calls=calls, folder=folder, engine=engine, chunksize=4, rng=5,
    )  # fmt: skip
    assert_same(np.asarray(result), shmmap.pmap(draw, ROWS, rng=5, engine="serial"))


@pytest.mark.parametrize("combine", [np.add, lambda a, b: a + b], ids=["ufunc", "function"])
def test_a_reduction_has_the_same_bits(engine, folder, calls, combine):
    def partial(chunk):
        return chunk.sum(0) / 3

    expected = shmmap.preduce(partial, ROWS, combine=combine, chunksize=7, engine="serial")
    result, again = run_twice(
        shmmap.preduce, partial, ROWS, stop_at=50, calls=calls, folder=folder, engine=engine, chunksize=7,
        combine=combine,
    )  # fmt: skip
    assert_same(result, expected)
    assert set(again) <= set(range(49, 56))


def test_partials_that_combine_changes_are_kept_as_they_came(engine, folder):
    def add(left, right):
        left += right
        return left

    def count(chunk):
        return np.bincount(chunk % 5, minlength=5)

    x = np.arange(1000)
    for _ in range(2):
        result = shmmap.preduce(
            count, x, combine=add, checkpoint=folder, engine=engine, chunksize=100
        )
        assert_same(result, np.bincount(x % 5))


def test_failures_are_run_again(engine, folder, calls):
    """With ``on_error="continue"`` what has failed is not done."""
    is_failing = shmmap.ones(1)

    def work(row, i):
        calls[i] += 1
        if is_failing[0] and i % 20 == 7:
            raise ValueError(i)
        return row.sum()

    option = shmmap.Checkpoint(folder, if_changed="keep")
    options = {"chunksize": 2, "engine": engine, "checkpoint": option, "on_error": "continue"}
    with pytest.raises(shmmap.MapError) as caught:
        shmmap.pmap(work, ROWS, np.arange(N), **options)
    assert caught.value.failed == ((7, 8), (27, 28), (47, 48))
    assert np.isnan(caught.value.result[[7, 27, 47]]).all()
    is_failing[0] = 0
    calls[:] = 0
    assert_same(np.asarray(shmmap.pmap(work, ROWS, np.arange(N), **options)), ROWS.sum(1))
    assert calls.sum() == 6


def test_a_future(engine, folder):
    for _ in range(2):
        future = shmmap.pmap(
            np.sum, ROWS, checkpoint=folder, engine=engine, chunksize=7, wait=False
        )
        parts = sorted(future.as_completed())
        assert_same(np.concatenate([part for _, _, part in parts]), ROWS.sum(1))
        assert_same(np.asarray(future.result()), ROWS.sum(1))
        assert future.progress() == (N, N)


def test_a_cancelled_future_leaves_the_folder_for_the_next(folder, team):
    is_there = shmmap.zeros(1)

    def work(v):
        if v >= 50:
            is_there[0] = 1
            signal.pause()
        return v * 2

    option = shmmap.Checkpoint(folder, if_changed="keep")
    options = {"out": np.ndarray, "checkpoint": option, "chunksize": 10}
    future = shmmap.pmap(work, range(N), engine=team, wait=False, **options)
    wait_until(lambda: is_there[0])
    future.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result()
    done = shmmap.pmap(lambda v: v * 2, range(N), **options)
    assert_same(np.asarray(done), np.arange(N) * 2)


def test_progress_begins_with_what_is_done(folder, engine):
    told: list[tuple[int, int]] = []
    option = shmmap.Checkpoint(folder, if_changed="keep")

    def work(row):
        if row[0] > ROWS[40, 0] and not told:
            raise Stop
        return row[0]

    with pytest.raises(Stop):
        shmmap.pmap(work, ROWS, checkpoint=option, engine=engine, chunksize=10)
    told.append((0, 0))
    shmmap.pmap(
        lambda row: row[0], ROWS, checkpoint=option, engine=engine, chunksize=10,
        progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    assert told[-1] == (N, N)


class TestGivenOutputs:
    def test_a_memory_mapped_file(self, engine, folder, tmp_path, calls):
        out = np.lib.format.open_memmap(tmp_path / "o.npy", "w+", np.float64, (N,))
        result, again = run_twice(
            shmmap.pmap, np.sum, ROWS, stop_at=37, calls=calls, folder=folder, engine=engine, chunksize=5,
            out=out,
        )  # fmt: skip
        assert result is out
        assert_same(np.array(out), ROWS.sum(1))
        assert set(again) <= set(range(35, 40))
        assert not (folder / "out.npy").exists()

    def test_a_zarr_array(self, engine, folder, tmp_path, calls):
        zarr = pytest.importorskip("zarr")
        out = zarr.create_array(tmp_path / "o.zarr", shape=(N, 4), chunks=(5, 4), dtype="f8")
        result, again = run_twice(
            shmmap.pmap, np.sqrt, ROWS, stop_at=37, calls=calls, folder=folder, engine=engine, chunksize=5,
            out=out,
        )  # fmt: skip
        assert_same(result[:], np.sqrt(ROWS))
        assert set(again) <= set(range(35, 40))

    def test_a_file_that_was_made_anew_is_noticed(self, engine, folder, tmp_path):
        options = {"checkpoint": folder, "engine": engine}
        for _ in range(2):
            out = np.lib.format.open_memmap(tmp_path / "o.npy", "w+", np.float64, (N,))
            if out.any():
                continue
            try:
                shmmap.pmap(np.sum, ROWS, out=out, **options)
            except shmmap.CheckpointMismatch as exc:
                assert "made anew" in str(exc)
                break
        else:
            pytest.fail("the second run gave an output of zeros")


def test_inputs_on_a_disk(engine, folder, tmp_path):
    zarr = pytest.importorskip("zarr")
    np.save(tmp_path / "x.npy", ROWS)
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    z = zarr.create_array(tmp_path / "x.zarr", data=ROWS, chunks=(7, 4))
    for _ in range(2):
        result = shmmap.pmap(lambda a, b: a + b, x, z, checkpoint=folder, engine=engine)
        assert_same(np.asarray(result), ROWS * 2)


def test_an_executor(folder):
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        for _ in range(2):
            result = shmmap.pmap(np.sum, ROWS, checkpoint=folder, engine=executor, chunksize=5)
            assert_same(np.asarray(result), ROWS.sum(1))


def test_a_result_goes_on_to_the_next_map_without_a_copy(folder, team):
    result = shmmap.pmap(np.sqrt, ROWS, checkpoint=folder, engine=team)
    assert shmmap.is_shared(result)
    assert_same(shmmap.pmap(np.sum, result, engine=team), np.sqrt(ROWS).sum(1))
    before = (folder / "out.npy").read_bytes()
    del result
    shmmap.zeros(N * 4)[:] = 1  # which is not to be in the file
    assert (folder / "out.npy").read_bytes() == before
