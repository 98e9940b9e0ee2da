"""Index arithmetic: every plan covers every index exactly once, whatever the numbers."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmmap._chunks.plan import (
    STORED_NBYTES,
    Plan,
    align_chunksize,
    auto_chunksize,
    merge_ranges,
    parse_chunksize,
    share_of,
)

lengths = st.integers(0, 10_000)
sizes = st.integers(1, 12_000)


@given(lengths, sizes)
def test_chunks_cover_the_extent_once_and_in_order(n, size):
    plan = Plan(n, size)
    limits = [plan.limits(k) for k in range(plan.chunks)]
    assert [i for start, stop in limits for i in range(start, stop)] == list(range(n))
    assert all(start < stop for start, stop in limits)


@given(lengths, sizes, st.integers(1, 40))
def test_shares_partition_the_chunks_evenly(n, size, workers):
    chunks = Plan(n, size, "static").chunks
    shares = [share_of(chunks, rank, workers) for rank in range(workers)]
    assert [k for first, stop in shares for k in range(first, stop)] == list(range(chunks))
    counts = [stop - first for first, stop in shares]
    assert max(counts) - min(counts) <= 1


@given(st.lists(st.integers(0, 60), unique=True), sizes)
def test_ranges_of_chunks_name_exactly_their_indices(chunks, size):
    plan = Plan(61 * size - size // 2, size)
    ranges = plan.ranges(chunks)
    named = {i for start, stop in ranges for i in (start, stop - 1)}
    expected = {i for k in chunks for i in (plan.limits(k)[0], plan.limits(k)[1] - 1)}
    assert named <= expected
    assert sum(stop - start for start, stop in ranges) == sum(
        plan.limits(k)[1] - plan.limits(k)[0] for k in chunks
    )
    assert all(a[1] < b[0] for a, b in pairwise(ranges))


def test_neighbouring_ranges_merge():
    assert merge_ranges([(0, 2), (2, 5), (7, 8)]) == ((0, 5), (7, 8))


@given(lengths, st.integers(0, 1 << 24), st.booleans())
def test_automatic_chunks_hold_at_least_one_item(n, item_nbytes, vectorised):
    assert auto_chunksize(n, item_nbytes, vectorised) >= 1


@pytest.mark.parametrize(
    ("n", "size"),
    [(1, 1), (4096, 1), (4097, 2), (1_000_000, 245)],
)
def test_automatic_chunks_of_items_balance_any_costs(n: int, size: int) -> None:
    assert auto_chunksize(n, 8, vectorised=False) == size


@pytest.mark.parametrize(
    ("n", "item_nbytes", "chunks"),
    [
        (10, 8, 10),
        (1600, 8, 16),
        (16384, 256, 16),  # 4 MiB
        (3 * 8192, 256, 24),
        (1 << 15, 256, 32),
        (1 << 20, 256, 128),
        (1600, 0, 32),  # ranges
    ],
)
def test_maps_of_few_bytes_have_fewer_chunks(n: int, item_nbytes: int, chunks: int) -> None:
    assert Plan(n, auto_chunksize(n, item_nbytes, vectorised=True)).chunks == chunks


@given(st.integers(1, 1 << 20), st.integers(0, 1 << 16))
def test_more_bytes_never_mean_fewer_chunks(n: int, item_nbytes: int) -> None:
    size = auto_chunksize(n, item_nbytes, vectorised=True)
    assert auto_chunksize(n, item_nbytes + 1, vectorised=True) <= size or item_nbytes == 0
    assert size >= auto_chunksize(n, 0, vectorised=True) or n * item_nbytes > 32 << 18


def test_automatic_chunks_of_items_are_bounded_in_bytes() -> None:
    assert auto_chunksize(1_000_000, 1 << 20, vectorised=False) == 8


@given(st.integers(1, 1 << 62))
def test_automatic_chunks_are_never_too_many_to_go_through(n: int) -> None:
    assert -(-n // auto_chunksize(n, 1, vectorised=True)) <= 1 << 20


@pytest.mark.parametrize("vectorised", [False, True])
def test_more_items_never_make_smaller_automatic_chunks(vectorised: bool) -> None:
    sizes = [auto_chunksize(n, 64, vectorised) for n in range(1, 40_000, 7)]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize(
    ("text", "items"), [("1KiB", 128), ("1 kB", 125), ("8", 1), ("2MiB", 262_144), ("0.5KiB", 64)]
)
def test_chunk_size_in_bytes(text, items):
    assert parse_chunksize(text, 10**9, 8, True) == items


def test_chunk_size_in_items_is_bounded_by_the_length():
    assert parse_chunksize(1000, 10, 8, True) == 10
    assert parse_chunksize(3, 0, 8, True) == 1


@pytest.mark.parametrize("bad", [0, -1, "many", "1XB", "-1KiB"])
def test_nonsense_chunk_sizes_are_refused(bad):
    with pytest.raises(ValueError, match="chunk"):
        parse_chunksize(bad, 10, 8, True)


@pytest.mark.parametrize("bad", [True, 1.5, None, b"1MiB"])
def test_chunk_sizes_of_wrong_types_are_refused(bad):
    with pytest.raises(TypeError, match="chunksize"):
        parse_chunksize(bad, 10, 8, True)


LENGTHS = st.lists(st.integers(1, 50), max_size=3)


@given(st.integers(1, 10_000), st.integers(0, 1 << 22), LENGTHS, LENGTHS)
def test_alignment_to_storage(
    size: int, item_nbytes: int, reads: list[int], writes: list[int]
) -> None:
    aligned = align_chunksize(size, item_nbytes, reads, writes)
    must, wish = math.lcm(*writes), math.lcm(*writes, *reads)
    assert aligned >= 1 and aligned % must == 0, "what is written as one has one writer"
    if wish * item_nbytes <= STORED_NBYTES:
        assert aligned % wish == 0, "what is read as one is read once"
        assert size <= aligned < size + wish
    elif wish == must:
        assert size <= aligned < size + must
    else:
        assert aligned == must or aligned * item_nbytes <= STORED_NBYTES


def test_alignment_where_it_does_not_help() -> None:
    # One storage chunk is the whole axis: chunks are as large as may be, so that few read it again.
    assert align_chunksize(10, 1 << 20, [1000], []) == 64
    assert align_chunksize(10, 1 << 20, [1000], [30]) == 60
    assert align_chunksize(10, 1 << 20, [1000], [300]) == 300
    assert align_chunksize(10, 8, [], []) == 10
