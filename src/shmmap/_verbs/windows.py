"""Maps over iterators: read ahead only so far, one window of items after another, several at a time.

Each window is a map of its own, started by `_verbs.run`: see docs/design/0027-iterators-in-windows.md. What
must hold: items taken and not done are never more than ``buffersize``.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sized
from concurrent.futures import CancelledError
from contextlib import suppress
from itertools import islice, zip_longest
from typing import Any

import numpy as np

from .._chunks import merge_ranges
from .._engines import Work
from .._errors.exceptions import MapError, WorkerDied, describe_ranges, name_of
from .._results import Arrivals
from .._system.interrupts import CleanUp
from .request import Request
from .sequences import is_endless, iterate

# Items read ahead of the one that is waited for, by default: enough for many workers and short functions,
# and little memory for items of a usual size.
BUFFERSIZE = 1024
# Windows under way at a time: one that ends, one in the middle, and those that wait for it.
WINDOWS = 4
# Chunks in a window: few enough that near-empty functions are cheap, enough that the last one is not dear.
_CHUNKS = 32
_END: object = object()
"""In the place of an item of an input that has come to its end before others."""

Begin = Callable[[Request, int, int], Work]
"""Start the map of a window, given its first index and the items in a chunk."""


def is_stream(request: Request) -> bool:
    """Whether a request is for items of an iterator, whose number nobody knows, and a list of results."""
    if request.verb != "items" or not (request.out is None or request.out is list):
        return False
    mapped = [value for value, axis in zip(request.inputs, _axes(request)) if axis is not None]  # noqa: B905
    return any(
        isinstance(value, Iterator) and not isinstance(value, Sized) for value in mapped
    ) and (
        not any(isinstance(value, np.ndarray) or hasattr(value, "__array__") for value in mapped)
    )


def check_ends(request: Request) -> None:
    """Refuse to wait for all results of inputs that never end."""
    if all(
        is_endless(value)
        for value, axis in zip(request.inputs, _axes(request), strict=False)
        if axis is not None
    ):
        raise ValueError(
            "the input never ends, and so its results are never all there; take some with itertools.islice, "
            "or pass wait=False and iterate over the future's in_order()"
        )


def _axes(request: Request) -> tuple[object, ...]:
    axis = request.axis
    return axis if isinstance(axis, tuple) else (axis,) * len(request.inputs)


class Stream:
    """A map over iterators under way; a `Work` without a ledger."""

    in_steps: None = None

    def __init__(
        self, request: Request, begin: Begin, buffersize: int | None, chunksize: int | str
    ) -> None:
        axes = _axes(request)
        if len(axes) != len(request.inputs):
            raise ValueError(f"axis has {len(axes)} entries for {len(request.inputs)} inputs")
        self._request = request
        self._begin = begin
        self._mapped = [j for j, axis in enumerate(axes) if axis is not None]
        self._rows = zip_longest(
            *(iterate(request.inputs[j], j) for j in self._mapped), fillvalue=_END
        )
        most = BUFFERSIZE if buffersize is None else buffersize
        self._windows = min(WINDOWS, most)
        self._size = most // self._windows
        self._chunksize = max(1, self._size // _CHUNKS) if chunksize == "auto" else chunksize
        self._under_way: deque[tuple[int, int, Work]] = deque()
        self._taken = 0
        self._done = 0
        self._cancelled = False
        self.arrivals = Arrivals()
        """Tells of windows that are done."""
        self.has_given = False
        """Whether a window was given to somebody who iterates over a future."""
        self.finished: deque[tuple[int, int, list[object]]] = deque()
        """``start, stop, values`` of the windows that are done and that nobody has got by iterating."""

    def iterate(self) -> Iterator[tuple[int, int, list[object]]]:
        """``start, stop, values`` of one window after another."""
        errors: list[Exception] = []
        failed: list[tuple[int, int]] = []
        exhausted = False
        try:
            while True:
                while not exhausted and len(self._under_way) < self._windows:
                    exhausted = not self._take()
                if self._cancelled:
                    raise CancelledError
                if not self._under_way:
                    break
                start, stop, work = self._under_way[0]
                try:
                    values = work.wait()
                except MapError as exc:
                    errors += exc.exceptions
                    failed += exc.failed
                    values = exc.result
                self._done = stop  # first: whoever asks for `done` meanwhile is to see it grow
                self._under_way.popleft()
                window = [(start, stop, values)]
                # While this waits for the next window, nothing here refers to the results.
                del work, values
                yield window.pop()
        finally:
            with CleanUp(sys.exception()):
                self._stop()
        if errors:
            ranges = merge_ranges(failed)
            name = name_of(self._request.func)
            try:
                raise MapError(f"{name} failed for {describe_ranges(ranges)}", errors, ranges, None)
            finally:
                del errors  # which refer, by their tracebacks, to this frame

    def _take(self) -> bool:
        """Read a window and start its map; False if there was nothing left."""
        rows = list(islice(self._rows, self._size))
        if rows and any(cell is _END for cell in rows[-1]):
            ends = (i for i, row in enumerate(rows) if any(cell is _END for cell in row))
            raise ValueError(
                f"the inputs have different lengths: one of them ends at index {self._taken + next(ends)}, "
                "another goes on"
            )
        if not rows:
            return False
        inputs = list(self._request.inputs)
        for j, column in zip(self._mapped, zip(*rows, strict=True), strict=True):
            inputs[j] = column
        start = self._taken
        self._taken += len(rows)
        chunksize: Any = self._chunksize
        work = self._begin(self._request._replace(inputs=tuple(inputs)), start, chunksize)
        self._under_way.append((start, self._taken, work))
        return len(rows) == self._size

    def _stop(self) -> None:
        """End what is under way, after an error or when nobody takes the rest."""
        for _, _, work in self._under_way:
            work.cancel()
        while self._under_way:
            with suppress(Exception, CancelledError):
                self._under_way[0][2].wait()
            self._under_way.popleft()

    # ------------------------------------------------ as a `Work`

    def wait(self) -> list[object]:
        """See `Work`: all results, in a list; but for those that were given away."""
        try:
            for window in self.iterate():
                self.finished.append(window)
                del window  # see `iterate`
                self.arrivals.tell()
        except MapError as exc:
            raise MapError(exc.message, exc.exceptions, exc.failed, self._results()) from None
        except WorkerDied as exc:
            exc.result = [*self._results(), *(exc.result or ())]
            raise
        return self._results()

    def _results(self) -> list[object]:
        return [value for _, _, values in list(self.finished) for value in values]

    def done(self) -> int:
        for start, _, work in list(self._under_way):  # a copy: another thread takes them out
            return start + work.done()
        return self._done

    def taken(self) -> int:
        """Number of items read so far."""
        return self._taken

    def marks(self) -> bytes:
        """See `Work`; there is no ledger for the whole."""
        return b""

    def cancel(self) -> None:
        self._cancelled = True
        for _, _, work in list(self._under_way):
            work.cancel()
