"""Index arithmetic: every plan covers every index exactly once, whatever the numbers."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmmap._plan import Plan, auto_chunksize, merge_ranges, parse_chunksize

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
    plan = Plan(n, size, "static")
    shares = plan.shares(workers)
    assert [k for first, stop in shares for k in range(first, stop)] == list(range(plan.chunks))
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
