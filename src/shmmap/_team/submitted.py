"""A submitted function, and its future: who waits for it reads results by itself, rather than being woken.

It knows of its team only what `Source` says, and nothing any more once it is resolved: a team goes although
somebody keeps the futures of what it has done.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol

from .._system.user_code import GuardedFuture
from .._wire import Bundle, Submitted
from .sending import Equipment


class Source(Protocol):
    """Where the result comes from; see `_team.submissions`. All of it takes the team's lock by itself."""

    def read_for(self, future: SubmittedFuture, deadline: float | None) -> None:
        """Read results until there is that of this future; or return, as somebody else does so."""

    def withdraw(self, future: SubmittedFuture) -> bool:
        """Take the function back if no worker has it; whether that is so."""

    def is_taken(self, number: int) -> bool:
        """Whether some worker has it."""

    def note_resolved(self, future: SubmittedFuture) -> None:
        """It has a result."""


class SubmittedFuture(GuardedFuture[Any]):
    """The future of a submitted function."""

    def __init__(self, number: int = 0, source: Source | None = None) -> None:
        super().__init__()
        self.number = number
        self._source = source
        self.is_resolved = False
        self.has_callbacks = False
        """Its callbacks are called by the monitor."""

    def result(self, timeout: float | None = None) -> Any:
        """As `concurrent.futures` has it."""
        try:
            return super().result(self._read(timeout))
        finally:
            del self  # the traceback refers to this frame, and the future to the exception

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As `concurrent.futures` has it."""
        return super().exception(self._read(timeout))

    def _read(self, timeout: float | None) -> float | None:
        """Read results until there is one, and resolve it; what is left of the time."""
        source = self._source
        if source is None:
            return timeout
        if timeout is None:
            source.read_for(self, None)
            return None
        deadline = time.monotonic() + timeout
        source.read_for(self, deadline)
        return max(0.0, deadline - time.monotonic())

    def running(self) -> bool:
        """As `concurrent.futures` has it: whether a worker has the function."""
        source = self._source
        return super().running() or (source is not None and source.is_taken(self.number))

    def cancel(self) -> bool:
        """As `concurrent.futures` has it."""
        source = self._source
        if source is not None and source.withdraw(self):
            return self.cancel_withdrawn()
        return self.cancelled()

    def cancel_withdrawn(self) -> bool:
        """Cancel it: no worker has the function, nor will."""
        source = self._let_go()
        try:
            return super().cancel()
        finally:
            if self.cancelled():
                self.set_running_or_notify_cancel()
            self._tell(source)

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        """As `concurrent.futures` has it; all callbacks are called, whatever one of them raises."""
        self.has_callbacks = True
        super().add_done_callback(fn)

    def set_result(self, result: Any) -> None:
        """As `concurrent.futures` has it."""
        source = self._let_go()
        try:
            super().set_result(result)
        finally:
            self._tell(source)

    def set_exception(self, exception: BaseException | None) -> None:
        """As `concurrent.futures` has it."""
        source = self._let_go()
        try:
            super().set_exception(exception)
        finally:
            self._tell(source)

    def _let_go(self) -> Source | None:
        """It is about to be resolved: nobody is to read for it any more, nor callbacks that ask for it."""
        source, self._source = self._source, None
        self.is_resolved = True
        return source

    def _tell(self, source: Source | None) -> None:
        if source is not None:
            source.note_resolved(self)


class Submission(NamedTuple):
    """A function that was submitted, as it is put into the pipe."""

    future: SubmittedFuture
    submitted: Submitted
    func: Callable[..., Any]
    equipment: Equipment
    """What workers must have for it."""
    keep: tuple[Any, ...]
    """What must stay in place until it is over."""
    bundle: Bundle | None = None
    """Those that it belongs to."""
