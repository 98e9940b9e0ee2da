"""A report as a file: a page or a trace, by the ending of its name.

The file is written beside, and renamed when it is complete: what was there before stays if writing fails.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from .._errors.arguments import describe
from .page import make_page
from .records import ProfiledMap
from .trace import write_trace

FilePath = str | os.PathLike[str]


def check_ending(path: FilePath) -> str:
    """`.html` or `.json`; anything else is a ValueError."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path is a str or a path-like of one, not {describe(path)}")
    name = os.fspath(path)
    ending = Path(name).suffix.lower()
    if ending not in (".html", ".json"):
        raise ValueError(
            "a report is saved as .html (a page) or as .json (a trace for ui.perfetto.dev), "
            f"not as {name!r}"
        )
    return ending


def save(maps: Sequence[ProfiledMap], text: str, path: FilePath) -> None:
    """Write the page, with `text` as the report in words, or the trace."""
    ending = check_ending(path)
    content = make_page(maps, text) if ending == ".html" else write_trace(maps)
    # Through a link, so that the file it points to is replaced and not the link.
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".shmmap-{secrets.token_hex(4)}.partial")
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            file.write(content)
        os.replace(temporary, target)
    except BaseException as exc:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(exc, OSError):  # in terms of the name that was asked for
            raise type(exc)(exc.errno, exc.strerror, os.fspath(path)) from None
        raise
