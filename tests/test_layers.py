"""Imports go downward between folders and through their doors; what is to have one home has one."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import shmmap

SOURCE = Path(shmmap.__file__).parent


def name_of(path: Path) -> str:
    """A module's name inside the package; the package itself is ``"shmmap"``."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or "shmmap"


MODULES = {name_of(path): ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}
PACKAGES = {name_of(path) for path in SOURCE.rglob("__init__.py")}

# From top to bottom; a module may import from the folders below its own only, and from files beside it.
FOLDERS: list[set[str]] = [
    {"_verbs"},
    {"_nodes"},
    {"_engines"},
    {"_team"},
    {"_profile"},
    {"_results", "_worker", "_checkpoint"},
    {"_chunks"},
    {"_wire"},
    {"_code"},
    {"_memory"},
    {"_system", "_interop"},
    {"_errors"},
]
RANK = {name: depth for depth, names in enumerate(FOLDERS) for name in names}

ABOVE = {"", "__main__", "_cli", "joblib", "testing"}
"""On the public names, and on what they need to tell of the library itself."""

BY_FILE = {"_worker", "_profile", "_code", "_system", "_interop", "_errors"}
"""Folders whose files are doors themselves, as each is one facility."""

LAZY = {
    ("_profile.report", "_profile.assemble"),
    ("_profile.report", "_profile.page"),
    ("_profile.report", "_profile.plot"),
    ("_profile.report", "_profile.save"),
    ("_profile.report", "_profile.text"),
    ("_cli.options", "_errors.arguments"),
    ("_engines.resolve", "_engines.executor"),
    ("_engines.resolve", "_engines.local"),
    ("_engines.resolve", "_engines.processes"),
    ("_nodes.public", "_nodes.client"),
    ("_verbs.options", "_errors.words"),
    ("_verbs.options", "_nodes"),
    ("_verbs.options", "_verbs.kept"),
    ("_verbs.run", "_errors.words"),
    ("_verbs.run", "_verbs.kept"),
    ("_verbs.team", "_errors.words"),
    ("_verbs.ranges", "_errors.words"),
    ("_wire.pickling", "_wire.by_value"),
    ("shmmap", "_errors.words"),
}
"""Imports inside functions: what a first call, the clean process or an error message needs."""

SHIM = "_memory.nameless"
"""The one module where a private name of the standard library may stand, documented there."""

# What is private by its underscore but public by the documentation of its module.
DOCUMENTED = {"_thread", "os._exit", "sys._getframe", "sys._current_frames"}
# What nothing public can replace: work is to be finished before the interpreter ends, while its threads are
# there still. `concurrent.futures` does so by the same door.
DOCUMENTED.add("threading._register_atexit")


class Import(NamedTuple):
    """A name that a module imports, at any depth."""

    name: str
    """Absolute, as `shmmap._chunks.plan.Plan`."""
    line: int
    is_late: bool
    """Inside a function."""
    for_types: bool
    """Seen by type checkers only."""


@functools.cache
def imports(module: str) -> list[Import]:
    """All a module imports, that for a type checker included."""
    return list(find_imports(module, MODULES[module], False, False))


def find_imports(module: str, tree: ast.AST, is_late: bool, for_types: bool) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, is_late, for_types)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = ["shmmap", *module.split(".")] if module != "shmmap" else ["shmmap"]
                up = node.level - (module in PACKAGES)
                base = ".".join([*package[: len(package) - up], *filter(None, [node.module])])
            for alias in node.names:
                yield Import(f"{base}.{alias.name}", node.lineno, is_late, for_types)
        inner = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        yield from find_imports(module, node, is_late or inner, for_types or typing)


def own_imports(module: str) -> Iterator[tuple[str, int, bool]]:
    """Those of its imports that are modules of this package."""
    for name, line, is_late, _ in imports(module):
        parts = name.split(".")
        if parts[0] == "shmmap":
            # The longest part of the name that is a module; the rest is a name inside it.
            inside = [".".join(parts[1:stop]) for stop in range(len(parts), 1, -1)]
            yield next(filter(MODULES.__contains__, inside), "shmmap"), line, is_late


def folder(module: str) -> str:
    """The folder a module is in, or is the door of."""
    name = module.partition(".")[0]
    return name if name in RANK or name == "testing" else ""


def is_file(module: str) -> bool:
    return "." in module


