"""What the caller's modules are like, put in force in another process.

The other process imports the user's modules for itself. What it is told of them (see `_code.reach`) is put in
force when a module has been imported: at once if it is there, else when the outermost import that brings it
has ended. Functions are replaced by new ones in the module's own namespace, classes keep their identity and
are changed attribute by attribute, and what is the same already stays.

What must hold: what an initializer or a function has set in this process is overwritten only if the caller
has changed that very name since it first told of it. So what every module was like after its import is noted.
"""

from __future__ import annotations

import importlib
import importlib.util
import pickle
import sys
import threading
import types
from enum import EnumMeta
from typing import Any, NamedTuple

from .._memory import touched
from .._system.forks import make_lock
from . import state
from .modules import MAIN, is_users
from .state import (
    ELEMENTS_MAX,
    MISSING,
    Refused,
    attributes_of,
    borrow,
    cached_in,
    fill_gaps,
    is_carried,
    is_same,
    is_table,
    pack_value,
    resolve,
    type_name,
    unpack_value,
)

VALUE, PART, CLASS, GONE = "value", "part", "class", "gone"
OPAQUE, REFUSED = "opaque", "refused"


class Told(NamedTuple):
    """What is told of one name."""

    module: str
    owner: str
    """Qualified name of the class that has the attribute; empty for a global of the module."""
    name: str
    kind: str
    """`VALUE`; `PART`, a value with a `Gap` for what does not pickle in it; `CLASS`, of which metaclass and
    bases are told, and every attribute by itself; `GONE`; `OPAQUE`: it does not pickle, and what the import
    has made is kept if the type is the same; or `REFUSED`: the same, but it was set at run time."""
    data: bytes | None
    version: int
    is_first: bool
    """The caller has not changed it since it first told of it."""
    type_name: str


class Home(NamedTuple):
    """How a module comes to be that no other process can import."""

    package: str | None
    file: str | None
    is_package: bool


class News(NamedTuple):
    """What one process tells another of its modules."""

    told: tuple[Told, ...]
    homes: dict[str, Home]
    """Modules that cannot be imported."""


_pending: dict[str, dict[tuple[str, str], Told]] = {}
"""What is to be put in force, by module."""
_applied: dict[tuple[str, str, str], int] = {}
"""Versions of what is in force."""
_as_imported: dict[str, dict[tuple[str, str], tuple[Any, Any]]] = {}
"""What imports have left, by module: each value, and what was in it if it is a container."""
_in_shared_memory: list[tuple[str, str, Any, int]] = []
"""Module, name, array, and its segment: what is to go when the caller lets go of it."""
_lock = make_lock()


# ---------------------------------------------------------------- what imports leave


def _content(value: Any) -> Any:
    kind = type(value)
    if is_table(kind) and len(dict.keys(value)) <= ELEMENTS_MAX:
        return (*dict.keys(value), *dict.values(value))
    if type(value).__dictoffset__ and not issubclass(kind, (type, types.ModuleType)):
        attributes = attributes_of(value)
        return (*attributes, *attributes.values())
    if (kind is list or kind is set) and len(value) <= ELEMENTS_MAX:
        return tuple(value)
    return None


def _note_import(module: types.ModuleType) -> None:
    left: dict[tuple[str, str], tuple[Any, Any]] = {}
    spaces: list[tuple[str, Any]] = [("", module)]
    while spaces:
        owner, space = spaces.pop()
        for name, value in list(vars(space).items()):
            left[owner, name] = value, _content(value)
            if type(value) is not types.ModuleType and issubclass(type(value), type):
                qualname = f"{owner}.{name}" if owner else name
                if value.__module__ == module.__name__ and value.__qualname__ == qualname:
                    spaces.append((qualname, value))
    _as_imported[module.__name__] = left


