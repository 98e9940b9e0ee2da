"""Calls over the same arrays again and again: prepared once, and right every time."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import shmmap
from tests import functions
from tests.helpers import shared_memory_in_use


@pytest.fixture
def team() -> Iterator[shmmap.Team]:
    with shmmap.Team(workers=2) as team:
        yield team


@pytest.fixture
def pids(team: shmmap.Team) -> Iterator[None]:
    """No worker may die and be replaced behind our back: recovery hides what goes wrong."""

    def ask() -> set[int]:
        x = shmmap.zeros(2, np.int64)
        shmmap.pmap_chunks(
            lambda c: c.fill(os.getpid()), x, chunksize=1, schedule="static", engine=team
        )
        return set(x.tolist())

    before = ask()
    yield
    assert ask() == before


def double(chunk: Any) -> Any:
    return chunk * 2


@pytest.mark.usefixtures("pids")
def test_many_calls_see_what_was_written_in_between(team: shmmap.Team) -> None:
    x, y = shmmap.zeros(100), shmmap.zeros(100)
    for k in range(60):
        x[:] = k
        assert shmmap.pmap_chunks(double, x, out=y, engine=team) is y
        assert (y == 2 * k).all()
        assert shmmap.preduce(np.sum, x, engine=team) == 100 * k
        assert shmmap.pmap(functions.square, x, engine=team)[7] == k * k


@pytest.mark.usefixtures("pids")
@pytest.mark.filterwarnings("ignore:Setting the:DeprecationWarning")  # people do it all the same
def test_an_array_that_changes_its_looks_is_another(team: shmmap.Team) -> None:
    x = shmmap.asshared(np.arange(12.0))
    assert shmmap.pmap(len, x.reshape(3, 4), engine=team).tolist() == [4, 4, 4]
    for shape, expected in [((3, 4), [4] * 3), ((4, 3), [3] * 4), ((2, 6), [6] * 2)]:
        x.shape = shape
        for _ in range(3):
            assert shmmap.pmap(len, x, engine=team).tolist() == expected
    x.shape = (12,)
    x.dtype = np.int64
    assert shmmap.pmap_chunks(lambda c: c.dtype.kind == "i", x, out=list, engine=team)[0]
    y = shmmap.zeros(12)
    for _ in range(2):
        shmmap.pmap_chunks(double, y, out=y, engine=team)
    y.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        shmmap.pmap_chunks(double, y, out=y, engine=team)

    def write(chunk: Any) -> None:
        chunk[:] = 1

    with pytest.raises(ValueError, match="read-only"):
        shmmap.pmap_chunks(write, y, engine=team)
    y.flags.writeable = True
    shmmap.pmap_chunks(write, y, engine=team)
    assert (y == 1).all()


@pytest.mark.usefixtures("pids")
def test_a_changed_function_is_seen(team: shmmap.Team) -> None:
    x, y = shmmap.ones(10), shmmap.zeros(10)
    factor = 1

    def scale(chunk: Any) -> Any:
        return chunk * factor

    for factor in (2, 3, 3, 4):
        shmmap.pmap_chunks(scale, x, out=y, engine=team)
        assert (y == factor).all()
    for func, expected in [(double, 2), (np.negative, -1), (double, 2), (np.negative, -1)]:
        shmmap.pmap_chunks(func, x, out=y, engine=team)
        assert (y == expected).all()


@pytest.mark.usefixtures("pids")
def test_options_that_differ_make_another_call(team: shmmap.Team) -> None:
    x = shmmap.zeros(64)
    sizes = shmmap.pmap_chunks(len, x, out=list, engine=team, chunksize=16)
    assert sizes == [16] * 4
    assert shmmap.pmap_chunks(len, x, out=list, engine=team, chunksize=32) == [32] * 2
    with pytest.raises(TypeError):
        shmmap.pmap_chunks(len, x, out=list, engine=team, chunksize=True)  # type: ignore[arg-type]
    assert shmmap.pmap_chunks(len, x, out=list, engine=team, chunksize=1) == [1] * 64
    with pytest.raises(ValueError, match="workers"):
        shmmap.pmap(abs, x, workers=0)
    with pytest.raises(TypeError, match="workers"):
        shmmap.pmap(abs, x, workers=True)
    assert len(shmmap.pmap(abs, x, workers=1)) == 64


@pytest.mark.usefixtures("pids")
def test_a_failing_call_between_others(team: shmmap.Team) -> None:
    x, y = shmmap.asshared(np.arange(100.0)), shmmap.zeros(100)

    def fail(chunk: Any) -> Any:
        raise ValueError("on purpose")

    for _ in range(3):
        shmmap.pmap_chunks(double, x, out=y, engine=team)
        with pytest.raises(ValueError, match="on purpose"):
            shmmap.pmap_chunks(fail, x, out=y, engine=team)
        shmmap.pmap_chunks(double, x, out=y, engine=team)
        assert np.array_equal(y, x * 2)


def test_more_arrays_than_are_remembered(team: shmmap.Team) -> None:
    arrays = [shmmap.full(20, k) for k in range(80)]
    for _ in range(3):
        for k, a in enumerate(arrays):
            assert shmmap.preduce(np.sum, a, engine=team) == 20 * k


def test_what_is_remembered_keeps_nothing_alive(team: shmmap.Team) -> None:
    before = shared_memory_in_use()
    for _ in range(20):
        x = shmmap.zeros(4 << 20)
        for _ in range(3):
            shmmap.preduce(np.sum, x, engine=team)
        del x
    gc.collect()
    from shmmap._memory import table

    table.release_spare()
    shmmap.pmap(functions.nothing, range(10), engine=team)
    from shmmap.testing import wait_until

    wait_until(lambda: shared_memory_in_use() <= before + (8 << 20), 10)


def test_a_replaced_worker_is_sent_everything_anew(team: shmmap.Team) -> None:
    x, y = shmmap.ones(100), shmmap.zeros(100)
    for _ in range(3):
        shmmap.pmap_chunks(double, x, out=y, engine=team)

    def die(chunk: Any) -> Any:
        if chunk[0] == 5:
            chunk[0] = 1
            os.kill(os.getpid(), 9)
        return chunk * 2

    x[0] = 5
    shmmap.pmap_chunks(die, x, out=y, engine=team)
    for k in range(3):
        x[:] = k
        shmmap.pmap_chunks(double, x, out=y, engine=team)
        assert (y == 2 * k).all()


@pytest.mark.parametrize("whole", [{"calls": 0}, [0], [[0]]], ids=str)
def test_what_a_function_does_to_an_argument_ends_with_the_call(
    team: shmmap.Team, whole: Any
) -> None:
    """A worker has the arguments of the last call still, and these look the same."""
    x = shmmap.asshared(np.arange(1.0))

    def count(value: Any, whole: Any) -> int:
        if isinstance(whole, dict):
            whole["calls"] += 1
            return int(whole["calls"])
        whole.append(value)
        return len(whole)

    counts = [shmmap.pmap(count, x, whole, axis=(0, None), engine=team)[0] for _ in range(4)]
    assert len(set(counts)) == 1


def test_lists_that_have_changed_are_read_anew(team: shmmap.Team) -> None:
    numbers, rows, texts = [1, 2, 3], [np.zeros(2), np.ones(2)], ["a", "b"]
    for i in range(4):
        numbers[1], texts[0] = i, "x" * i
        rows[0][:] = i
        assert shmmap.pmap(functions.double, numbers, engine=team) == [2, 2 * i, 6]
        assert shmmap.pmap(len, texts, engine=team) == [i, 1]
        assert [float(a.sum()) for a in shmmap.pmap(functions.double, rows, engine=team)] == [
            4 * i,
            4,
        ]


def test_an_output_that_overlaps_is_refused_after_one_alike_that_does_not(
    team: shmmap.Team,
) -> None:
    x = shmmap.asshared(np.arange(9.0))
    y = shmmap.empty(8)
    for _ in range(2):
        shmmap.pmap(functions.double, x[1:], out=y, engine=team)
        with pytest.raises(ValueError, match="overlaps"):
            shmmap.pmap(functions.double, x[1:], out=x[:-1], engine=team)
        with pytest.raises(ValueError, match="overlap"):
            shmmap.pmap(lambda a: (a, a), x[1:], out=(y, y), engine=team)
    shmmap.pmap(functions.double, x[1:], out=x[1:], engine=team)
    assert np.array_equal(x, [0, *range(2, 18, 2)])


def test_equal_dtypes_that_say_more_are_told_apart(team: shmmap.Team) -> None:
    def says(a: Any) -> bool:
        return a.dtype.metadata is not None

    for _ in range(2):
        for dtype in (np.dtype("f8"), np.dtype("f8", metadata={"unit": "m"})):
            x = np.zeros((2, 3), dtype)
            expected = shmmap.pmap(says, x, engine="serial")
            assert np.array_equal(shmmap.pmap(says, x, engine=team), expected)


def test_blocks_of_one_array_are_calls_alike(team: shmmap.Team) -> None:
    x = shmmap.asshared(np.arange(64.0))
    out = shmmap.zeros(64)
    for start in range(0, 64, 8):
        shmmap.pmap(functions.double, x[start : start + 8], out=out[start : start + 8], engine=team)
        block = shmmap.pmap(functions.double, np.arange(float(start), start + 8), engine=team)
        assert np.array_equal(block, out[start : start + 8])
    assert np.array_equal(out, 2 * x)


@pytest.mark.usefixtures("pids")
@pytest.mark.parametrize("workers", [1, 2])
def test_values_that_lie_where_others_lay(workers: int, team: shmmap.Team) -> None:
    # The memory of one call's arguments serves the next call's: the same place does not mean the same values.
    for letter in "abcdef":
        words = [letter * 1000] * 40  # a parcel
        assert shmmap.pmap(str, words, engine=team, workers=workers) == words
    for k in range(6):
        columns = [
            np.full(2000, k + j, float) for j in range(5)
        ]  # more bytes than a control block takes
        result = shmmap.pmap(max, *columns, engine=team, workers=workers)
        assert (result == k + 4).all()


def test_no_output_is_not_an_output_of_no_arrays(team: shmmap.Team) -> None:
    for _ in range(2):
        assert isinstance(shmmap.pmap(abs, [1, 2, 3], out=(), engine=team), np.ndarray)  # type: ignore[call-overload]
        assert shmmap.pmap(abs, [1, 2, 3], engine=team) == [1, 2, 3]


def test_strings_are_sequences_of_any_length(team: shmmap.Team) -> None:
    for text in ("abc", "abcdef", b"abc", b"abcdef", "", "x"):
        assert shmmap.pmap(functions.identity, text, engine=team) == list(text)  # type: ignore[arg-type]
        blocks = shmmap.pmap_chunks(functions.identity, text, out=list, chunksize=2, engine=team)  # type: ignore[call-overload]
        assert blocks == [list(text[at : at + 2]) for at in range(0, len(text), 2)]


def test_what_a_declared_dtype_says_besides_is_kept(team: shmmap.Team) -> None:
    plain, marked = np.dtype("i4"), np.dtype("i4", metadata={"unit": "m"})
    for dtype in (plain, marked, plain, marked):
        assert (
            shmmap.pmap(np.int32, [1, 2], out=np.ndarray, dtype=dtype, engine=team).dtype.metadata
            == dtype.metadata
        )
        pair = shmmap.pmap(
            divmod, [3, 4], [1, 2], out=np.ndarray, dtype=(plain, dtype), engine=team
        )
        assert pair[1].dtype.metadata == dtype.metadata
