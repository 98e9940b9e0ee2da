"""Warnings that point at the line of the user's that they are about, however deep they arise."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

from .exceptions import PerformanceWarning

# Copying this much takes about as long as starting a team: worth a word, as it is done at every call.
HINT_NBYTES = 1 << 26


def depth_of_user() -> int:
    """The `stacklevel`, for a function that calls this, of the innermost frame outside the package."""
    depth, frame = 1, sys._getframe(1)
    while frame.f_back is not None and is_ours(frame):
        depth, frame = depth + 1, frame.f_back
    return depth


def is_ours(frame: FrameType) -> bool:
    """Whether a frame runs code of this package."""
    module = str(frame.f_globals.get("__name__"))
    return module == "shmmap" or module.startswith("shmmap.")


def hint_at_copies(name: str, nbytes: int) -> None:
    """Say that a function's private arrays are copied at each call, if that is worth saying."""
    if nbytes >= HINT_NBYTES:
        warnings.warn(
            f"{name} refers to private arrays of {nbytes / (1 << 20):.0f} MiB, which each call copies "
            "into shared memory; make them shared once: a = shmmap.asshared(a), or shmmap.share(obj)",
            PerformanceWarning,
            stacklevel=depth_of_user(),
        )
