"""The pipe that all idle workers read, by its model: in every interleaving, nothing is lost or run twice."""

from __future__ import annotations

import pytest

from shmmap._team.whereabouts import Verdict, after_death
from shmmap._wire import AT_PIPE

from . import reading_model
from .pipe_model import Fault, Shortcut, begin, explore


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("workers", "functions", "kills", "cancels", "returns"),
    [(1, 2, 2, 1, 1), (2, 2, 2, 1, 0), (2, 2, 1, 0, 1), (2, 3, 1, 0, 0), (3, 2, 1, 0, 0)],
)
def test_every_interleaving(
    workers: int, functions: int, kills: int, cancels: int, returns: int
) -> None:
    assert explore(begin(workers, functions, kills, cancels, returns)) > 100


@pytest.mark.parametrize("shortcut", Shortcut)
def test_no_part_of_the_rule_can_be_left_out(shortcut: Shortcut) -> None:
    with pytest.raises(Fault):
        explore(begin(workers=2, functions=2, kills=1, cancels=1, returns=1), shortcut)


def test_what_the_dead_worker_had_begun_is_lost() -> None:
    assert after_death([1], [0], 1, 1) == Verdict(1, (), is_in_doubt=False)


def test_what_it_had_only_taken_is_put_again_at_once() -> None:
    assert after_death([1, 2], [AT_PIPE], 1, 0) == Verdict(0, (1,), is_in_doubt=True)
    assert after_death([1], [AT_PIPE], 1, 0) == Verdict(0, (1,), is_in_doubt=False)


def test_what_others_have_stays_with_them() -> None:
    assert after_death([1, 2], [2, 1], 0, 0) == Verdict(0, (), is_in_doubt=False)


def test_what_it_has_finished_is_not_lost() -> None:
    assert after_death([], [0], 1, 1) == Verdict(0, (), is_in_doubt=False)


@pytest.mark.parametrize("workers", [1, 2])
def test_every_result_is_read(workers: int) -> None:
    assert reading_model.explore(workers) > 50


@pytest.mark.parametrize("shortcut", reading_model.Shortcut)
def test_no_part_of_the_rule_of_reading_can_be_left_out(shortcut: reading_model.Shortcut) -> None:
    with pytest.raises(reading_model.Fault):
        reading_model.explore(2, shortcut)
