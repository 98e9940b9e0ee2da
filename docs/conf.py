"""Sphinx configuration: Markdown pages by MyST, the reference from numpydoc docstrings."""

from __future__ import annotations

import sys
from importlib.metadata import version as _version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).with_name("_extensions")))

project = "shmmap"
author = "the shmmap developers"
copyright = f"2026, {author}"
version = release = _version_of("shmmap")

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
