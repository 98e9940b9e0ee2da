"""What one process tells another of the user's modules: the messages, as they are pickled.

`versions` makes them in the caller, and `recipient` puts them in force in a worker.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["value", "part", "class", "gone", "opaque", "refused"]
"""A part is a value with a `Gap` for what does not pickle in it. Of a class, metaclass and bases are told,
and every attribute by itself. What is opaque does not pickle: what the import has made is kept if the type is
the same. What is refused does not pickle either, and was set at run time."""

Key = tuple[str, str, str]
"""Module, qualified name of the class or nothing, name."""


class Told(NamedTuple):
    """What is told of one name."""

    module: str
    owner: str
    """Qualified name of the class that has the attribute; empty for a global of the module."""
    name: str
    kind: Kind
    data: bytes | None
    version: int
    is_first: bool
    """The caller has not changed it since it first told of it."""
    type_name: str

    @property
    def key(self) -> Key:
        return self.module, self.owner, self.name


class Home(NamedTuple):
    """How a module comes to be that no other process can import."""

    package: str | None
    file: str | None
    is_package: bool


class News(NamedTuple):
    """What one process tells another of its modules."""

    told: tuple[Told, ...]
    homes: dict[str, Home]
    """Modules that cannot be imported."""
