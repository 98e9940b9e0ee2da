"""Where modules are found: the search path, and the folders that imported modules came from."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import ClassVar


def absolute_path(entries: Iterable[object]) -> list[object]:
    """Entries of ``sys.path`` as they are understood now, wherever the caller goes; ``""`` is left as it is.

    Python remembers the folder that a relative entry meant when it was first searched.
    """
    path = []
    for entry in entries:
        if isinstance(entry, str) and entry and not os.path.isabs(entry):
            finder = sys.path_importer_cache.get(entry)
            with suppress(OSError):  # there is no working directory any more
                entry = os.path.abspath(getattr(finder, "path", entry))
        path.append(entry)
    return path


def folders_of_modules() -> dict[str, str]:
    """The folder that each top-level module was imported from."""
    folders = {}
    for name, module in list(sys.modules.items()):
        if "." not in name and (spec := getattr(module, "__spec__", None)) is not None:
            origin = getattr(spec, "origin", None)
            if getattr(spec, "has_location", False) and isinstance(origin, str):
                folder = os.path.dirname(origin)
                is_package = spec.submodule_search_locations is not None
                folders[name] = os.path.dirname(folder) if is_package else folder
    return folders


def find_modules_in(folders: dict[str, str]) -> None:
    """In a worker: import these modules from these folders, those of `folders_of_modules` in the caller."""
    _Folders.now = folders
    finders: list[object] = sys.meta_path  # type: ignore[assignment]
    if folders and _Folders not in finders:
        finders.insert(finders.index(PathFinder) if PathFinder in finders else 0, _Folders)


class _Folders:
    """Finds the modules that the caller has imported already where it found them.

    Else ``""`` in the search path would find another module of the same name in the current folder, which
    the caller, having the module, would not look for.
    """

    now: ClassVar[dict[str, str]] = {}

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        folder = cls.now.get(name) if path is None else None
        if folder is None:
            return None
        return PathFinder.find_spec(name, [folder], target)
