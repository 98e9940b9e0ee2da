"""The page of a report: one file that shows a trace, and asks nothing of any network.

The page holds the trace that ``save("run.json")`` writes, compressed; `page.js` shows it, and offers it as a
download. Names of functions and texts of errors reach the page in two ways only: escaped, in the text of the
report, and inside the trace, from which the script makes text and never markup.
"""

from __future__ import annotations

import base64
import html
import zlib
from collections.abc import Sequence
from importlib.resources import files
from string import Template

from .records import ProfiledMap
from .thin import thin_maps
from .trace import write_trace

MOST_BARS = 40_000
"""Rows on a page. More of them make it larger, 25 to 50 bytes each, and slower to draw."""

MOST_MAPS = 1000
"""Maps on a page. More of them make a list in which nobody finds anything, and seconds until it is there."""

SCRIPTS = "timeline.js", "flame.js", "page.js"
"""In this order: later ones use earlier ones."""


def make_page(maps: Sequence[ProfiledMap], text: str) -> str:
    """The page as HTML; `text` is the report as it is printed."""
    here = files(__package__)
    shown = longest_of(maps, MOST_MAPS)
    trace = zlib.compress(write_trace(thin_maps(shown, MOST_BARS)).encode(), 9)
    title = "shmmap report"
    if len(maps) == 1:
        title = f"{maps[0].verb} of {maps[0].func} - {title}"
    return Template(here.joinpath("page.html").read_text("utf-8")).substitute(
        state="" if maps else ' class="is-empty"',
        title=html.escape(title),
        which="" if len(shown) == len(maps) else f"The longest {len(shown):,} of {len(maps):,}.",
        text=html.escape(text),
        trace=base64.b64encode(trace).decode(),
        css=here.joinpath("page.css").read_text("utf-8"),
        js="\n".join(here.joinpath(name).read_text("utf-8") for name in SCRIPTS),
    )


def longest_of(maps: Sequence[ProfiledMap], most: int) -> Sequence[ProfiledMap]:
    """Those that took longest, in their own order."""
    chosen = sorted(maps, key=lambda each: each.phases.wall)[-most:]
    return sorted(chosen, key=lambda each: each.number)


def make_frame(maps: Sequence[ProfiledMap], text: str) -> str:
    """The page as a notebook shows it: in a frame of its own, which reaches nothing of the notebook."""
    page = html.escape(make_page(maps, text))
    style = "width: 100%; height: 640px; border: 0"
    return (
        f'<iframe srcdoc="{page}" sandbox="allow-scripts allow-downloads" style="{style}" '
        'title="shmmap report"></iframe>'
    )
