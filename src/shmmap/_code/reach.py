"""What functions reach in the user's modules, and what of that other processes have to be told.

A function goes to a worker by its name, or by its pickle. What it refers to in the user's modules the worker
imports for itself; but here a module may have been edited and loaded again, its globals set, its attributes
patched. So all that a function reaches is looked at with every call: the globals and attributes that its
code names, those that the functions and classes among them name in turn, what their closures, defaults and
containers hold. Nearly always every one is the same object as before, which takes 2 us to see for thirty
names. Whatever has changed gets a new *version*; each worker is told what is newer than what it knows.

What must hold: looking runs no code of the user's, it reads namespaces. A large array is not kept alive. And
what fails to pickle fails where it is used, not here.
"""

from __future__ import annotations

import collections
import os
import pickle
import sys
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from operator import is_
from typing import Any, NamedTuple

import numpy as np

from .._memory import SegmentHandle, handle_of
from .._system.forks import make_lock
from .interior import Interior
from .modules import MAIN, MAINS, can_be_imported, is_users, is_users_name, when_gone
from .recipient import CLASS, GONE, OPAQUE, PART, REFUSED, VALUE, Home, Told, members_of
from .state import (
    ELEMENTS_MAX,
    MISSING,
    SMALL_NBYTES,
    CachedFunction,
    Gap,
    PackedValue,
    attributes_of,
    cached_in,
    cell_contents,
    find_home,
    follow,
    inner_function,
    is_carried,
    is_simple_instance,
    is_table,
    names_in,
    pack_value,
    resolve,
    type_name,
    with_gaps,
)

# Reaches that are kept; the oldest go first.
_REACHES_MAX = 512
# Names that are looked at for one function, those that it names itself first. A package that has more is as
# large as pandas: there, a worker has what it imports for what lies beyond.
_NAMES_MAX = 4000
# Objects inside others that are compared for one function; beyond, that they are the same objects.
_OBJECTS_MAX = 20_000
_WALKS_MAX = 10_000
# Names of a module that are its import's, and of a class that are the interpreter's.
_OF_MODULES = frozenset(
    ("__name__", "__file__", "__doc__", "__builtins__", "__loader__", "__spec__", "__path__")
) | {"__package__", "__cached__", "__annotations__", "__dict__", "__all__"}
_OF_CLASSES = frozenset(
    ("__dict__", "__weakref__", "__module__", "__doc__", "__qualname__", "__abstractmethods__")
) | {"_abc_impl", "__firstlineno__", "__static_attributes__", "__annotations__", "__parameters__"}
_DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType, types.WrapperDescriptorType)

Key = tuple[str, str, str]
"""Module, qualified name of the class or nothing, name."""


class _Entry:
    """A name of the user's modules that was reached, and what is told of it."""

    __slots__ = ("arrays", "behind", "met", "module", "spec", "stamp", "told")

    def __init__(self, told: Told, stamp: tuple[Any, ...] | None, spec: Any) -> None:
        self.told = told
        self.stamp = stamp
        """See `_stamp`."""
        self.met: tuple[Any, ...] = ()
        """Functions and classes that pickling it has met."""
        module = sys.modules.get(told.module)
        self.module = None if module is None else weakref.ref(module)
        """Another module may come by the same name."""
        self.spec = spec
        """Of the module, which gets another one when it is loaded again."""
        self.behind: int | None = None
        """Of a function that remembers its results: the latest version among all that it reaches."""
        self.arrays: tuple[weakref.ref[Any], ...] = ()
        """Shared arrays it refers to: once one is gone, it cannot be told any more."""

    def is_current(self) -> bool:
        """Whether it is about the module that bears the name now."""
        module = sys.modules.get(self.told.module)
        if self.module is None or module is None:
            return self.module is None and module is None
        return self.module() is module

    def has_gone(self) -> bool:
        """Whether the module it is about has gone."""
        return self.module is not None and self.module() is None


_entries: dict[Key, _Entry] = {}
"""In the order of their versions."""
_owned: dict[tuple[str, str], dict[str, None]] = {}
"""Names of attributes that were told of, by module and class."""
_version = 0
_lock = make_lock()


def latest() -> int:
    """The version of what was changed last."""
    return _version


