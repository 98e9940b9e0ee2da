"""The list of faults in ``docs/design/faults.md`` and the tests agree: each names the other."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIST = ROOT / "docs/design/faults.md"
NUMBERED = re.compile(r"(?:Test(\d+(?:And\d+)*)(?=[A-Z])|test_(\d+)_)")


def listed() -> dict[int, set[str]]:
    """The tests of each fault, as the list has them."""
    faults: dict[int, set[str]] = {}
    for line in LIST.read_text(encoding="utf-8").splitlines():
        if start := re.match(r"(\d+)\. ", line):
            faults[int(start[1])] = tests = set()
        elif test := re.fullmatch(r" +- `(\S+)`", line):
            tests.add(test[1])
    return faults


def numbered() -> dict[int, set[str]]:
    """The tests of each fault, by their names."""
    faults: dict[int, set[str]] = {}
    for path in Path(__file__).parent.glob("test_*.py"):
        if path != Path(__file__):
            for name in names_in(path):
                if "::" not in name:
                    match = NUMBERED.match(name)
                    assert match is not None, f"{name} in {path.name} bears no number"
                    for number in (match[1] or match[2]).split("And"):
                        test = f"{path.relative_to(ROOT)}::{name}"
                        faults.setdefault(int(number), set()).add(test)
    return faults


def names_in(path: Path) -> set[str]:
    """The tests in a file: functions, classes, and methods as ``Class::method``."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef) and re.match(r"Test|\w+Suite$", node.name):
            names.add(node.name)
            names |= {f"{node.name}::{m.name}" for m in node.body if isinstance(m, ast.FunctionDef)}
    return names


def test_each_test_is_in_the_list_under_its_numbers() -> None:
    in_list = listed()
    for number, tests in numbered().items():
        assert tests <= in_list[number], number


def test_each_test_in_the_list_is_there() -> None:
    in_list = listed()
    assert list(in_list) == list(range(1, len(in_list) + 1))
    assert len(in_list) >= 47
    by_name = numbered()
    for number, tests in in_list.items():
        assert tests, number
        for test in tests:
            file, _, name = test.partition("::")
            assert name in names_in(ROOT / file), test
            if file.startswith("tests/faults/"):
                assert test in by_name[number], test
