"""What functions and classes reach in the user's modules: the walk through all of it, for `watch`.

What is reached is said in docs/design/0037-code-and-settings-of-now.md. What must hold: no code of the user's
runs, and a large array is not kept alive.
"""

from __future__ import annotations

import collections
import gc
import sys
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from .._interop.numpy_types import Array
from .carried import ELEMENTS_MAX, cached_in, is_carried, is_simple_instance, is_table, parts_of
from .interior import FENCE, Interior, is_large, items_of
from .modules import MAIN, is_immutable_type, is_users, is_users_or_main
from .namespaces import (
    MISSING,
    cell_contents,
    cells_of,
    dict_of,
    dotted,
    find_home,
    members_of,
    names_in,
    resolve,
)
from .versions import ATOMS, Key, attributes_told, entry_of, register, register_cache

# Names that are looked at for one function, those that it names itself first. A package that has more is as
# large as pandas: there, a worker has what it imports for what lies beyond.
_NAMES_MAX = 4000
# Objects inside others that are compared for one function; beyond, that they are the same objects.
_OBJECTS_MAX = 20_000
_WALKS_MAX = 10_000
# Names of a module that are its import's, and of a class that are the interpreter's.
_OF_MODULES = frozenset(
    "__name__ __file__ __doc__ __builtins__ __loader__ __spec__ __path__ __package__ __cached__ "
    "__annotations__ __dict__ __all__".split()
)
_OF_CLASSES = frozenset(
    "__dict__ __weakref__ __module__ __doc__ __qualname__ __abstractmethods__ _abc_impl __firstlineno__ "
    "__static_attributes__ __annotations__ __parameters__".split()
)
_DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType, types.WrapperDescriptorType)
_MUTABLE = (list, set, dict, collections.deque)
_METHODS = (types.FunctionType, staticmethod, classmethod, property)


class NamedCode(NamedTuple):
    """Code that travels by value, and the user's modules that it names."""

    code: types.CodeType
    modules: tuple[weakref.ref[types.ModuleType], ...]


Held = tuple[Callable[[str], object], str, weakref.ref[object]]
"""Something that is held weakly: how it is asked for, by which name, and the reference."""
_Function = tuple[
    types.FunctionType, types.CodeType, tuple[object, ...] | None, dict[str, object] | None
]
"""A function, its code, its defaults and its keyword defaults."""


class Space(NamedTuple):
    """Names in the namespace of a module or class, and what they stood for."""

    get: Callable[[str], object]
    names: tuple[str, ...]
    values: tuple[object, ...]
    space: Mapping[str, object]
    length: int
    owner: tuple[str, str]
    """Module and class, as in a `Key`."""


