"""The caller's side of worker processes.

In reading order: `team` (what callers ask of it), `life` (when workers are started and ended), `workers`
(owns the processes) with `channels`, `sending` and `ending`, `link` and `known` (one worker as its caller
sees it), `roster` (who is alive: a pure state machine), `launch` (starts workers), `monitor` (the thread
that hears what workers say), `open_maps`, `inbox` (what workers made for results), `submissions` with
`submitted`, `resolving` and `whereabouts` (submitted functions), `relay` (what workers print comes out),
`run` (what a team and an open map know of each other), `registry` (all teams of the process).
"""

from .registry import finish_before, is_ending, refuse_at_exit, resolve_workers, unfinished
from .relay import emit
from .run import Death, Posting, Run
from .submitted import SubmittedFuture
from .team import WorkerTeam, entered, entered_team
