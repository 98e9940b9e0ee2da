"""What the caller's modules are like, put in force in another process.

What an initializer or a function has set in this process is overwritten only if the caller has changed that
very name since it first told of it. How it works, and which thread writes what, is in
docs/design/0037-code-and-settings-of-now.md.
"""

from __future__ import annotations

import abc
import builtins
import importlib
import pickle
import sys
import types
from collections.abc import Iterator
from typing import Any

from .._memory import touched
from .._system.forks import make_lock
from . import importing
from .carried import cached_in, is_carried, is_same
from .modules import MAIN
from .namespaces import MISSING, dotted, members_of, resolve
from .values import Refused, borrow, fill_gaps, pack_value, type_name, unpack_value
from .versions import Told

_Name = tuple[str, str]
"""Class, or nothing, and name in it."""
_told: dict[str, dict[_Name, Told]] = {}
_applied: dict[str, dict[_Name, int]] = {}
_last: tuple[object, bytes] = (None, b"")
_shared_arrays: list[tuple[str, str, object, int]] = []
"""Module, name, array, and its segment: what is to go when the caller lets go of it."""
_lock = make_lock()


def note_imports() -> None:
    """Have what was told put in force whenever a module is imported from now on."""
    importing.note_imports(_settle_imported)


def receive_changes(data: bytes | memoryview, sender: object = None) -> None:
    """Take news of the caller's modules, and put in force what concerns those that are here."""
    global _last
    if sender is not None:
        if (sender, data) == _last:
            return
        note_imports()
        if sender != _last[0]:
            _told.clear()
            _applied.clear()
        _last = sender, bytes(data)
    all_told, homes = pickle.loads(data)
    with _lock:
        for name, home in sorted(homes.items()):  # packages first
            if name not in sys.modules:
                _make_module(name, *home)
        for told in (Told(*each) for each in all_told):
            if _is_pending(told):
                _told.setdefault(told.module, {})[told.owner, told.name] = told
    for name in [*_told]:
        _settle(name)


def _make_module(name: str, of_package: str | None, file: str | None, is_package: bool) -> None:
    module = types.ModuleType(name)
    module.__package__ = of_package
    # As an import would: what is written in C and imports something looks there.
    vars(module)["__builtins__"] = vars(builtins)
    if file is not None:
        module.__file__ = file
    if is_package:
        module.__path__ = []
    sys.modules[name] = module
    package, _, last = name.rpartition(".")
    if package in sys.modules:
        setattr(sys.modules[package], last, module)


def forget_segments(segments: set[int]) -> None:
    """Let go of arrays in shared memory that the caller has let go of."""
    for item in [item for item in _shared_arrays if item[3] in segments]:
        _shared_arrays.remove(item)
        module = sys.modules.get(item[0])
        if module is not None and vars(module).get(item[1]) is item[2]:
            del vars(module)[item[1]]


# ---------------------------------------------------------------- what is to be put in force


def _is_pending(told: Told) -> bool:
    return told.version > _applied.get(told.module, {}).get((told.owner, told.name), 0)


def _pending_of(module: str) -> Iterator[Told]:
    return filter(_is_pending, list(_told.get(module, {}).values()))


def _mark_applied(told: Told) -> None:
    _applied.setdefault(told.module, {})[told.owner, told.name] = told.version


def _settle_imported(modules: list[types.ModuleType]) -> None:
    with _lock:
        for module in modules:  # all of it anew: this may be the second import of that name
            _applied.pop(module.__name__, None)
    for module in modules:
        _settle(module.__name__)


def _settle(name: str) -> None:
    """Put in force what was told of a module, unless it is about to be imported."""
    module = sys.modules.get(name)
    if not isinstance(module, types.ModuleType) or importing.is_loading(module):
        return
    if importing.is_importing() and name != MAIN:
        return
    with _lock:
        # Classes first, the outer ones before those in them: attributes go into them.
        for told in sorted(_pending_of(name), key=_order):
            if _is_pending(told):
                _apply(module, told)


def _order(told: Told) -> tuple[bool, int]:
    return told.kind != "class", dotted(told.owner, told.name).count(".")


def _look_up(module: str, qualname: str) -> None:
    """Have a function or class as the caller has it, before a value that refers to it is made."""
    home: Any = importlib.import_module(module)
    told_of = _told.get(module, {})
    owner = ""
    for name in qualname.split(".") if told_of and not importing.is_loading(home) else ():
        told = told_of.get((owner, name))
        if told is not None and _is_pending(told):
            _apply(home, told)
        owner = dotted(owner, name)


