"""Progress of a map as a tqdm bar or through a callable. The only importer of tqdm."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

__all__ = ["Progress"]


class Progress:
    """Shows how many items are done; called now and then by the thread that waits for the map."""

    def __init__(
        self, progress: bool | str | Callable[[int, Any], object], total: int | None
    ) -> None:
        self._total = total
        self._last = -1
        self._call: Callable[[int, Any], object] | None = None
        self._bar: Any = None
        if callable(progress):
            self._call = progress
            return
        import tqdm.std

        bar: Any
        terminal_bar = bar = _quiet(tqdm.std.tqdm)
        if _is_notebook():
            try:
                import ipywidgets  # noqa: F401
                import tqdm.notebook

                bar = _quiet(tqdm.notebook.tqdm)
            except ImportError:
                pass
        name = progress if isinstance(progress, str) else None
        # disable=None: no bar where the output is not a terminal.
        quiet = None if bar is terminal_bar else False
        self._bar = bar(total=total, desc=name, disable=quiet)

    def __call__(self, count: Callable[[], int]) -> None:
        """Show the count if it has changed."""
        done = count()
        if done == self._last:
            return
        if self._call is not None:
            self._call(done, self._total)
        else:
            self._bar.update(done - max(0, self._last))
        self._last = done

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()


def _quiet(bar: Any) -> Any:
    """A bar without tqdm's monitor thread, and with a lock that is no named semaphore."""
    return type("Bar", (bar,), {"_lock": threading.RLock(), "monitor_interval": 0})


def _is_notebook() -> bool:
    import sys

    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return type(shell).__name__ == "ZMQInteractiveShell"
