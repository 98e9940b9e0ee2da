"""What is kept of shared memory for the next array: slices of slabs, and segments just released."""

from __future__ import annotations

import mmap
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmmap._memory import spares
from shmmap._memory.segments import Block, Segment, Slab
from shmmap._memory.slabs import Slabs
from shmmap._memory.spares import Spares

NBYTES = 1 << 12


def make_segment(nbytes: int = NBYTES) -> Segment:
    return Segment(1, -1, nbytes, mmap.mmap(-1, nbytes))


def use(slabs: Slabs, nbytes: int) -> Block | None:
    """A block as the table makes it."""
    found = slabs.take(nbytes)
    if found is None:
        return None
    slab, offset = found
    slab.segment.used += 1
    return Block(slab.segment, offset, nbytes, slab, 0)


def end(slabs: Slabs, block: Any, is_clean: bool = True) -> list[Segment]:
    block.segment.used -= 1
    return slabs.give(block, is_clean)


@given(st.lists(st.tuples(st.integers(1, NBYTES // 4), st.booleans()), max_size=40))
def test_slices_never_overlap_and_merge_again(steps: list[tuple[int, bool]]) -> None:
    slab = Slab(make_segment())
    taken: list[tuple[int, int]] = []
    for nbytes, ends in steps:
        if ends and taken:
            slab.give(*taken.pop(nbytes % len(taken)))
        elif (offset := slab.take(nbytes)) is not None:
            taken.append((offset, nbytes))
        parts = sorted(taken + slab.free)
        assert [start for start, _ in parts] == [0, *[at + size for at, size in parts]][:-1]
        assert sum(size for _, size in parts) == NBYTES
    for part in taken:
        slab.give(*part)
    assert slab.free == [(0, NBYTES)]


def test_one_empty_slab_stays_and_no_second_one() -> None:
    slabs = Slabs()
    slabs.add(make_segment())
    first = use(slabs, NBYTES)
    assert first is not None and first.slab is not None and slabs.is_only(first.slab)
    assert use(slabs, 1) is None
    slabs.add(make_segment())
    second = use(slabs, NBYTES)
    assert second is not None
    assert end(slabs, first) == []
    assert end(slabs, second) == [second.segment]
    assert slabs.take_empty() == [first.segment]


def test_a_slab_that_lost_a_slice_does_not_stay() -> None:
    """A worker has kept a view of it, or a child was forked."""
    slabs = Slabs()
    slabs.add(make_segment())
    block, other = use(slabs, 64), use(slabs, 64)
    assert end(slabs, block, is_clean=False) == []
    again = use(slabs, 64)
    assert again is not None and again.offset == 128, "the slice does not serve again"
    assert end(slabs, again) == []
    assert other is not None
    assert end(slabs, other) == [other.segment]


def test_a_forked_child_lets_go_of_the_slabs_of_its_parent() -> None:
    slabs = Slabs()
    slabs.add(make_segment())
    block = use(slabs, 64)
    assert block is not None
    slabs.clear()
    assert use(slabs, 64) is None
    assert end(slabs, block) == [block.segment]


def test_a_spare_serves_what_is_at_most_a_quarter_smaller() -> None:
    kept = Spares()
    segment = make_segment(10 * NBYTES)
    assert kept.put(segment) == []
    assert kept.nbytes == segment.touched == 10 * NBYTES
    assert kept.take(10 * NBYTES + 1) is None and kept.take(7 * NBYTES) is None
    assert kept.take(8 * NBYTES) is segment
    assert kept.nbytes == 0


def test_the_oldest_spares_make_room() -> None:
    kept = Spares()
    segments = [make_segment() for _ in range(spares._MOST + 2)]
    evicted = [each for segment in segments for each in kept.put(segment)]
    assert evicted == segments[:2]
    assert kept.take(NBYTES) is segments[-1], "the latest is the one whose pages are in the cache"


def test_spares_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(spares.time, "monotonic", lambda: now[0])
    kept = Spares()
    first, second = make_segment(), make_segment()
    kept.put(first)
    now[0] += 1
    kept.put(second)
    assert kept.next_expiry() == 100 + spares.SPARE_S
    now[0] = 100 + spares.SPARE_S
    assert kept.expire() == [first]
    assert kept.clear() == [second]
    assert kept.next_expiry() is None
