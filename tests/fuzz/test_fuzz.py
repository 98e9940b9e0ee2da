"""Calls drawn at random give what plain NumPy gives; ``SHMMAP_HEAVY=1`` draws for ten minutes."""

from __future__ import annotations

import os

import pytest

from .fuzzer import fuzz


@pytest.mark.unguarded("its pool of the standard library has descriptors of its own")
def test_drawn_cases_give_what_numpy_gives() -> None:
    """The same cases every time; ``python -m tests.fuzz`` looks for new ones."""
    count, findings = fuzz(0, 60, cases=80)
    assert not findings, "\n".join(findings)
    assert count > 10


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.unguarded("its pool of the standard library has descriptors of its own")
def test_more_of_them() -> None:
    count, findings = fuzz(80, 60, cases=320)
    assert not findings, "\n".join(findings)
    assert count > 40


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.unguarded("its pool of the standard library has descriptors of its own")
def test_drawn_cases_for_a_while() -> None:
    """Other cases, for a minute, or for ten."""
    _, findings = fuzz(10_000, 600 if os.environ.get("SHMMAP_HEAVY") else 60)
    assert not findings, "\n".join(findings)
