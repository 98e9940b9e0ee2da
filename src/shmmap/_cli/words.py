"""Numbers as people read them, and texts of others as a terminal may have them."""

from __future__ import annotations

import unicodedata
from itertools import accumulate


def counted(n: int, one: str, many: str | None = None) -> str:
    """A number of things: ``1 worker``, ``2 workers``."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def bytes_text(nbytes: int) -> str:
    """A size: ``1.2 GiB``."""
    for unit, name in ((30, "GiB"), (20, "MiB")):
        if nbytes >= 1 << unit:
            size = nbytes / (1 << unit)
            return f"{size:.1f} {name}" if size < 10 else f"{size:,.0f} {name}"
    return f"{-(-nbytes // 1024)} KiB"


def seconds_text(seconds: float) -> str:
    """A time: ``1:02:03``, ``2:03``, ``45 s``, ``0.4 s`` or ``3 ms``."""
    if seconds >= 90:
        minutes, rest = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
    if seconds >= 10:
        return f"{seconds:.0f} s"
    return f"{seconds:.1f} s" if seconds >= 0.1 else f"{seconds * 1e3:.0f} ms"


def printable(text: str) -> str:
    """A text of another program in one line: what a terminal would take as a command is not in it."""
    return "".join([each if each.isprintable() else " " for each in text])


def shortened(text: str, width: int) -> str:
    """A text that takes no more columns than that; some characters take two."""
    columns = [2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text]
    if sum(columns) <= width:
        return text
    return text[: sum(end < width for end in accumulate(columns))] + "…"
