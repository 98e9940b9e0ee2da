"""What was told of each name of the user's modules, and in which version.

`watch` registers here what a function reaches, in the caller; `letters` tells a process all that is newer
than what it knows. All is written with `lock` held, but that entries of a module go with it, at any time and
in any thread: so those who read copy at once, and no entry need be there. See
docs/design/0037-code-and-settings-of-now.md.
"""

from __future__ import annotations

import sys
import types
import weakref
from collections.abc import Iterable
from operator import is_
from typing import Any, Literal, NamedTuple

from .._system.forks import make_lock
from .carried import ELEMENTS_MAX, CachedFunction, inner_function, is_carried
from .interior import Interior
from .modules import when_gone
from .namespaces import MISSING, dotted, find_home, members_of, resolve
from .values import Gap, PackedValue, pack_value, type_name, with_gaps

PLAIN = frozenset((int, float, complex, str, bytes, bool, type(None)))
ATOMS = PLAIN | {types.ModuleType}
"""Types of values that lead nowhere, and never change."""
_LOCKS = ("_thread", "threading")
_NOTHING = PackedValue(None, (), ())

lock = make_lock()

Kind = Literal["value", "part", "class", "gone", "opaque", "refused"]
"""A part is a value with a `Gap` for what does not pickle in it. Of a class, metaclass and bases are told,
and every attribute by itself. What is opaque does not pickle: what the import has made is kept if the type is
the same. What is refused does not pickle either, and was set at run time."""

Key = tuple[str, str, str]
"""Module, qualified name of the class or nothing, name."""


class Told(NamedTuple):
    module: str
    owner: str
    """Qualified name of the class that has the attribute; empty for a global of the module."""
    name: str
    kind: Kind
    data: bytes | None
    version: int
    is_first: bool
    """The caller has not changed it since it first told of it."""
    type_name: str

    @property
    def key(self) -> Key:
        return self.module, self.owner, self.name


class Entry:
    """A name of the user's modules that was reached, and what is told of it."""

    __slots__ = ("arrays", "behind", "met", "module", "spec", "stamp", "told")

    def __init__(self, told: Told, stamp: _Stamp, spec: object, packed: PackedValue) -> None:
        self.told = told
        self.stamp = stamp
        """What says that the value has not changed, see `_identities`; None: a closer look."""
        self.met = packed.met
        """Functions and classes that pickling it has met."""
        module = sys.modules.get(told.module)
        self.module = None if module is None else weakref.ref(module)
        """Another module may come by the same name."""
        self.spec = spec
        """Of the module, which gets another one when it is loaded again."""
        self.behind: int | None = None
        """Of a function that remembers its results: the latest version among all that it reaches."""
        self.arrays = tuple(map(weakref.ref, packed.arrays))
        """Shared arrays it refers to: once one is gone, it cannot be told any more."""

    def is_current(self) -> bool:
        """Whether it is about the module that bears the name now."""
        module = sys.modules.get(self.told.module)
        if self.module is None or module is None:
            return self.module is None and module is None
        return self.module() is module

    def has_gone(self) -> bool:
        return self.module is not None and self.module() is None

    def is_unchanged(self, value: object) -> bool:
        """Whether a value is certainly what was told."""
        if type(self.stamp) is Interior:
            return self.is_of(value) and not self.stamp.has_changed()
        now = _identities(value) if type(self.stamp) is tuple else None
        before: Any = self.stamp
        return now is not None and len(now) == len(before) and all(map(is_, now, before))

    def is_of(self, value: object) -> bool:
        """Whether it is of that very object, whatever has become of it."""
        return type(self.stamp) is Interior and self.stamp.root() is value

    def size(self) -> int:
        """How many objects were looked at, one inside the other."""
        return self.stamp.size if type(self.stamp) is Interior else 0


_Stamp = tuple[object, ...] | Interior | None
_entries: dict[Key, Entry] = {}
_attributes: dict[tuple[str, str], dict[str, None]] = {}
newest = 0


def latest() -> int:
    return newest


def version_of(keys: Iterable[Key]) -> int:
    """The latest version among some names; -1 for those that are not told of any more."""
    entries = [_entries.get(key) for key in keys]
    return max([-1 if entry is None else entry.told.version for entry in entries], default=0)


def entry_of(key: Key) -> Entry | None:
    return _entries.get(key)


def entries_since(version: int) -> list[Entry]:
    """All that was told after some version, and is about modules that are there, latest last."""
    with lock:
        for entry in list(_entries.values()):
            if not entry.is_current():
                _entries.pop(entry.told.key, None)
        found = []
        for entry in reversed(list(_entries.values())):
            if entry.told.version <= version:
                break
            found.append(entry)
        return found[::-1]


def attributes_told(home: tuple[str, str]) -> list[str]:
    """Names of a class's attributes of which was told that they are there."""
    entries = [(name, _entries.get((*home, name))) for name in list(_attributes.get(home, ()))]
    return [name for name, entry in entries if entry is not None and entry.told.kind != "gone"]


