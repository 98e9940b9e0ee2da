"""Map functions over large NumPy arrays that live in shared memory.

>>> import numpy as np, shmmap
>>> x = shmmap.asshared(np.arange(12.0).reshape(4, 3))
>>> shmmap.pmap(np.sum, x)
array([ 3., 12., 21., 30.])

Arrays are ordinary `numpy.ndarray`s, whose memory every process reaches:

- `asshared(a)` puts an array there; `empty`, `zeros`, `ones`, `full` and their `*_like` make one there
- `load(path)` reads a ``.npy`` or ``.npz`` file into one, or maps the file
- `share(obj)` is for frames, sparse matrices, and any other object with large data

Maps go over arrays, lists, frames, and files that are larger than memory:

- `pmap(func, x)` calls ``func(item)``; `pmap_chunks(func, x)` calls ``func(block)``, for vectorised functions
- `preduce(func, x)` folds blocks and combines the results; `pmap_ranges(func, n)` calls ``func(start, stop)``
- arguments besides the items: ``functools.partial(func, scale=2)``
- inputs that every call gets whole: ``pmap(func, x, table, axis=(0, None))``

Options are the same for all: ``workers=4``, ``engine="threads"``, ``progress=True``, ``on_error="continue"``,
``rng=seed``. ``help(shmmap.pmap)`` has them all, and `config` sets them for a block of code. `profile` shows
where the time went.

A `Team` of workers is a `concurrent.futures.Executor`: SciPy takes its `map` as ``workers=``, samplers take
it as ``pool=``. If you have none, the library keeps one for you; `shutdown` ends that.

No ``if __name__ == "__main__"`` is needed, and functions may be lambdas, or defined in a notebook.
"""

# The folders, from top to bottom; each says in its own `__init__` what lives there, and imports from lower
# ones only:
#
# - `_verbs`: what a user calls (read `_verbs.items` first)
# - `_nodes`: maps over many machines
# - `_engines`: how chunks reach those that run them
# - `_team`: the caller's side of worker processes
# - `_results`: what becomes of a map's chunks in the caller; `_worker`: the worker's side;
#   `_profile`: where the time of maps went; `_checkpoint`: maps that survive a crash
# - `_chunks`: what is done with a chunk, on every engine
# - `_wire`: what crosses the process border
# - `_code`: the user's code and settings, as they are now
# - `_memory`: shared memory, and arrays in it
# - `_system`: the operating system and the interpreter; `_interop`: objects of other libraries
# - `_errors`: what is said when something is wrong

import importlib as _importlib
import sys as _sys
import typing as _typing

from ._errors.exceptions import (
    CheckpointMismatch,
    MapError,
    PerformanceWarning,
    RemoteError,
    SharedMemoryError,
    WorkerDied,
)
from ._system import limits as _limits  # noqa: F401
from ._system import witness as _witness
from ._system.imports import late_import as _late_import

if _typing.TYPE_CHECKING:
    from ._chunks import Context, current
    from ._engines import shutdown
    from ._memory import (
        adopt,
        asshared,
        empty,
        empty_like,
        full,
        full_like,
        is_shared,
        load,
        ones,
        ones_like,
        share,
        zeros,
        zeros_like,
    )
    from ._memory.exports import Handle, handle, register_reducers
    from ._nodes import Nodes, placed
    from ._profile.report import Report, profile
    from ._verbs import MapFuture, Team, config, pmap, pmap_chunks, pmap_ranges, preduce
    from ._verbs.kept import Checkpoint

__version__ = "0.2.0"

__all__ = [
    "Checkpoint",
    "CheckpointMismatch",
    "Context",
    "Handle",
    "MapError",
    "MapFuture",
    "Nodes",
    "PerformanceWarning",
    "RemoteError",
    "Report",
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
    "handle",
    "is_shared",
    "load",
    "ones",
    "ones_like",
    "placed",
    "pmap",
    "pmap_chunks",
    "pmap_ranges",
    "preduce",
    "profile",
    "register_reducers",
    "share",
    "shutdown",
    "zeros",
    "zeros_like",
]

if _witness.is_watched():
    _witness.start_witness()

# Everything else is imported when it is first asked for, and NumPy with it: a command line that prints its
# version does not wait for it. `limits` is imported above all the same, as it imports `resource`: where the
# current folder is searched, the program may have gone by then to one where others have put such a module.
_HOMES = {
    "Checkpoint": "_verbs.kept",
    "Context": "_chunks",
    "Handle": "_memory.exports",
    "MapFuture": "_verbs",
    "Nodes": "_nodes",
    "Report": "_profile.report",
    "Team": "_verbs",
    "adopt": "_memory",
    "asshared": "_memory",
    "config": "_verbs",
    "current": "_chunks",
    "empty": "_memory",
    "empty_like": "_memory",
    "full": "_memory",
    "full_like": "_memory",
    "handle": "_memory.exports",
    "is_shared": "_memory",
    "load": "_memory",
    "ones": "_memory",
    "ones_like": "_memory",
    "placed": "_nodes",
    "pmap": "_verbs",
    "pmap_chunks": "_verbs",
    "pmap_ranges": "_verbs",
    "preduce": "_verbs",
    "profile": "_profile.report",
    "register_reducers": "_memory.exports",
    "share": "_memory",
    "shutdown": "_engines",
    "zeros": "_memory",
    "zeros_like": "_memory",
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
        from ._errors.words import explain_attribute

    instead = explain_attribute(name)
    if instead is not None:
        return AttributeError(f"{text}: write {instead}")
    # With the module itself, Python adds the nearest name that there is.
    return AttributeError(text, name=name, obj=_sys.modules[__name__])


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
