"""What these tests stand on: a team of one's own, and what a worker has in memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import shmmap


@pytest.fixture
def team() -> Iterator[shmmap.Team]:
    """Two workers, started clean: some of these libraries have threads that a fork leaves behind."""
    with shmmap.Team(workers=2) as team:
        yield team
