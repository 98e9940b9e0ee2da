"""What comments and docstrings of the source name in backticks exists."""

from __future__ import annotations

import ast
import builtins
import functools
import io
import re
import sys
import tokenize
from pathlib import Path

import pytest

import shmmap

SOURCE = Path(shmmap.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
TICKED = re.compile(r"(?<!`)`([A-Za-z_][\w.]*)(?:\(\))?`(?!`)")

# Names of other libraries and of the system that the source speaks of and does not use.
ELSEWHERE = {"Hashable", "futures", "recarray", "recvmsg", "structseq"}


@functools.cache
def identifiers() -> frozenset[str]:
    """All that is called anything in the package: modules, names, attributes, parameters."""
    found = set(dir(builtins)) | set(sys.stdlib_module_names)
    for path in FILES:
        found |= {path.stem, path.parent.name}
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Name):
                found.add(node.id)
            elif isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                found.add(node.name)
            elif isinstance(node, ast.arg):
                found.add(node.arg)
            elif isinstance(node, ast.ImportFrom):
                found |= set((node.module or "").split("."))
            elif isinstance(node, ast.alias):
                found |= set(node.name.split(".")) | {node.asname or ""}
            elif isinstance(node, ast.keyword):
                found.add(node.arg or "")
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return frozenset(found)


def texts(path: Path) -> list[tuple[int, str]]:
    """Comments and docstrings of a file, with the lines where they begin."""
    source = path.read_text()
    found = [
        (token.start[0], token.string)
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    ]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            found.append((node.lineno, str(node.value.value)))
    return found


def is_elsewhere(name: str) -> bool:
    """Whether it is a name of a library that is there."""
    module, _, rest = name.rpartition(".")
    while module and module not in sys.modules:
        module, _, first = module.rpartition(".")
        rest = f"{first}.{rest}"
    found = sys.modules.get(module)
    try:
        return found is not None and bool(functools.reduce(getattr, rest.split("."), found) or True)
    except AttributeError:
        return False


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_names_in_backticks_exist(path: Path) -> None:
    wrong = [
        f"line {line}: {name}"
        for line, text in texts(path)
        for name in TICKED.findall(text)
        if not set(name.split(".")) <= identifiers() | ELSEWHERE and not is_elsewhere(name)
    ]
    assert not wrong
