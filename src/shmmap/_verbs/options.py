"""The options of the four verbs: defaults, checks, and `config`, which sets them from outside."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from .._chunks import parse_chunksize
from .._engines import ENGINES, GivenEngine
from .._errors.arguments import as_int, as_seconds, check_word, describe
from .._interop.scalars import SCALARS
from .._system.imports import late_import
from .._team import WorkerTeam, resolve_workers
from .signatures import (
    UNCHANGED,
    Keywords,
    OnError,
    OutsideOptions,
    Progress,
    Schedule,
    StandIn,
    show_options,
)

if TYPE_CHECKING:
    from .kept import Checkpoint


@dataclass(frozen=True, slots=True)
class Options:
    """Options as they are used."""

    workers: int | None = None
    chunksize: int | str = "auto"
    schedule: Schedule = "dynamic"
    rng: Any = None
    on_error: OnError | StandIn = "raise"
    retries: int = 0
    timeout: float | None = None
    progress: Progress = False
    buffersize: int | None = None
    checkpoint: Checkpoint | None = None
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


_FIELDS = Options.__dataclass_fields__
DEFAULTS: dict[str, object] = {"workers": Options().workers, "engine": None}
"""All options in the order in which they are told of, with what they are if nobody says otherwise."""
DEFAULTS |= {name: getattr(Options(), name) for name, each in _FIELDS.items() if each.init}
OF_CHUNKS = {name: default for name, default in DEFAULTS.items() if name != "buffersize"}
"""Those of the verbs that give the function chunks."""
# Those that cannot change a result, so that a library called inside gives what it always gives.
_OUTSIDE = tuple([name for name in DEFAULTS if name in OutsideOptions.__annotations__])
_VERB_ONLY = ("axis", "out", "dtype", "combine", "initial")

# More items than any memory holds; what is computed from it stays within what the system counts.
_BUFFERSIZE_MAX = 1 << 40

EngineOption = str | WorkerTeam | Executor | GivenEngine | None
"""The option ``engine=``, checked. It is no part of `Options`, which are kept, and keep nothing alive."""

_BUILT_IN = Options()
_defaults: ContextVar[tuple[Options, EngineOption]] = ContextVar(
    "shmmap-config", default=(_BUILT_IN, None)
)

# Options of calls before, checked: most calls are written once and made often. Plain values only, so that
# nothing is kept alive; their types belong to the key, because 1 and True are equal.
_made: dict[Any, tuple[Options, Options]] = {}
_MADE_MOST = 256


def make_options(keywords: Keywords) -> tuple[Options, EngineOption]:
    """Options for one call, and the engine it asks for. `keywords` are the verb's own dictionary of them.

    Raises TypeError or ValueError for a name that is no option, or a value that makes no sense.
    """
    defaults, engine = _defaults.get()
    if not keywords:
        return defaults, engine
    if "engine" in keywords:
        given = keywords.pop("engine")
        engine = getattr(given, "_team", None)  # the workers of a `Team`, which it mostly is
        if type(engine) is not WorkerTeam:
            engine = _check_engine(given)
        if not keywords:
            return defaults, engine
    types = tuple(map(type, keywords.values()))
    if not SCALARS.issuperset(types):
        return _make_options(defaults, keywords), engine
    key = (*keywords.items(), types)
    made = _made.get(key)
    if made is not None and made[0] is defaults:
        return made[1], engine
    options = _make_options(defaults, keywords)
    if len(_made) < _MADE_MOST:
        _made[key] = defaults, options
    return options, engine


def _make_options(defaults: Options, keywords: Mapping[str, Any]) -> Options:
    for name in keywords:
        if name not in DEFAULTS:
            if name in _VERB_ONLY:
                raise TypeError(f"this function takes no {name!r}; others do")
            with late_import:
                from .._errors.words import explain_keyword

            raise TypeError(explain_keyword(name, keywords[name], (*DEFAULTS, *_VERB_ONLY)))
    return replace(defaults, **_checked(keywords))


def _checked(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Options as they are used, from options as they are written."""
    return {name: _CHECKS[name](value) for name, value in keywords.items()}


def _check_workers(workers: Any) -> int | None:
    if workers is not None:
        resolve_workers(workers)
    return workers  # type: ignore[no-any-return]


