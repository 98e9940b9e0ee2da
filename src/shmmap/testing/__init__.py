"""Tools for testing code that uses shmmap: a check of chunks, a leak guard, and faults with names.

`check_chunks` checks that a function for `pmap_chunks` gives the same wherever the chunks end.

`leak_guard` checks that a block of code gave back all it took: names, processes, descriptors and
shared memory. A *fault* is a function to map that misbehaves at one index, and returns its first
argument at every other; map it over ``numpy.arange(n)``, whose items are their own indices.

>>> import numpy as np, shmmap
>>> from shmmap.testing import Raise, leak_guard
>>> with leak_guard():
...     try:
...         shmmap.pmap(Raise(KeyError("seven"), at=7), np.arange(10), engine="serial")
...     except KeyError as error:
...         print(error)
'seven'

It stands on the public names and on the standard library, but for what `census` asks.
"""

from __future__ import annotations

from .check_chunks import ChunksDiffer, check_chunks
from .faults import (
    BadStr,
    CannotUnpickle,
    ChangeDirectory,
    CloseDescriptors,
    ExitNow,
    Fault,
    Flood,
    ForkAndLinger,
    ForkAndReturn,
    HoldGil,
    HugeError,
    IgnoreSignals,
    KillSelf,
    KillWhenPickled,
    KillWhenUnpickled,
    LibcExit,
    Raise,
    StartThread,
    StopSelf,
    UnpicklableError,
)
from .guard import Leak, leak_guard, wait_until

__all__ = [
    "BadStr",
    "CannotUnpickle",
    "ChangeDirectory",
    "ChunksDiffer",
    "CloseDescriptors",
    "ExitNow",
    "Fault",
    "Flood",
    "ForkAndLinger",
    "ForkAndReturn",
    "HoldGil",
    "HugeError",
    "IgnoreSignals",
    "KillSelf",
    "KillWhenPickled",
    "KillWhenUnpickled",
    "Leak",
    "LibcExit",
    "Raise",
    "StartThread",
    "StopSelf",
    "UnpicklableError",
    "check_chunks",
    "leak_guard",
    "wait_until",
]

for _name in __all__:  # for tracebacks and pickles, all of them are of this module
    globals()[_name].__module__ = __name__
