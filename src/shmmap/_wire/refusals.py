"""What to say of something that cannot be sent to workers: which part of it, and what to write instead.

The part is what was pickled last before that failed; its name is found by going through what the object
consists of: the variables and defaults of a function, the arguments of a partial, attributes, items.

Advice must be safe, so no other engine is advised for a handle (an open file, a connection): processes forked
from the caller, and threads, would share its position or its state, and read wrong data. Only where nothing
but locks is in the way, what they are made for is named.
"""

from __future__ import annotations

import functools
import io
import logging
import sys
import types
from collections import deque
from collections.abc import Iterator

from .._code.modules import MAINS
from .._code.namespaces import attributes_of, cells_of, defaults_of, globals_of
from .._errors.exceptions import name_of
from .pickling import are_plain, find_unpicklable

# Objects that are gone through to find a part.
_MOST = 20_000
_KEY_LENGTH = 30

_FOR_FORKS = (
    "multiprocessing.synchronize",
    "multiprocessing.queues",
    "multiprocessing.sharedctypes",
)
_FOR_THREADS = frozenset(
    "lock RLock _RLock Condition Event Semaphore BoundedSemaphore Barrier Queue LifoQueue PriorityQueue "
    "SimpleQueue".split()
)

_OPEN = (
    "Open it inside the function, by path or by name, or once per worker in a Team's initializer: a handle "
    "that several workers share reads wrong data"
)
_STORED = "Pass it as an input, have results written into it by out=, or open it inside the function, by path"
_CREATE = "Create or open it inside the function, or once per worker in a Team's initializer"
_INHERIT = (
    "It reaches processes that are forked from this one alone: give it to the initializer of a "
    "Team(start='fork'), and keep it there in a global"
)
_STAY = (
    "It works inside one process alone: use engine='threads'; or take one of multiprocessing, give it to the "
    "initializer of a Team(start='fork'), and keep it there in a global"
)


def cannot_send(what: str, obj: object, exc: Exception) -> Exception:
    """The error for what does not pickle: a function, a partial of one, or an object.

    `what` is what the user knows it as.
    """
    if isinstance(exc, MemoryError):  # there was none for a copy
        return exc
    locks: list[object] = []

    def is_lock(part: object) -> bool:
        found = _is_for_forks(part) or _is_for_threads(part)
        if found:
            locks.append(part)
        return found

    start = f"{what} cannot be sent to worker processes: "
    culprit = find_unpicklable(obj, is_lock)
    if culprit is None and not locks:  # it pickles now
        return TypeError(f"{start}{exc}. {_CREATE}")
    found = locks[0] if culprit is None else culprit
    path = next((path for path, part in _walk(obj) if part is found), "")
    if culprit is not None:
        instead = _OPEN if _is_handle(culprit) else _CREATE
        if type(found).__module__.startswith("h5py."):
            instead = _STORED
    elif all(map(_is_for_forks, locks)):
        instead = _INHERIT
    else:  # a part of another object may belong to whatever else that is
        instead = _CREATE if "." in path.removeprefix("self.") else _STAY
    kind = f"{type(found).__module__}.{type(found).__qualname__}".removeprefix("builtins.")
    if path:
        which = f"{path} is of type {kind}, which"
    else:
        which = (
            f"it is of type {kind}, which" if found is obj else f"something of type {kind} in it"
        )
    return TypeError(f"{start}{which} does not pickle ({exc}). {instead}")


def is_sendable(obj: object) -> bool:
    """Whether an object pickles."""
    return find_unpicklable(obj, lambda part: False) is None


def is_inheritable(obj: object) -> bool:
    """Whether all that does not pickle in an object is made for processes that are forked from this one."""
    return find_unpicklable(obj, _is_for_forks) is None


def refuse_open_files(func: object) -> None:
    """Refuse a function for workers that are forked, if it has an open file of the caller's.

    They would share the file's position, and what they write into its buffer is lost. Raises TypeError,
    naming the file's variable.
    """
    for path, part in _walk(func):
        if _is_open_file(part):
            raise TypeError(
                f"{name_of(func)} cannot be run in forked processes: {path or 'it'} is an open file, whose "
                f"position they would share. {_OPEN}"
            )


