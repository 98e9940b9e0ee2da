"""Few workers begin, and others are invited: who says that all have left, and whom the caller believes.

Every interleaving of a small map is gone through, step by step: in each of its steps a worker looks at, or
changes, one thing that is shared. What must hold: the caller does not take the map for over while one that
was asked to come has not left; and it always ends.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

AWAY, WORKS, COUNTED, IS_LAST, PARKED = range(5)
"""What a worker is at: not asked yet, in the map, counted as one that has left, about to say so, gone."""
WAITS, HAS_EXPECTED, HAS_INVITED, BELIEVES, OVER = range(5)


class World(NamedTuple):
    workers: tuple[int, ...]
    counts: tuple[int, ...]
    """How many had left by the count of each that has counted, itself included."""
    left: int
    expected: int
    pipe: int
    """Records that all have left."""
    caller: int


def _begin(team: int, first: int) -> World:
    workers = (WORKS,) * first + (AWAY,) * (team - first)
    return World(workers, (0,) * team, 0, first, 0, WAITS)


def _with(values: tuple[int, ...], at: int, value: int) -> tuple[int, ...]:
    return (*values[:at], value, *values[at + 1 :])


def _steps(world: World, *, looks_again: bool) -> list[World]:
    """What may come next. `looks_again`: as the caller does, which has invited others meanwhile."""
    found = []
    for k, at in enumerate(world.workers):
        if at == WORKS:
            left = world.left + 1  # counted by one atomic operation
            counts = _with(world.counts, k, left)
            found.append(
                world._replace(workers=_with(world.workers, k, COUNTED), counts=counts, left=left)
            )
        elif at == COUNTED:
            is_last = world.counts[k] >= world.expected
            then = IS_LAST if is_last else PARKED
            found.append(world._replace(workers=_with(world.workers, k, then)))
        elif at == IS_LAST:
            found.append(
                world._replace(workers=_with(world.workers, k, PARKED), pipe=world.pipe + 1)
            )
    if world.caller == WAITS and AWAY in world.workers:
        found.append(world._replace(expected=len(world.workers), caller=HAS_EXPECTED))
    if world.caller == HAS_EXPECTED:
        workers = tuple(WORKS if at == AWAY else at for at in world.workers)
        found.append(world._replace(workers=workers, caller=HAS_INVITED))
    if world.pipe and world.caller in (WAITS, HAS_INVITED):
        has_invited = world.caller == HAS_INVITED
        is_over = not (has_invited and looks_again) or world.left >= world.expected
        caller = OVER if is_over else world.caller
        found.append(world._replace(pipe=world.pipe - 1, caller=caller))
    return found


def _explore(team: int, first: int, *, looks_again: bool = True) -> str:
    """What goes wrong, if anything does."""
    seen, left = set(), [_begin(team, first)]
    while left:
        world = left.pop()
        if world in seen:
            continue
        seen.add(world)
        if world.caller == OVER:
            if WORKS in world.workers:
                return "over, and a worker is inside"
            continue
        steps = _steps(world, looks_again=looks_again)
        if not steps:
            return "it never ends"
        left += steps
    return ""


@pytest.mark.parametrize(("team", "first"), [(2, 1), (3, 1), (3, 2), (4, 1), (4, 3), (3, 3)])
def test_it_ends_and_not_before_all_have_left(team: int, first: int) -> None:
    assert _explore(team, first) == ""


def test_the_word_of_the_last_one_is_not_enough_once_others_were_invited() -> None:
    assert _explore(3, 1, looks_again=False) == "over, and a worker is inside"
