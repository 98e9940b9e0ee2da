"""A module of the user's, whose settings the fuzzer changes between maps."""

from __future__ import annotations

from typing import Any

FACTOR = 1
TABLE: dict[str, int] = {"offset": 0}


class Model:
    """A class whose attribute is a setting too."""

    shift = 0

    def __call__(self, value: Any) -> Any:
        """By the settings of the module and of the class."""
        return value * FACTOR + TABLE["offset"] + self.shift


def scaled(value: Any) -> Any:
    """By the settings of the module."""
    return value * FACTOR + TABLE["offset"]
