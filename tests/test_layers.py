"""Imports go strictly downward, and each thing that is to have one home has one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import shmmap

SOURCE = Path(shmmap.__file__).parent
MODULES = {path.stem: ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}

# Highest first; a module may import from the layers below its own only.
LAYERS: list[set[str]] = []

LAYER = {module: depth for depth, layer in enumerate(LAYERS) for module in layer}

SHIM = "_segment"
"""The one module where a private name of the standard library may stand, documented there."""

# What is private by its underscore but public by the documentation of its module.
DOCUMENTED = {"os._exit", "sys._getframe"}


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every module that is imported, absolute or relative, at any depth, and where."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = "shmmap" + (f".{node.module}" if node.module else "")
                if node.module:
                    yield base, node.lineno
                else:
                    for alias in node.names:
                        yield f"{base}.{alias.name}", node.lineno
            else:
                yield node.module or "", node.lineno
                for alias in node.names:
                    yield f"{node.module}.{alias.name}", node.lineno


def own_imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Those of them that are modules of this package."""
    for name, line in imports(tree):
        first, _, rest = name.partition(".")
        if first == "shmmap":
            module = rest.split(".")[-1] if rest.split(".")[-1] in MODULES else rest.split(".")[0]
            yield module if module in MODULES else "__init__", line


def test_every_module_has_a_layer() -> None:
    assert set(LAYER) == set(MODULES)
    assert sum(map(len, LAYERS)) == len(LAYER), "and only one"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_downward(module: str) -> None:
    for imported, line in own_imports(MODULES[module]):
        assert LAYER[imported] > LAYER[module], f"line {line}: {module} imports {imported}"


@pytest.mark.parametrize(
    ("library", "home"),
    [
        ("tqdm", "_progress"),
        ("multiprocessing.shared_memory", SHIM),
    ],
)
def test_one_importer(library: str, home: str) -> None:
    importers = {
        module
        for module, tree in MODULES.items()
        if any(name == library or name.startswith(library + ".") for name, _ in imports(tree))
    }
    assert importers == {home}


@pytest.mark.parametrize("module", sorted(set(MODULES) - {SHIM}))
def test_no_private_names_of_the_standard_library(module: str) -> None:
    """Neither an import of a private name, nor a private attribute of an imported module."""
    tree = MODULES[module]
    bound: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound[(alias.asname or alias.name).split(".")[0]] = alias.name
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            for alias in node.names:
                bound[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    private = re.compile(r"\._(?!_)")
    for name, line in imports(tree):
        foreign = not name.startswith(("shmmap", "__future__"))
        assert not (foreign and private.search("." + name)), f"line {line}: {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = bound.get(node.value.id, "shmmap")
            text = f"{owner}.{node.attr}"
            if not owner.startswith("shmmap") and private.search(text):
                assert text in DOCUMENTED, f"line {node.lineno}: {text}"


def test_pure_modules_know_no_process() -> None:
    """The plan and the roster can be tested without a process: they import none of its tools."""
    for module in {"_plan", "_roster"} & set(MODULES):
        used = {name.split(".")[0] for name, _ in imports(MODULES[module])}
        assert not used & {"multiprocessing", "os", "signal", "socket", "subprocess", "threading"}
