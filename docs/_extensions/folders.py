"""The directive ``folders``: the package's folders as a drawing, and the way of a call through them.

The drawing is made of the source itself: which folders there are and what each is for, by its docstring,
and how high each stands, by what it imports. The lines of the directive say the way of a call, each with its
folder. All is in the colours of the page, so it is readable in light and in dark mode.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from textwrap import wrap
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

SOURCE = Path(__file__).parents[2] / "src" / "shmmap"

WIDTH, GAP = 640, 12
HEAD, LINE = 32, 15
"""Height of a box without its text, and of each line of that."""
LETTER = 6.1
"""Width of a letter of it; a little more than they are on average."""


def folders() -> dict[str, str]:
    """What each folder is for: the first sentence of its docstring."""
    found = {}
    for door in sorted(SOURCE.glob("_*/__init__.py")):
        if door.parent.name not in ("__pycache__", "_cli"):
            text = ast.get_docstring(ast.parse(door.read_text())) or ""
            found[door.parent.name] = re.split(r"(?<=[.])\s", " ".join(text.split()))[0].rstrip(".")
    return found


def imports(folder: str) -> set[str]:
    """The folders that a folder imports from as it is imported."""
    found = set()
    for path in (SOURCE / folder).rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom) and node.level == 2:
                names = [node.module] if node.module else [alias.name for alias in node.names]
                found |= {name.partition(".")[0] for name in names}
    return found - {folder}


def floors(names: dict[str, str]) -> list[list[str]]:
    """Folders from top to bottom: each above all that it imports from."""
    below = {name: imports(name) & names.keys() for name in names}
    height: dict[str, int] = {}

    def measure(name: str) -> int:
        if name not in height:
            height[name] = 1 + max(map(measure, below[name]), default=-1)
        return height[name]

    for name in names:
        measure(name)
    return [
        sorted(n for n in names if height[n] == floor)
        for floor in range(max(height.values()), -1, -1)
    ]


def parts(names: dict[str, str], steps: list[tuple[str, str]]) -> Iterator[str]:
    """The drawing, element by element."""
    drawn, y = [], GAP
    for row in floors(names):
        width = (WIDTH - GAP * (len(row) - 1)) / len(row)
        texts = [wrap(names[name], int((width - 24) / LETTER)) for name in row]
        height = HEAD + LINE * max(map(len, texts))
        for k, name in enumerate(row):
            numbers = [n for n, (where, _) in enumerate(steps, 1) if where == name]
            drawn += box(k * (width + GAP), y, width, height, name, texts[k], numbers)
        y += height + GAP
    yield (
        f'<svg viewBox="0 0 {WIDTH} {y}" width="100%" style="max-width: {WIDTH}px" font-family="inherit" '
        'role="img" aria-label="The folders of the package from top to bottom" fill="currentColor">'
    )
    yield from drawn
    yield "</svg>"


def box(
    x: float, y: float, width: float, height: float, name: str, lines: list[str], numbers: list[int]
) -> Iterator[str]:
    """One folder, with the numbers of the steps that are done in it."""
    yield (
        f'<rect x="{x + 1}" y="{y}" width="{width - 2}" height="{height}" rx="6" fill="none" '
        'stroke="currentColor" stroke-opacity="0.45"/>'
    )
    yield f'<text x="{x + 12}" y="{y + 20}" font-weight="600" font-size="14">{escape(name)}</text>'
    for i, line in enumerate(lines):
        at = y + HEAD + 5 + LINE * i
        yield f'<text x="{x + 12}" y="{at}" font-size="12" fill-opacity="0.85">{escape(line)}</text>'
    for i, number in enumerate(reversed(numbers)):
        cx = x + width - 18 - 24 * i
        yield f'<circle cx="{cx}" cy="{y + 16}" r="10" fill="var(--color-brand-primary, #2962ff)"/>'
        yield (
            f'<text x="{cx}" y="{y + 20}" text-anchor="middle" font-size="12" font-weight="600" '
            f'fill="var(--color-background-primary, #fff)">{number}</text>'
        )


class Folders(SphinxDirective):
    """Lines ``folder: words`` give the way of a call."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Draw, and list the steps below."""
        names = folders()
        steps = []
        for line in " ".join(self.content).split(";"):
            where, _, words = line.strip().partition(": ")
            if where not in names:
                raise self.error(f"there is no folder {where!r}")
            steps.append((where, words))
        drawing = nodes.raw("", "".join(parts(names, steps)), format="html")
        ways = nodes.enumerated_list("", enumtype="arabic", prefix="", suffix=".")
        for where, words in steps:
            text = nodes.paragraph("", "", nodes.literal("", where), nodes.Text(f": {words}"))
            ways += nodes.list_item("", text)
        return [drawing, ways]


def setup(app: Any) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("folders", Folders)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
