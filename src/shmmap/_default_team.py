"""The default team: the warm one that serves every map without a team of its own."""

from __future__ import annotations

from . import _segment
from ._forks import at_fork, make_lock
from ._team import Team

__all__ = ["default_team", "shutdown"]

_default: Team | None = None
_default_lock = make_lock()


def default_team(workers: int) -> Team:
    """The default team, with at least that many workers."""
    global _default
    with _default_lock:
        if _default is None or not _default.is_usable():
            _default = Team(workers)
        _default.grow(workers)
        return _default


def shutdown() -> None:
    """End the default team and give back the memory kept for it; the next map starts another.

    Examples
    --------
    >>> import shmmap
    >>> shmmap.shutdown()
    """
    global _default
    with _default_lock:
        team, _default = _default, None
    if team is not None:
        team.shutdown(wait=True, cancel_futures=True)
    _segment.release_spare()


def _forget_in_child() -> None:
    # After all teams have been closed there: one that nobody else has would go with its descriptors open.
    global _default
    _default = None


at_fork(after_in_child=_forget_in_child)
