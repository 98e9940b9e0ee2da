"""Results of chunks arrive as they were, however they are pickled."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from shmmap._wire.results import pack_pieces
from shmmap._wire.unpickling import unpack


def share_nothing(a: Any) -> None:
    """No array lies in shared memory."""


def is_same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and pickle.dumps(a) == pickle.dumps(b)


NUMBERS = [np.dtype(code).type for code in "efdFDbhilBHIL"]


@pytest.mark.parametrize(
    "values",
    [
        [1, 2.5, "three", b"four", None, True, 5j],
        *[[kind(3), kind(0), kind(1)] for kind in NUMBERS],
        [np.float64("nan"), np.float64(-0.0)],
        [np.float64(1), np.float32(1)],
        [np.bool_(True)],
        [np.float64(1), 1.0],
        [np.arange(3), np.ones(())],
        [np.str_("a"), np.datetime64("2020", "D")],
        [(1, 2), [3]],
        [],
    ],
    ids=repr,
)
def test_items_arrive_as_they_were(values: list[Any]) -> None:
    ((first, last, got),) = unpack(pack_pieces([(2, 5, values)], share_nothing)[0])
    assert (first, last, type(got), len(got)) == (2, 5, list, len(values))
    assert all(map(is_same, got, values))


def test_partials_and_several_runs_arrive_as_they_were() -> None:
    pieces = [(0, 1, 2.5), (1, 2, np.float64(2.5)), (2, 3, np.arange(2)), (5, 7, [1, 2])]
    got = unpack(pack_pieces(pieces, share_nothing)[0])
    assert [each[:2] for each in got] == [each[:2] for each in pieces]
    assert all(is_same(a[2], b[2]) for a, b in zip(got, pieces, strict=True))
    numbers = [(0, 2, [np.int8(1), np.int8(2)]), (2, 3, 4), (3, 5, ["a", "b"])]
    packed, is_plain = pack_pieces(numbers, share_nothing)
    got = pickle.loads(packed)
    assert is_plain and got == numbers and type(got[0][2][0]) is np.int8
