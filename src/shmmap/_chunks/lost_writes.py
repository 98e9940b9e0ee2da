"""What a function changes where it runs on copies is lost; that is noticed here, and said.

A list, dict or set that a function captures is a copy in a worker process, and so are its ``nonlocal`` and
``global`` variables, the attributes of its ``self`` and of classes that travel by value, iterators, and
generators of random numbers, of which each worker has one in the same state. A worker compares them after a
call with what they were before: their length and the identity of what is in them, down to a limit. It is a
warning and no error, since a captured dict that serves as a cache gives right results; what was None before,
or not there, is taken for such a cache, too. What a function is *given* may be changed freely.
"""

from __future__ import annotations

import functools
import opcode
import pickle
import types
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from operator import is_
from typing import Any, NamedTuple

from .._code.captured import BUFFERS, CONTAINERS, FILES, is_array, is_iterator, is_random, walk
from .._code.classes import times_set
from .._code.namespaces import attributes_of, cells_of, globals_of
from .._errors.exceptions import name_of
from .._errors.hints import depth_of_user
from .._interop.captured_stores import is_store

# Objects looked at, and elements compared in all: a tenth of what it costs to unpickle as many.
_MOST = 10_000

_OF_RANDOM = " (each draws the same random numbers from it: pass rng= to the map instead)"
# Gives the state of an object: its variables by name, its elements, or anything that compares equal. It is
# told how many elements it may look at.
_Look = Callable[[Any, int], Any]
_TIMES_SET = "times set"
_MISSING: object = object()
# Whose variables are told by names of their own.
_NAMED = (types.FunctionType, type)
_SETS = {opcode.opmap[name] for name in ("STORE_GLOBAL", "DELETE_GLOBAL", "STORE_DEREF")}


class _Watched(NamedTuple):
    """Something that is captured, as it was before a call."""

    name: str
    obj: Any
    look: _Look
    before: Any


class Watch:
    """What a function captures, as it was before a call."""

    def __init__(self, func: object) -> None:
        self._watched: list[_Watched] = []
        room = _MOST
        looks: dict[int, _Look] = {}
        for obj, name, is_inner in walk("", func, most=_MOST):
            # Who draws from a generator of random numbers does not matter; what else an object of a library
            # changes in itself does not matter to anybody else.
            if is_inner and not is_random(obj):
                continue
            if is_array(obj):
                # Others arrive read-only. One of Python objects may belong to a library, which writes into
                # it; this one does not.
                if obj.dtype.hasobject:
                    obj.setflags(write=False)
                continue
            with suppress(Exception):  # a class of the user's may do anything as it is looked at
                look = looks.get(id(type(obj))) or looks.setdefault(id(type(obj)), _look_for(obj))
                before = look(obj, room)
                room -= len(before)
                if before or type(before) is not dict:
                    self._watched.append(_Watched(name, obj, look, before))

    def __bool__(self) -> bool:
        return bool(self._watched)

    def changed(self) -> list[str]:
        """The variables whose content has changed since this was asked last, as they are told of."""
        names: dict[str, None] = {}
        for at, each in enumerate(self._watched):
            with suppress(Exception):
                if changed := list(_compare(each)):
                    advice = _OF_RANDOM if is_random(each.obj) else ""
                    names.update(dict.fromkeys(f"{name!r}{advice}" for name in changed))
                    self._watched[at] = each._replace(before=each.look(each.obj, _MOST))
        return list(names)


def _look_for(obj: object) -> _Look:
    """What gives the state of an object, to be compared later."""
    if isinstance(obj, types.FunctionType):
        return _of_function
    if isinstance(obj, type):
        return _of_class
    for kind in CONTAINERS:
        if isinstance(obj, kind):
            return functools.partial(_of_container, kind)
    if is_random(obj):
        return lambda obj, room: pickle.dumps(obj)
    if isinstance(obj, types.GeneratorType):
        return _of_generator
    if is_iterator(type(obj)):
        return _of_iterator
    if isinstance(obj, FILES):
        return lambda obj, room: obj.getvalue()
    if is_store(obj):
        return lambda obj, room: {}
    if hasattr(obj, "shape"):  # a frame of pandas, whose columns are read-only
        return lambda obj, room: repr(obj.shape)
    return lambda obj, room: dict(attributes_of(obj))


def _of_container(kind: Any, obj: Any, room: int) -> object:
    """The elements; only their number if there is no room."""
    # By the methods of the kind itself: a subclass may have others.
    if kind.__len__(obj) > room:
        return range(kind.__len__(obj))
    if kind in BUFFERS:
        return bytes(memoryview(obj).cast("B"))
    return [*kind.__iter__(obj), *(dict.values(obj) if kind is dict else ())]


def _of_function(func: Any, room: int) -> object:
    own = {f"{func.__name__}.{label}": value for label, value in vars(func).items()}
    if _sets_variables(func.__code__):
        own.update(cells_of(func))
        own.update(globals_of(func, nested=False))
    return own


def _of_class(cls: type, room: int) -> object:
    return {_TIMES_SET: times_set(cls)} | {
        f"{cls.__name__}.{label}": value
        for label, value in vars(cls).items()
        if not label.startswith("__")
    }


def _of_generator(generator: Any, room: int) -> object:
    frame = generator.gi_frame
    return [] if frame is None else [frame.f_lasti, *frame.f_locals.values()]


def _of_iterator(iterator: object, room: int) -> object:
    with warnings.catch_warnings(action="ignore"):
        return repr(_position_of(iterator))


def _position_of(iterator: Any) -> object:
    """Where an iterator is: how many are left, or else what its pickling says."""
    if hasattr(iterator, "__length_hint__"):
        return iterator.__length_hint__()
    return _positions_in(iterator.__reduce__())


def _positions_in(parts: tuple[object, ...]) -> list[object]:
    return [
        _positions_in(part)
        if isinstance(part, tuple)
        else part
        if isinstance(part, (int, str))
        else _position_of(part)
        if is_iterator(type(part))
        else None
        for part in parts
    ]


def _sets_variables(code: types.CodeType) -> bool:
    """Whether code sets variables that are not its own."""
    return not _SETS.isdisjoint(code.co_code[::2]) or any(
        isinstance(const, types.CodeType) and _sets_variables(const) for const in code.co_consts
    )


def _compare(watched: _Watched) -> Iterator[str]:
    name, obj, look, before = watched
    now = look(obj, 0 if isinstance(before, range) else _MOST + len(before))
    if isinstance(before, dict):
        if before.get(_TIMES_SET) != now.get(_TIMES_SET):
            return  # the class has come once more, with items, and all its attributes are new objects
        for label, was in before.items():
            if was is not None and now.get(label, _MISSING) is not was:
                yield label if isinstance(obj, _NAMED) else f"{name}.{label}"
    elif len(now) != len(before):
        yield name
    elif isinstance(before, list):
        if not all(map(is_, before, now)):
            yield name
    elif before != now:
        yield name


def describe(func: object, names: Iterable[str]) -> str:
    """The text of the warning."""
    return (
        f"{name_of(func)} has changed {', '.join(names)} in worker processes, which have copies of what it "
        "captures: the change is lost; return values from the function instead, or write into a shared "
        "array, as shmmap.zeros() makes them"
    )


def warn_of(func: object, names: Iterable[str]) -> None:
    """Warn at the line of the user's that called the map."""
    warnings.warn(describe(func, names), RuntimeWarning, stacklevel=depth_of_user())
