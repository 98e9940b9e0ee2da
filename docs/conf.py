"""Sphinx configuration: Markdown pages by MyST, the reference from numpydoc docstrings."""

from __future__ import annotations

import sys
from importlib.metadata import version as _version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).with_name("_extensions")))

from inventories import write_inventory

project = "shmmap"
author = "the shmmap developers"
copyright = f"2026, {author}"
version = release = _version_of("shmmap")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "numpydoc",
    "myst_parser",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "folders",
    "pages_in_notebooks",
    "sources",
]
exclude_patterns = ["_build"]

html_theme = "furo"
html_static_path = ["_static"]  # pictures that pages name in HTML, for light and for dark
html_css_files = ["gallery.css"]
html_search_scorer = str(Path(__file__).parent / "_extensions" / "search_order.js")
html_title = f"{project} {version}"

myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]

autodoc_typehints = "none"  # the numpydoc sections say it in words
autodoc_member_order = "bysource"
autosummary_generate = False  # tables of names; each is described on the page of its kind
numpydoc_show_class_members = False
numpydoc_xref_param_type = True  # types of parameters are links as well
numpydoc_xref_aliases = {
    "arrays": "numpy.ndarray",
    "bool": "bool",
    "sequence": "collections.abc.Sequence",
    "iterable": "collections.abc.Iterable",
    "iterator": "collections.abc.Iterator",
    "array-like": "numpy.typing.ArrayLike",
    "dtype-like": "numpy.typing.DTypeLike",
    "SeedSequence": "numpy.random.SeedSequence",
    "Generator": "numpy.random.Generator",
    "Executor": "concurrent.futures.Executor",
}
numpydoc_xref_ignore = {"callable", "optional", "default", "of", "or", "them", "with"}
default_role = "py:obj"  # a name in backticks is a link, where it is known

_addresses = {
    "Python": "https://docs.python.org/3",
    "NumPy": "https://numpy.org/doc/stable",
}
_inventories = Path(__file__).parent / "_build" / "inventories"
intersphinx_mapping = {
    name.lower(): (address, write_inventory(name, _inventories))
    for name, address in _addresses.items()
}

# The prompts of examples, and what they print, are not copied.
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# The gallery: the build runs each example, in its folder.
sphinx_gallery_conf = {
    "examples_dirs": "../examples/gallery",
    "gallery_dirs": "gallery",
    "within_subsection_order": "NumberOfCodeLinesSortKey",  # short ones first
    "reset_modules": ("matplotlib", "pictures_on_any_page.reset"),
    "reference_url": {"shmmap": None},  # names of ours in the code are links to the reference
    "backreferences_dir": None,
    "write_computation_times": False,
    "image_srcset": ["2x"],
    "show_signature": False,
    "abort_on_example_error": True,
}