def look_again() -> int:
    """Take note of everything that was told of before, as it is now; the version of that."""
    with _lock:
        for entry in list(_entries.values()):
            if entry.is_current():
                key = entry.told[:3]
                _register(key, _value_of(key))
        return _version


# ---------------------------------------------------------------- what is watched


class _Space(NamedTuple):
    """Names in a namespace, and what they stood for."""

    get: Callable[[str], Any]
    names: tuple[str, ...]
    values: tuple[Any, ...]
    space: Any
    length: int
    owner: tuple[str, str]
    """Module and class, as in a `Key`."""


class Reach:
    """All that functions and classes reach, as it was when `current` last looked at it."""

    __slots__ = (
        "_arrays",
        "_caches",
        "_cells",
        "_contents",
        "_functions",
        "_interiors",
        "_seen",
        "_spaces",
        "_weak",
        "keys",
        "roots",
        "version",
    )

    version: int
    _spaces: tuple[_Space, ...]
    _weak: tuple[Any, ...]

    def __init__(self, roots: tuple[Any, ...]) -> None:
        self.roots = roots
        self.version = -1
        self._weak = ()

    def current(self) -> int:
        """The version that another process must know, after a look at everything."""
        if (
            self.version < 0
            or self._has_changed()
            or (self._seen != _version and self._is_outdated())
        ):
            self._look()
        return self.version

    def is_about(self, name: str) -> bool:
        """Whether it has to do with a module of that name, which has gone."""
        return any([ref() is None for _, _, ref in self._weak]) or any(
            [
                any([ref() is None for ref in root.modules])
                if type(root) is _Code
                else root.__module__ == name
                for root in self.roots
            ]
        )

    def _is_outdated(self) -> bool:
        """Whether what it reaches was told differently since: it may be here again as it was."""
        with _lock:
            self._seen = _version
            entries = [_entries.get(key) for key in self.keys]
            return self.version != max(
                [-1 if entry is None else entry.told.version for entry in entries], default=0
            )

    def _has_changed(self) -> bool:
        for each in self._spaces:
            get, names, values, space, length, _ = each
            if len(space) != length:
                return True
            if not all(map(is_, map(get, names), values)) and not self._take_atoms(each):
                return True
        for func, code, defaults, kwdefaults in self._functions:
            if (
                func.__code__ is not code
                or func.__defaults__ is not defaults
                or func.__kwdefaults__ is not kwdefaults
            ):
                return True
        for container, parts in self._contents:
            if len(container) != len(parts) or not all(map(is_, container, parts)):
                return True
        for get, name, ref in self._weak:
            if get(name) is not ref():
                return True
        for func, contents in self._cells:
            if not all(map(is_, cell_contents(func), contents)):
                return True
        if self._arrays and any([a.tobytes() != data for a, data in self._arrays]):
            return True
        return bool(self._interiors) and any([each.has_changed() for each in self._interiors])

    def _take_atoms(self, space: _Space) -> bool:
        """Take note of names that stood for numbers or strings and still do; False if there is more to it."""
        if self._caches:
            return False
        now = tuple(map(space.get, space.names))
        for name, value, before in zip(space.names, now, space.values, strict=True):
            if value is before:
                continue
            if type(value) not in _PLAIN or type(before) not in _PLAIN or name not in space.space:
                return False
            with _lock:
                if self._seen != _version:
                    return False  # others may have told what is here again as it was
                self.version = max(self.version, _register((*space.owner, name), value))
                self._seen = _version
        self._spaces = tuple(
            [each._replace(values=now) if each is space else each for each in self._spaces]
        )
        return True

    def _look(self) -> None:
        walk = _Walk()
        for root in self.roots:
            walk.add_root(root)
        with _lock:
            self.version = walk.register()
            self._seen = _version
        self.keys = tuple(walk.values)
        self._spaces, self._weak = walk.spaces()
        self._functions = tuple(walk.functions)
        self._contents = tuple(walk.contents)
        self._cells = tuple(walk.cells)
        self._arrays = tuple(walk.arrays)
        self._interiors = tuple(walk.interiors)
        self._caches = bool(walk.caches)


class _Code(NamedTuple):
    """Code that travels by value, and the user's modules that it names."""

    code: types.CodeType
    modules: tuple[weakref.ref[types.ModuleType], ...]


