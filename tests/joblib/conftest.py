"""Each test begins and ends without warm teams of the backend."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _no_warm_teams(request: pytest.FixtureRequest, _guard: None) -> Iterator[None]:
    yield
    if request.node.get_closest_marker("unguarded"):
        return
    backend = sys.modules.get("shmmap.joblib")
    if backend is not None:
        backend.shutdown()
