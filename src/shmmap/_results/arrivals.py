"""What an iterator over a future waits for: that something has come."""

from __future__ import annotations

import threading


class Arrivals:
    """Tells waiting threads that something has come. Told by the map's thread, waited for by any."""

    def __init__(self) -> None:
        self._condition = threading.Condition()  # over an RLock: a signal handler may wait as well
        self.count: int = 0
        """How often it was told."""

    def tell(self) -> None:
        with self._condition:
            self.count += 1
            self._condition.notify_all()

    def wait(self, count: int, timeout: float | None) -> None:
        """Wait until it was told more often than `count`, or for so long."""
        with self._condition:
            if self.count == count:
                self._condition.wait(timeout)
