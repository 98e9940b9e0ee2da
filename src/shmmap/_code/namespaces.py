"""What a name stands for, and which variables functions and objects have, as their namespaces say.

Everything that goes through a function or an object asks here: `reach` and `captured`, and in `_wire` and
`_chunks` the texts of refusals and warnings.

What must hold: nothing here but `attributes_of` runs code of the user's.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Iterator
from enum import EnumMeta
from typing import Any

MISSING: object = object()
"""Stands for nothing: a name without a value, a cell that is not filled yet."""

# A longer string in some code is no name.
_NAME_MAX = 100

Variable = tuple[str, object]
"""Name and value."""


def resolve(module: types.ModuleType, qualname: str) -> object:
    """What a dotted name in a module stands for, found in namespaces alone; `MISSING` if nothing."""
    found: object = module
    for name in qualname.split("."):
        if not isinstance(found, (type, types.ModuleType)):
            return MISSING
        found = vars(found).get(name, MISSING)
        if type(found) is staticmethod:
            found = found.__func__
    return found


def find_home(value: object) -> tuple[str, str] | None:
    """Module and name under which a function or class is found; None if it is not found there."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    home = sys.modules.get(module) if isinstance(module, str) else None
    if isinstance(home, types.ModuleType) and isinstance(module, str) and isinstance(name, str):
        if resolve(home, name) is value:
            return module, name
    return None


def dotted(owner: str, name: str) -> str:
    """The qualified name of an attribute of a class; `owner` is empty for a global."""
    return f"{owner}.{name}" if owner else name


@functools.lru_cache(4096)
def names_in(code: types.CodeType) -> frozenset[str]:
    """Globals, attributes and imports that code names, also as text; code nested in it included."""
    names = set(code.co_names)
    consts = list(code.co_consts)
    for const in consts:
        if isinstance(const, types.CodeType):
            names |= names_in(const)
        elif isinstance(const, (tuple, frozenset)):
            consts += const
        elif isinstance(const, str) and len(const) <= _NAME_MAX:
            if const.isidentifier() or "." in const:
                names.add(const)
    return frozenset(names)


def members_of(kind: type) -> list[Variable] | None:
    """Names and values of an enumeration's members; None for any other class."""
    if not isinstance(kind, EnumMeta):
        return None
    members: dict[str, Any] = dict(kind.__members__)
    return [(name, member._value_) for name, member in members.items()]


def cells_of(func: types.FunctionType) -> Iterator[Variable]:
    """The variables that a function closes over; those that are not filled yet are left out."""
    for name, content in zip(func.__code__.co_freevars, cell_contents(func), strict=True):
        if content is not MISSING:
            yield name, content


def cell_contents(func: types.FunctionType) -> list[object]:
    """What the cells of a closure hold; `MISSING` for one that is not filled yet."""
    contents = []
    for cell in func.__closure__ or ():
        try:
            contents.append(cell.cell_contents)
        except ValueError:
            contents.append(MISSING)
    return contents


def defaults_of(func: types.FunctionType) -> Iterator[Variable]:
    """The arguments of a function that have a default, the last one first, then those by keyword."""
    code = func.__code__
    positional = code.co_varnames[: code.co_argcount][::-1]
    yield from zip(positional, (func.__defaults__ or ())[::-1], strict=False)
    yield from (func.__kwdefaults__ or {}).items()


def globals_of(func: types.FunctionType, *, nested: bool = True) -> Iterator[Variable]:
    """The globals that a function names, or what is `nested` in it."""
    codes = [func.__code__]
    for code in codes:
        for name in code.co_names:
            if name in func.__globals__:
                yield name, func.__globals__[name]
        if nested:
            codes += [const for const in code.co_consts if isinstance(const, types.CodeType)]


def dict_of(value: object) -> dict[str, object]:
    """An instance's ``__dict__``, whatever its class says about attributes; empty if it shows none.

    A type variable of `typing` has one that only C code can get at.
    """
    try:
        attributes: dict[str, object] = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return attributes


def attributes_of(obj: object) -> list[Variable]:
    """An object's attributes, those in slots included."""
    found = [*getattr(obj, "__dict__", {}).items()]  # at once: another thread may add to them
    for kind in type(obj).__mro__:
        if kind.__dict__.get("__slots__"):
            for name, at in vars(kind).items():
                if isinstance(at, types.MemberDescriptorType) and hasattr(obj, name):
                    found.append((name, at.__get__(obj)))
    return found
