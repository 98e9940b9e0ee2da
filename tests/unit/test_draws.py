"""How many tickets a draw takes: pure arithmetic, and what it does to a team, step by step."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import hypothesis.strategies as st
import pytest
from hypothesis import given

from shmmap._chunks import next_draw
from shmmap._chunks.part import DRAW_S, LEAST_ITEMS, LEAST_S

# What goes with a draw beside its items; measured, for a small function.
OVERHEAD_S = 20e-6


def makespan(costs: Sequence[float], team: int, least: int | None = LEAST_ITEMS) -> float:
    """When the last of a team is done with items of these costs, by the rule of the draws."""
    workers = [(0.0, rank, 1) for rank in range(team)]
    drawn, end = 0, 0.0
    while workers:
        now, rank, k = heapq.heappop(workers)
        mine = costs[drawn : drawn + k]
        drawn += len(mine)
        if not mine:
            end = max(end, now)
            continue
        took = OVERHEAD_S + sum(mine)
        k = next_draw(k, len(mine) / took, len(costs) - drawn, team, least)
        heapq.heappush(workers, (now + took, rank, k))
    return end


@given(
    k=st.integers(1, 1 << 16),
    speed=st.floats(0, 1e9),
    left=st.integers(0, 1 << 20),
    team=st.integers(1, 1024),
    least=st.none() | st.integers(0, 8),
)
def test_a_draw_is_bounded(k: int, speed: float, left: int, team: int, least: int | None) -> None:
    drawn = next_draw(k, speed, left, team, least)
    grow = 4 if team > 1 else 16
    assert 1 <= drawn <= max(1, min(grow * k, 1 << 16, int(speed * DRAW_S)))
    if drawn > 1:
        assert drawn <= left  # what is not there is not drawn
        if team > 1:
            share = left / team
            assert drawn <= share
            if drawn > share / (2 if least is None else 8):  # else the others can make up for it
                assert drawn <= LEAST_ITEMS and drawn <= speed * LEAST_S


@pytest.mark.parametrize("team", [2, 16, 64, 1024])
def test_dear_items_are_drawn_one_by_one(team: int) -> None:
    # An item that takes longer than half the least time: nothing is gained by drawing two.
    for left in (1, 10, 100, 4096):
        assert next_draw(1, 1 / (LEAST_S * 0.6), left, team, LEAST_ITEMS) <= max(
            1, left // (8 * team)
        )


@pytest.mark.parametrize("team", [2, 8, 64])
@pytest.mark.parametrize("cost", [1e-6, 1e-4, 1e-2])
@pytest.mark.parametrize("items", [10, 75, 1000])
def test_a_least_draw_does_not_keep_the_others_waiting(items: int, cost: float, team: int) -> None:
    costs = [cost] * items
    without = makespan(costs, team, least=0)
    assert makespan(costs, team) <= without * 1.02 + 2 * LEAST_S


def test_few_cheap_items_take_fewer_draws() -> None:
    assert makespan([5e-7] * 75, 2) < 0.7 * makespan([5e-7] * 75, 2, least=0)


@pytest.mark.parametrize("team", [2, 4, 16])
def test_dear_items_after_cheap_ones_stay_balanced(team: int) -> None:
    costs = [1e-6] * 3700 + [3e-3] * 300
    ideal = sum(costs) / team
    assert makespan(costs, team) <= 1.1 * ideal + LEAST_ITEMS * 3e-3


def test_a_team_of_one_leaves_nothing_for_others() -> None:
    assert next_draw(1, 1e6, 300, 1, LEAST_ITEMS) == 16
    assert next_draw(64, 1e6, 300, 1, LEAST_ITEMS) == 300
    assert next_draw(64, 1e6, 300, 2, LEAST_ITEMS) == 18
