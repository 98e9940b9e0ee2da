"""What is concluded from reference counts, on the interpreter that runs the tests and on unknown ones."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap._memory import COUNTS, count_references, find_block, is_sole, refcounts

known = pytest.mark.skipif(not COUNTS.of_call, reason="this interpreter's counts are not known")


def ask(a: Any, alone: int) -> bool:
    """Asks as `_chunks.gather` does: a function that has the array as its parameter."""
    return is_sole(a, alone)


def make() -> Any:
    return np.zeros(3)


@known
def test_what_a_call_returns_is_sole() -> None:
    kept = make()
    # Not within the assertions: pytest would keep what is called there in variables of its own.
    answers = [ask(make(), COUNTS.of_call), ask((lambda: kept)(), COUNTS.of_call)]
    assert answers == [True, False]


@known
def test_what_one_variable_has_is_sole() -> None:
    a = make()
    assert ask(a, COUNTS.of_variable)
    other = a
    assert not ask(a, COUNTS.of_variable)
    del other
    assert ask(a, COUNTS.of_variable)


@known
@pytest.mark.parametrize("container", [tuple, list])
def test_what_one_container_has_is_sole(container: type) -> None:
    kept = make()
    pair = container([make(), kept])
    assert [ask(each, COUNTS.of_container) for each in pair] == [True, False]
    named = dict(zip("ab", pair, strict=True))
    del pair
    assert [ask(each, COUNTS.of_container) for each in named.values()] == [True, False]


@known
def test_a_view_is_sole_with_its_base() -> None:
    a = make()
    answers = [ask(make()[1:], COUNTS.of_call), ask(a[1:], COUNTS.of_call)]
    assert answers == [True, False]
    view = a[1:]
    assert not ask(view, COUNTS.of_variable)
    del a
    assert ask(view, COUNTS.of_variable)


def test_a_view_of_what_is_no_array_is_not_sole() -> None:
    buffer = bytearray(8)
    assert not ask(np.frombuffer(buffer), COUNTS.of_call)


@pytest.mark.parametrize("unknown", ["version", "implementation", "gil"])
def test_nothing_is_sole_where_counts_are_not_known(
    unknown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if unknown == "version":
        monkeypatch.setattr(sys, "version_info", (3, 16, 0, "final", 0))
    elif unknown == "implementation":
        monkeypatch.setattr(sys.implementation, "name", "pypy")
    else:
        monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    counts = refcounts._known_counts()
    monkeypatch.undo()
    assert set(counts) == {0}
    assert not ask(make(), counts.of_call)


def test_arrays_over_a_segment_are_counted() -> None:
    a = shmmap.zeros(1 << 18)
    block = find_block(a.__array_interface__["data"][0])
    assert block is not None
    segment = block.segment
    before = count_references(segment)
    views = [segment.root[i:] for i in range(3)]
    views.append(views[0][1:])  # NumPy has it refer to the root itself
    assert count_references(segment) == before + 4
    del views
    assert count_references(segment) == before
