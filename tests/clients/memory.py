"""What a worker has in memory, told by itself: its own, of files, and shared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import shmmap
from shmmap._wire.pickling import pack


class Memory(NamedTuple):
    """Bytes that a process has in memory."""

    own: int
    of_files: int
    shared: int


def memory() -> Memory:
    """What this process has in memory."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    own, of_files, shared = (
        int(lines[kind].split()[0]) << 10 for kind in ("RssAnon", "RssFile", "RssShmem")
    )
    return Memory(own, of_files, shared)


def growth(team: shmmap.Team, run: Callable[[Callable[[], Memory]], Any]) -> Memory:
    """How much more each kind of memory a worker has in the middle of a map than it had before it.

    `run` starts the map on that team of one worker; what it returns is a sequence of what `memory` says.
    """
    before = team.submit(memory).result()
    told = run(memory)
    return Memory(
        *(max(kind) - was for kind, was in zip(zip(*told, strict=True), before, strict=True))
    )


def copied(obj: object) -> int:
    """Bytes that are copied into shared memory, or into the pickle, when an object is sent to workers."""
    packed = pack(obj)
    return packed.placed + len(packed.data)
