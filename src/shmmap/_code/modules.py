"""Which modules are the user's own, and which of those another interpreter can import.

The user's own are all modules but those of the standard library, of installed packages, and of this one. What
is in them may change while a program runs: their source is edited and loaded again, their globals are set.
"""

from __future__ import annotations

import functools
import importlib.machinery
import os
import sys
import types
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

MAIN = "__main__"
MAINS = (MAIN, "__mp_main__")
"""What the program's own module is called: the second in a process that `multiprocessing` has started. Its
functions have a namespace of their own there, of which the module has a copy."""

_FOLDERS_OF_PACKAGES = ("site-packages", "dist-packages")
_NO_FILE = ("built-in", "frozen")
_IS_IMMUTABLE = 1 << 8  # Py_TPFLAGS_IMMUTABLETYPE

_Ref = weakref.ref[types.ModuleType]
_known: dict[str, tuple[_Ref, bool]] = {}
_importable: dict[str, tuple[_Ref, list[str], bool]] = {}
_watched: set[_Ref] = set()
"""Modules that are there, or were until their end is told of, also when another one has taken the name."""
_listeners: list[Callable[[str], object]] = []


def when_gone(listener: Callable[[str], object]) -> None:
    """Have a function called with the name of each module of the user's that has gone.

    A module goes once it is no longer in `sys.modules`, and nothing else refers to it. What was remembered of
    its functions is to go too, as each of them keeps all its globals alive. The call comes at any time and in
    any thread, also while a lock is held: a listener waits for nothing.
    """
    _listeners.append(listener)


