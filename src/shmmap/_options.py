"""The options of the four verbs: defaults, checks, and `config`, which sets them from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

import numpy as np

from . import _worker
from ._default_team import default_team
from ._engines import Engine
from ._imports import late_import
from ._team import Team
from ._teams import entered_team, resolve_workers

__all__ = ["Keywords", "Options", "Route", "config", "resolve_engine"]


class Keywords(TypedDict, total=False):
    """Options as they are written."""

    workers: int | None
    engine: str | Team | Executor | None
    chunksize: int | str
    schedule: str
    rng: Any
    on_error: str | Callable[[Exception, int, int], Any]
    retries: int
    timeout: float | None
    progress: bool | str | Callable[[int, int], object]
    buffersize: int | None
    wait: bool


@dataclass(frozen=True, slots=True)
class Options:
    """Options as they are used."""

    workers: int | None = None
    engine: str | Team | Executor | None = None
    chunksize: int | str = "auto"
    schedule: str = "dynamic"
    rng: Any = None
    on_error: str | Callable[[Exception, int, int], Any] = "raise"
    retries: int = 0
    timeout: float | None = None
    progress: bool | str | Callable[[int, int], object] = False
    buffersize: int | None = None
    wait: bool = True
    plan_key: tuple[Any, ...] = field(init=False, compare=False, repr=False)
    """What of them decides how a map is planned and checked; 1 and True are not alike."""

    def __post_init__(self) -> None:
        key = (
            self.chunksize,
            type(self.chunksize),
            self.schedule,
            self.retries,
            self.timeout,
            self.on_error == "raise",
        )
        object.__setattr__(self, "plan_key", key)


_NAMES = tuple(name for name, each in Options.__dataclass_fields__.items() if each.init)
# Those that cannot change a result, so that a library called inside gives what it always gives.
_OUTSIDE = ("workers", "engine", "schedule", "retries", "timeout", "progress")
_VERB_ONLY = ("axis", "out", "dtype", "combine", "initial")

_BUILT_IN = Options()
_defaults: ContextVar[Options] = ContextVar("shmmap-config", default=_BUILT_IN)


# Options of calls before, checked: most calls are written once and made often. Plain values only, so that
# nothing is kept alive; their types belong to the key, because 1 and True are equal.
_made: dict[Any, tuple[Options, Options]] = {}
_MADE_MOST = 256
_PLAIN = frozenset((int, float, str, bool, type(None)))


def make_options(keywords: Mapping[str, Any]) -> Options:
    """Options for one call.

    Raises
    ------
    TypeError, ValueError
        For a name that is no option, or a value that makes no sense.
    """
    defaults = _defaults.get()
    if not keywords:
        return defaults
    types = tuple(map(type, keywords.values()))
    if not _PLAIN.issuperset(types):
        return _make_options(defaults, keywords)
    key = (*keywords.items(), types)
    made = _made.get(key)
    if made is not None and made[0] is defaults:
        return made[1]
    options = _make_options(defaults, keywords)
    if len(_made) < _MADE_MOST and type(defaults.engine) in _PLAIN:
        _made[key] = defaults, options
    return options


def _make_options(defaults: Options, keywords: Mapping[str, Any]) -> Options:
    for name in keywords:
        if name not in _NAMES:
            raise TypeError(_explain_unknown(name))
    options = replace(defaults, **keywords)
    _check(options)
    return options


def _explain_unknown(name: str) -> str:
    import difflib

    if name in _VERB_ONLY:
        return f"this function takes no {name!r}; others do"
    close = difflib.get_close_matches(name, _NAMES + _VERB_ONLY, 1)
    guess = f" (did you mean {close[0]!r}?)" if close else ""
    return (
        f"{name!r} is not an option{guess}; an argument for the function goes through "
        f"functools.partial(func, {name}=...)"
    )


def _check(options: Options) -> None:
    if options.workers is not None:
        resolve_workers(options.workers)
    if options.schedule not in ("dynamic", "static"):
        raise ValueError(f"schedule must be 'dynamic' or 'static', not {options.schedule!r}")
    if not callable(options.on_error) and options.on_error not in ("raise", "continue"):
        raise ValueError(
            f"on_error must be 'raise', 'continue' or a function (exc, start, stop) -> value, not "
            f"{options.on_error!r}"
        )
    if isinstance(options.retries, bool) or not isinstance(options.retries, int):
        raise TypeError("retries must be an int")
    if options.retries < 0:
        raise ValueError("retries must not be negative")
    progress = options.progress
    if not (isinstance(progress, (bool, str)) or callable(progress)):
        raise TypeError(
            f"progress must be True, False, a description, or a function (done, total), not {progress!r}"
        )
    buffersize = options.buffersize
    if isinstance(buffersize, bool) or not isinstance(buffersize, (int, type(None))):
        raise TypeError("buffersize must be an int or None")
    if buffersize is not None and buffersize < 1:
        raise ValueError("buffersize must be at least 1")
    if options.timeout is not None and not options.timeout > 0:
        raise ValueError("timeout must be positive seconds, or None")


@contextmanager
def config(**options: Any) -> Iterator[None]:
    """Set options for the code inside, calls by libraries included.

    Parameters
    ----------
    **options
        `workers`, `engine`, `schedule`, `retries`, `timeout`, `progress`: those that cannot change a
        result.

    Examples
    --------
    >>> import shmmap
    >>> with shmmap.config(workers=2, engine="threads"):
    ...     shmmap.pmap(lambda v: v + 1, [1, 2, 3])
    [2, 3, 4]
    """
    for name in options:
        if name not in _OUTSIDE:
            reason = "can change a result" if name in _NAMES else "is not an option"
            raise TypeError(f"config does not take {name!r}, which {reason}; it takes {_OUTSIDE}")
    changed = replace(_defaults.get(), **options)
    _check(changed)
    token = _defaults.set(changed)
    try:
        yield
    finally:
        _defaults.reset(token)


Route = tuple[Engine, int, int]
"""Where a map goes: engine, workers, BLAS threads of each."""


def resolve_engine(options: Options) -> Route:
    """Where a call goes by its options."""
    engine = options.engine
    if engine is None and not _worker.is_worker:
        engine = entered_team()
        if engine is None:  # most calls
            return _on_default_team(resolve_workers(options.workers))
    workers = 0 if isinstance(engine, Team) else resolve_workers(options.workers)
    if isinstance(engine, str) and engine not in ("serial", "threads", "processes", "fork"):
        raise ValueError(
            f"engine must be 'serial', 'threads', 'processes', 'fork', a Team or an Executor, not "
            f"{engine!r}"
        )
    # Inside a worker everything is serial: no team of its own, no deadlock.
    nested = _worker.is_worker and (isinstance(engine, Team) or not isinstance(engine, Executor))
    if engine == "serial" or nested:
        with late_import:
            from ._engines._local import SerialEngine

        return SerialEngine(), 1, 1
    if engine == "threads":
        with late_import:
            from ._engines._local import ThreadsEngine

        return ThreadsEngine(), workers, 1
    if engine == "fork":
        with late_import:
            from ._engines._processes import ForkEngine

        return ForkEngine(), workers, 1
    if isinstance(engine, Executor) and not isinstance(engine, Team):
        with late_import:
            from ._engines._executor import ExecutorEngine

        return ExecutorEngine(engine), workers, 1
    if engine is not None and not isinstance(engine, (str, Team)):
        raise TypeError(
            f"engine must be a name, a Team or a concurrent.futures.Executor, not "
            f"{type(engine).__name__}"
        )
    if not isinstance(engine, Team):
        return _on_default_team(workers)
    with late_import:
        from ._engines._processes import ProcessEngine

    workers = engine.size
    if options.workers is not None and options.workers != -1:
        workers = min(resolve_workers(options.workers), engine.size)
    return ProcessEngine(engine), workers, engine.blas_threads


_default_engine: Any = None
"""The engine of the default team, while that is the same."""


def _on_default_team(workers: int) -> Route:
    global _default_engine
    engine = _default_engine
    if engine is None or engine.team.size < workers or not engine.team.is_usable():
        with late_import:
            from ._engines._processes import ProcessEngine

        engine = _default_engine = ProcessEngine(default_team(workers))
    return engine, workers, 1


def make_key(rng: Any) -> tuple[int, int] | None:
    """The Philox key that ``rng=`` stands for: two words drawn from the seed."""
    if rng is None:
        return None
    if isinstance(rng, np.random.Generator):
        words: Any = rng.integers(0, 2**64, size=2, dtype=np.uint64)
    else:
        if isinstance(rng, np.random.SeedSequence):
            sequence = rng
        elif isinstance(rng, bool):
            raise TypeError("rng must be a seed, a SeedSequence or a Generator")
        else:
            try:
                sequence = np.random.SeedSequence(rng)
            except (TypeError, ValueError) as exc:
                raise TypeError(
                    f"rng must be a seed, a SeedSequence or a Generator: {exc}"
                ) from None
        words = sequence.generate_state(2, np.uint64)
    return int(words[0]), int(words[1])
