"""Numbers as people read them."""

from __future__ import annotations


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
