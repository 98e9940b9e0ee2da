"""Calls of the user's code from threads of the library: there is no other way.

A thread that others wait for must not end by what a user's callback, stream, log handler or class raises,
whatever that is: SystemExit, KeyboardInterrupt and GeneratorExit included. What no caller can catch is
reported the way Python reports such exceptions, through ``sys.unraisablehook``; and a report that fails
itself is dropped.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from functools import partial
from types import SimpleNamespace
from typing import Any, TypeVar

T = TypeVar("T")


def guarded(call: Callable[..., object], *args: object) -> None:
    """Call something; what it raises is reported, and goes no further."""
    try:
        call(*args)
    except BaseException as exc:
        _report(exc, call)


def call_back(callback: Callable[[Any], object], future: object) -> None:
    """Call a future's callback, so that those after it are called whatever it raises.

    An ordinary exception is logged as `concurrent.futures` logs it. In the main thread the others are the
    caller's own, a Ctrl-C for example, and go on.
    """
    try:
        callback(future)
    except BaseException as exc:
        if not isinstance(exc, Exception):
            if threading.current_thread() is threading.main_thread():
                raise
            _report(exc, callback)
            return
        log = logging.getLogger("concurrent.futures").exception
        guarded(log, "exception calling callback for %r", future)


class GuardedFuture(Future[T]):
    """A future of which all callbacks are called, whatever one of them raises."""

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """As `concurrent.futures` has it; all callbacks are called, whatever one of them raises."""
        super().add_done_callback(fn if self.done() else partial(call_back, fn))


def settle(future: Future[Any], value: Any = None, error: BaseException | None = None) -> None:
    """Give a future its value or its error, unless the user has set something or cancelled it."""
    try:
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)
    except InvalidStateError:
        if future.cancelled():
            future.set_running_or_notify_cancel()


def _report(exc: BaseException, culprit: object) -> None:
    try:
        hook: Any = sys.unraisablehook
        hook(
            SimpleNamespace(
                exc_type=type(exc),
                exc_value=exc,
                exc_traceback=exc.__traceback__,
                err_msg="Exception ignored in a thread of shmmap, which called",
                object=culprit,
            )
        )
    except BaseException:
        pass  # there is nothing else to report it to
