"""What imports leave behind in a worker: what each of the user's modules was like, and that it is there.

`recipient` asks whether something in this process has set a name since its module was imported, and is called
when an import has ended.

| state | written by | read by | what must hold |
| --- | --- | --- | --- |
| `_as_imported` | `_note` | `is_as_imported` | what a module had when its code had run last |
| `_ended` | `_end_import` | `is_loading` | the modules that are being told of just now |
| `_importing` | `_Finder`, by thread | `is_importing` | `depth` is 0 again when no import is left |
"""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Callable, Iterable
from typing import Any

from .._system.imports import LoaderProxy
from .carried import ELEMENTS_MAX, is_table
from .modules import is_users
from .namespaces import MISSING, dict_of, dotted

_as_imported: dict[str, dict[tuple[str, str], tuple[Any, Any]]] = {}
"""By module, and by class and name in it: the value, and what was in it if it is a container."""
_ended: set[str] = set()
"""Modules whose code has run, though Python has not done with importing them."""

Listener = Callable[[list[types.ModuleType]], None]


class _Importing(threading.local):
    depth = 0
    names: tuple[str, ...] = ()


_importing = _Importing()


def is_importing() -> bool:
    """Whether this thread is importing one of the user's modules."""
    return _importing.depth > 0


def is_loading(module: types.ModuleType) -> bool:
    """Whether the code of a module is still running, in any thread."""
    return module.__name__ not in _ended and bool(
        getattr(getattr(module, "__spec__", None), "_initializing", False)
    )


def note_imports(listener: Listener) -> None:
    """Note what the user's modules that are there are like, and all that are imported from now on.

    The listener is called with the modules that an outermost import has brought.
    """
    for name, module in list(sys.modules.items()):
        if isinstance(module, types.ModuleType) and name not in _as_imported and is_users(module):
            _note(module)
    # Only now: what tells the user's modules from others is imported with the first question.
    if not any(type(finder) is _Finder for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder(listener))


def is_as_imported(module: str, owner: str, name: str, value: object) -> bool:
    """Whether a value is what the import of its module has left, as far as that is known."""
    left = _as_imported.get(module)
    if left is None:
        return True
    before, content = left.get((owner, name), (MISSING, None))
    if before is not value:
        return False
    now = _content(value)
    if content is None or now is None:
        return True
    return len(now) == len(content) and all([a is b for a, b in zip(now, content, strict=True)])


def _note(module: types.ModuleType) -> None:
    left: dict[tuple[str, str], tuple[object, object]] = {}
    spaces: list[tuple[str, object]] = [("", module)]
    for owner, space in spaces:
        for name, value in list(vars(space).items()):
            left[owner, name] = value, _content(value)
            if issubclass(type(value), type) and value.__module__ == module.__name__:
                if value.__qualname__ == dotted(owner, name):
                    spaces.append((value.__qualname__, value))
    _as_imported[module.__name__] = left


def _content(value: Any) -> tuple[object, ...] | None:
    kind = type(value)
    if is_table(kind) and len(dict.keys(value)) <= ELEMENTS_MAX:
        return (*dict.keys(value), *dict.values(value))
    if kind.__dictoffset__ and not issubclass(kind, (type, types.ModuleType)):
        return (*dict_of(value), *dict_of(value).values())
    if (kind is list or kind is set) and len(value) <= ELEMENTS_MAX:
        return tuple(value)
    return None


def _end_import(names: Iterable[str], listener: Listener) -> None:
    found = map(sys.modules.get, names)
    modules = [module for module in found if isinstance(module, types.ModuleType)]
    for module in modules:
        _note(module)
    _ended.update(names)
    try:
        listener(modules)
    finally:
        _ended.difference_update(names)


class _Finder:
    """First among the finders: it has the others look, and what they find noted."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        for finder in list(sys.meta_path):
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec = None if find is None else find(name, path, target)
            if spec is None:
                continue
            if hasattr(spec.loader, "exec_module") and type(spec.loader) is not LoaderProxy:
                stand_in = types.ModuleType(name)
                stand_in.__spec__ = spec
                if is_users(stand_in):
                    spec.loader = LoaderProxy(spec.loader, self._load)
            return spec
        return None

    def _load(self, loader: Any, module: types.ModuleType) -> None:
        # This must not be noticed: from here on the module has the loader it would have had.
        module.__loader__ = loader
        if module.__spec__ is not None:
            module.__spec__.loader = loader
        _importing.depth += 1
        try:
            loader.exec_module(module)
            _importing.names += (module.__name__,)
        finally:
            _importing.depth -= 1
            if not _importing.depth:
                names, _importing.names = _importing.names, ()
                _end_import(names, self._listener)
