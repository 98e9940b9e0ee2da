"""Inventories for intersphinx, from lists kept in the repository: pages are built without a network.

Each list names what the pages link to, a few of the thousands of names that there are.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "_inventories"


def entries(text: str) -> Iterator[str]:
    """The lines of an inventory: name, kind, priority, address, and the name again by a dash."""
    kind = address = ""
    for line in text.splitlines():
        if line.startswith(" "):
            for name in line.split():
                yield f"{name} py:{kind} 1 {address.replace('$', name)} -"
        elif not line.startswith("#"):
            kind, address = line.split()


def write_inventory(library: str, into: Path) -> str:
    """Make the inventory of a library; its path."""
    lines = "\n".join(entries((FOLDER / f"{library.lower()}.txt").read_text()))
    head = f"# Sphinx inventory version 2\n# Project: {library}\n# Version: \n"
    head += "# The remainder of this file is compressed using zlib.\n"
    into.mkdir(parents=True, exist_ok=True)
    path = into / f"{library.lower()}.inv"
    path.write_bytes(head.encode() + zlib.compress(lines.encode() + b"\n"))
    return str(path)