def test_every_folder_has_its_place() -> None:
    assert {folder(name) for name in MODULES} == {"", "testing", *RANK}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_between_folders_imports_go_down(module: str) -> None:
    here = folder(module)
    for imported, line, _ in own_imports(module):
        there = folder(imported)
        if here != there and here not in {"", "testing"}:
            assert there in RANK, f"line {line}: {module} imports {imported}"
            assert RANK[there] > RANK[here], f"line {line}: {module} imports {imported}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_through_doors_only(module: str) -> None:
    for imported, line, _ in own_imports(module):
        if folder(imported) != folder(module) and folder(module) not in {"", "testing"}:
            through = not is_file(imported) or folder(imported) in BY_FILE
            assert through, f"line {line}: {module} imports {imported}"


@pytest.mark.parametrize("name", sorted(RANK))
def test_no_circle_inside_a_folder(name: str) -> None:
    """Files of a folder have an order, imports for type checkers included; its door is above them."""
    graph = {
        module: {imported for imported, _, _ in own_imports(module) if folder(imported) == name}
        for module in MODULES
        if folder(module) == name
    }
    TopologicalSorter(graph).prepare()


def test_late_imports_are_listed() -> None:
    late = {
        (module, there)
        for module in MODULES
        for there, _, is_late in own_imports(module)
        if is_late
    }
    assert late == LAZY


def loaded(program: str, *, folders: bool = True) -> set[str]:
    """Modules of this package in a process of its own, after a program; or just their folders."""
    source = f"{program}\nimport sys\nprint(*[m for m in sys.modules if m.startswith('shmmap.')])"
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True
    )
    names = {name.removeprefix("shmmap.") for name in done.stdout.split()}
    return {name for name in names if is_file(name)} if not folders else set(map(folder, names))


def test_import_loads_what_is_asked_for() -> None:
    assert loaded("import shmmap") == {"_system", "_errors"}
    assert loaded("import shmmap; shmmap.empty") == {"_memory", "_system", "_interop", "_errors"}


def test_workers_load_nothing_of_the_callers_side() -> None:
    program = """
import sys, shmmap
def look(i):
    import sys
    return [m for m in sys.modules if m.startswith("shmmap.")]
with shmmap.Team(1, start="clean") as team:
    found = shmmap.pmap(look, range(1), engine=team, out=list)[0]
for name in list(sys.modules):
    if name.startswith("shmmap."):
        del sys.modules[name]
sys.modules.update(dict.fromkeys(found))
"""
    assert not loaded(program) & {"_results", "_profile", "_team", "_engines", "_verbs"}


@pytest.mark.parametrize(
    ("library", "home"), [("tqdm", "_verbs.progress"), ("multiprocessing.shared_memory", SHIM)]
)
def test_one_importer(library: str, home: str) -> None:
    importers = {
        module
        for module in MODULES
        if any(
            f"{each.name}.".startswith(f"{library}.") and not each.for_types
            for each in imports(module)
        )
    }
    assert importers == {home}


PRIVATE = re.compile(r"\._(?!_)")


@pytest.mark.parametrize("module", sorted(set(MODULES) - {SHIM}))
def test_no_private_names_of_other_libraries(module: str) -> None:
    """Neither an import of a private name, nor a private attribute of an imported module."""
    for name, line, _, for_types in imports(module):
        is_public = for_types or name in DOCUMENTED or not PRIVATE.search(f".{name}")
        assert name.startswith("shmmap") or is_public, f"line {line}: {name}"
    bound: dict[str, str] = {}
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound[(alias.asname or alias.name).split(".")[0]] = alias.name
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                bound[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = bound.get(node.value.id, "shmmap")
            name = f"{owner}.{node.attr}"
            if not owner.startswith("shmmap") and PRIVATE.search(name):
                assert name in DOCUMENTED, f"line {node.lineno}: {name}"


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "module",
    [
        "_chunks.plan",
        "_chunks.ledger",
        "_chunks.stencil",
        "_chunks.columns",
        "_nodes.ranges",
        "_team.roster",
        "_results.combine",
        "_results.recovery",
    ],
)
def test_pure_modules_know_no_process(module: str) -> None:
    """They can be tested without one: they import none of the tools."""
    used = {each.name.split(".")[0] for each in imports(module)}
    assert not used & {"multiprocessing", "os", "signal", "socket", "subprocess", "threading"}