def _watch(name: str, module: types.ModuleType) -> _Ref:
    # At the end of the interpreter, what a listener needs may have gone already, and so may `sys`.
    def tell(ref: _Ref, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not is_finalizing():
            _watched.discard(ref)
            for listener in _listeners:
                listener(name)

    ref = weakref.ref(module, tell)
    _watched.add(ref)
    return ref


@functools.cache
def _standard_library() -> tuple[str, ...]:
    """Where the standard library lies; `sysconfig` says so as well, and takes 10 ms to import."""
    folders = [os.path.dirname(os.__file__)]
    entries = [entry for entry in sys.path if isinstance(entry, str)]  # Python ignores all others
    folders += [entry for entry in entries if os.path.basename(entry).startswith("python3")]
    folders += [os.path.realpath(folder) for folder in folders]
    return tuple({os.path.join(folder, "") for folder in folders})


def _is_installed_file(file: str) -> bool:
    parts = file.replace("\\", "/").split("/")
    if any(folder in parts for folder in _FOLDERS_OF_PACKAGES):
        return True
    return file.startswith(_standard_library())


@functools.cache
def _recorded_in(folder: str) -> frozenset[str]:
    """Top-level names that pip has installed into a folder, as with ``pip install --target``."""
    names: set[str] = set()
    try:
        records = [
            os.path.join(folder, each, "RECORD")
            for each in os.listdir(folder or ".")
            if each.endswith(".dist-info")
        ]
        for record in records:
            with open(record, encoding="utf-8", errors="replace") as file:
                names.update(line.partition(",")[0].partition("/")[0] for line in file)
    except OSError:
        pass
    return frozenset(name.partition(".")[0] for name in names)


def _is_installed(top: str, file: str) -> bool:
    """Whether a module of the package `top` that lies in a file was installed there."""
    if _is_installed_file(file):
        return True
    place = file.rfind(f"/{top}/")
    return top in _recorded_in(os.path.dirname(file) if place < 0 else file[:place])


def _file_of(module: types.ModuleType) -> str | None:
    """Where a module was loaded from; None for one that was not."""
    spec = getattr(module, "__spec__", None)
    file = getattr(spec, "origin", None) or getattr(module, "__file__", None)
    return file if isinstance(file, str) else None


def is_users(module: types.ModuleType) -> bool:
    """Whether a module is the user's own; ``__main__``, which travels by value, is not meant."""
    name = module.__name__
    known = _known.get(name)
    if known is not None and known[0]() is module:
        return known[1]
    answer = _find_out(name, module)
    # Any object may stand in for a module there.
    if sys.modules.get(name) is module and isinstance(module, types.ModuleType):
        _known[name] = _watch(name, module), answer
    return answer


def _find_out(name: object, module: types.ModuleType) -> bool:
    if not isinstance(name, str) or name in MAINS:
        return False
    top = name.partition(".")[0]
    if top == __name__.partition(".")[0]:
        return False
    file = _file_of(module)
    if file in _NO_FILE:
        return False
    if file is not None:
        return not _is_installed(top, file)
    folders = list(getattr(module, "__path__", None) or ())
    if folders:  # a namespace package
        return not all(_is_installed_file(os.path.join(each, "")) for each in folders)
    # Made by code. What has nothing but types of C is shared by extension modules, as by those of Cython.
    own = [value for name, value in list(vars(module).items()) if not name.startswith("__")]
    if own and all(map(is_immutable_type, own)):
        return False
    # Any other belongs to the package under whose name it stands.
    parent = sys.modules.get(top)
    return top not in sys.stdlib_module_names and (
        parent is None or parent is module or is_users(parent)
    )


def is_immutable_type(value: object) -> bool:
    """Whether a value is a type of which no attribute can be set, as most that are written in C."""
    return isinstance(value, type) and bool(value.__flags__ & _IS_IMMUTABLE)


def is_users_name(name: object) -> bool:
    """The same for the module of that name, if there is one."""
    if not isinstance(name, str):
        return False
    known = _known.get(name)
    module = sys.modules.get(name)
    if known is not None and module is not None and known[0]() is module:
        return known[1]
    return isinstance(module, types.ModuleType) and is_users(module)


def is_users_or_main(name: object) -> bool:
    """Whether a module of that name is the user's own, ``__main__`` included."""
    return isinstance(name, str) and (name in MAINS or is_users_name(name))


def lacks_package(name: object) -> bool:
    """Whether a module of this name cannot be imported, though it may be there: its package is not.

    So it is where somebody has made a module under a dotted name: `runpy` does, while it runs a script, and
    recipes that import a file by its path.
    """
    return isinstance(name, str) and "." in name and name.partition(".")[0] not in sys.modules


def can_be_imported(module: types.ModuleType) -> bool:
    """Whether another interpreter with the same search path would find this very module by its name."""
    name = module.__name__
    if sys.modules.get(name) is not module:
        return False
    known = _importable.get(name)
    if known is not None and known[0]() is module and known[1] == sys.path:
        return known[2]
    answer = _is_found(name, module)
    if isinstance(module, types.ModuleType):
        _importable[name] = weakref.ref(module), list(sys.path), answer
    return answer


def _is_found(name: str, module: types.ModuleType) -> bool:
    package = name.rpartition(".")[0]
    path = None
    if package:
        parent = sys.modules.get(package)
        if parent is None or not can_be_imported(parent):
            return False
        path = getattr(parent, "__path__", None)
        if path is None:
            return False
    for finder in (importlib.machinery.PathFinder, *_finders_of_editable_packages()):
        try:
            found = finder.find_spec(name, path)
        except Exception:
            continue
        if found is not None:
            return _is_same_file(found.origin, _file_of(module))
    return False


def _finders_of_editable_packages() -> list[Any]:
    """Finders that every interpreter of this environment has, as installed ``.pth`` files ask for them."""
    return [
        finder for finder in sys.meta_path if "editable" in str(getattr(finder, "__module__", ""))
    ]


def _is_same_file(one: str | None, other: str | None) -> bool:
    if one is None or other is None:
        return one is other
    return os.path.realpath(one) == os.path.realpath(other)


_BY_REFERENCE = (types.FunctionType, types.BuiltinFunctionType, type, np.ufunc)


def is_importable(func: Any) -> bool:
    """Whether a worker gets this very function or class by importing its module."""
    module = sys.modules.get(getattr(func, "__module__", None) or "")
    name = name_in_module(func)
    if module is None or module.__name__ in MAINS or "." in name:
        return False
    if getattr(module, name, None) is not func:
        return False
    if getattr(module, "__spec__", None) is None and not is_users(module):
        return False
    if lacks_package(module.__name__) or travels_by_value(module.__name__):
        return False
    if isinstance(func, _BY_REFERENCE):
        return True
    try:  # other objects may bear a name as well: those that pickle by reference say so by a string
        return isinstance(func.__reduce_ex__(5), str)
    except Exception:
        return False


def name_in_module(func: object) -> str:
    """What a function or class is called in its module, as far as it says."""
    return str(getattr(func, "__qualname__", "") or getattr(func, "__name__", ""))


def travels_by_value(module: str) -> bool:
    """Whether the user told cloudpickle to pickle what is in a module by value."""
    cloudpickle = sys.modules.get("cloudpickle")
    registered = cloudpickle.list_registry_pickle_by_value() if cloudpickle is not None else ()
    if not registered:  # nearly always
        return False
    return any(f"{module}.".startswith(f"{name}.") for name in registered)
