"""`profile`, and the report that it gives."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .._errors.arguments import describe
from .._system.imports import late_import
from .log import Book, MapLog, close_book, open_book
from .records import ProfiledMap


class Report:
    """Where the time of maps went; what :func:`shmmap.profile` gives.

    It may be asked at any time, also while maps run, and from any thread. What is printed of it names what
    to change, with what it costs now.

    Attributes
    ----------
    maps : tuple of records
        One for each map, in the order in which they began: ``verb``, ``func``, ``n``, ``chunks``, ``engine``,
        ``phases``, ``workers``, ``slowest``, ``advice``, ``failed`` and more. Of more than 10,000 maps, the
        last ones; where there are very many chunks, with fewer ``bars`` for the earlier ones.
    """

    __module__ = "shmmap"

    def __init__(self, book: Book) -> None:
        self._book = book
        self._known: dict[MapLog, tuple[object, ProfiledMap]] = {}
        """Records of maps that are over, with the rows that they were made of: only these can change."""

    @property
    def maps(self) -> tuple[ProfiledMap, ...]:
        """A record for each map."""
        with late_import:
            from .assemble import assemble

        known, self._known = self._known, {}
        found = []
        for number, log in enumerate(list(self._book.logs), self._book.forgotten):
            rows, record = known.get(log, (None, None))
            if record is None or rows is not log.rows():
                rows = log.rows()
                record = assemble(log, number)
            if not record.is_running:
                self._known[log] = rows, record
            found.append(record)
        return tuple(found)

    def __str__(self) -> str:
        with late_import:
            from .text import describe as in_words

        return in_words(self.maps, self._book.forgotten)

    def __repr__(self) -> str:
        count = len(self._book.logs) + self._book.forgotten
        return f"<shmmap report of {count:,} {'map' if count == 1 else 'maps'}: print it>"

    def _repr_html_(self) -> str:
        with late_import:
            from .page import make_frame

        return make_frame(self.maps, str(self))

    def plot(self, ax: Any = None) -> Any:
        """Draw a row for each worker, with a bar for what it was at; matplotlib does it.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; by default in a figure of its own.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        with late_import:
            from .plot import draw

        return draw(self.maps, ax)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report as a page, or as a trace.

        Parameters
        ----------
        path : path-like
            ``"run.html"``: one page that needs nothing else, no network either. ``"run.json"``: a Chrome
            trace, which ui.perfetto.dev and speedscope open.

        Raises
        ------
        ValueError
            For other endings; nothing is written.
        OSError
            If the file cannot be written; what was there before stays.
        """
        with late_import:
            from .save import check_ending, save

        check_ending(path)
        save(self.maps, str(self), path)


@contextmanager
def profile(stacks: bool = False) -> Iterator[Report]:
    """Find out where the time of maps goes: of all maps of this process that begin inside the block.

    Parameters
    ----------
    stacks : bool, default False
        Look every 20 ms also where in its code the function is, in each worker. The page shows it as a flame
        graph.

    Returns
    -------
    context manager
        Gives the `Report`. Print it, or see its ``maps``, ``plot()`` and ``save("run.html")``.

    Notes
    -----
    It counts maps that any thread or library begins, on every engine, also while they fail and workers are
    replaced; in a forked child, the child's own. Blocks may be nested. A map that was begun inside is noted
    to its end. Of functions given to ``Team.submit`` nothing is noted, and what a function maps inside a
    worker counts as the function's.

    What it costs cannot be measured but for the smallest maps. Each worker keeps 4,096 rows of a map: one for
    each chunk of 20 us and more, or for a few that are shorter. If there are more, those of about the same
    time become one; sums stay exact.

    Examples
    --------
    >>> import shmmap
    >>> with shmmap.profile() as report:
    ...     squares = shmmap.pmap(lambda v: v * v, range(100), engine="serial")
    >>> report.maps[0].n, sum(worker.chunks for worker in report.maps[0].workers) == report.maps[0].chunks
    (100, True)
    """
    if not isinstance(stacks, bool):
        raise TypeError(f"stacks is True or False, not {describe(stacks)}")
    book = open_book(stacks)
    try:
        yield Report(book)
    finally:
        close_book(book)