def look_again() -> int:
    """Take note of everything that was told of before, as it is now; the version of that."""
    with lock:
        for entry in list(_entries.values()):
            if entry.is_current():
                register(entry.told.key, value_of(entry.told.key))
        return newest


def value_of(key: Key) -> object:
    module = sys.modules.get(key[0])
    return MISSING if module is None else resolve(module, dotted(*key[1:]))


def register(key: Key, value: object, most: int = ELEMENTS_MAX) -> Entry:
    """Give a name a new version if what it stands for has changed; `lock` is held. `most`: see `Interior`."""
    entry = _entries.get(key)
    if entry is not None and not entry.is_current():
        entry = None
    if entry is not None and entry.is_unchanged(value):
        return entry
    stamp = _stamp(value, most)  # first: what is set meanwhile is then seen the next time
    kind, packed = pack_told(key, value)
    spec = getattr(sys.modules.get(key[0]), "__spec__", None)
    if kind == "opaque" and entry is not None and entry.spec is spec and not entry.is_of(value):
        # Set at run time, and not because the module was loaded again.
        kind = "opaque" if type(value).__module__ in _LOCKS else "refused"
    if stamp is None and kind in ("opaque", "refused"):
        stamp = Interior(value, 0)
    named = type_name(value)
    if entry is not None and _is_told(entry, packed):
        if (kind, packed.data, named) == (entry.told.kind, entry.told.data, entry.told.type_name):
            entry.stamp = stamp
            return entry
    told = Told(*key, kind, packed.data, _next_version(), entry is None, named)
    made = Entry(told, stamp, spec, packed)
    made.behind = None if entry is None else entry.behind
    _enter(key, made)
    if key[1]:
        _attributes.setdefault((key[0], key[1]), {})[key[2]] = None
    return made


def register_cache(key: Key, keys: Iterable[Key]) -> int:
    """The version of a function that remembers its results: a new one if what it reaches has changed.

    `lock` is held.
    """
    reached = [_entries.get(each) for each in keys]
    versions = [each.told.version for each in reached if each is not None and each.behind is None]
    entry, behind = _entries[key], max(versions, default=0)
    if entry.behind is not None and entry.behind < behind:
        entry.told = entry.told._replace(version=_next_version(), is_first=False)
        _enter(key, entry)
    entry.behind = max(behind, entry.behind or 0)
    return entry.told.version


def _next_version() -> int:
    global newest
    newest += 1
    return newest


def _enter(key: Key, entry: Entry) -> None:
    _entries.pop(key, None)
    _entries[key] = entry


def _is_told(entry: Entry, packed: PackedValue) -> bool:
    """Whether the shared arrays are those that were told: a handle may have been given to another since."""
    return len(packed.arrays) == len(entry.arrays) and all(
        [ref() is a for ref, a in zip(entry.arrays, packed.arrays, strict=True)]
    )


def _identities(value: object) -> tuple[object, ...] | None:
    """Objects that are the same as long as a value has not changed; None if there are none such."""
    if type(value) in ATOMS:
        return (value,)
    if type(value) is types.FunctionType and not (
        value.__closure__ or value.__dict__ or value.__kwdefaults__
    ):
        if all([type(each) in ATOMS for each in value.__defaults__ or ()]):
            return value, value.__code__, value.__defaults__
    return None


def _stamp(value: object, most: int) -> _Stamp:
    identities = _identities(value)
    if identities is not None or is_carried(value):
        return identities
    interior = Interior(value, most)
    # What is in a function that travels by value is not in the interior.
    by_value = [type(each) is types.FunctionType and not find_home(each) for each in interior.met]
    return None if any(by_value) else interior


def pack_told(key: Key, value: Any, may_share: bool = True) -> tuple[Kind, PackedValue]:
    """What is told of a value, and its pickle."""
    if value is MISSING:
        return "gone", _NOTHING
    here = key[0], dotted(*key[1:])
    kind = type(value)
    try:
        if issubclass(kind, type) and find_home(value) == here:
            doc = value.__doc__ if isinstance(value.__doc__, str) else None
            shell = kind, value.__bases__, here[1], members_of(value), doc
            return "class", pack_value(shell)
        if kind.__module__ == "itertools":  # pickles, with a warning
            return "opaque", _NOTHING
        func = value if kind is CachedFunction else inner_function(value)
        defined = func if func is not None and find_home(func) == here else None
        return "value", pack_value(value, defined, may_share)
    except Exception:
        pass
    try:
        apart = with_gaps(value)
        if type(apart) is not Gap:
            return "part", pack_value(apart, None, may_share)
    except Exception:
        pass
    return "opaque", _NOTHING


def _forget_module(name: str) -> None:
    """Keep nothing of a module that has gone; no lock is taken, see `when_gone`."""
    for key in list(_entries):
        entry = _entries.get(key)
        if key[0] == name and entry is not None and entry.has_gone():
            _entries.pop(key, None)


when_gone(_forget_module)
