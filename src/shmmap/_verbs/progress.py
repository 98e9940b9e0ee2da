"""Progress of a map: a bar, lines in a log, or a callable. The only importer of tqdm.

In a terminal it is tqdm's bar; in a notebook its widget, or without ``ipywidgets`` its bar as text; where
nobody watches (a batch job's log), a line now and then. What cannot be shown is not: a closed or broken
stderr ends the showing, and never the map. Only the user's own callable may end it.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO

# A bar is drawn again this often although nothing has been done, or its clock would stand still.
_CLOCK_S = 1.0
# How far apart lines in a log are at least: seconds, and a part of the time that has gone by.
_LINE_S = 10.0
_LINE_PART = 0.02
_LINE = "{desc}{percentage:.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]"
_LINE_OF_UNKNOWN = "{desc}{n_fmt} [{elapsed}, {rate_fmt}]"


class Progress:
    """Shows how many items are done; called now and then by the thread that waits for the map."""

    def __init__(
        self, progress: bool | str | Callable[[int, Any], object], total: int | None
    ) -> None:
        self._total = total
        self._last = -1
        self._call: Callable[[int, object], object] | None = None
        self._bar: _Lines | _Bar | None = None
        if callable(progress):
            self._call = progress
            return
        try:
            self._bar = _open(progress if isinstance(progress, str) else "", total)
        except Exception:
            pass

    def __call__(self, count: Callable[[], int]) -> None:
        """Show the count."""
        done = count()
        if self._call is not None:
            if done != self._last:
                self._last = done
                self._call(done, self._total)
        elif self._bar is not None:
            try:
                self._bar.show(done)
            except Exception:
                self._bar = None

    def close(self) -> None:
        """Leave what is shown as it is."""
        bar, self._bar = self._bar, None
        if bar is not None:
            try:
                bar.close()
            except Exception:
                pass


def _open(name: str, total: int | None) -> _Lines | _Bar | None:
    """What shows progress where this program runs."""
    file = sys.stderr
    if file is None:  # as under pythonw, or in a daemon
        return None
    if _is_notebook():
        return _open_in_notebook(name, total)
    if file.isatty():
        return _Bar(_terminal_bar(), name, total, dynamic_ncols=True)
    return _Lines(name, total, file)


def _open_in_notebook(name: str, total: int | None) -> _Bar:
    try:
        import ipywidgets  # noqa: F401
        import tqdm.notebook

        return _Bar(_quiet(tqdm.notebook.tqdm), name, total)
    except Exception:  # there is none, or one that does not fit
        return _Bar(_terminal_bar(), name, total)


class _Bar:
    """A bar of tqdm's, whose clock goes on while nothing is done."""

    def __init__(self, bar: Any, name: str, total: int | None, **options: object) -> None:
        self._bar = bar(total=total, desc=name or None, miniters=0, **options)
        self._drawn = time.monotonic()

    def show(self, done: int) -> None:
        now = time.monotonic()
        if done != self._bar.n:
            if self._bar.update(done - self._bar.n):
                self._drawn = now
        elif now - self._drawn >= _CLOCK_S:
            self._bar.refresh()
            self._drawn = now

    def close(self) -> None:
        self._bar.close()


class _Lines:
    """A line in a log now and then, and a last one."""

    def __init__(self, name: str, total: int | None, file: TextIO) -> None:
        self._name = f"{name}: " if name else ""
        self._total = total
        self._file = file
        self._began = time.monotonic()
        self._due = self._began + _LINE_S
        self._done = 0

    def show(self, done: int) -> None:
        self._done = done
        now = time.monotonic()
        if now >= self._due and done != self._total:
            self._write(now)
            self._due = now + max(_LINE_S, _LINE_PART * (now - self._began))

    def close(self) -> None:
        self._write(time.monotonic())

    def _write(self, now: float) -> None:
        import tqdm.std

        text = tqdm.std.tqdm.format_meter(
            self._done,
            self._total,  # type: ignore[arg-type]
            now - self._began,
            prefix=self._name,
            bar_format=_LINE_OF_UNKNOWN if self._total is None else _LINE,
        )
        # In one piece: others may write into the same log.
        self._file.write(f"{text}\n")
        self._file.flush()


def _terminal_bar() -> Any:
    import tqdm.std

    return _quiet(tqdm.std.tqdm)


def _quiet(bar: Any) -> object:
    """A bar without tqdm's monitor thread, and with a lock that is no named semaphore."""
    return type("Bar", (bar,), {"_lock": threading.RLock(), "monitor_interval": 0})


def _is_notebook() -> bool:
    """Whether this is the kernel of a notebook, whose output is neither a terminal nor a log."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return "IPKernelApp" in getattr(shell, "config", ())