class Walk:
    """Goes through all that some roots reach, and notes what has to be compared later."""

    def __init__(self, roots: Iterable[object]) -> None:
        self.values: dict[Key, object] = {}
        """What is carried."""
        self.functions: list[_Function] = []
        self.dicts: list[dict[object, object]] = []
        self.containers: list[object] = []
        """What else can be changed in place, cells included, each followed by a `FENCE`."""
        self.arrays: list[tuple[Array, bytes]] = []
        """Small ones, and their bytes."""
        self.interiors: list[Interior] = []
        """Of what is looked at as a whole."""
        self.has_caches = False
        """Functions that remember their results are among what is carried."""
        self._referents: list[object] = []
        self._items: list[object] = []
        self._names: dict[int, tuple[Any, dict[str, object]]] = {}
        """By the identity of a module or class: it, and names in it with what they stand for."""
        self._seen: dict[int, object] = {}
        self._waiting: deque[object] = deque()
        """What was met and is still to be looked into, nearest first."""
        self._room = _OBJECTS_MAX
        for root in roots:
            if type(root) is NamedCode:
                there = [module for ref in root.modules if (module := ref()) is not None]
                self._add_attributes(names_in(root.code), there)
            else:
                self._add(root)
            self._go_through()

    def _go_through(self) -> None:
        while self._waiting and len(self.values) < _NAMES_MAX:
            value = self._waiting.popleft()
            if id(value) not in self._seen:
                self._seen[id(value)] = value
                self._look_into(value)

    # ------------------------------------------------ names

    def spaces(self) -> tuple[list[Space], list[Held]]:
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
            owner = (space.__name__, "")
            if type(space) is types.ModuleType:  # another one may come by its name
                weak.append((sys.modules.get, space.__name__, weakref.ref(space)))
            else:
                owner = (space.__module__, space.__qualname__)
            length = len(vars(space))
            spaces.append(
                Space(get, tuple(strong), tuple(strong.values()), vars(space), length, owner)
            )
        return spaces, weak

    def _watch(self, space: object) -> dict[str, object]:
        return self._names.setdefault(id(space), (space, {}))[1]

    def _add_name(self, module: types.ModuleType, name: str) -> None:
        """A global of one of the user's modules, or of ``__main__``, is reached."""
        names = self._watch(module)
        if name in names or name in _OF_MODULES:
            return
        value = vars(module).get(name, MISSING)
        key = (module.__name__, "", name)
        if value is MISSING:
            if entry_of(key) is not None:
                self.values[key] = MISSING
            return
        names[name] = value
        self.values[key] = value
        self._add(value)

    def _add_code(
        self, code: types.CodeType, space: dict[str, object], modules: list[types.ModuleType]
    ) -> None:
        """What code names: globals, and attributes of modules, which need not be there yet."""
        names = names_in(code)
        home = _module_of(space)
        if home is not None:
            self._watch(home)
            for name in names:
                self._add_name(home, name)
        self._add_attributes(names, modules_named(names, space, modules))

    def _add_attributes(self, names: Iterable[str], modules: Iterable[types.ModuleType]) -> None:
        for module in modules:
            self._watch(module)
            for name in (*names, "__getattr__"):
                self._add_name(module, name)

    def _add_home(self, value: object, home: tuple[str, str]) -> None:
        """The name under which a function or class is found, and the class that has it."""
        module, (owner, _, name) = sys.modules[home[0]], home[1].rpartition(".")
        if not owner:
            return self._add_name(module, name)
        if isinstance(value, type):
            self.values[home[0], owner, name] = value
        outer = resolve(module, owner)
        if issubclass(type(outer), type):
            self._add(outer)

    # ------------------------------------------------ values

    def _add(self, value: object) -> None:
        if type(value) not in ATOMS and id(value) not in self._seen:
            self._waiting.append(value)

    def _look_into(self, value: Any) -> None:
        kind = type(value)
        if kind is types.FunctionType:
            self._add_function(value)
        elif issubclass(kind, type):
            self._add_class(value)
        elif not is_carried(value):
            interior = Interior(value, min(ELEMENTS_MAX, self._room))
            self._room -= interior.size
            self.interiors.append(interior)
            for each in interior.met:
                self._add(each)
        elif issubclass(kind, np.ndarray):
            self.arrays.append((value, value.tobytes()))
        else:
            if kind in _MUTABLE or is_table(kind):
                self._watch_content(value)
            if kind.__dictoffset__ and (is_table(kind) or is_simple_instance(value)):
                self._watch_content(dict_of(value))
            self._add(kind)
            for part in parts_of(value) or ():
                self._add(part)

    def _watch_content(self, container: object) -> None:
        if isinstance(container, dict):
            self.dicts.append(container)
            self._items += items_of(container)
        else:
            self.containers += container, FENCE
            self._referents += gc.get_referents(container, FENCE)

    def content(self) -> list[object]:
        """What was in the containers when each was met, as `referents` gives it."""
        return self._referents + self._items

    def _add_function(self, func: types.FunctionType) -> None:
        home = find_home(func)
        if home is not None:
            if not is_users_or_main(home[0]):
                return
            self._add_home(func, home)
        self.functions.append((func, func.__code__, func.__defaults__, func.__kwdefaults__))
        # What is large or not carried is not kept alive: another function closes over it anyway.
        if all([is_carried(each) or each is MISSING for each in cell_contents(func)]):
            for cell in func.__closure__ or ():
                self._watch_content(cell)
        inner = [content for _, content in cells_of(func)]
        inner += func.__defaults__ or ()
        for attributes in (func.__kwdefaults__, func.__dict__):
            if attributes:
                self._watch_content(attributes)
                inner += attributes.values()
        if is_users_or_main(func.__globals__.get("__name__")):
            modules = [each for each in inner if type(each) is types.ModuleType]
            self._add_code(func.__code__, func.__globals__, modules)
        for each in inner:
            self._add(each)

    def _add_class(self, kind: type) -> None:
        home = find_home(kind) if is_users_or_main(kind.__module__) else None
        if home is None or is_immutable_type(kind):
            return
        self._add_home(kind, home)
        names = self._watch(kind)
        members = {each[0] for each in members_of(kind) or ()}
        for attribute, value in list(vars(kind).items()):
            if (
                attribute in _OF_CLASSES
                or issubclass(type(value), _DESCRIPTORS)
                or attribute in members
            ):
                continue
            if members and not issubclass(type(value), _METHODS):
                continue
            names[attribute] = value
            is_nested = issubclass(type(value), type) and find_home(value) == (
                home[0],
                dotted(home[1], attribute),
            )
            if not is_nested:
                self.values[*home, attribute] = value
            self._add(value)
        for name in attributes_told(home):
            if name not in vars(kind):
                self.values[*home, name] = MISSING
        for base in (*kind.__bases__, type(kind)):
            self._add(base)

    # ------------------------------------------------ registering

    def register(self) -> int:
        """Take note of what has changed; the latest version among all that is reached.

        The lock of `versions` is held.
        """
        latest, room, waiting = 0, _OBJECTS_MAX, list(self.values.items())
        while waiting:
            known = len(self.values)
            for key, value in waiting:
                entry = register(key, value, min(room, ELEMENTS_MAX))
                latest = max(latest, entry.told.version)
                room = max(0, room - entry.size())
                for each in entry.met:  # in objects of other libraries, say
                    self._add(each)
            self._go_through()
            waiting = list(self.values.items())[known:]
        caches = {
            key: func
            for key, value in self.values.items()
            if (func := cached_in(value)) is not None
        }
        self.has_caches = bool(caches)
        # In a large package a walk for each of many would take seconds: all that is reached stands for it.
        is_long = len(caches) * len(self.values) > _WALKS_MAX
        for key, func in caches.items():
            reached = self.values if is_long else Walk((func.__wrapped__,)).values
            latest = max(latest, register_cache(key, reached))
        return latest


def _weakly(value: object) -> weakref.ref[object] | None:
    """A weak reference to what may be large; None for what is kept."""
    kind = type(value)
    if kind is types.FunctionType or kind is types.ModuleType or issubclass(kind, type):
        return None
    if issubclass(kind, np.ndarray):
        return weakref.ref(value) if is_large(value) else None
    if is_carried(value):
        return None
    try:
        return weakref.ref(value)
    except TypeError:
        return None


def _module_of(space: dict[str, object]) -> types.ModuleType | None:
    """The user's module whose namespace this is."""
    name = space.get("__name__")
    module = sys.modules.get(name) if isinstance(name, str) else None
    if module is None or vars(module) is not space:
        return None
    return module if name == MAIN or is_users(module) else None


def modules_named(
    names: Iterable[str], space: dict[str, Any], more: Iterable[types.ModuleType]
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
