"""Counting function calls, in the caller and in the workers, which import this file."""

from __future__ import annotations

import os
import sys
import time
from types import CodeType, FrameType

import shmmap

ROOT = os.path.dirname(shmmap.__file__) + os.sep


class Trace:
    """The calls of this thread while it is entered."""

    def __init__(self) -> None:
        self.all = self.own = self.files = self.folders = 0

    def __enter__(self) -> Trace:
        sys.setprofile(self._note)
        return self

    def __exit__(self, *exc_info: object) -> None:
        sys.setprofile(None)
        self.all -= 2  # This function, and `setprofile` itself.

    def _note(self, frame: FrameType, event: str, arg: object) -> None:
        if event == "c_call":
            self.all += 1
        if event != "call":
            return
        self.all += 1
        here = place(frame.f_code)
        if here is None:
            return
        self.own += 1
        back = frame.f_back
        while back is not None and place(back.f_code) is None:
            back = back.f_back
        if back is not None and (there := place(back.f_code)) is not None:
            self.files += there != here
            self.folders += there.split(os.sep)[0] != here.split(os.sep)[0]


def place(code: CodeType) -> str | None:
    """The file of the package where something is defined; None if elsewhere."""
    name = code.co_filename
    return name[len(ROOT) :] if name.startswith(ROOT) else None


# ------------------------------------------------------------------------- in the workers

_calls = 0


def begin(_: int) -> None:
    """Count from here on; long enough for every worker to come."""

    def note(frame: FrameType, event: str, arg: object) -> None:
        global _calls
        _calls += event in ("call", "c_call")

    sys.setprofile(note)
    time.sleep(2e-3)


def so_far(_: int) -> tuple[int, int]:
    """Who this is, and the calls it has counted."""
    time.sleep(2e-3)
    return os.getpid(), _calls
