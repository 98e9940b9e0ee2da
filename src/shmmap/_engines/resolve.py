"""Where a map goes by its options, and the default team, which serves maps without one of their own.

Engines are imported when they are first used.
"""

from __future__ import annotations

import functools
from concurrent.futures import Executor
from functools import cache
from typing import TYPE_CHECKING

from .._memory import release_spare
from .._system.forks import at_fork, make_lock
from .._system.imports import late_import
from .._team import WorkerTeam, entered_team, is_ending, resolve_workers
from .._worker.role import role
from .base import Engine, GivenEngine

if TYPE_CHECKING:
    from .processes import ProcessEngine

ENGINES = ("serial", "threads", "processes", "fork")

Route = tuple[Engine, int, int]
"""Where a map goes: engine, workers, BLAS threads of each."""


def resolve_engine(
    engine: str | WorkerTeam | Executor | GivenEngine | None, workers: int | None
) -> Route:
    """Where a call goes by its options ``engine=`` and ``workers=``."""
    if engine is None and not role.is_worker:
        engine = entered_team()
        if engine is None:  # most calls
            return _on_default_team(resolve_workers(workers))
    if isinstance(engine, WorkerTeam) and not role.is_worker:
        count = engine.workers.size
        if workers is not None and workers != -1:
            count = min(resolve_workers(workers), count)
        return process_engine()(engine), count, engine.blas_threads
    # Inside a worker everything is serial: no team of its own, no deadlock.
    nested = role.is_worker and not isinstance(engine, Executor)
    if engine == "serial" or nested or (is_ending() and engine in ("threads", "fork")):
        return _in_this_thread()
    if isinstance(engine, GivenEngine):
        return engine, engine.count(workers), 1
    count = resolve_workers(workers)
    if engine == "threads":
        with late_import:
            from .local import ThreadsEngine

        return ThreadsEngine(), count, 1
    if engine == "fork":
        with late_import:
            from .processes import ForkEngine

        return ForkEngine(), count, 1
    if isinstance(engine, Executor):
        with late_import:
            from .executor import ExecutorEngine

        return ExecutorEngine(engine), count, 1
    return _on_default_team(count)


@cache
def process_engine() -> type[ProcessEngine]:
    """The engine of worker processes, imported when it is first used."""
    with late_import:
        from .processes import ProcessEngine
    return ProcessEngine


@functools.cache
def _in_this_thread() -> Route:
    with late_import:
        from .local import SerialEngine

    return SerialEngine(), 1, 1


_default: ProcessEngine | None = None
"""The engine of the default team; changed under the lock."""
_default_lock = make_lock()


def _on_default_team(workers: int) -> Route:
    engine = _default
    if is_ending() and not (engine is not None and engine.team.has_workers):
        return _in_this_thread()  # Python starts no thread any more, which workers need
    if engine is None or engine.team.workers.size < workers or not engine.team.is_usable():
        engine = _grow_default(workers)
    return engine, workers, 1


def _grow_default(workers: int) -> ProcessEngine:
    """The engine of the default team, with at least that many workers."""
    global _default
    with _default_lock:
        if _default is None or not _default.team.is_usable():
            _default = process_engine()(WorkerTeam(workers))
        _default.team.grow(workers)
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
        engine, _default = _default, None
    if engine is not None:
        engine.team.end(cancel_waiting=True)
    release_spare()


def _forget_in_child() -> None:
    # After all teams have been closed there: one that nobody else has would go with its descriptors open.
    global _default
    _default = None


at_fork(after_in_child=_forget_in_child)