def _check_engine(engine: Any) -> EngineOption:
    if engine is None or isinstance(engine, Executor):
        team = getattr(engine, "_team", None)
        return team if isinstance(team, WorkerTeam) else engine  # the workers of a `Team`
    if isinstance(engine, str):
        if engine in ENGINES:
            return engine
        raise ValueError(
            f"engine must be {', '.join(map(repr, ENGINES))}, a Team, an Executor, Nodes, or a client of "
            f"dask.distributed, not {engine!r}"
        )
    given = getattr(engine, "_engine", None)  # that of `Nodes`
    if isinstance(given, GivenEngine):
        return given
    distributed = sys.modules.get("distributed")  # which is there if a client of it is
    if distributed is not None and isinstance(engine, distributed.Client):
        with late_import:
            from .._nodes import engine_of

        return engine_of(engine)
    raise TypeError(
        "engine must be a name, a Team, a concurrent.futures.Executor, Nodes, or a client of "
        f"dask.distributed, not {describe(engine)}"
    )


def _check_chunksize(chunksize: Any) -> Any:
    parse_chunksize(chunksize, 1, 1, False)
    return chunksize


def _check_schedule(schedule: Any) -> str:
    check_word(schedule, "schedule", ("dynamic", "static"))
    return schedule  # type: ignore[no-any-return]


def _check_on_error(on_error: Any) -> Any:
    if callable(on_error) or (isinstance(on_error, str) and on_error in ("raise", "continue")):
        return on_error
    wrong = ValueError if isinstance(on_error, str) else TypeError
    raise wrong(
        "on_error must be 'raise', 'continue' or a function (exc, start, stop) -> value, not "
        f"{describe(on_error)}"
    )


def _check_timeout(timeout: Any) -> float | None:
    return None if timeout is None else as_seconds(timeout, "timeout")


def _check_progress(progress: Any) -> Any:
    if isinstance(progress, (bool, str)) or callable(progress):
        return progress
    raise TypeError(
        "progress must be True, False, a description, or a function (done, total), not "
        f"{describe(progress)}"
    )


def check_buffersize(buffersize: Any) -> int | None:
    """The option ``buffersize=``, if it is one."""
    if buffersize is None:
        return None
    return min(as_int(buffersize, "buffersize", 1, kinds="an int or None"), _BUFFERSIZE_MAX)


def _check_wait(wait: Any) -> bool:
    if isinstance(wait, (bool, np.bool_)):
        return bool(wait)
    raise TypeError(f"wait must be True or False, not {describe(wait)}")


def _check_checkpoint(checkpoint: Any) -> Any:
    if checkpoint is None:
        return None
    with late_import:
        from .kept import check_checkpoint

    return check_checkpoint(checkpoint)


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "workers": _check_workers,
    "chunksize": _check_chunksize,
    "schedule": _check_schedule,
    "rng": lambda rng: rng,  # drawn from when the map begins
    "on_error": _check_on_error,
    "retries": lambda retries: as_int(retries, "retries", 0),
    "timeout": _check_timeout,
    "progress": _check_progress,
    "buffersize": check_buffersize,
    "checkpoint": _check_checkpoint,
    "wait": _check_wait,
}
"""For each option: what gives the value to use, or refuses it."""


@show_options(dict.fromkeys(_OUTSIDE, UNCHANGED))
@contextmanager
def config(**options: Unpack[OutsideOptions]) -> Iterator[None]:
    """Set options for the code inside, calls by libraries included.

    It takes those options that cannot change a result. What is not given stays as it is.

    Parameters
    ----------
    workers : int, optional
        How many take part; None or ``-1``: all usable cores.
    engine : {'serial', 'threads', 'processes', 'fork'}, Team, Executor, Nodes or Client, optional
        Where maps run that do not say it themselves.
    schedule : {'dynamic', 'static'}
        Whether workers draw chunks as they go, or have one contiguous share each.
    retries : int
        How often a range that failed, got stuck or was lost is run again.
    timeout : float, optional
        Seconds that one call of the function may take.
    progress : bool, str or callable
        A progress bar, one with a description, or a function that gets ``(done, total)``.

    Examples
    --------
    >>> import shmmap
    >>> with shmmap.config(workers=2, engine="threads"):
    ...     shmmap.pmap(lambda v: v + 1, [1, 2, 3])
    [2, 3, 4]
    """
    given: dict[str, Any] = {**options}
    for name in given:
        if name not in _OUTSIDE:
            if name in DEFAULTS:
                raise TypeError(
                    f"config does not take {name!r}, which can change a result; it takes "
                    f"{', '.join(_OUTSIDE)}"
                )
            with late_import:
                from .._errors.words import explain_keyword

            raise TypeError(explain_keyword(name, given[name], _OUTSIDE, "config"))
    defaults, engine = _defaults.get()
    if "engine" in given:
        engine = _check_engine(given.pop("engine"))
    token = _defaults.set((replace(defaults, **_checked(given)), engine))
    try:
        yield
    finally:
        _defaults.reset(token)