class _Walk:
    """Goes through all that a root reaches."""

    def __init__(self) -> None:
        self.values: dict[Key, Any] = {}
        """What is carried."""
        self.functions: list[tuple[Any, ...]] = []
        self.contents: list[tuple[Any, tuple[Any, ...]]] = []
        self.cells: list[tuple[Any, tuple[Any, ...]]] = []
        self.arrays: list[tuple[Any, bytes]] = []
        self.caches: dict[Key, Any] = {}
        """Functions that remember their results."""
        self.interiors: list[Interior] = []
        """Of what is looked at as a whole."""
        self._names: dict[int, tuple[Any, dict[str, Any]]] = {}
        """By the identity of a module or class: it, and names in it with what they stand for."""
        self._seen: dict[int, Any] = {}
        self._waiting: deque[Any] = deque()
        """What was met and is still to be looked into, nearest first."""
        self._room = _OBJECTS_MAX

    def spaces(self) -> tuple[tuple[_Space, ...], tuple[Any, ...]]:
        """The namespaces, and what in them is to be held weakly."""
        spaces, weak = [], []
        for space, names in self._names.values():
            get = vars(space).get
            strong = {}
            for name, value in names.items():
                ref = _weakly(value)
                if ref is None:
                    strong[name] = value
                else:
                    weak.append((get, name, ref))
            if type(space) is types.ModuleType:  # another one may come by its name
                weak.append((sys.modules.get, space.__name__, weakref.ref(space)))
            values = tuple(strong.values())
            owner = (space.__name__, "")
            if type(space) is not types.ModuleType:
                owner = (space.__module__, space.__qualname__)
            spaces.append(_Space(get, tuple(strong), values, vars(space), len(vars(space)), owner))
        return tuple(spaces), tuple(weak)

    # ------------------------------------------------ names

    def add_root(self, root: Any) -> None:
        """A function, a class, or a `_Code`."""
        if type(root) is _Code:
            modules = [ref() for ref in root.modules]
            self._add_attributes(
                names_in(root.code), [module for module in modules if module is not None]
            )
        else:
            self._add(root)
        self._go_through()

    def _go_through(self) -> None:
        while self._waiting and len(self.values) < _NAMES_MAX:
            self._look_into(self._waiting.popleft())

    def _watch(self, space: Any) -> dict[str, Any]:
        return self._names.setdefault(id(space), (space, {}))[1]

    def _add_name(self, module: types.ModuleType, name: str) -> None:
        """A global of one of the user's modules, or of ``__main__``, is reached."""
        names = self._watch(module)
        if name in names or name in _OF_MODULES:
            return
        value = vars(module).get(name, MISSING)
        key = (module.__name__, "", name)
        if value is MISSING:
            if key in _entries:
                self.values[key] = MISSING
            return
        names[name] = value
        self.values[key] = value
        self._add(value)

    def _add_code(self, code: types.CodeType, space: dict[str, Any], modules: list[Any]) -> None:
        """What code names: globals, and attributes of modules, which need not be there yet."""
        names = names_in(code)
        home = _module_of(space)
        if home is not None:
            self._watch(home)
            for name in names:
                self._add_name(home, name)
        self._add_attributes(names, _modules_named(names, space, modules))

    def _add_attributes(self, names: Iterable[str], modules: Iterable[types.ModuleType]) -> None:
        for module in modules:
            self._watch(module)
            for name in (*names, "__getattr__"):
                self._add_name(module, name)

    # ------------------------------------------------ values

    def _add(self, value: Any) -> None:
        if type(value) not in _ATOMS and id(value) not in self._seen:
            self._waiting.append(value)

    def _look_into(self, value: Any) -> None:
        if id(value) in self._seen:
            return
        kind = type(value)
        if kind is types.FunctionType:
            self._seen[id(value)] = value
            self._add_function(value)
        elif kind is types.ModuleType:
            return
        elif issubclass(kind, type):
            self._seen[id(value)] = value
            self._add_class(value)
        elif issubclass(kind, np.ndarray) and value.nbytes < SMALL_NBYTES and is_carried(value):
            self._seen[id(value)] = value
            self.arrays.append((value, value.tobytes()))
        elif not is_carried(value):
            self._seen[id(value)] = value
            interior = Interior(value, min(ELEMENTS_MAX, self._room))
            self._room -= interior.size
            self.interiors.append(interior)
            for each in interior.met:
                self._add(each)
        else:
            parts = follow(value)
            container = value if kind in _MUTABLE or is_table(kind) else None
            if is_simple_instance(value):
                container = attributes_of(value)
            if container is not None:
                self._watch_content(container)
            if parts or container is not None:
                self._seen[id(value)] = value
            self._add_class(kind)
            for part in parts:
                self._add(part)

    def _watch_content(self, container: Any) -> None:
        if not isinstance(container, dict):
            self.contents.append((container, tuple(container)))
            return
        for view in (dict.keys(container), dict.values(container)):
            self.contents.append((view, tuple(view)))
        if type(container) is not dict and type(container).__dictoffset__:
            self._watch_content(attributes_of(container))

    def _add_function(self, func: types.FunctionType) -> None:
        home = find_home(func)
        if home is not None:
            module = sys.modules[home[0]]
            if not is_users(module) and home[0] not in MAINS:
                return
            if "." not in home[1]:
                self._add_name(module, home[1])
            else:
                self._add_owner(module, home[1])
        self.functions.append((func, func.__code__, func.__defaults__, func.__kwdefaults__))
        contents = cell_contents(func)
        if contents:
            # What is large or not carried is not kept alive: another function closes over it anyway.
            if all([is_carried(each) or each is MISSING for each in contents]):
                self.cells.append((func, tuple(contents)))
        inner = [*contents, *(func.__defaults__ or ()), *(func.__kwdefaults__ or {}).values()]
        for attributes in (func.__kwdefaults__, func.__dict__):
            if attributes:
                self._watch_content(attributes)
        inner += func.__dict__.values()
        modules = [each for each in inner if type(each) is types.ModuleType]
        name = func.__globals__.get("__name__")
        if name in MAINS or is_users_name(name):
            self._add_code(func.__code__, func.__globals__, modules)
        for each in inner:
            self._add(each)

    def _add_owner(self, module: types.ModuleType, qualname: str) -> None:
        """The class that a method or a nested class is found in."""
        owner = resolve(module, qualname.rpartition(".")[0])
        if issubclass(type(owner), type):
            self._add(owner)

    def _add_class(self, kind: type) -> None:
        name = kind.__module__
        if not (is_users_name(name) or name in MAINS):
            return
        home = find_home(kind)
        if home is None:
            return
        module = sys.modules[home[0]]
        if "." in home[1]:
            self._add_owner(module, home[1])
            self.values[home[0], *home[1].rpartition(".")[::2]] = kind
        else:
            self._add_name(module, home[1])
        names = self._watch(kind)
        if names:
            return
        members = {each[0] for each in members_of(kind) or ()}
        for attribute, value in list(vars(kind).items()):
            if attribute in _OF_CLASSES or isinstance(value, _DESCRIPTORS) or attribute in members:
                continue
            if members and not isinstance(value, _METHODS):
                continue
            names[attribute] = value
            key = (home[0], home[1], attribute)
            if not issubclass(type(value), type) or find_home(value) != (
                home[0],
                f"{home[1]}.{attribute}",
            ):
                self.values[key] = value
            self._add(value)
        for name in list(_owned.get(home, ())):
            entry = _entries.get((*home, name))
            if entry is not None and name not in vars(kind) and entry.told.kind != GONE:
                self.values[*home, name] = MISSING
        for base in kind.__bases__:
            self._add_class(base)
        self._add_class(type(kind))

    # ------------------------------------------------ registering

    def register(self) -> int:
        """Take note of what has changed; the latest version among all that is reached."""
        latest, room, waiting = 0, _OBJECTS_MAX, list(self.values.items())
        while waiting:
            known = len(self.values)
            for key, value in waiting:
                latest = max(latest, _register(key, value, min(room, ELEMENTS_MAX)))
                entry = _entries[key]
                if entry.stamp is not None and type(entry.stamp[0]) is Interior:
                    room = max(0, room - entry.stamp[0].size)
                for each in entry.met:  # in objects of other libraries, say
                    self._add(each)
            self._go_through()
            waiting = list(self.values.items())[known:]
        self.caches = {
            key: func
            for key, value in self.values.items()
            if (func := cached_in(value)) is not None
        }
        # In a large package a walk for each of many would take seconds: all that is reached stands for it.
        is_large = len(self.caches) * len(self.values) > _WALKS_MAX
        for key, func in self.caches.items():
            latest = max(
                latest, _register_cache(key, self.values if is_large else _reached_by(func))
            )
        return latest


