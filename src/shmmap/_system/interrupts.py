"""Sections that a signal must not cut in two, and what it must not begin inside of them.

A handler of a signal may run, and a KeyboardInterrupt come, between any two instructions of the main thread;
a finalizer wherever memory is allocated, in any thread. Where processes, descriptors and tables have to
change together, handlers are held back until they have; such sections never wait. A handler, or a finalizer,
that calls the library while its thread is in the middle of it is refused.
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from types import BuiltinFunctionType, FrameType
from typing import Any, Self

from .forks import make_lock

# Without what `signal` puts around them: it looks for an enum's member for every handler, and not finding one
# takes longer than all the rest.
_plain: Any = sys.modules.get("_signal", signal)


# Those for which programs have handlers that do things, or raise.
_SIGNALS = tuple(
    int(getattr(signal, name))
    for name in ("SIGINT", "SIGTERM", "SIGALRM", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)


class Uninterrupted:
    """A context in which Python's handlers of signals wait for the end; then they are called.

    *Requires*: nothing inside waits. *Guarantees*: in the main thread, no KeyboardInterrupt inside, nor
    anything else that a handler raises or does; the handlers that were there are there again afterwards.
    Elsewhere there is nothing to do.
    """

    __slots__ = ("_caught", "_handlers")

    def __enter__(self) -> Self:
        self._caught: list[tuple[int, FrameType | None]] = []
        self._handlers: dict[int, object] = {}
        try:
            for number, handler in zip(_SIGNALS, map(_plain.getsignal, _SIGNALS), strict=True):
                if handler.__class__ is not int and handler is not None:  # one of Python's
                    self._handlers[number] = handler
                    _plain.signal(number, self._catch)
        except BaseException:
            if threading.current_thread() is not threading.main_thread():
                self._handlers.clear()  # which is refused here, so that nothing has changed
                return self
            _put_back(self._handlers)  # it is the handler of one that is still to come
            raise
        return self

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self._caught.append((number, frame))

    def __exit__(self, *exc_info: object) -> None:
        handlers, self._handlers = self._handlers, {}
        try:
            _put_back(dict(handlers))
        finally:
            if self._caught:
                self._call(handlers)

    def _call(self, handlers: dict[int, Any]) -> None:
        number, frame = self._caught.pop(0)
        try:
            handlers[number](number, frame)
        finally:  # it may raise, and the others are to be called all the same
            if self._caught:
                self._call(handlers)


def _put_back(handlers: dict[int, object]) -> None:
    """Install handlers, all of them: one that is there again may be called at once, and raise."""
    try:
        for number in [*handlers]:
            _plain.signal(number, handlers[number])
            del handlers[number]
    finally:
        if handlers:
            _put_back(handlers)


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
        return any(number == signal.SIGINT for number, _ in self._caught)

    def __exit__(self, *exc_info: object) -> None:
        if self._answers:
            self._caught = [each for each in self._caught if each[0] != signal.SIGINT]
        super().__exit__(*exc_info)


def is_inside(lock: Any) -> bool:
    """Whether this thread holds an `RLock`, asked as `threading.Condition` asks it."""
    return bool(lock._is_owned())


def refuse_reentry(*locks: Any) -> None:
    """Refuse a thread that holds one of these `RLock`s already.

    Then a signal handler, or a finalizer, runs in the middle. It interrupts what changes tables and messages,
    and would find them half changed; a lock that is not re-entrant would have it wait for itself. To be
    called at each entrance, never within. Raises RuntimeError with what to do instead.
    """
    for lock in locks:
        if lock._is_owned():  # asked as `threading.Condition` asks it
            raise RuntimeError(
                "a signal handler or a finalizer has called shmmap while it interrupts shmmap itself; let it "
                "set a flag, and do the work when it has returned"
            )


def refuse_green_threads() -> None:
    """Refuse to go on where threads and sockets are not the system's own.

    gevent and eventlet put others in their place ("monkey patching"): a thread is then one of several tasks
    of a single thread, and a wait for a worker process would keep all of them from running, for ever. Raises
    RuntimeError with what to do instead.
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


# How long to wait for a short lock; its holder needs microseconds, unless a signal handler runs meanwhile.
_PATIENCE_S = 1.0


class ShortLock:
    """A lock around short sections of which none waits.

    *Guarantees*: no KeyboardInterrupt inside; a forked child finds it open. A signal handler may enter while
    its own thread is inside; one that waits for another thread which wants to enter keeps that thread
    waiting for a second only, then it goes on as if it had the lock. So each step inside has to leave things
    such that what a handler changes between two of them is right in the end.
    """

    def __init__(self) -> None:
        self._lock = make_lock()

    def held(self) -> _Held:
        """A context for the time of a block: the lock is held."""
        return _Held(self._lock)


class _Held(Uninterrupted):
    __slots__ = ("_has_it", "_lock")

    def __init__(self, lock: Any) -> None:
        self._lock = lock

    def __enter__(self) -> Self:
        super().__enter__()
        self._has_it = self._lock.acquire(timeout=_PATIENCE_S)
        return self

    def __exit__(self, *exc_info: Any) -> None:
        if self._has_it:
            self._lock.release()
        super().__exit__(*exc_info)
