"""Every exception class of the library, and how messages name functions and index ranges.

Users' own exceptions keep their type and gain notes; the classes here are for what only the library
can know: a worker that died, memory that is not there, several failures at once. All of them survive
pickling. Messages state the fault, the half-open index ranges it concerns, and the way out.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

_SCARCE = {
    errno.EMFILE: "every worker and every map takes some descriptors: raise their limit (ulimit -n)",
    errno.ENFILE: "every worker and every map takes some descriptors: raise the system's limit (fs.file-max)",
    errno.EAGAIN: "no more processes may be started: raise their limit (ulimit -u, or pids.max)",
    errno.EPERM: "this process may start no others; engine='serial' needs none",
    errno.ENOSYS: "this process may start no others; engine='serial' needs none",
}
"""What starting workers, or a map, may be short of, by the number of the error, and what to do about it."""

Ranges = tuple[tuple[int, int], ...]


def describe_ranges(ranges: Sequence[tuple[int, int]], most: int = 6) -> str:
    """Half-open index ranges as text: ``[0, 10), [20, 30)``, at most `most` of them."""
    shown = ", ".join(f"[{start}, {stop})" for start, stop in ranges[:most])
    left = len(ranges) - most
    return shown + (f" and {left} more" if left > 0 else "")


def name_of(func: object) -> str:
    """How a function is called in messages."""
    while hasattr(func, "func") and not hasattr(func, "__qualname__"):  # functools.partial
        func = func.func
    return getattr(func, "__qualname__", None) or getattr(func, "__name__", None) or repr(func)


def describe_shortly(exc: BaseException) -> str:
    """An exception in one line."""
    try:
        text = str(exc).partition("\n")[0]
    except Exception:  # its class does that wrongly
        text = "?"
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


def note_scarcity(exc: BaseException) -> None:
    """Add to an error of the operating system what to do about it, if workers or a map cannot start by it."""
    if isinstance(exc, OSError) and exc.errno in _SCARCE:
        exc.add_note(_SCARCE[exc.errno])


class PerformanceWarning(UserWarning):
    """Something works, and would be faster, or take less memory, if it were written another way."""

    __module__ = "shmmap"


class CheckpointMismatch(ValueError):
    """The folder given as ``checkpoint=`` is of another map, or is damaged; nothing was run or changed."""

    __module__ = "shmmap"


class SharedMemoryError(MemoryError):
    """Shared memory that was asked for is not available; nothing was allocated.

    Attributes
    ----------
    wanted : int
        Bytes asked for.
    available : int
        Bytes that could have been had.
    where : str
        What sets the limit: ``"/dev/shm"``, ``"the memory cgroup"``, ``"physical memory"``,
        ``"memory_limit"``, the process's limit on the size of a file, ``"this process's address space"``
        or ``"this process's mappings"``.
    """

    __module__ = "shmmap"

    def __init__(self, wanted: int, available: int, where: str, way_out: str) -> None:
        super().__init__(wanted, available, where, way_out)
        self.wanted = wanted
        self.available = available
        self.where = where
        self.way_out = way_out

    def __str__(self) -> str:
        return (
            f"{self.wanted:,} bytes of shared memory wanted, {self.available:,} available in "
            f"{self.where}; {self.way_out}"
        )


class WorkerDied(RuntimeError):
    """A worker process ended while it still held work.

    Attributes
    ----------
    failed : tuple of (int, int)
        The half-open index ranges that are not done. A range lost in place may be partly written.
    result : object
        What the map had gathered by then, in the form the map would have returned; entries of
        `failed` ranges hold whatever was there before. ``None`` if nothing is known yet.
    """

    __module__ = "shmmap"

    def __init__(self, message: str, failed: Ranges = (), result: Any = None) -> None:
        super().__init__(message)
        self.failed = failed
        self.result = result

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.args[0], self.failed, self.result)


class RemoteError(RuntimeError):
    """Stands in for a worker's exception that could not be carried across: its type and text."""

    __module__ = "shmmap"


class MapError(ExceptionGroup[Exception]):
    """Some ranges of a map failed, and the rest was finished (``on_error="continue"``).

    Attributes
    ----------
    failed : tuple of (int, int)
        The half-open index ranges that failed, in order.
    result : object
        The result of the map with NaN, 0 or ``None`` at the failed indices.
    """

    __module__ = "shmmap"

    def __new__(
        cls, message: str, excs: Sequence[Exception], failed: Ranges = (), result: Any = None
    ) -> MapError:
        return super().__new__(cls, message, excs)

    def __init__(
        self, message: str, excs: Sequence[Exception], failed: Ranges = (), result: Any = None
    ) -> None:
        super().__init__(message, excs)
        self.failed = failed
        self.result = result

    def derive(self, excs: Sequence[Exception]) -> MapError:  # type: ignore[override]
        """Keep `failed` and `result` when ``except*`` splits the group."""
        return MapError(self.message, excs, self.failed, self.result)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, list(self.exceptions), self.failed, self.result)
