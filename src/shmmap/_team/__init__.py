"""The caller's side of worker processes.

In reading order: `team` (runs of maps, life as a whole), `workers` (owns the processes), `link` (one worker
as its caller sees it), `roster` (who is alive: a pure state machine), `launch` (starts workers), `monitor`
(the thread that hears what workers say), `open_maps`, `inbox` (what workers made for results),
`submissions`, `run` (what a team and an open map know of each other), `registry` (all teams of the
process).
"""

from .registry import (
    entered_team,
    finish_before,
    is_ending,
    refuse_at_exit,
    resolve_workers,
    unfinished,
)
from .run import CallSpec, Death, Run
from .team import Team

__all__ = [
    "CallSpec",
    "Death",
    "Run",
    "Team",
    "entered_team",
    "finish_before",
    "is_ending",
    "refuse_at_exit",
    "resolve_workers",
    "unfinished",
]
