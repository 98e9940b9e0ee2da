"""Pages of large outputs: entered into a worker's page table before they are stored to, or poured."""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import shmmap
from shmmap._memory import nameless, table
from shmmap._memory.pages import MAP_NBYTES, map_pages
from shmmap._worker.line import POUR_SEGMENT_NBYTES
from shmmap._worker.reporter import POUR_TEAM
from tests import functions
from tests.helpers import assert_same

NBYTES = 37 * MAP_NBYTES + mmap.PAGESIZE + 100
"""Of a segment: neither of whole units, nor of whole pages."""


def resident_nbytes(address: int) -> int:
    """How much of a mapping is in this process's page table."""
    with open("/proc/self/smaps") as file:
        for line in file:
            match = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
            if match:
                is_here = int(match[1], 16) == address
            elif is_here and line.startswith("Rss:"):
                return int(line.split()[1]) << 10
    raise KeyError(address)


@pytest.fixture(scope="module")
def contents() -> Any:
    return np.random.default_rng(3).integers(0, 256, NBYTES, np.uint8)


@pytest.fixture(scope="module")
def fd(contents: Any) -> Iterator[int]:
    fd = nameless.open_nameless(NBYTES)
    os.pwrite(fd, contents.tobytes(), 0)
    yield fd
    os.close(fd)


parts = st.tuples(st.integers(0, NBYTES - 1), st.integers(1, NBYTES)).map(
    lambda part: (part[0], min(part[1], NBYTES - part[0]))
)


@settings(max_examples=30, deadline=None)
@given(st.lists(parts, max_size=5))
@example([(0, NBYTES), (NBYTES - 1, 1)])
@example([(NBYTES - 1, 1)])
def test_what_was_asked_for_is_entered_and_nothing_else(
    fd: int, contents: Any, asked: list[tuple[int, int]]
) -> None:
    segment = table.attach_segment(table.new_segment_id(), os.dup(fd), NBYTES)
    try:
        expected = np.zeros(-(-NBYTES // MAP_NBYTES) * MAP_NBYTES, bool)
        for start, nbytes in asked:
            map_pages(segment, start, nbytes)
            first, stop = start // MAP_NBYTES, -(-(start + nbytes) // MAP_NBYTES)
            expected[first * MAP_NBYTES : stop * MAP_NBYTES] = True
        pages = expected[: -(-NBYTES // mmap.PAGESIZE) * mmap.PAGESIZE : mmap.PAGESIZE]
        assert resident_nbytes(segment.address) == pages.sum() * mmap.PAGESIZE
        assert np.array_equal(segment.root, contents)
    finally:
        table.detach_segment(segment.id)


class TestLargeOutputs:
    """The same result, whatever way it takes into memory: poured, stored, over what was there before."""

    ROWS = (POUR_SEGMENT_NBYTES + (1 << 20)) // 4096

    @pytest.fixture(params=[2, POUR_TEAM + 1], ids="{} workers".format)
    def team(self, request: Any) -> Iterator[Any]:
        with shmmap.Team(workers=request.param) as team:
            yield team

    def make_x(self) -> Any:
        """What is mapped. No fixture: pytest would keep it for longer than the test takes."""
        return shmmap.asshared(np.random.default_rng(4).standard_normal((self.ROWS, 512)))

    @pytest.mark.parametrize("dtype", [None, np.float32])
    def test_chunks(self, team: Any, dtype: Any) -> None:
        x = self.make_x()
        expected = np.negative(x).astype(dtype or x.dtype)
        out = shmmap.full(x.shape, 7, expected.dtype)
        for chunksize in ("auto", "auto", 3, 1000):
            options = {"engine": team, "chunksize": chunksize}
            assert_same(shmmap.pmap_chunks(np.negative, x, dtype=dtype, **options), expected)
            assert shmmap.pmap_chunks(np.negative, x, out=out, **options) is out
            assert_same(out, expected)
            out[:] = 7

    @pytest.mark.parametrize("block", [1, 32])
    def test_rows(self, team: Any, block: int) -> None:
        x = self.make_x()
        x = x[: len(x) // block * block].reshape(-1, block, 512)
        low, high = shmmap.full(x.shape, 7.0), shmmap.full(x.shape, 7.0)
        for _ in range(2):
            assert_same(shmmap.pmap(np.negative, x, engine=team), -x)
            shmmap.pmap(functions.both_signs, x, out=(low, high), engine=team)
            assert_same(low, -x)
            assert_same(high, x.copy())
            low[:] = high[:] = 7

    def test_in_place(self, team: Any) -> None:
        x = self.make_x()
        y = shmmap.asshared(x.copy())
        for expected in (-x, x.copy()):
            shmmap.pmap_chunks(np.negative, y, out=y, engine=team)
            assert_same(y, expected)

    def test_along_another_axis(self, team: Any) -> None:
        x = self.make_x()
        out = shmmap.full(x.shape, 7.0)
        shmmap.pmap_chunks(np.negative, x, axis=1, out=out, engine=team)
        assert_same(out, -x)
