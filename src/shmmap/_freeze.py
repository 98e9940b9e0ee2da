"""Private arrays that a function captures are read-only while it runs in the caller's own process.

In a worker process a captured private array is a copy, to which a write would vanish, so it arrives
read-only. For the same to hold on every engine, the caller's own arrays are made read-only for the time of
a serial, threaded or forked map: then a write raises everywhere instead of depending on the engine.
"""

from __future__ import annotations

import functools
import gc
import types
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np

from ._handle import handle_of
from ._masked import mask_of
from ._packing import are_plain

__all__ = ["frozen"]

# Objects looked at; enough for any closure, small enough for the path of a call.
_MOST = 10_000


def _captured(*roots: Any) -> Iterator[Any]:
    """Arrays that objects refer to.

    Functions do by closure, default, partial, bound object or global of a script.
    """
    stack: list[Any] = list(roots)
    seen: set[int] = set()
    while stack and len(seen) < _MOST:
        obj = stack.pop()
        if id(obj) in seen:
            continue
        seen.add(id(obj))
        if isinstance(obj, np.ndarray):
            yield obj
            mask = mask_of(obj)
            if mask is not None:
                yield mask
        elif isinstance(obj, functools.partial):
            stack += [obj.func, *obj.args, *obj.keywords.values()]
        elif isinstance(obj, types.MethodType):
            stack += [obj.__func__, obj.__self__]
        elif isinstance(obj, types.FunctionType):
            stack += [*(obj.__defaults__ or ()), *(obj.__kwdefaults__ or {}).values()]
            for cell in obj.__closure__ or ():
                try:
                    stack.append(cell.cell_contents)
                except ValueError:
                    pass  # not filled yet
            # Functions of importable modules go by reference: their globals are the workers' own.
            if obj.__module__ == "__main__":
                stack += _globals(obj.__code__, obj.__globals__)
        elif isinstance(obj, (list, tuple, set)):
            few = list(islice(obj, _MOST))
            stack += [] if are_plain(few) else few
        elif isinstance(obj, dict):
            stack += obj.values()
        elif not isinstance(obj, (type, types.ModuleType)):
            # Attributes, slots, and what an object written in C holds, as a data frame its columns.
            stack += gc.get_referents(obj)


def _globals(code: types.CodeType, names: dict[str, Any]) -> list[Any]:
    found = [names[name] for name in code.co_names if name in names]
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            found += _globals(const, names)
    return found


@contextmanager
def frozen(func: Any, *given: Any) -> Iterator[None]:
    """Make private arrays read-only for a while: what `func` captures, and what lies in what it is given."""
    roots = [each for each in given if not isinstance(each, (np.ndarray, range))]
    if not isinstance(func, (np.ufunc, types.BuiltinFunctionType)):
        roots.append(func)
    arrays = [a for a in _captured(*roots) if a.flags.writeable and handle_of(a) is None]
    for a in arrays:
        a.flags.writeable = False
    try:
        yield
    finally:
        for a in arrays:
            a.flags.writeable = True
