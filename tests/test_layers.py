"""Imports go strictly downward, and each thing that is to have one home has one."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import shmmap

SOURCE = Path(shmmap.__file__).parent


def name_of(path: Path) -> str:
    """A module's name inside the package; the package itself is ``"shmmap"``."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or "shmmap"


MODULES = {name_of(path): ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}
PACKAGES = {name_of(path) for path in SOURCE.rglob("__init__.py")}

# Highest first; a module may import from the layers below its own only.
LAYERS: list[set[str]] = [
    # On the public interface.
    {"__main__"},
    {"_cli"},
    {"testing"},
    {"_check_chunks"},
    {"shmmap"},
    # Verbs.
    {"_map"},
    {"_future"},
    {"_stream"},
    {"_recall"},
    {"_bind"},
    {"_options", "_progress"},
    # Engines.
    {"_engines._executor", "_engines._local", "_engines._processes"},
    {"_engines"},
    # The team.
    {"_default_team"},
    {"_team"},
    {"_attendant"},
    {"_admission", "_submissions"},
    {"_shelf"},
    {"_crew"},
    {"_launch", "_roster", "_run", "_teams"},
    {"_member"},
    {"_template"},
    # The worker.
    {"_worker"},
    {"_ending", "_port", "_prepare"},
    {"_role"},
    # What both sides share: the control block, arrays, collection.
    {"_outcome"},
    {"_fold", "_stand_ins"},
    {"_collect", "_combine"},
    {"_freeze", "_lost_writes"},
    {"_captured"},
    {"_functions", "_kernel", "_relay"},
    {"_kernel._store"},
    {"_kernel._fill", "_kernel._gather"},
    {"_kernel._base"},
    {"_kernel._inputs"},
    {"_refusals", "_reports"},
    {"_messages", "_packing", "_share"},
    {"_reach"},
    {"_interior", "_recipient"},
    {"_state"},
    {"_large"},
    {"_files"},
    {"_place", "_sequences"},
    {"_array", "_chains", "_control", "_job", "_reduction", "_rows", "_way"},
    {"_copy", "_handle"},
    # Storage, plan, errors, and what the operating system says.
    {"_census", "_surroundings"},
    {"_segment"},
    {"_hints", "_nameless", "_spare"},
    {
        "_blas",
        "_classes",
        "_current",
        "_errors",
        "_guard",
        "_inheritance",
        "_memory",
        "_plan",
        "_stencil",
        "_stored",
    },
    {"_columns"},
    {"_plain"},
    {
        "_arguments",
        "_imports",
        "_interrupts",
        "_kernel_files",
        "_locking",
        "_masked",
        "_modules",
        "_tuples",
        "_witness",
        "_words",
    },
    {"_forks"},
]

LAYER = {module: depth for depth, layer in enumerate(LAYERS) for module in layer}

UPWARD = {
    # `Team.map` is a map like any other, and the face of an executor has to offer it.
    ("_team", "_map"),
}

SHIM = "_nameless"
"""The one module where a private name of the standard library may stand, documented there."""

# What is private by its underscore but public by the documentation of its module.
DOCUMENTED = {"_thread", "os._exit", "sys._getframe"}
# What nothing public can replace: work is to be finished before the interpreter ends, while its threads are
# there still. `concurrent.futures` does so by the same door.
DOCUMENTED.add("threading._register_atexit")


@functools.cache
def imports(module: str) -> list[tuple[str, int]]:
    """All a module imports at run time, at any depth, by absolute name; and the lines."""
    return list(find_imports(module))


def find_imports(module: str) -> Iterator[tuple[str, int]]:
    for node in walk(MODULES[module]):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = ["shmmap", *module.split(".")] if module != "shmmap" else ["shmmap"]
                up = node.level - (module in PACKAGES)
                base = ".".join([*package[: len(package) - up], *filter(None, [node.module])])
            for alias in node.names:
                yield f"{base}.{alias.name}", node.lineno


def walk(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node, but for what only a type checker sees."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from walk(node)


def own_imports(module: str) -> Iterator[tuple[str, int]]:
    """Those of its imports that are modules of this package."""
    for name, line in imports(module):
        parts = name.split(".")
        if parts[0] == "shmmap":
            # The longest part of the name that is a module; the rest is a name inside it.
            inside = [".".join(parts[1:stop]) for stop in range(len(parts), 1, -1)]
            yield next(filter(MODULES.__contains__, inside), "shmmap"), line


def test_every_module_has_a_layer() -> None:
    assert set(LAYER) == set(MODULES)
    assert sum(map(len, LAYERS)) == len(LAYER), "and only one"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_downward(module: str) -> None:
    for imported, line in own_imports(module):
        if (module, imported) not in UPWARD:
            assert LAYER[imported] > LAYER[module], f"line {line}: {module} imports {imported}"


def test_exceptions_are_needed() -> None:
    for module, imported in UPWARD:
        assert imported in {name for name, _ in own_imports(module)}


@pytest.mark.parametrize(
    ("library", "home"), [("tqdm", "_progress"), ("multiprocessing.shared_memory", SHIM)]
)
def test_one_importer(library: str, home: str) -> None:
    importers = {
        module
        for module in MODULES
        if any(f"{name}.".startswith(f"{library}.") for name, _ in imports(module))
    }
    assert importers == {home}


PRIVATE = re.compile(r"\._(?!_)")


@pytest.mark.parametrize("module", sorted(set(MODULES) - {SHIM}))
def test_no_private_names_of_other_libraries(module: str) -> None:
    """Neither an import of a private name, nor a private attribute of an imported module."""
    for name, line in imports(module):
        is_public = name in DOCUMENTED or not PRIVATE.search(f".{name}")
        assert name.startswith("shmmap") or is_public, f"line {line}: {name}"
    bound: dict[str, str] = {}
    for node in walk(MODULES[module]):
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound[(alias.asname or alias.name).split(".")[0]] = alias.name
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                bound[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in walk(MODULES[module]):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = bound.get(node.value.id, "shmmap")
            name = f"{owner}.{node.attr}"
            if not owner.startswith("shmmap") and PRIVATE.search(name):
                assert name in DOCUMENTED, f"line {node.lineno}: {name}"


@pytest.mark.parametrize("module", ["_plan", "_roster", "_stencil"])
def test_pure_modules_know_no_process(module: str) -> None:
    """They can be tested without one: they import none of the tools."""
    used = {name.split(".")[0] for name, _ in imports(module)}
    assert not used & {"multiprocessing", "os", "signal", "socket", "subprocess", "threading"}
