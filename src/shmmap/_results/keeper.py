"""What a collector tells whoever has results survive the program."""

from __future__ import annotations

from typing import Any, Protocol

from .._chunks import Kind
from .._interop.numpy_types import Array


class Keeper(Protocol):
    """See `_checkpoint.keeper`, where there is one."""

    def make_column(self, shape: tuple[int, ...], dtype: Any, j: int, of: int) -> Array:
        """A fresh array for results; made again for the same `j`, it is a wider one."""

    def note_form(self, kind: Kind, columns: tuple[Any, ...]) -> None:
        """The output is made, or a wider one has taken its place."""

    def keep(self, first: int, last: int, piece: object) -> None:
        """Results came that are not put in place now."""

    def note_in_place(self, first: int, last: int) -> None:
        """Results came, and are in place."""
