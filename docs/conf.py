"""Sphinx configuration: Markdown pages by MyST, the reference from numpydoc docstrings."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).with_name("_extensions")))

_about = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]

project = _about["name"]
author = "the shmmap developers"
copyright = f"2026, {author}"
version = release = _about["version"]

extensions = ["sphinx.ext.autodoc", "sphinx.ext.mathjax", "numpydoc", "myst_parser", "folders"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_static_path = ["_static"]  # pictures that pages name in HTML, for light and for dark
html_title = f"{project} {version}"

myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]

autodoc_typehints = "none"  # the numpydoc sections say it in words
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
