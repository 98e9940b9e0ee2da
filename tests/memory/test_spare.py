"""Segments just released serve the next array, and never one that somebody still looks at."""

from __future__ import annotations

import gc
import os
import signal
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap._memory import blocks, spares, table
from shmmap.testing import wait_until
from tests import functions

pytestmark = pytest.mark.warm

NBYTES = 8 << 20


@pytest.fixture(autouse=True)
def team() -> None:
    """Only with a team is anything kept; and nothing of what other tests dropped."""
    shmmap.pmap(functions.nothing, range(100), workers=2, chunksize=1)
    gc.collect()
    table.release_spare()


def segment_of(a: Any) -> int:
    """Identity of the segment an array lies in."""
    block = table.find_block(a.__array_interface__["data"][0])
    assert block is not None
    return block.segment.id


def test_the_next_array_gets_it_and_zeros_are_zero() -> None:
    a = shmmap.ones(NBYTES, np.uint8)
    before = segment_of(a)
    del a
    b = shmmap.zeros(NBYTES - 4096, np.uint8)
    assert segment_of(b) == before
    assert not b.any()


def test_a_map_into_it_is_right_in_every_place() -> None:
    x = shmmap.asshared(np.arange(NBYTES // 8, dtype=float))
    for k in range(4):
        y = shmmap.pmap_chunks(lambda c, k=k: c + k, x, workers=2)
        assert np.array_equal(y, np.arange(len(x)) + k)
        del y


def test_one_of_another_size_is_not_used() -> None:
    a = shmmap.ones(NBYTES, np.uint8)
    before = segment_of(a)
    del a
    assert segment_of(shmmap.ones(2 * NBYTES, np.uint8)) != before
    assert segment_of(shmmap.ones(NBYTES // 2, np.uint8)) != before


def test_what_a_function_keeps_is_not_used_again() -> None:
    a = shmmap.ones(NBYTES, np.uint8)
    before = segment_of(a)
    with shmmap.Team(workers=1) as team:
        for _ in range(
            3
        ):  # seen before, from the second time on: the worker has the array in a job it keeps
            shmmap.pmap(functions.keep, np.zeros(1), a, axis=(0, None), engine=team)
            shmmap.pmap_chunks(functions.keep, a, chunksize=NBYTES, engine=team)
        del a
        b = shmmap.full(NBYTES, 7, np.uint8)
        assert segment_of(b) != before
        assert shmmap.pmap(functions.look, [0], engine=team) == [[1] * 6]


def test_each_of_many_small_arrays_that_a_function_keeps_is_not_used_again() -> None:
    # They lie in one segment, in which views are kept after the first call already.
    a = None
    with shmmap.Team(workers=1) as team:
        for value in range(12):
            before, a = a, shmmap.full(3000, value, np.uint8)  # the segment stays
            shmmap.pmap_chunks(functions.keep, a, chunksize=3000, engine=team)
            del before
        assert shmmap.pmap(functions.look, [0], engine=team) == [list(range(12))]


def test_what_a_submitted_function_keeps_is_not_used_again() -> None:
    a = shmmap.ones(NBYTES, np.uint8)
    before = segment_of(a)
    with shmmap.Team(workers=1) as team:
        team.submit(functions.keep, a).result(20)
        del a
        gc.collect()
        assert segment_of(shmmap.full(NBYTES, 7, np.uint8)) != before
        assert team.submit(functions.look).result(20) == [1]


def test_not_after_a_fork() -> None:
    a = shmmap.ones(NBYTES, np.uint8)
    before = segment_of(a)
    reader, writer = os.pipe()
    go_on, gate = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(go_on, 1)
        os.write(writer, b"y" if (a == 1).all() else b"n")
        os._exit(0)
    del a
    b = shmmap.full(NBYTES, 7, np.uint8)
    assert segment_of(b) != before
    os.write(gate, b"g")
    assert os.read(reader, 1) == b"y"
    os.waitpid(pid, 0)
    for fd in (reader, writer, go_on, gate):
        os.close(fd)


def test_it_goes_after_two_seconds_and_the_team_with_it_at_once() -> None:
    a = shmmap.ones(NBYTES, np.uint8)
    id = segment_of(a)
    del a
    assert table.spares.nbytes >= NBYTES
    wait_until(lambda: table.spares.nbytes == 0, spares.SPARE_S + 5)
    with pytest.raises(KeyError):
        table.get_segment(id)
    shmmap.shutdown()
    gc.collect()
    a = shmmap.ones(NBYTES, np.uint8)
    del a
    assert table.spares.nbytes == 0, "nobody would end the two seconds"


@pytest.mark.slow
def test_no_more_is_kept_than_said() -> None:
    arrays = [shmmap.empty(100 << 20, np.uint8) for _ in range(4)]
    del arrays
    assert 0 < table.spares.nbytes <= spares.SPARE_NBYTES
    large = shmmap.ones(spares.SPARE_NBYTES + (64 << 20), np.uint8)
    del large
    assert table.spares.nbytes <= spares.SPARE_NBYTES
    again = shmmap.zeros(spares.SPARE_NBYTES + (64 << 20), np.uint8)
    assert not again.any(), "the head was used before, the rest is new"


@pytest.mark.slow
def test_a_large_one_stays_whole_once_it_was_missed() -> None:
    """In a loop, that is; not where it is dropped once."""
    nbytes = spares.SPARE_NBYTES + (64 << 20)
    kept = []
    for _ in range(4):
        large = shmmap.ones(nbytes, np.uint8)
        id = segment_of(large)
        del large
        kept.append((table.spares.nbytes, id))
    assert [nbytes for nbytes, _ in kept] == [spares.SPARE_NBYTES, nbytes, nbytes, nbytes]
    assert len({id for _, id in kept}) == 1
    small = shmmap.ones(NBYTES, np.uint8)
    del small
    assert table.spares.nbytes == nbytes + NBYTES, "a small one does not put it out"
    wait_until(lambda: table.spares.nbytes == 0, spares.SPARE_S + 5)
    large = shmmap.ones(nbytes, np.uint8)
    del large
    assert table.spares.nbytes == spares.SPARE_NBYTES, "the loop is over"


@pytest.mark.parametrize("at", ["Segment", "root_array"])
def test_ctrl_c_leaves_no_segment_with_nobody(at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a new one, nor one that was kept for the next array and is being taken."""
    original = getattr(blocks, at)

    def interrupted(*args: Any, **options: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return original(*args, **options)

    def descriptors() -> int:
        gc.collect()
        table.release_spare()
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    for has_spare in (False, True):
        if has_spare:
            a = shmmap.ones(NBYTES, np.uint8)
            del a
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(blocks, at, interrupted)
            shmmap.ones(NBYTES if at == "root_array" else 3 * NBYTES, np.uint8)
        # What is dropped while the monitor is at it is let go a moment later.
        wait_until(lambda: descriptors() == before)