_MUTABLE = (list, set, dict, collections.deque)
_METHODS = (types.FunctionType, staticmethod, classmethod, property)


def _weakly(value: Any) -> weakref.ref[Any] | None:
    """A weak reference to what may be large; None for what is kept."""
    kind = type(value)
    if kind is types.FunctionType or kind is types.ModuleType or issubclass(kind, type):
        return None
    if issubclass(kind, np.ndarray):
        return None if value.nbytes < SMALL_NBYTES else weakref.ref(value)
    if is_carried(value):
        return None
    try:
        return weakref.ref(value)
    except TypeError:
        return None


def _module_of(space: dict[str, Any]) -> types.ModuleType | None:
    """The user's module whose namespace this is."""
    name = space.get("__name__")
    module = sys.modules.get(name) if isinstance(name, str) else None
    if module is None or vars(module) is not space:
        return None
    return module if name == MAIN or is_users(module) else None


def _modules_named(
    names: Iterable[str], space: dict[str, Any], more: Iterable[Any]
) -> Iterator[types.ModuleType]:
    """The user's modules that code may mean: its globals, what it imports, and their submodules."""
    package = space.get("__package__") or ""
    packages = [package]
    while package := package.rpartition(".")[0]:
        packages.append(package)
    found = [each for each in more if is_users(each)]
    for name in names:
        value = space.get(name)
        if type(value) is types.ModuleType:
            found.append(value)
        for full in (name, *(f"{each}.{name}" for each in packages if each)):
            module = sys.modules.get(full)
            if module is not None:
                found.append(module)
    seen: set[int] = set()
    while found:
        module = found.pop()
        if id(module) in seen or type(module) is not types.ModuleType or not is_users(module):
            continue
        seen.add(id(module))
        yield module
        found += [
            vars(module)[name] for name in names if type(vars(module).get(name)) is types.ModuleType
        ]


