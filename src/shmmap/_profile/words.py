"""How times, sizes and shares are written in reports."""

from __future__ import annotations

UNITS = (("s", 1.0), ("ms", 1e3), ("us", 1e6))
"""Of times, each with how many are in a second."""


def unit_of(seconds: float) -> tuple[str, float]:
    """The unit in which a time has one digit or more before the point."""
    return next((unit for unit in UNITS if seconds * unit[1] >= 1), UNITS[-1])


def time_of(seconds: float) -> str:
    """A time with its unit, to three digits: ``"12.3 ms"``."""
    unit, size = unit_of(seconds)
    return f"{digits(seconds * size)} {unit}"


def digits(value: float) -> str:
    """A number to three digits, but with no fewer than it has before the point."""
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def size_of(nbytes: float) -> str:
    """Bytes with a unit: ``"160 MB"``."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= size:
            return f"{digits(nbytes / size)} {unit}"
    return f"{nbytes:.0f} bytes"


def per_cent(share: float) -> str:
    """A share as ``"12 %"``."""
    value = 100 * share
    return f"{value:.0f} %" if value >= 0.95 or value == 0 else f"{value:.1f} %"
