"""A module of the user's, with a setting that is changed at run time."""

from __future__ import annotations

from typing import Any

SCALE = 1


def scaled(value: Any) -> Any:
    return value * SCALE
