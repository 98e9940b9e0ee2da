"""The fenced code blocks of a Markdown page, and the child process that runs them.

``tests/docs/test_docs.py`` imports `blocks`, and starts this file as a program of its own::

    python tests/docs/snippets.py page README.md
    python tests/docs/snippets.py module shmmap._verbs.items

Either way the code runs in a fresh ``__main__``, block after block, as if it were typed into a
REPL: so every example of the documentation also proves that it needs no main guard.
"""

from __future__ import annotations

import doctest
import importlib
import linecache
import re
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NEEDS = re.compile(r"<!-- block needs: (\S+(?:, \S+)*) -->")
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    line: int
    """The number of the block's first line in its page, from 1."""
    needs: tuple[str, ...] = ()
    """A library without which it is left out, by a comment before it."""


def blocks(page: Path) -> Iterator[Block]:
    language, start, lines, needs = None, 0, list[str](), ()
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if language is None and line.startswith("```") and line != "```":
            language, start, lines = line.removeprefix("```").strip(), number + 1, []
        elif language is not None and line == "```":
            yield Block(language, "\n".join(lines) + "\n", start, needs)
            language, needs = None, ()
        elif language is not None:
            lines.append(line)
        elif found := NEEDS.match(line):
            needs = tuple(found[1].split(", "))
    if language is not None:
        raise ValueError(f"{page}:{start}: this code block is never closed")


def fresh_main() -> dict[str, object]:
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    return main.__dict__


def run_doctest(test: doctest.DocTest) -> int:
    return doctest.DocTestRunner(optionflags=OPTIONS).run(test, clear_globs=False).failed


def run_page(page: Path) -> int:
    """Run the Python blocks of a page in one namespace; return how many examples failed."""
    namespace, failed = fresh_main(), 0
    for block in blocks(page):
        if block.language != "python" or not all(map(find_spec, block.needs)):
            continue
        if block.text.startswith(">>>"):
            test = doctest.DocTestParser().get_doctest(
                block.text, {}, page.name, str(page), block.line - 1
            )
            test.globs = namespace
            failed += run_doctest(test)
        else:
            # Padded and entered in linecache, so that a traceback shows the page's own lines.
            source = "\n" * (block.line - 1) + block.text
            name = f"<{page.name}:{block.line}>"
            linecache.cache[name] = (len(source), None, source.splitlines(True), name)
            exec(compile(source, name, "exec"), namespace)
    return failed


def find_tests(name: str) -> list[doctest.DocTest]:
    """The doctests of a module; of its public classes, too, all of which say that they are of ``shmmap``."""
    module: Any = importlib.import_module(name)
    source = Path(module.__file__).read_text()
    public = [
        each
        for each in vars(module).values()
        if getattr(each, "__module__", "") == "shmmap"
        and re.search(rf"^class {each.__name__}\b", source, re.MULTILINE)
    ]
    for each in public:
        each.__module__ = name
    try:
        return doctest.DocTestFinder().find(module)
    finally:
        for each in public:
            each.__module__ = "shmmap"


def run_module(name: str) -> int:
    """Run the doctests of a module, each docstring in a namespace of its own."""
    module, failed = importlib.import_module(name), 0
    for test in find_tests(name):
        if not test.examples:
            continue
        test.globs = fresh_main()
        test.globs.update((key, getattr(module, key)) for key in getattr(module, "__all__", ()))
        exec("import numpy as np, shmmap", test.globs)
        failed += run_doctest(test)
    return failed


if __name__ == "__main__":
    kind, what = sys.argv[1:]
    failures = run_page(Path(what)) if kind == "page" else run_module(what)
    sys.exit(1 if failures else 0)
