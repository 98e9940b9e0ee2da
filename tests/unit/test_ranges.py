"""Which node gets which chunks: each is in one place at a time, whatever is cut and lost meanwhile."""

from __future__ import annotations

import random
import runpy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shmmap._nodes.ranges import Policy, Ranges

SIMULATOR = Path(__file__).parents[2] / "benchmarks" / "ranges.py"


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3000),
    st.integers(1, 12),
    st.floats(0.001, 2.0),
    st.integers(0, 5),
    st.integers(0, 2**32),
    st.booleans(),
)
def test_each_chunk_is_done_once(
    chunks: int, nodes: int, chunk_s: float, losses: int, seed: int, can_cut: bool
) -> None:
    simulate: Any = runpy.run_path(str(SIMULATOR))["simulate"]
    result = simulate(
        chunks,
        nodes,
        chunk_s,
        losses=min(losses, nodes - 1),
        seed=seed,
        slow=0.3,
        policy=Policy(can_cut=can_cut),
    )
    assert set(result.runs) == {1} or (losses and min(result.runs) >= 1)


def places(ranges: Ranges, done: set[int]) -> list[int]:
    left = [k for start, stop in ranges.left() for k in range(start, stop)]
    has = [k for each in ranges.given.values() for k in range(each.start, each.stop)]
    return sorted([*left, *has, *done])


@pytest.mark.parametrize("seed", range(20))
def test_chunks_are_in_one_place(seed: int) -> None:
    rng = random.Random(seed)
    chunks = rng.randrange(1, 500)
    ranges, done, now = Ranges([(0, chunks)]), set[int](), 0.0
    for node in range(4):
        ranges.add(node)
    for _ in range(3000):
        now += rng.random()
        act = rng.random()
        node = rng.choice(ranges.nodes())
        if act < 0.5:
            ranges.take(node, now)
        elif act < 0.8 and ranges.given:
            each = rng.choice(list(ranges.given.values()))
            stop = rng.randint(each.start, each.stop)
            done.update(range(each.start, stop))
            ranges.done(each.number, stop, now)
        elif act < 0.9 and (cut := ranges.choose_cut(now)) is not None:
            assert 0 <= cut.keep <= 1
            at = rng.choice([None, rng.randint(cut.given.start, cut.given.stop)])
            ranges.cut(cut.given.number, at, now)
        elif len(ranges.nodes()) > 1:
            for lost in ranges.lose(node):
                ranges.put_back(lost.start, lost.stop)
            ranges.add(node)
        assert places(ranges, done) == list(range(chunks))


def test_a_range_grows_with_the_speed_of_its_node() -> None:
    ranges = Ranges([(0, 100_000)])
    for node in ("slow", "quick"):
        ranges.add(node)
    now = 0.0
    sizes = {}
    for _ in range(6):
        for node, speed in (("slow", 10), ("quick", 50)):
            given = ranges.take(node, now)
            assert given is not None
            sizes[node] = given.stop - given.start
            ranges.done(given.number, given.stop, now + sizes[node] / speed)
        now += 1000
    assert sizes["quick"] > 2 * sizes["slow"]


def test_an_idle_node_gets_a_part_of_what_is_not_begun() -> None:
    ranges = Ranges([(0, 1000)], Policy(least_s=100.0, firsts=4))
    ranges.add("a")
    first = ranges.take("a", 0.0)
    assert first is not None
    ranges.done(first.number, first.stop, first.stop / 10)
    while ranges.take("a", 60.0) is not None:
        pass
    ranges.add("b")
    while ranges.has_left:
        assert ranges.choose_cut(60.0) is None, "there is something left to give"
        given = ranges.take("b", 60.0)
        assert given is not None
        ranges.done(given.number, given.stop, 60.0 + (given.stop - given.start) / 10)
    cut = ranges.choose_cut(60.0)
    assert cut is not None and cut.given.node == "a" and 0 <= cut.keep < 1
    assert ranges.choose_cut(60.0) is None, "it is not asked twice"
    middle, stop = (cut.given.start + cut.given.stop) // 2, cut.given.stop
    ranges.cut(cut.given.number, middle, 61.0)
    assert ranges.left() == [(middle, stop)]
