"""The list of faults is complete: each of its 47 cases is a test that bears its number."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
CASES = range(1, 48)


def numbers(name: str) -> set[int]:
    """The cases in the name of a test: those in `Test1And4Kills`, or `test_16_forks`."""
    if match := re.match(r"test_(\d+)_", name):
        return {int(match[1])}
    if match := re.match(r"Test(\d+(?:And\d+)*)[A-Z]", name):
        return set(map(int, match[1].split("And")))
    return set()


@pytest.mark.quick
def test_every_case_is_there() -> None:
    found: set[int] = set()
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found |= numbers(node.name)
    assert found == set(CASES)
