"""Verbs on every engine."""

from __future__ import annotations

import functools
from typing import Any

import pytest

import shmmap


@pytest.fixture
def preduce(engine: Any) -> Any:
    """`shmmap.preduce` on an engine, with two workers."""
    return functools.partial(shmmap.preduce, engine=engine, workers=2)
