"""Links from the reference to the source: where a public name, which says it is of `shmmap`, is defined."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

from sphinx.application import Sphinx


def home_of(app: Sphinx, module: str, name: str) -> str | None:
    """The module in which an object of the reference is defined."""
    thing: Any = import_module(module)
    for part in name.split("."):
        thing = getattr(thing, part)
    if inspect.isclass(thing):
        thing = next(filter(inspect.isfunction, vars(thing).values()), thing)
    thing = inspect.unwrap(getattr(thing, "fget", None) or thing)
    code = getattr(thing, "__globals__", None)
    return module if code is None else str(code["__name__"])


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("viewcode-follow-imported", home_of)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