# ---------------------------------------------------------------- versions


_PLAIN = frozenset((int, float, complex, str, bytes, bool, type(None)))
_ATOMS = _PLAIN | {types.ModuleType}
_LOCKS = ("_thread", "threading")


def _stamp(value: Any, most: int = ELEMENTS_MAX) -> tuple[Any, ...] | None:
    """Objects that are the same as long as a value has not changed; None if that takes a closer look."""
    kind = type(value)
    if kind in _ATOMS:
        return (value,)
    if kind is types.FunctionType and not (
        value.__closure__ or value.__dict__ or value.__kwdefaults__
    ):
        if all([type(each) in _ATOMS for each in value.__defaults__ or ()]):
            return value, value.__code__, value.__defaults__
    if is_carried(value):
        return None
    interior = Interior(value, most)
    # What is in a function that travels by value is not in the interior.
    by_value = any(
        [type(each) is types.FunctionType and not find_home(each) for each in interior.met]
    )
    return None if by_value else (interior,)


def _is_stamped(entry: _Entry, value: Any) -> bool:
    stamp = entry.stamp
    if stamp is None:
        return False
    if type(stamp[0]) is Interior:
        return stamp[0].root() is value and not stamp[0].has_changed()
    now = _stamp(value)
    return now is not None and len(now) == len(stamp) and all(map(is_, now, stamp))


