"""Sections that a Ctrl-C must not cut in two.

A KeyboardInterrupt may come between any two instructions of the main thread. Where processes, descriptors
and tables have to change together, it is held back until they have; such sections never wait.
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import BuiltinFunctionType, FrameType, TracebackType
from typing import Any, Self

from ._forks import at_fork

__all__ = ["CleanUp", "Door", "Uninterrupted", "refuse_green_threads"]

# Without what `signal` puts around them: it looks for an enum's member for every handler, and not finding one
# takes longer than all the rest.
_plain: Any = sys.modules.get("_signal", signal)
_SIGINT = int(signal.SIGINT)


class Uninterrupted:
    """A context in which SIGINT's Python handler waits for the end; then it is called.

    *Requires*: nothing inside waits. *Guarantees*: in the main thread, no KeyboardInterrupt inside; the
    handler that was there is there again afterwards. Elsewhere there is nothing to do.
    """

    __slots__ = ("_caught", "_previous")

    def __enter__(self) -> Self:
        self._caught: tuple[int, FrameType | None] | None = None
        self._previous = None
        if threading.current_thread() is threading.main_thread():
            previous = _plain.getsignal(_SIGINT)
            if callable(previous):
                self._previous = previous
                _plain.signal(_SIGINT, self._catch)
        return self

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self._caught = (number, frame)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        previous, self._previous = self._previous, None
        if previous is None:
            return
        _plain.signal(_SIGINT, previous)
        if self._caught is not None:
            previous(*self._caught)


class CleanUp(Uninterrupted):
    """A context for what is to be done after an exception, and may wait for a limited time.

    *Guarantees*: a Ctrl-C inside does not cut it short, but it can see that there was one and hurry. If the
    exception was a KeyboardInterrupt, a further one says the same, and is dropped.
    """

    __slots__ = ("_answers",)

    def __init__(self, cause: BaseException | None) -> None:
        self._answers = isinstance(cause, KeyboardInterrupt)

    @property
    def is_urgent(self) -> bool:
        """Whether there was a Ctrl-C since it was entered."""
        return self._caught is not None

    def __exit__(self, *exc_info: Any) -> None:
        if self._answers:
            self._caught = None
        super().__exit__(*exc_info)


def refuse_green_threads() -> None:
    """Refuse to go on where threads and sockets are not the system's own.

    gevent and eventlet put others in their place ("monkey patching"): a thread is then one of several tasks
    of a single thread, and a wait for a worker process would keep all of them from running, for ever.

    Raises
    ------
    RuntimeError
        With what to do instead.
    """
    # Whoever starts workers has imported it; importing it here would make the library's import slower.
    sockets: Any = sys.modules["socket"]
    are_threads = isinstance(_thread.start_new_thread, BuiltinFunctionType)
    if are_threads and sockets.socket.__module__ == "socket":
        return
    name = next((each for each in ("gevent", "eventlet") if each in sys.modules), "some library")
    raise RuntimeError(
        f"{name} has replaced Python's threads or sockets, so worker processes cannot be waited for here; "
        "use engine='serial', or run the map in a program of its own that is not patched"
    )


# How long to wait at a door; whoever is behind it needs microseconds, unless a signal handler runs there.
_PATIENCE_S = 1.0


class Door:
    """A lock around short sections of which none waits.

    *Guarantees*: no KeyboardInterrupt inside; a forked child finds it open. A signal handler may enter while
    its own thread is inside; one that waits for another thread which wants to enter keeps that thread
    waiting for a second only, then it goes on as if it had the lock. So each step inside has to leave things
    such that what a handler changes between two of them is right in the end.
    """

    def __init__(self) -> None:
        self._renew()
        at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.RLock()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Be inside for the time of a block."""
        with Uninterrupted():
            lock = self._lock
            has_it = lock.acquire(timeout=_PATIENCE_S)
            try:
                yield
            finally:
                if has_it:
                    lock.release()