def _is_for_forks(part: object) -> bool:
    kind = type(part)
    # Values and arrays without a lock are plain objects of ctypes, in memory of `multiprocessing`.
    return kind.__module__ in _FOR_FORKS or (
        type(kind).__module__ == "_ctypes" and hasattr(part, "_wrapper")
    )


def _is_for_threads(part: object) -> bool:
    kind = type(part)
    module = kind.__module__.strip("_")
    return kind.__name__ in _FOR_THREADS and module in ("thread", "threading", "queue")


def _is_handle(part: object) -> bool:
    if issubclass(type(part), (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType)):
        return False  # which have a method of that name
    try:
        return any(hasattr(part, name) for name in ("close", "fileno", "cursor", "file"))
    except Exception:
        return False


def _is_open_file(part: object) -> bool:
    # By its type: a proxy says that it is what it stands for, and fails where that is gone.
    if not issubclass(type(part), io.IOBase) or part in _standard_streams():
        return False
    assert isinstance(part, io.IOBase)
    try:
        part.fileno()
        return not part.closed
    except Exception:  # in memory, or closed
        return False


def _standard_streams() -> list[object]:
    streams = (sys.stdin, sys.stdout, sys.stderr, sys.__stdin__, sys.__stdout__, sys.__stderr__)
    return [each for stream in streams for each in (stream, getattr(stream, "buffer", None))]


# ---------------------------------------------------------------- what an object consists of


def _walk(root: object) -> Iterator[tuple[str, object]]:
    """An object and its parts, the nearest first, each with what the user would write for it."""
    seen: dict[int, object] = {}  # which keeps what it has seen, so that no address comes twice
    waiting: deque[tuple[str, object]] = deque([("", root)])
    while waiting and len(seen) < _MOST:
        path, obj = waiting.popleft()
        if id(obj) in seen:
            continue
        seen[id(obj)] = obj
        yield path, obj
        try:
            waiting.extend(_parts(path, obj))
        except Exception:  # an object of the user's that does not let itself be looked at
            continue


def _parts(path: str, obj: object) -> Iterator[tuple[str, object]]:
    if isinstance(obj, functools.partial):
        yield path, obj.func
        code = getattr(obj.func, "__code__", None)
        names = () if code is None else code.co_varnames[: code.co_argcount]
        for i, value in enumerate(obj.args):
            yield names[i] if i < len(names) else f"argument {i}", value
        yield from obj.keywords.items()
    elif isinstance(obj, types.MethodType):
        yield path or "self", obj.__self__
        yield path, obj.__func__
    elif isinstance(obj, types.FunctionType):
        where = f" in {obj.__name__}" if path else ""
        for variables in (cells_of(obj), defaults_of(obj), globals_of(obj), [*vars(obj).items()]):
            for name, value in variables:
                yield f"{name}{where}", value
        if hasattr(obj, "__wrapped__"):
            yield path, obj.__wrapped__
    elif isinstance(obj, type):
        if obj.__module__ in MAINS or "<locals>" in obj.__qualname__:
            for name, value in list(vars(obj).items()):
                yield f"{obj.__name__}.{name}", value
    elif isinstance(obj, logging.Logger):
        return  # which goes by its name; its handlers may have open files that are made to be shared
    elif isinstance(obj, (dict, list, tuple, set, frozenset)) and are_plain(
        obj.values() if isinstance(obj, dict) else obj
    ):
        return
    elif isinstance(obj, dict):
        for key, value in list(obj.items()):
            yield f"{path}[{repr(key)[:_KEY_LENGTH]}]", value
    elif isinstance(obj, (list, tuple)):
        for i, value in enumerate(obj):
            yield f"{path}[{i}]", value
    elif isinstance(obj, (set, frozenset)):
        for value in obj:
            yield f"an element of {path}", value
    elif not isinstance(obj, (types.ModuleType, str, bytes, int, float)):
        for name, value in attributes_of(obj):
            yield f"{path or 'self'}.{name}", value
        yield path, type(obj)
