"""Which class is which: a class that travels by value stays one class in every process.

Each process has at most one class for a *token*, which travels with the class: see
docs/design/0009-functions-as-they-are-now.md. What must hold: a class is never changed by a pickle in the
process that it is from; and nothing here keeps a class alive, but in a forked worker, which keeps those of
``__main__`` that it began with.
"""

from __future__ import annotations

import enum
import os
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .modules import MAINS

_TOKEN_NBYTES = 12

_Identity = tuple[int, int, str, str]
"""See `_identity`."""


class _Entry(weakref.ref[type]):
    __slots__ = ("home", "names", "times_set", "token")

    token: bytes
    home: int
    """The process that the class is from; 0 if it was unpickled, and so is from another one."""
    names: frozenset[str]
    """Attributes that the last pickle has set."""
    times_set: int
    """How often pickles have set its attributes."""


_entries: dict[int, _Entry] = {}
"""By the class's address: classes need not be hashable."""
_classes: weakref.WeakValueDictionary[bytes, type] = weakref.WeakValueDictionary()
"""By token."""
_inherited: dict[int, type] | None = None
"""In a worker forked from the caller: classes of ``__main__`` that were there then, by address."""


def _register(cls: type, token: bytes, home: int) -> _Entry:
    """Give a class its token, if it has none yet."""
    address = id(cls)
    entry = _Entry(cls, lambda _: _entries.pop(address, None))
    entry.token, entry.home, entry.names, entry.times_set = token, home, frozenset(), 0
    known = _entries.setdefault(address, entry)
    if known() is cls:  # another thread may have been here: the first one counts
        entry = known
    else:  # of a class that is gone, which nobody told: a Ctrl-C can end what a weak reference calls
        _entries[address] = entry
    _classes[entry.token] = cls
    return entry


def _entry_of(cls: type) -> _Entry | None:
    entry = _entries.get(id(cls))
    return entry if entry is not None and entry() is cls else None


def times_set(cls: type) -> int:
    """How often a class has come to this process, each time with its attributes as they were then."""
    entry = _entry_of(cls)
    return 0 if entry is None else entry.times_set


# ---------------------------------------------------------------- pickling


def reduce_by_value(cls: type, reduced: object) -> object:
    """What to pickle for a class that cloudpickle reduces to `reduced`: the same, and its token."""
    if type(reduced) is not tuple or len(reduced) != 6:
        return reduced  # by reference
    entry = _entry_of(cls) or _register(cls, os.urandom(_TOKEN_NBYTES), os.getpid())
    identity = None if _inherited is None else _identity(cls)
    make, args, state, *_, set_state = reduced
    slots = vars(cls).get("__slots__")
    if slots and not issubclass(cls, enum.Enum):
        # cloudpickle leaves them out, and then instances come back with a dictionary of which nobody knows.
        kind, name, bases, body, *rest = args
        args = kind, name, bases, body | {"__slots__": slots}, *rest
    state = state, cls.__qualname__, set_state
    return _make_class, (entry.token, identity, make, args), state, None, None, _set_class_state


def reduce_by_token(cls: type) -> object:
    """What to pickle for a class of the caller's in a result; None if it is not known there."""
    entry = _entries.get(id(cls))
    if entry is not None and entry.home != os.getpid() and entry() is cls:
        return _find_class, (entry.token, cls.__qualname__)
    if _inherited is not None and id(cls) in _inherited:
        return _find_inherited, (_identity(cls),)
    return None


# ---------------------------------------------------------------- unpickling


def _make_class(
    token: bytes, identity: _Identity | None, make: Callable[..., type], args: tuple[object, ...]
) -> type:
    cls = _classes.get(token)
    if cls is None and identity is not None:
        cls = _find_by_identity(identity)
    if cls is None:
        cls = make(*args)
        _register(cls, token, 0)
    return cls


def _set_class_state(cls: type, state: Any) -> None:
    values, qualname, set_state = state
    entry = _entry_of(cls)
    if entry is None or entry.home == os.getpid():
        return
    names = frozenset(values[0])
    for name in entry.names - names:
        if name in vars(cls):
            delattr(cls, name)
    entry.names = names
    entry.times_set += 1
    cls.__qualname__ = qualname
    set_state(cls, values)


def _find_class(token: bytes, name: str) -> type:
    return _there(_classes.get(token), f"{name} that was sent to a worker, and")


def _there(cls: type | None, which: str) -> type:
    if cls is None:
        raise LookupError(
            f"a result is an instance of the class {which} which is not there any more: keep a reference "
            "to it until its instances are back"
        )
    return cls


# ---------------------------------------------------------------- in workers forked from the caller


def note_inherited_classes() -> None:
    """In a worker that was forked from the caller: remember which classes of ``__main__`` came along."""
    global _inherited
    _inherited = {}
    _collect_main(vars(sys.modules["__main__"]), _inherited)


def _collect_main(namespace: Mapping[str, Any], found: dict[int, type]) -> None:
    for value in list(namespace.values()):
        if issubclass(type(value), type) and value.__module__ in MAINS and id(value) not in found:
            found[id(value)] = value
            _collect_main(vars(value), found)


def _identity(cls: type) -> _Identity:
    return id(cls), id(cls.__mro__), cls.__module__, cls.__qualname__


def _find_by_identity(identity: _Identity) -> type | None:
    """The class of this process that is at an address, if it is the one that is meant."""
    known = _entries.get(identity[0])
    cls = None if known is None else known()
    if cls is None or _identity(cls) != identity:
        cls = next((each for each in _all_classes() if id(each) == identity[0]), None)
        if cls is None or _identity(cls) != identity:
            return None
        _register(cls, os.urandom(_TOKEN_NBYTES), os.getpid())
    return cls


def _find_inherited(identity: _Identity) -> type:
    name = identity[-1]
    return _there(_find_by_identity(identity), f"{name} as it was when its worker was forked, and")


def _all_classes() -> Iterator[type]:
    seen: set[int] = set()
    waiting: list[type] = [object]
    while waiting:
        cls = waiting.pop()
        if id(cls) not in seen:
            seen.add(id(cls))
            yield cls
            waiting += type.__subclasses__(cls)
