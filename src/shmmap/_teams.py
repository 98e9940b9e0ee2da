"""The teams of this process: all there are, the one that a ``with`` block has entered, and how many workers.

What must always hold: no team is still at work when the interpreter ends, and none holds anything in a
forked child.
"""

from __future__ import annotations

import atexit
import os
import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING

from ._arguments import as_int
from ._control import RANKS_MAX
from ._memory import usable_cores

if TYPE_CHECKING:
    from ._team import Team

__all__ = ["entered", "entered_team", "register", "resolve_workers"]

_teams: weakref.WeakSet[Team] = weakref.WeakSet()
entered: ContextVar[Team | None] = ContextVar("shmmap-team", default=None)
"""The team whose ``with`` block this is, which may have ended meanwhile."""


def register(team: Team) -> None:
    """Have a team ended at the interpreter's exit, and closed in forked children."""
    _teams.add(team)


def entered_team() -> Team | None:
    """The team whose ``with`` block this is."""
    team = entered.get()
    return team if team is not None and team.is_usable() else None


def resolve_workers(workers: int | None) -> int:
    """How many workers an option ``workers=`` means."""
    if type(workers) is int and 0 < workers <= RANKS_MAX:  # most calls
        return workers
    if workers is None or workers == -1:
        return usable_cores()
    workers = as_int(workers, "workers")
    if workers < 1:
        raise ValueError(f"workers={workers}: give a positive number, or -1 for all usable cores")
    if workers > RANKS_MAX:
        raise ValueError(f"workers={workers}: at most {RANKS_MAX}")
    return workers


def _end_all() -> None:
    for team in list(_teams):
        team.end_now()


def _close_all_in_child() -> None:
    for team in list(_teams):
        team.close_in_child()


atexit.register(_end_all)
os.register_at_fork(after_in_child=_close_all_in_child)
