"""Which cases of a test a plain run has; cases are stood in for by what is asked of them."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import sampling
from tests.sampling import sample

SLOW = pytest.mark.slow.mark


class Case:
    """A case of a test, as far as it is asked."""

    def __init__(self, params: dict[str, Any], *marks: Any, folder: str = "verbs") -> None:
        self.callspec = SimpleNamespace(params=params)
        self.path = Path(folder) / "test_x.py"
        self._marks = {mark.name: mark for mark in marks}

    def get_closest_marker(self, name: str) -> Any:
        return self._marks.get(name)


@pytest.fixture(autouse=True)
def _as_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "CASES", 3)


def cases(*marks: Any, folder: str = "verbs", **params: Any) -> list[Any]:
    rows = itertools.product(*params.values())
    return [Case(dict(zip(params, row, strict=True)), *marks, folder=folder) for row in rows]


def test_each_value_once() -> None:
    chosen = sample("test_x", cases(kind="ab", shape=["s", "t", "u"]))
    assert len(chosen) == 3
    assert {each.callspec.params["kind"] for each in chosen} == {"a", "b"}
    assert {each.callspec.params["shape"] for each in chosen} == {"s", "t", "u"}


def test_one_place_and_another_for_other_tests() -> None:
    places = [sample(f"test_{i}", cases(engine=["serial", "fork"])) for i in range(20)]
    assert all(len(each) == 1 for each in places)
    assert {each[0].callspec.params["engine"] for each in places} == {"serial", "fork"}


def test_not_too_many() -> None:
    many = range(9)
    assert len(sample("test_x", cases(kind=many))) == sampling.CASES
    assert len(sample("test_x", cases(pytest.mark.few(5).mark, kind=many))) == 5
    assert len(sample("test_x", cases(kind=many, folder="faults"))) == 1
    assert len(sample("test_x", cases(kind=many, folder="unit"))) == 9


def test_slow_ones_are_left_to_themselves() -> None:
    slow = Case({"kind": 1}, SLOW)
    assert sample("test_x", [slow]) == [slow]
    quick = Case({"kind": 2})
    assert sample("test_x", [slow, quick]) == [quick]


def test_without_parameters() -> None:
    plain = SimpleNamespace()
    assert sample("test_x", [plain]) == [plain]
