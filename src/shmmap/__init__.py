"""Map functions over large NumPy arrays that live in shared memory.

>>> import numpy as np, shmmap
>>> x = shmmap.asshared(np.arange(12.0).reshape(4, 3))
>>> shmmap.pmap(np.sum, x)
array([ 3., 12., 21., 30.])

Where things are, in the order a newcomer should read: `_map` (the verbs and the picture of a call),
`_plan` (index ranges), `_worker` and `_kernel` (what a worker does), `_control` (what both sides see),
`_roster` (who is alive, purely), `_team` and `_crew` (the processes). Then `_segment` and `_array` (memory),
`_collect` and `_outcome` (results and failures), `_messages` and `_packing` (what crosses), `_engines`
(who runs it).
"""

import importlib as _importlib
import sys as _sys
import typing as _typing

from . import _witness
from ._array import (
    empty,
    empty_like,
    full,
    full_like,
    ones,
    ones_like,
    zeros,
    zeros_like,
)
from ._current import Context, current
from ._errors import MapError, PerformanceWarning, RemoteError, SharedMemoryError, WorkerDied
from ._imports import late_import as _late_import
from ._place import adopt, asshared, is_shared, load

if _typing.TYPE_CHECKING:
    from ._default_team import shutdown
    from ._future import MapFuture
    from ._map import pmap, pmap_chunks, pmap_ranges, preduce
    from ._options import config
    from ._share import share
    from ._team import Team

__version__ = "0.2.0"

__all__ = [
    "Context",
    "MapError",
    "MapFuture",
    "PerformanceWarning",
    "RemoteError",
    "SharedMemoryError",
    "Team",
    "WorkerDied",
    "adopt",
    "asshared",
    "config",
    "current",
    "empty",
    "empty_like",
    "full",
    "full_like",
    "is_shared",
    "load",
    "ones",
    "ones_like",
    "pmap",
    "pmap_chunks",
    "pmap_ranges",
    "preduce",
    "share",
    "shutdown",
    "zeros",
    "zeros_like",
]

if _witness.is_marked():
    _witness.start()

# Everything about processes is imported when it is first asked for: importing the library is then as quick
# as importing what its arrays need.
_HOMES = {
    "MapFuture": "_future",
    "Team": "_team",
    "config": "_options",
    "pmap": "_map",
    "pmap_chunks": "_map",
    "pmap_ranges": "_map",
    "preduce": "_map",
    "share": "_share",
    "shutdown": "_default_team",
}


def __getattr__(name: str) -> _typing.Any:
    if name not in _HOMES:
        raise _no_attribute(name)
    try:
        with _late_import:
            home: _typing.Any = _importlib.import_module(f".{_HOMES[name]}", __name__)
    except ImportError as exc:
        if "partially initialized" not in str(exc):
            raise
        home = None
    if not hasattr(home, name):  # a signal's handler, in the middle of an import
        if name == "shutdown":
            return lambda: None  # there is no team yet
        raise RuntimeError(
            f"shmmap.{name} is just being imported, and a signal handler has come in between: import it "
            f"before (from shmmap import {name}), or let the handler only note what is to be done"
        )
    value = globals()[name] = getattr(home, name)
    return value


def _no_attribute(name: str) -> AttributeError:
    # Tools probe modules for names of their own, which nobody is to be told about.
    text = f"module {__name__!r} has no attribute {name!r}"
    if name.startswith("_"):
        return AttributeError(text, name=name)
    with _late_import:
        from ._words import explain_attribute

    instead = explain_attribute(name)
    if instead is not None:
        return AttributeError(f"{text}: write {instead}")
    # With the module itself, Python adds the nearest name that there is.
    return AttributeError(text, name=name, obj=_sys.modules[__name__])


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
