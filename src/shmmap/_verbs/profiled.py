"""A map that is profiled: its log is begun, and however it is waited for, its log hears of its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._chunks import Job
from .._engines import SteppedWork, Task, Work
from .._profile import log as profiling
from .._profile.log import MapLog
from .options import Options
from .request import Request


def begin_log(request: Request, job: Job, options: Options, engine: str, called: int) -> MapLog:
    """Begin to note a map; its function was planned just now, and called at a time in nanoseconds."""
    log = MapLog(
        called,
        request.name,
        request.func,
        job,
        engine,
        is_auto=options.chunksize == "auto",
    )
    profiling.begin(log)
    return log


def log_end(work: Work, task: Task, log: MapLog) -> LoggedWork:
    """A map that was started: its log hears of its end."""
    log.note_posted()
    return LoggedWork(work, task, log)


class LoggedWork:
    """A map under way, see `SteppedWork`. It is waited for by one thread at a time."""

    def __init__(self, work: Work, task: Task, log: MapLog) -> None:
        self._work = work
        self._task = task
        self._log = log

    @property
    def in_steps(self) -> SteppedWork | None:
        return None if self._work.in_steps is None else self

    def wait(self) -> Any:
        try:
            result = self._work.wait()
        except BaseException as exc:
            self._log.end(exc, ())
            raise
        self._log.end(None, self._task.collector.columns or ())
        return result

    def done(self) -> int:
        return self._work.done()

    def marks(self) -> bytes:
        return self._work.marks()

    def cancel(self) -> None:
        self._work.cancel()

    def be_attended(self, attend: Callable[[], object]) -> None:
        assert self._work.in_steps is not None
        self._work.in_steps.be_attended(attend)

    def step(self) -> bool:
        assert self._work.in_steps is not None
        try:
            return self._work.in_steps.step()
        except BaseException as exc:
            self._log.end(exc, ())
            raise

    def finish(self) -> Any:
        assert self._work.in_steps is not None
        try:
            result = self._work.in_steps.finish()
        except BaseException as exc:
            self._log.end(exc, ())
            raise
        self._log.end(None, self._task.collector.columns or ())
        return result
