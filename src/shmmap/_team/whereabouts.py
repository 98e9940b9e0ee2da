"""Where submitted functions are after a worker has died: with whom, and which of them are to be put again.

Pure: no process, no pipe. Idle workers read one pipe, so nobody knows who has which function until the worker
notes it. The order in which the caller looks is part of the rule (see `after_death`), and was found with the
model in tests/unit/pipe_model.py, which explores every interleaving: docs/design/0043-one-pipe-for-all.md.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from .._wire import AT_PIPE


class Verdict(NamedTuple):
    """What has become of functions that are not finished."""

    lost: int
    """The one that the dead worker was in, 0 if none: it may have begun, and is never run again."""
    again: tuple[int, ...]
    """Those that nobody has, and that never began."""
    is_in_doubt: bool
    """Some function is just going from hand to hand, and may be one that nobody seems to have. Look again."""


def after_death(
    unfinished: Collection[int],
    taken: Collection[int],
    dead_taken: int = 0,
    dead_running: int = 0,
    *,
    has_moved: bool = False,
) -> Verdict:
    """Say where the functions are that were put into the pipe.

    *Requires*: after the death, first everything was taken out of the pipe that no worker had read; then the
    word of each other worker was read, which is in `taken`: the number of the function that it has, 0, or
    `AT_PIPE`; and last, what workers had told was taken. `unfinished` are those that are left then. In any
    other order, a function that moves on meanwhile is seen nowhere, and would run twice. Then come the two
    words of the dead worker. `has_moved`: a worker may have put a function back since before the first step.
    """
    lost = dead_taken if dead_taken == dead_running and dead_taken in unfinished else 0
    missing = [n for n in unfinished if n not in taken and n != lost]
    if (has_moved or AT_PIPE in taken) and any(n != dead_taken for n in missing):
        # What the dead one has noted nobody else can have.
        return Verdict(lost, tuple(n for n in missing if n == dead_taken), is_in_doubt=True)
    return Verdict(lost, tuple(missing), is_in_doubt=False)
