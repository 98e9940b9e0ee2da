"""What becomes of results in the caller, without any engine."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from shmmap._chunks.job import Form, Job
from shmmap._chunks.ledger import Mark
from shmmap._chunks.plan import Plan
from shmmap._results.arrivals import Arrivals
from shmmap._results.collect import Collector
from shmmap._results.pieces import ABSENT
from shmmap._results.stand_ins import StandIn, substitute


def make_collector(gather: bool = False, **changes: Any) -> Collector:
    """For eight items in chunks of two."""
    job = Job(
        inputs=(),
        out=None,
        seed=None,
        first=0,
        verb="items",
        gather=gather,
        plan=Plan(8, 2),
        axis=0,
        dtypes=None,
        timeout=None,
        keep_going=True,
        retries=0,
        may_join=False,
    )
    return Collector(job._replace(**changes))


def column(*values: Any) -> tuple[str, tuple[Any, ...]]:
    return "array", (np.array(values),)


def test_the_output_takes_the_form_of_the_first_piece_and_the_dtype_of_all() -> None:
    collector = make_collector()
    collector.add([(1, 2, column(0.5, 1.5)), (0, 1, column(1, 2))])
    collector.add([(2, 4, column(3, 4, 5, 6))])
    assert collector.finish().tolist() == [1, 2, 0.5, 1.5, 3, 4, 5, 6]


def test_what_is_in_place_stays_where_the_output_is_widened() -> None:
    collector = make_collector()
    _, (first,) = collector.allocate_output(Form("array", (((), np.dtype(int)),)))
    first[:6] = range(6)
    collector.add([(3, 4, column(0.5, 1.5))])
    assert collector.finish().tolist() == [0, 1, 2, 3, 4, 5, 0.5, 1.5]


def test_what_fits_is_put_where_it_belongs_at_once() -> None:
    collector = make_collector()
    collector.allocate_output(Form("array", (((), np.dtype(int)),)))
    collector.add([(1, 3, column(2, 3, 4, 5))])
    assert not collector.pieces and collector.pieces.count() == 2
    assert collector.value_of(2, Mark.HANDED, over=False).tolist() == [4, 5]
    assert collector.value_of(0, Mark.PENDING, over=False) is ABSENT


def test_stand_ins_widen_the_output_like_results() -> None:
    collector = make_collector()
    _, (first,) = collector.allocate_output(Form("array", (((), np.dtype(np.int32)),)))
    first[:] = range(8)
    substitute(collector, [StandIn(1, 2, 0), StandIn(4, 6, 0.5), StandIn(7, 8, None)])
    result = collector.finish()
    assert result.dtype == float
    np.testing.assert_array_equal(result, [0, 0, 2, 3, 0.5, 0.5, 6, np.nan])


def test_a_stand_in_that_does_not_fit_names_its_indices() -> None:
    collector = make_collector()
    collector.allocate_output(Form("array", (((), np.dtype(int)),)))
    with pytest.raises(ValueError, match="does not stand in") as caught:
        substitute(collector, [StandIn(2, 4, [1, 2, 3])])
    assert "[2, 4)" in caught.value.__notes__[0]


def test_results_of_another_kind_name_their_indices() -> None:
    collector = make_collector()
    collector.add([(0, 1, column(1, 2)), (1, 2, (tuple, (np.zeros(2), np.zeros(2))))])
    with pytest.raises(TypeError) as caught:
        collector.finish()
    assert caught.value.__notes__ == ["for indices [2, 4)"]


def test_a_part_of_a_list_is_given_once_and_never_looks_lost() -> None:
    collector = make_collector(gather=True)
    collector.listen()
    collector.add([(0, 2, [1, 2, 3, 4])])
    assert collector.value_of(1, Mark.HANDED, over=False) == [3, 4]
    assert collector.pieces.give(1) and not collector.pieces.give(1)
    collector.take_marks(bytes([Mark.HANDED, Mark.HANDED]))
    with pytest.raises(RuntimeError, match="did not arrive"):
        collector.take_marks(bytes([Mark.HANDED] * 3))


def test_news_wake_who_waits_and_are_not_missed() -> None:
    arrivals = Arrivals()
    before = arrivals.count
    threading.Timer(0.05, arrivals.tell).start()
    began = time.monotonic()
    arrivals.wait(before, 30)
    arrivals.wait(before, 30)  # told already
    assert time.monotonic() - began < 20 and arrivals.count == before + 1
    arrivals.wait(arrivals.count, 0.01)


def test_a_list_is_put_together_of_runs_whatever_came_first() -> None:
    collector = make_collector(gather=True)
    collector.add([(3, 4, [7, 8])])
    collector.add([(0, 2, [1, 2, 3, 4])])
    assert len(collector.pieces.in_order()) == 2, "a run stays in one piece"
    assert collector.finish() == [1, 2, 3, 4, None, None, 7, 8]
    collector.add([(2, 3, [5, 6])])
    assert collector.finish() == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("again", [(0, 1), (1, 2), (2, 4), (1, 3), (0, 4)])
def test_what_is_told_again_replaces_what_was_told(again: tuple[int, int]) -> None:
    """By workers that died before they had marked it; pieces need not be cut alike."""
    first, last = again
    expected = [i + 10 * (2 * first <= i < 2 * last) for i in range(8)]
    runs = [(0, 1, [0, 1]), (1, 4, [2, 3, 4, 5, 6, 7])]
    for listened_to in (False, True):
        collector = make_collector(gather=True)
        if listened_to:
            collector.listen()
        collector.add(runs)
        collector.add([(first, last, expected[2 * first : 2 * last])])
        assert collector.finish() == expected and collector.pieces.count() == 4
    floats = make_collector()
    floats.add([(a, b, column(*map(float, values))) for a, b, values in runs])
    floats.add([(first, last, column(*map(float, expected[2 * first : 2 * last])))])
    assert floats.finish().tolist() == expected and floats.pieces.count() == 4
