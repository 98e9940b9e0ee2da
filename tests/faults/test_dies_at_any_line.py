"""Fault 1: a worker dies at any line of what hands its results over. None is lost or there twice."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Any
from zlib import crc32

import pytest

import shmmap
from tests.helpers import assert_next_map_works, in_time

N = 12
AT = 5
_HANDING_OVER = (
    "_chunks/gather.py",
    "_worker/reporter.py",
    "_worker/outbox.py",
    "_wire/control.py",
)


class DieAtLine:
    """Ends the process as it comes to the `number`-th line of the files in which results are handed over."""

    def __init__(self, number: int, told: Any) -> None:
        self._left = number
        self._told = told
        """A shared array, that says in the end that it has done so."""

    def arm(self) -> None:
        sys.settrace(self._trace)

    def _trace(self, frame: FrameType, event: str, arg: object) -> Any:
        if not frame.f_code.co_filename.endswith(_HANDING_OVER):
            return None
        if event == "line":
            self._left -= 1
            if self._left == 0:
                self._told[1] = 1
                os.kill(os.getpid(), signal.SIGKILL)
        return self._trace


@pytest.mark.slow
@pytest.mark.parametrize(
    ("collect", "size"), [("whole", 1), ("in order", 1), ("folded", 1), ("whole", 1 << 15)]
)
def test_1_death_at_any_line_of_handing_over(team: shmmap.Team, collect: str, size: int) -> None:
    """Line after line, until there are not so many of them; large results go by the pipe."""
    told = shmmap.zeros(2, int)
    number, deaths = crc32(f"{collect} {size} {team._team.workers.start}".encode()) % 4, 0
    with in_time(120):
        while True:
            number += 4
            told[:] = 0

            def func(i: Any, number: int = number) -> bytes:
                if i == AT and not told[0]:
                    told[0] = 1
                    DieAtLine(number, told).arm()
                return bytes([i]) * size

            options: Any = dict(engine=team, workers=2, chunksize=1)
            if collect == "folded":
                got = shmmap.preduce(
                    lambda part: func(part[0]), range(N), combine=bytes.__add__, **options
                )
                assert got == b"".join(bytes([i]) * size for i in range(N))
            elif collect == "in order":
                future = shmmap.pmap(func, range(N), wait=False, **options)
                parts = [value for _, _, (value,) in future.in_order()]
                assert parts == [bytes([i]) * size for i in range(N)]
            else:
                got = shmmap.pmap(func, range(N), **options)
                assert got == [bytes([i]) * size for i in range(N)]
            if not told[1]:
                break
            deaths += 1
    assert deaths > 8
    assert_next_map_works(team)
