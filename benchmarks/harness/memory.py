"""What a process tree takes: proportional set size (shared pages counted once), processor time."""

from __future__ import annotations

import contextlib
import os
import threading


def tree(root: int) -> list[int]:
    """The process, its descendants, and whoever else is in the sessions they began."""
    parents: dict[int, int] = {}
    sessions: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError), open(f"/proc/{entry}/stat") as file:
            # The name, in parentheses, may hold anything, spaces and parentheses included.
            fields = file.read().rpartition(")")[2].split()
            parents[int(entry)] = int(fields[1])
            sessions[int(entry)] = int(fields[3])
    members = {root}
    while True:
        more = {
            pid
            for pid, parent in parents.items()
            if pid not in members and (parent in members or sessions[pid] in members)
        }
        if not more:
            return sorted(members)
        members |= more


def pss(root: int) -> int:
    """Bytes."""
    total = 0
    for pid in tree(root):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as file:
            for line in file:
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def jiffies(root: int) -> int:
    """Processor time of the tree so far, and of those of it that have ended."""
    total = 0
    for pid in tree(root):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
            total += sum(map(int, file.read().rpartition(")")[2].split()[11:15]))
    return total


class Peak:
    """Sample a tree's PSS for as long as the block runs; the largest is in ``nbytes``."""

    def __init__(self, root: int, interval_s: float = 0.01) -> None:
        self.nbytes = 0
        self._root = root
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._stop.wait(self._interval_s):
            self.nbytes = max(self.nbytes, pss(self._root))

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.nbytes = max(self.nbytes, pss(self._root))
