"""Calls of the package in the caller, and how many of them cross the border of a file or a folder.

    python benchmarks/crossings.py

Counted by `sys.setprofile`, so without noise but for how the work happens to be shared among workers: the
least of a few runs is told. Calls that go through code of others (a lock, NumPy) count from where they came.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import numpy as np

import shmmap

ROOT = os.path.dirname(shmmap.__file__) + os.sep


class Trace:
    """The calls made while it is entered."""

    def __init__(self) -> None:
        self.calls = self.files = self.folders = 0

    def __enter__(self) -> Trace:
        sys.setprofile(self._note)
        return self

    def __exit__(self, *exc_info: object) -> None:
        sys.setprofile(None)

    def _note(self, frame: FrameType, event: str, arg: object) -> None:
        here = place(frame.f_code)
        if event != "call" or here is None:
            return
        self.calls += 1
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


def trace(call: Callable[[], object]) -> Trace:
    with Trace() as found:
        call()
    return found


def show(name: str, found: list[Trace]) -> None:
    least = min(found, key=lambda each: each.calls)
    print(f"{name:24} {least.calls:6} {least.files:6} {least.folders:8}")


def main() -> None:
    x = shmmap.asshared(np.ones((1000, 8)))
    shmmap.pmap(np.max, x, workers=2)  # imports what is imported late, and starts the team
    functions: list[Any] = [np.sum, np.prod, np.ptp, np.median]
    print(f"{'':24} {'calls':>6} {'files':>6} {'folders':>8}")
    show("pmap(func, x), first", [trace(lambda f=f: shmmap.pmap(f, x)) for f in functions])
    show("pmap(func, x), again", [trace(lambda f=f: shmmap.pmap(f, x)) for f in functions])
    with shmmap.Team(2) as team:
        found = []
        for _ in range(3):
            is_dead = shmmap.zeros(1, bool)

            def die_once(i: int, is_dead: Any = is_dead) -> int:
                if i == 5 and not is_dead[0]:
                    is_dead[0] = True
                    os.kill(os.getpid(), signal.SIGKILL)
                return i

            def call(func: Any = die_once) -> object:
                return shmmap.pmap(func, range(100), engine=team, retries=1)

            found.append(trace(call))
    show("a death", found)


if __name__ == "__main__":
    main()
