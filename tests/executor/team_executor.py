"""A team under the names that CPython's own tests of executors use."""

from __future__ import annotations

from typing import Any

import shmmap


class TeamExecutor(shmmap.Team):
    """A `Team` of clean workers; which context of `multiprocessing` is wanted says nothing here."""

    start = "clean"

    def __init__(
        self, max_workers: int | None = None, mp_context: Any = None, **options: Any
    ) -> None:
        super().__init__(max_workers, start=self.start, **options)


class ForkedTeamExecutor(TeamExecutor):
    """The same with forked workers."""

    start = "fork"
