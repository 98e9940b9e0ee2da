"""A worker dies at any line of what notes rows: no result is lost, and one row at the most."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap._profile.records import Kind
from tests.helpers import assert_next_map_works, in_time

N = 12
AT = 5
_NOTING = ("_wire/rows.py", "_chunks/recorder.py", "_chunks/part.py")


class DieAtLine:
    """Ends the process as it comes to the `number`-th line of the files in which rows are noted."""

    def __init__(self, number: int, told: Any) -> None:
        self._left = number
        self._told = told
        """A shared array, that says in the end that it has done so."""

    def arm(self) -> None:
        sys.settrace(self._trace)
        # The function was called from one of these files, whose frame is there already.
        frame = sys._getframe()
        while frame.f_back is not None:
            frame = frame.f_back
            if frame.f_code.co_filename.endswith(_NOTING):
                frame.f_trace = self._trace

    def _trace(self, frame: FrameType, event: str, arg: object) -> Any:
        if not frame.f_code.co_filename.endswith(_NOTING):
            return None
        if event == "line":
            self._left -= 1
            if self._left == 0:
                self._told[1] = 1
                os.kill(os.getpid(), signal.SIGKILL)
        return self._trace


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("stacks", [False, True])
@pytest.mark.parametrize("form", ["list", "array", "static"])
def test_death_at_any_line_of_noting(form: str, stacks: bool) -> None:
    told = shmmap.zeros(2, int)
    number, deaths = 0, 0
    options: dict[str, Any] = {"schedule": "static"} if form == "static" else {}
    with in_time(120), shmmap.Team(2, start="fork") as team:
        while True:
            number += 9
            told[:] = 0

            def func(i: Any, number: int = number) -> float:
                if i == AT and not told[0]:
                    told[0] = 1
                    DieAtLine(number, told).arm()
                return float(i)

            items: Any = range(N) if form == "list" else np.arange(N)
            with shmmap.profile(stacks) as report:
                got = shmmap.pmap(func, items, engine=team, chunksize=1, **options)
            assert list(got) == list(range(N))
            (record,) = report.maps
            assert not record.failed
            calls = record.bars[record.bars["kind"] == Kind.CALL]
            first_runs = [
                k for row in calls for k in range(row["first"], row["stop"]) if not row["attempt"]
            ]
            assert len(set(first_runs)) == len(first_runs)
            seen = {k for row in calls for k in range(row["first"], row["stop"])}
            missing = sorted({*range(N)} - seen)
            assert not missing or missing[-1] - missing[0] == len(missing) - 1  # of one row
            assert (record.bars["kind"] == Kind.DEATH).sum() == told[1]
            str(report)
            if not told[1]:
                assert not missing
                break
            deaths += 1
        assert_next_map_works(team)
    assert deaths > 3
