"""What workers of an executor tell of the chunks that they have run, by clocks of their own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import NamedTuple

from .._chunks import Stacks
from .._wire import RowKind, RowLog, unpack_rows

HOST = os.uname().nodename
"""This machine's name."""


class Answer(NamedTuple):
    """What a worker of an executor tells of one chunk that it has run."""

    host: str
    pid: int
    thread: int
    rows: bytes
    """Its rows, as of a map of this chunk alone, by the clock of its machine."""
    stacks: Stacks


class Answers:
    """The workers of an executor that have run chunks of one map. Used by the thread that waits for it."""

    def __init__(self, log_of: Callable[[int, int], RowLog]) -> None:
        self._log_of = log_of
        """The rows of a rank, whose process is known."""
        self.hosts: dict[int, str] = {}
        """By rank."""
        self._ranks: dict[tuple[str, int, int], int] = {}
        """Workers are numbered as they are first heard of."""
        self._runs: dict[int, int] = {}
        """By chunk: how often it was run."""
        self._until: dict[int, int] = {}
        """By rank: when what was run there last had ended."""

    def note(self, chunk: int, sent: int, answer: Answer) -> None:
        """A chunk that was sent at that time has come back.

        Its clock may be another one: the chunk began no earlier than it was sent, and ended before now.
        """
        who = (answer.host, answer.pid, answer.thread)
        rank = self._ranks.setdefault(who, len(self._ranks))
        self.hosts[rank] = answer.host
        rows = unpack_rows(answer.rows)
        began, ended = int(rows["began"].min()), int(rows["ended"].max())
        shift = max(0, sent - began) or min(0, time.perf_counter_ns() - ended)
        shift = max(shift, self._until.get(rank, 0) - began)
        self._until[rank] = ended + shift
        attempt = self._runs.get(chunk, 0)
        self._runs[chunk] = attempt + 1
        log = self._log_of(rank, answer.pid)
        for row in rows.tolist():
            kind, _, _, _, stop, chunks, began, ended, busy, _, switches = row
            if kind == RowKind.CALL:
                log.note(kind, chunk, chunk + 1, 1, began + shift, ended + shift, busy, attempt)
            else:
                log.note(kind, 0, stop, chunks, began + shift, ended + shift, busy, 0, switches)