def _register(key: Key, value: Any, most: int = ELEMENTS_MAX) -> int:
    """The version of a name, a new one if what it stands for has changed; `most`: see `Interior`."""
    global _version
    entry = _entries.get(key)
    if entry is not None and not entry.is_current():
        entry = None
    if entry is not None and _is_stamped(entry, value):
        return entry.told.version
    stamp = _stamp(value, most)  # first: what is set meanwhile is then seen the next time
    kind, packed = _pack(key, value)
    spec = getattr(sys.modules.get(key[0]), "__spec__", None)
    if kind == OPAQUE and entry is not None and entry.spec is spec and not _is_of(entry, value):
        # Set at run time, and not because the module was loaded again.
        kind = OPAQUE if type(value).__module__ in _LOCKS else REFUSED
    if stamp is None and kind in (OPAQUE, REFUSED):
        stamp = (Interior(value, 0),)
    data = None if packed is None else packed.data
    named = type_name(value)
    if entry is not None:
        told = entry.told
        # The same handle may have been given to another array since.
        arrays = () if packed is None else packed.arrays
        is_told = len(arrays) == len(entry.arrays) and all(
            [ref() is a for ref, a in zip(entry.arrays, arrays, strict=True)]
        )
        if is_told and (kind, data, named) == (told.kind, told.data, told.type_name):
            entry.stamp = stamp
            return told.version
    _version += 1
    made = _Entry(Told(*key, kind, data, _version, entry is None, named), stamp, spec)
    made.behind = None if entry is None else entry.behind
    if packed is not None:
        made.met = packed.met
        made.arrays = tuple(map(weakref.ref, packed.arrays))
    _entries.pop(key, None)
    _entries[key] = made
    if key[1]:
        _owned.setdefault((key[0], key[1]), {})[key[2]] = None
    return _version


def _reached_by(cached: Any) -> Iterable[Key]:
    walk = _Walk()
    walk.add_root(cached.__wrapped__)
    return walk.values


def _register_cache(key: Key, keys: Iterable[Key]) -> int:
    """The version of a function that remembers its results: a new one if what it reaches has changed."""
    global _version
    reached = [_entries.get(each) for each in keys]
    latest = max(
        [each.told.version for each in reached if each is not None and each.behind is None],
        default=0,
    )
    entry = _entries[key]
    if entry.behind is not None and entry.behind < latest:
        _version += 1
        entry.told = entry.told._replace(version=_version, is_first=False)
        del _entries[key]
        _entries[key] = entry
    entry.behind = max(latest, entry.behind or 0)
    return entry.told.version


def _is_of(entry: _Entry, value: Any) -> bool:
    """Whether an entry is of that very object, whatever has become of it."""
    stamp = entry.stamp
    return stamp is not None and type(stamp[0]) is Interior and stamp[0].root() is value


def _pack(key: Key, value: Any, may_share: bool = True) -> tuple[str, PackedValue | None]:
    """What is told of a value, and its pickle."""
    if value is MISSING:
        return GONE, None
    here = key[0], f"{key[1]}.{key[2]}" if key[1] else key[2]
    kind = type(value)
    try:
        if issubclass(kind, type) and find_home(value) == here:
            doc = value.__doc__ if isinstance(value.__doc__, str) else None
            shell = kind, value.__bases__, here[1], members_of(value), doc
            return CLASS, pack_value(shell)
        if kind.__module__ == "itertools":  # pickles, with a warning
            return OPAQUE, None
        func = value if kind is CachedFunction else inner_function(value)
        defined = func if func is not None and find_home(func) == here else None
        return VALUE, pack_value(value, defined, may_share)
    except Exception:
        pass
    try:
        apart = with_gaps(value)
        return (OPAQUE, None) if type(apart) is Gap else (PART, pack_value(apart, None, may_share))
    except Exception:
        return OPAQUE, None


# ---------------------------------------------------------------- telling


class Letter(NamedTuple):
    """News, pickled, and what must stay alive until they are read."""

    data: bytes
    segments: frozenset[int]
    keep: tuple[Any, ...]


def news(since: int) -> Letter:
    """All that was changed after some version."""
    with _lock:
        for entry in list(_entries.values()):
            if not entry.is_current():
                _entries.pop(entry.told[:3], None)
        told: list[Told] = []
        arrays: list[Any] = []
        for entry in reversed(list(_entries.values())):
            if entry.told.version <= since:
                break
            those = [ref() for ref in entry.arrays]
            if not any([each is None for each in those]):
                arrays += those
                told.append(entry.told)
        told.reverse()
        data = _letter(told)
    return Letter(data, frozenset(map(_segment_of, arrays)), tuple(arrays))


