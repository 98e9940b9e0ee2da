"""Where a function is just now: `current`. Whoever runs a kernel enters it here for the time of the map.

Nothing is noted per item: see docs/design/0026-position-is-told-when-asked.md.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Context:
    """Where in a map a function is; what :func:`current` returns."""

    __module__ = "shmmap"

    start: int
    """First index of the chunk."""
    stop: int
    """The index after its last one."""
    index: int | None
    """Index of the item, for a `pmap`; None for the other verbs."""
    rank: int | None
    """Number of the worker within its team, from 0; 0 on ``"serial"``, None on another library's Executor."""
    attempt: int
    """How often this call, or its chunk, was begun before, or may have been: by ``retries=``, or by a worker
    that died."""


Where = Callable[[int | None], Context]

_running: ContextVar[tuple[Where, int | None] | None] = ContextVar("shmmap-current", default=None)


def current() -> Context | None:
    """Tell a function that is being mapped where it is.

    Returns
    -------
    Context or None
        With `start`, `stop`, `index`, `rank` and `attempt`; None outside a map, so that a function can
        be called by itself, too. Threads that the function starts are outside.

    Notes
    -----
    It costs nothing unless it is called. Results should not depend on `rank` or `attempt`, or equal calls
    no longer give equal results.

    Examples
    --------
    >>> import shmmap
    >>> shmmap.pmap(lambda name: (shmmap.current().index, name), ["a", "b"])
    [(0, 'a'), (1, 'b')]
    >>> shmmap.current() is None
    True
    """
    running = _running.get()
    return None if running is None else running[0](running[1])


def enter_map(where: Where, rank: int | None) -> None:
    """Begin a map, in a process or context that serves one at a time."""
    _running.set((where, rank))


def leave_map() -> None:
    _running.set(None)


class running:
    """A context of a map, which may be inside another."""

    __slots__ = ("_here", "_token")

    def __init__(self, where: Where, rank: int | None) -> None:
        self._here = where, rank

    def __enter__(self) -> None:
        self._token = _running.set(self._here)

    def __exit__(self, *exc_info: object) -> None:
        _running.reset(self._token)
