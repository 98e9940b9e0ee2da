"""The teams of this process, what is finished before it ends, and how many workers an option means.

What must always hold: what was submitted is finished before the interpreter ends, unless a Ctrl-C says
otherwise; no team is still at work then, and none holds anything in a forked child.

The interpreter ends in three steps: it calls what `concurrent.futures`, and this module, have registered
with `threading`; it waits for the threads that are no daemons; it calls what was registered with `atexit`.
From the first step on, Python starts no threads any more (since 3.12), and nothing can be submitted.
"""

from __future__ import annotations

import atexit
import sys
import threading
import weakref
from typing import Any, Protocol

from .._errors.arguments import as_int
from .._interop.numpy_types import Int
from .._system.forks import at_fork
from .._system.interrupts import CleanUp
from .._system.limits import usable_cores
from .._wire import RANKS_MAX


class Endable(Protocol):
    """A team, as far as the ends of the interpreter and of forks go."""

    def finish(self) -> None:
        """Wait until everything submitted is done."""

    def end_now(self) -> None:
        """End all workers, whatever they do."""

    def close_in_child(self) -> None:
        """Let go of every descriptor."""


_teams: weakref.WeakSet[Endable] = weakref.WeakSet()


class Unfinished(Protocol):
    """A map that the end of the program waits for."""

    def wait(self) -> object:
        """Wait until it is over."""


unfinished: set[Unfinished] = set()
"""Maps that no thread may be waiting for; each takes itself out when it is over."""
_is_ending = False
_finished_before: weakref.WeakSet[type] = weakref.WeakSet()


def finish_before(executors: type) -> None:
    """Have maps on executors of a class finished before these refuse what is submitted.

    Their module has registered that with `threading` as it was imported, which may be after this one was;
    and what was registered last is called first.
    """
    if not _is_ending and executors not in _finished_before:
        _register(_finish_all)
        _finished_before.add(executors)


def is_ending() -> bool:
    """Whether the interpreter is about to end, so that no threads are started any more."""
    return _is_ending


def refuse_at_exit() -> None:
    """Refuse what could not be finished any more, in the words of `concurrent.futures`."""
    if _is_ending:
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")


def register_team(team: Endable) -> None:
    """Have a team ended at the interpreter's exit, and closed in forked children."""
    _teams.add(team)


def resolve_workers(workers: Int | None) -> int:
    """How many workers an option ``workers=`` means."""
    if type(workers) is int and 0 < workers <= RANKS_MAX:  # most calls
        return workers
    if workers is None:
        return usable_cores()
    workers = as_int(workers, "workers")
    if workers == -1:
        return usable_cores()
    if workers < 1:
        raise ValueError(f"workers={workers}: give a positive number, or -1 for all usable cores")
    if workers > RANKS_MAX:
        raise ValueError(f"workers={workers}: at most {RANKS_MAX}")
    return workers


def _finish_all() -> None:
    """Wait for all that was submitted; a Ctrl-C ends the waiting."""
    global _is_ending
    _is_ending = True
    if _has_been_interrupted():
        return
    try:
        while unfinished:
            next(iter(unfinished)).wait()
        for team in list(_teams):
            team.finish()
    except BaseException as exc:
        with CleanUp(exc):
            _end_all()
        raise


def _has_been_interrupted() -> bool:
    """Whether it is a Ctrl-C that ends the program, which then need not finish anything."""
    if sys.flags.interactive or hasattr(sys, "ps1"):
        return False  # it may be one of long ago
    kind: object = getattr(sys, "last_type", None)
    return isinstance(kind, type) and issubclass(kind, KeyboardInterrupt)


def _end_all() -> None:
    with CleanUp(KeyboardInterrupt()):
        for team in list(_teams):
            team.end_now()


def _close_all_in_child() -> None:
    unfinished.clear()
    for team in list(_teams):
        team.close_in_child()
    _teams.clear()  # all of them are the parent's


try:
    # The public `atexit` comes too late: the threads that wait for maps would not be there any more.
    _register: Any = threading._register_atexit  # type: ignore[attr-defined]
    _register(_finish_all)
except RuntimeError:  # imported for the first time by something that is called at the end
    _is_ending = True
atexit.register(_end_all)
at_fork(after_in_child=_close_all_in_child)