def news_for_all(reaches: Iterable[Reach]) -> bytes:
    """All that some functions reach, for a process of which nothing is known; empty if that is nothing."""
    reaches = tuple(reaches)
    current_version(reaches)
    with _lock:
        keys = dict.fromkeys(key for reach in reaches for key in reach.keys)
        told = []
        for key in keys:
            entry = _entries.get(key)
            if entry is None:
                continue
            each = entry.told
            if entry.arrays:
                kind, packed = _pack(key, _value_of(key), may_share=False)
                each = each._replace(kind=kind, data=None if packed is None else packed.data)
            told.append(each)
        return _letter(told) if told else b""


def _value_of(key: Key) -> Any:
    module = sys.modules.get(key[0])
    if module is None:
        return MISSING
    return resolve(module, f"{key[1]}.{key[2]}" if key[1] else key[2])


def _letter(told: list[Told]) -> bytes:
    homes = {}
    names = {each.module for each in told}.difference(MAINS)
    while names:
        name = names.pop()
        module = sys.modules.get(name)
        if name and module is not None and name not in homes and not can_be_imported(module):
            file = getattr(module, "__file__", None)
            homes[name] = Home(module.__package__, file, hasattr(module, "__path__"))
            names.add(name.rpartition(".")[0])
    return pickle.dumps((tuple(map(tuple, told)), {k: tuple(v) for k, v in homes.items()}), 5)


def _segment_of(a: Any) -> int:
    handle = handle_of(a)
    assert isinstance(handle, SegmentHandle)
    return handle.segment


_own: tuple[int, bytes] = (0, b"")


def sender() -> tuple[int, bytes]:
    """What tells this process from any other."""
    global _own
    if _own[0] != os.getpid():
        _own = os.getpid(), os.urandom(8)
    return _own


# ---------------------------------------------------------------- roots


_reaches: dict[Any, Reach] = {}


def _forget_module(name: str) -> None:
    """Keep nothing of a module that has gone; no lock is taken, see `when_gone`."""
    for key in list(_entries):
        entry = _entries.get(key)
        if key[0] == name and entry is not None and entry.has_gone():
            _entries.pop(key, None)
    for root in list(_reaches):
        reach = _reaches.get(root)
        if reach is not None and reach.is_about(name):
            _reaches.pop(root, None)


when_gone(_forget_module)


def is_root(obj: Any) -> bool:
    """Whether a function or class that was met in a pickle may lead to the user's modules."""
    name = obj.__module__
    return isinstance(name, str) and (name in MAINS or is_users_name(name))


def reaches_of(met: Iterable[Any]) -> tuple[Reach, ...]:
    """What the functions, classes and modules that were met in a pickle reach."""
    roots: dict[Any, Any] = {}
    modules: list[types.ModuleType] = []
    functions: list[types.FunctionType] = []
    for each in met:
        if type(each) is types.ModuleType:
            modules.append(each)
        elif each.__module__ in MAINS or find_home(each) is None:
            if type(each) is types.FunctionType:
                functions.append(each)  # by value: what it holds was met as well
        else:
            roots[id(each)] = each
    for func in functions:
        code = func.__code__
        named = tuple(_modules_named(names_in(code), func.__globals__, modules))
        if named:
            roots[code, *map(id, named)] = _Code(code, tuple(map(weakref.ref, named)))
    return tuple([_reach(key, (root,)) for key, root in roots.items()])


def _reach(key: Any, roots: tuple[Any, ...]) -> Reach:
    known = _reaches.get(key)
    if known is not None and all(
        [
            root is before or (type(root) is type(before) is _Code and root == before)
            for root, before in zip(roots, known.roots, strict=True)
        ]
    ):
        return known
    made = Reach(roots)
    with _lock:
        while len(_reaches) >= _REACHES_MAX:
            _reaches.pop(next(iter(_reaches)), None)
        _reaches[key] = made
    return made


def together(reaches: tuple[Reach, ...]) -> tuple[Reach, ...]:
    """The same as one, which is quicker to look at: they have much in common."""
    if len(reaches) < 2:
        return reaches
    roots = tuple([root for each in reaches for root in each.roots])
    return (_reach(tuple(map(id, roots)), roots),)


def current_version(reaches: Iterable[Reach]) -> int:
    """The version that a process must know for all of these; 0 for nothing."""
    return max([reach.current() for reach in reaches], default=0)