# ---------------------------------------------------------------- putting it in force


def _apply(module: types.ModuleType, told: Told) -> None:
    """Put in force what was told of one name."""
    space = _space_of(module, told)
    if space is None:
        return  # the class could not be made
    own = vars(space).get(told.name, MISSING)
    is_known = (told.owner, told.name) in _applied.get(told.module, {})
    _mark_applied(told)
    if told.is_first and not is_known and not importing.is_as_imported(*told[:3], own):
        return  # something in this process has set it
    try:
        value = _value_for(module, told, own)
    except Exception as exc:
        value = Refused(
            f"{_name_of(told)} cannot be carried from the calling process: {exc}. Set it in a "
            "Team's initializer"
        )
    if value is not own:
        _set(space, told.name, value)


def _space_of(module: types.ModuleType, told: Told) -> types.ModuleType | type | None:
    """The module or class that has the name; None if there is no such class."""
    space = resolve(module, told.owner) if told.owner else module
    return space if isinstance(space, (type, types.ModuleType)) else None


def _set(space: types.ModuleType | type, name: str, value: object) -> None:
    if isinstance(space, type):  # whatever its metaclass says about attributes
        if value is MISSING:
            type.__delattr__(space, name)
        else:
            type.__setattr__(space, name, value)
    elif value is MISSING:
        del vars(space)[name]
    else:
        vars(space)[name] = value


def _name_of(told: Told) -> str:
    return ".".join(filter(None, told[:3]))


def _value_for(module: types.ModuleType, told: Told, own: object) -> object:
    """What a name is to stand for, which is `own` if that will do, and `MISSING` if it is to go."""
    if told.kind == "gone":
        return MISSING
    if told.kind == "class":
        return _class_for(module, told, own)
    if told.kind == "opaque" and own is not MISSING and type_name(own) == told.type_name:
        return own
    if told.data is None:
        return Refused(
            f"{_name_of(told)} is a {told.type_name} in the calling process, which cannot be carried to "
            "workers; set it in a Team's initializer, or use engine='fork'"
        )
    before = dict(touched)
    value = unpack_value(told.data, _look_up)
    if told.kind == "part":
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
                _shared_arrays.append((told.module, told.name, value, segment))
    return value


def _pickles_as(value: object, data: bytes) -> bool:
    try:
        return not is_carried(value) and pack_value(value).data == data
    except Exception:
        return False


# ---------------------------------------------------------------- classes


def _class_for(module: types.ModuleType, told: Told, own: object) -> object:
    """The class of that name: the one that is there, if it has the same bases; else a new one."""
    assert told.data is not None
    meta, bases, qualname, members, doc = unpack_value(told.data, _look_up)
    if isinstance(own, type) and type(own) is meta:
        if members is None and _has_bases(own, bases):
            return own
        if members is not None and is_same(members_of(own), members):
            return own
    early: dict[str, object] = {
        "__module__": module.__name__,
        "__qualname__": qualname,
        "__doc__": doc,
    }
    early.update(members or ())
    late: list[Told] = []
    for each in _pending_of(module.__name__):
        if each.owner != qualname or each.kind != "value" or each.data is None:
            continue
        _mark_applied(each)
        if each.name == "__slots__" or (members is not None and not each.name.startswith("_")):
            early[each.name] = unpack_value(each.data, _look_up)
        else:
            late.append(each)

    def fill(namespace: dict[str, object]) -> None:
        for name, value in early.items():  # one by one: that of an enumeration is watching
            namespace[name] = value

    kind = types.new_class(qualname.rpartition(".")[2], bases, {"metaclass": meta}, fill)
    # Only now: methods may refer to their class.
    space = _space_of(module, told)
    assert space is not None
    _set(space, told.name, kind)
    for each in late:
        assert each.data is not None
        type.__setattr__(kind, each.name, unpack_value(each.data, _look_up))
    _complete(kind)
    return kind


def _complete(kind: type) -> None:
    """Have an abstract class look again at which methods are missing: they came after it was made."""
    if isinstance(kind, abc.ABCMeta):
        found: dict[str, object] = dict(vars(kind))
        for base in kind.__bases__:
            for name in getattr(base, "__abstractmethods__", ()):
                found[name] = getattr(kind, name, None)
        kind.__abstractmethods__ = frozenset(
            name for name, value in found.items() if getattr(value, "__isabstractmethod__", False)
        )


def _has_bases(own: type, bases: tuple[type, ...]) -> bool:
    if own.__bases__ == bases:
        return True
    try:
        own.__bases__ = bases
    except TypeError:  # their instances are laid out in another way
        return False
    return True
