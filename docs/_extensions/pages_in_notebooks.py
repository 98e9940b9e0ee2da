"""Notebooks of the gallery name pages of the documentation by their titles, as a role means nothing there.

A notebook is read by itself, without this documentation around it, so there is no place to link to.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx_gallery import notebook

PAGES = Path(__file__).parents[1]


def title_of(page: str) -> str:
    """What a page is called."""
    first = (PAGES / f"{page.strip('/')}.md").read_text().partition("\n")[0]
    return first.removeprefix("# ")


def setup(app: Sphinx) -> dict[str, bool]:
    convert = notebook.rst2md

    def rst2md(text: str, *args: Any) -> Any:
        text = re.sub(r":doc:`([^`]*)`", lambda match: f"*{title_of(match[1])}*", text)
        return convert(text, *args)

    notebook.rst2md = rst2md
    return {"parallel_read_safe": True, "parallel_write_safe": True}
