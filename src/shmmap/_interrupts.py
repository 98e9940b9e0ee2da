"""Sections that a Ctrl-C must not cut in two.

A KeyboardInterrupt may come between any two instructions of the main thread. Where processes, descriptors
and tables have to change together, it is held back until they have; such sections never wait.
"""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Uninterrupted"]

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

    def __enter__(self) -> None:
        self._caught: tuple[int, FrameType | None] | None = None
        self._previous = None
        if threading.current_thread() is not threading.main_thread():
            return
        previous = _plain.getsignal(_SIGINT)
        if callable(previous):
            self._previous = previous
            _plain.signal(_SIGINT, self._catch)

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
