"""What code does, as its instructions say: for `digest`.

Nothing of the user's runs here, except that the package around a module that code imports is loaded.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import importlib.util
import os
import sys
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

from .._code.modules import is_users, is_users_or_main

_OF_GLOBALS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
_CONSTANTS = (type(None), bool, int, float, complex, str, bytes, type(...), tuple, frozenset)


class Scope(NamedTuple):
    """Where code stands, as far as that decides what its names mean."""

    package: str
    """By which relative imports are found."""
    is_users: bool
    """Its globals are the user's, and count."""
    code: types.CodeType | None = None
    """That of the file, if it is one."""

    @classmethod
    def of_globals(cls, namespace: dict[str, Any]) -> Scope:
        name = namespace.get("__name__")
        module = sys.modules.get(name) if isinstance(name, str) else None
        is_of_module = isinstance(module, types.ModuleType) and vars(module) is namespace
        return cls(
            str(namespace.get("__package__") or ""), not is_of_module or is_users_or_main(name)
        )

    @classmethod
    def of_file(cls, name: str) -> Scope | None:
        """That of a module that may not be loaded yet; None if it is none of the user's."""
        if name in sys.modules and not is_users_or_main(name):
            return None
        try:
            spec = importlib.util.find_spec(name)
            if spec is None or spec.loader is None or not hasattr(spec.loader, "get_code"):
                return None
            stand_in = types.ModuleType(name)
            stand_in.__spec__ = spec
            if not is_users(stand_in):
                return None
            return cls(spec.parent or "", True, spec.loader.get_code(name))
        except (ImportError, ValueError, SyntaxError, OSError):
            return None


def instructions_of(code: types.CodeType) -> Iterator[tuple[str, object]]:
    """Name and argument of each instruction, as far as it counts."""
    for each in dis.get_instructions(code):
        value = each.argval
        yield each.opname, value if isinstance(value, (*_CONSTANTS, types.CodeType)) else None


def globals_in(code: types.CodeType) -> list[str]:
    """The globals that code names, or what is nested in it, in order."""
    names = set()
    codes = [code]
    for each in codes:
        names |= {i.argval for i in dis.get_instructions(each) if i.opname in _OF_GLOBALS}
        codes += [const for const in each.co_consts if isinstance(const, types.CodeType)]
    return sorted(names)


def imported_by(code: types.CodeType, scope: Scope | None) -> Iterator[str]:
    """The full names of what code imports as it runs, modules or not; nothing of what is nested in it."""
    before: list[Any] = [None, None]
    for each in dis.get_instructions(code):
        if each.opname == "IMPORT_NAME":
            level, names = before
            name = str(each.argval)
            if isinstance(level, int) and level:
                package = scope.package if scope is not None else ""
                name = ".".join(filter(None, (*package.split(".")[: 1 - level or None], name)))
            yield name
            yield from (f"{name}.{part}" for part in names or () if part != "*")
        before = [before[1], each.argval]


@functools.lru_cache(64)
def _hash_of_file(path: str, mtime: int, size: int) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()


def bytes_of_extension(module: str) -> bytes:
    """What stands for the file of a module of the user's that is compiled; empty for any other."""
    if not is_users_or_main(module):
        return b""
    path = getattr(sys.modules.get(module), "__file__", None)
    if not isinstance(path, str) or path.endswith(".py"):
        return b""
    try:
        stat = os.stat(path)
        return _hash_of_file(path, stat.st_mtime_ns, stat.st_size)
    except OSError:
        return b""
