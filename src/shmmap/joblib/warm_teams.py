"""Warm teams: one for all calls alike, as joblib users know it from loky."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from .._interop.scalars import SCALARS
from .._system.blas import begin_with
from .._system.forks import make_lock
from .._team import WorkerTeam
from .._verbs import Team, workers_of

# Those that are kept: for loops in which two kinds of call take turns.
_TEAMS_MOST = 2
_IDLE_S = 300.0


class Kind(NamedTuple):
    """What makes one warm team another than the next."""

    size: int
    blas_threads: int
    variables: dict[str, str]
    """By which libraries are told how many threads they may have; numba and numexpr by these alone."""
    callers: dict[str, str | None]
    """What the caller has for these variables: what it changes of them later, workers are told."""
    idle_s: float | None
    initializer: Callable[..., object] | None
    initargs: tuple[object, ...]

    @classmethod
    def of(
        cls, size: int, blas_threads: int, variables: dict[str, str], options: dict[str, Any]
    ) -> Kind:
        """By the options of a backend."""
        return cls(
            size=size,
            blas_threads=blas_threads,
            variables=variables,
            callers={name: os.environ.get(name) for name in variables},
            idle_s=options.get("idle_worker_timeout") or _IDLE_S,
            initializer=options.get("initializer"),
            initargs=tuple(options.get("initargs") or ()),
        )

    def is_like(self, other: Kind) -> bool:
        """Whether a team of the one kind will do for the other: with the same objects as arguments."""
        if len(self.initargs) != len(other.initargs) or self.initializer != other.initializer:
            return False
        pairs = zip(self.initargs, other.initargs, strict=True)
        return self[:5] == other[:5] and all(
            a is b or (type(a) is type(b) and type(a) in SCALARS and a == b) for a, b in pairs
        )

    def make(self) -> WorkerTeam:
        """Make such a team; its workers are forked from a process that has joblib already."""
        team = Team(
            self.size,
            blas_threads=self.blas_threads,
            idle_timeout=self.idle_s,
            initializer=begin_with,
            initargs=(self.variables, self.initializer, *self.initargs),
            preload=("joblib",),
        )
        return workers_of(team)


_teams: list[tuple[Kind, WorkerTeam]] = []
"""The one that was used last is the last."""
_lock = make_lock()


def warm_team(kind: Kind) -> WorkerTeam:
    """A warm team for all calls alike; another may be let go, which ends once its calls are over."""
    with _lock:
        usable = [(its, team) for its, team in _teams if team.is_usable()]
        known = next((each for each in usable if each[0].is_like(kind)), None)
        if known is None:
            known = kind, kind.make()
        others = [each for each in usable if each is not known]
        _teams[:] = [*others[1 - _TEAMS_MOST :], known]
        return known[1]


def shutdown() -> None:
    """End the warm teams of the backend, once calls that use them are over; the next call starts new ones.

    Without it they are let go when they have been idle for `idle_worker_timeout` seconds.

    Examples
    --------
    >>> import shmmap.joblib
    >>> shmmap.joblib.shutdown()
    """
    with _lock:
        teams = [team for _, team in _teams]
        _teams.clear()
    for team in teams:
        team.end()