def note_imports() -> None:
    """Note what the user's modules that are there are like, and hear of all that are imported from now on."""
    for name, module in list(sys.modules.items()):
        if isinstance(module, types.ModuleType) and name not in _as_imported and is_users(module):
            _note_import(module)
    # Only now: what tells the user's modules from others is imported with the first question.
    if not any(type(finder) is _Finder for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _is_touched(told: Told, own: Any) -> bool:
    """Whether something in this process has set a name since its module was imported."""
    left = _as_imported.get(told.module)
    if left is None or (told.module, told.owner, told.name) in _applied:
        return False
    value, content = left.get((told.owner, told.name), (MISSING, None))
    if value is not own:
        return True
    now = _content(own)
    if content is None or now is None:
        return False
    return len(now) != len(content) or any([a is not b for a, b in zip(now, content, strict=True)])


class _Importing(threading.local):
    depth = 0
    names: tuple[str, ...] = ()


_importing = _Importing()


class _Loader:
    """Loads a module as its own loader does, then puts in force what the caller told of it."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: Any) -> Any:
        create = getattr(self._loader, "create_module", None)
        return None if create is None else create(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        # Nobody is to notice: from here on the module has the loader it would have had.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        _importing.depth += 1
        try:
            self._loader.exec_module(module)
            _importing.names += (module.__name__,)
        finally:
            _importing.depth -= 1
            if not _importing.depth:
                names, _importing.names = _importing.names, ()
                _settle_imported(names)


class _Finder:
    """First among the finders: it has the others look."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        for finder in list(sys.meta_path):
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec = None if find is None else find(name, path, target)
            if spec is None:
                continue
            if hasattr(spec.loader, "exec_module") and type(spec.loader) is not _Loader:
                stand_in = types.ModuleType(name)
                stand_in.__spec__ = spec
                if is_users(stand_in):
                    spec.loader = _Loader(spec.loader)
            return spec
        return None


def _settle_imported(names: tuple[str, ...]) -> None:
    found = map(sys.modules.get, names)
    modules = [module for module in found if isinstance(module, types.ModuleType)]
    with _lock:
        for module in modules:
            _note_import(module)
            # All of it anew: this may be the second import of that name.
            for key in [key for key in _applied if key[0] == module.__name__]:
                del _applied[key]
    _ended.update(names)
    try:
        for module in modules:
            _settle(module.__name__)
    finally:
        _ended.difference_update(names)


# ---------------------------------------------------------------- putting it in force


_told: dict[tuple[str, str, str], Told] = {}
"""All that was told, for modules that come again."""
_sender: Any = None
_last_data = b""


def receive_changes(data: bytes | memoryview, sender: Any = None) -> None:
    """Take news of the caller's modules, and put in force what concerns those that are here."""
    global _last_data, _sender
    if sender is not None:
        if sender == _sender and data == _last_data:
            return
        note_imports()
        if sender != _sender:
            _told.clear()
            _applied.clear()
        _sender, _last_data = sender, bytes(data)
    news = News(*pickle.loads(data))
    with _lock:
        for name, home in sorted(news.homes.items()):  # packages first
            if name not in sys.modules:
                _make_module(name, Home(*home))
        for each in news.told:
            told = Told(*each)
            key = told[:3]
            if told.version <= _applied.get(key, 0):
                continue
            _told[key] = told
            _pending.setdefault(told.module, {})[told.owner, told.name] = told
    for name in [name for name in _pending if name in sys.modules]:
        _settle(name)


def _make_module(name: str, home: Home) -> None:
    module = types.ModuleType(name)
    module.__package__ = home.package
    if home.file is not None:
        module.__file__ = home.file
    if home.is_package:
        module.__path__ = []
    sys.modules[name] = module
    package, _, last = name.rpartition(".")
    if package in sys.modules:
        setattr(sys.modules[package], last, module)


def _settle(name: str) -> None:
    """Put in force what was told of a module, unless it is about to be imported."""
    module = sys.modules.get(name)
    if not isinstance(module, types.ModuleType) or (_importing.depth and name != MAIN):
        return
    if _is_loading(module):
        return
    with _lock:
        for told in list(_told.values()) if name not in _pending else ():
            if told.module == name and told[:3] not in _applied:
                _pending.setdefault(name, {})[told.owner, told.name] = told
        pending = _pending.get(name, {})
        while pending:
            # Classes first, in their order: attributes go into them.
            key = next((key for key, told in pending.items() if told.kind == CLASS), None)
            _apply(module, pending.pop(next(iter(pending)) if key is None else key))
        _pending.pop(name, None)


_ended: set[str] = set()
"""Modules whose code has run, though Python has not done with importing them."""


def _is_loading(module: types.ModuleType) -> bool:
    return module.__name__ not in _ended and bool(
        getattr(getattr(module, "__spec__", None), "_initializing", False)
    )


def _find_here(module: str, qualname: str) -> Any:
    """A function or class by its name, as the caller has it."""
    home = importlib.import_module(module)
    pending = _pending.get(module, {})
    owner = ""
    for name in qualname.split(".") if pending and not _is_loading(home) else ():
        if (owner, name) in pending:
            _apply(home, pending.pop((owner, name)))
        owner = f"{owner}.{name}" if owner else name
    found = resolve(home, qualname)
    if found is MISSING:
        raise AttributeError(f"module {module!r} has no {qualname!r} here")
    return found


state.find_here = _find_here


def _apply(module: types.ModuleType, told: Told) -> None:
    """Put in force what was told of one name."""
    space: Any = resolve(module, told.owner) if told.owner else module
    if not isinstance(space, (type, types.ModuleType)):
        return  # the class could not be made
    own = vars(space).get(told.name, MISSING)
    leaves = told.is_first and _is_touched(told, own)
    _applied[told[:3]] = told.version
    if leaves:
        return
    try:
        value = _value_for(module, told, own)
    except Exception as exc:
        value = Refused(
            f"{_name_of(told)} cannot be carried from the calling process: {exc}. Set it in a "
            "Team's initializer"
        )
    if value is own:
        return
    if value is MISSING:
        _delete(space, told.name)
    elif isinstance(space, type):
        type.__setattr__(space, told.name, value)
    else:
        vars(space)[told.name] = value


def _name_of(told: Told) -> str:
    return ".".join(filter(None, told[:3]))


def _value_for(module: types.ModuleType, told: Told, own: Any) -> Any:
    """What a name is to stand for, which is `own` if that will do, and `MISSING` if it is to go."""
    if told.kind == GONE:
        return MISSING
    if told.kind == CLASS:
        return _class_for(module, told, own)
    if told.kind == OPAQUE and own is not MISSING and type_name(own) == told.type_name:
        return own
    if told.data is None:
        return Refused(
            f"{_name_of(told)} is a {told.type_name} in the calling process, which cannot be carried to "
            "workers; set it in a Team's initializer, or use engine='fork'"
        )
    before = dict(touched)
    value = unpack_value(told.data)
    if told.kind == PART:
        return fill_gaps(value, own)
    borrow(value, own)
    if is_same(value, own) or (type(value) is type(own) and _pickles_as(own, told.data)):
        cached = cached_in(own)
        if cached is not None and not told.is_first:
            cached.cache_clear()  # it was told again, as something it reaches has changed
        return own
    if not told.owner:
        for segment, count in touched.items():
            if count != before.get(segment, 0):
                _in_shared_memory.append((told.module, told.name, value, segment))
    return value


def _pickles_as(value: Any, data: bytes) -> bool:
    try:
        return not is_carried(value) and pack_value(value).data == data
    except Exception:
        return False


def _delete(space: Any, name: str) -> None:
    if isinstance(space, type):
        type.__delattr__(space, name)
    else:
        del vars(space)[name]


def _class_for(module: types.ModuleType, told: Told, own: Any) -> Any:
    """The class of that name: the one that is there, if it has the same bases; else a new one."""
    assert told.data is not None
    meta, bases, qualname, members, doc = unpack_value(told.data)
    if isinstance(own, type) and type(own) is meta:
        if members is None and _has_bases(own, bases):
            return own
        if members is not None and is_same(members_of(own), members):
            return own
    pending = _pending.get(module.__name__, {})
    attributes: dict[str, Any] = {}
    for key in [key for key in pending if key[0] == qualname and pending[key].kind == VALUE]:
        each = pending.pop(key)
        _applied[each[:3]] = each.version
        if each.data is not None:
            attributes[each.name] = each
    made: dict[str, Any] = {"__module__": module.__name__, "__qualname__": qualname, "__doc__": doc}

    def fill(namespace: Any) -> None:
        for name, value in made.items():
            namespace[name] = value
        for name, value in members or ():
            namespace[name] = value
        for name, each in attributes.items():
            if name == "__slots__" or (members is not None and not name.startswith("_")):
                namespace[name] = unpack_value(each.data)

    kind = types.new_class(qualname.rpartition(".")[2], bases, {"metaclass": meta}, fill)
    # Only now: methods may refer to their class.
    space: Any = resolve(module, told.owner) if told.owner else module
    if isinstance(space, type):
        type.__setattr__(space, told.name, kind)
    else:
        vars(space)[told.name] = kind
    for name, each in attributes.items():
        if name != "__slots__" and not (members is not None and not name.startswith("_")):
            type.__setattr__(kind, name, unpack_value(each.data))
    _complete(kind)
    return kind


def _complete(kind: type) -> None:
    """Have an abstract class look again at which methods are missing: they came after it was made."""
    import abc

    if isinstance(kind, abc.ABCMeta):
        names = {
            name
            for name, value in vars(kind).items()
            if getattr(value, "__isabstractmethod__", False)
        }
        for base in kind.__bases__:
            for name in getattr(base, "__abstractmethods__", ()):
                if getattr(getattr(kind, name, None), "__isabstractmethod__", False):
                    names.add(name)
        kind.__abstractmethods__ = frozenset(names)


def _has_bases(own: type, bases: tuple[type, ...]) -> bool:
    if own.__bases__ == bases:
        return True
    try:
        own.__bases__ = bases
    except TypeError:  # their instances are laid out in another way
        return False
    return True


def members_of(kind: type) -> Any:
    """Names and values of an enumeration's members; None for any other class."""
    if not isinstance(kind, EnumMeta):
        return None
    members: dict[str, Any] = dict(kind.__members__)
    return [(name, member._value_) for name, member in members.items()]


def forget_segments(segments: set[int]) -> None:
    """Let go of arrays in shared memory that the caller has let go of."""
    for item in [item for item in _in_shared_memory if item[3] in segments]:
        _in_shared_memory.remove(item)
        module = sys.modules.get(item[0])
        if module is not None and vars(module).get(item[1]) is item[2]:
            del vars(module)[item[1]]
