"""Results that a kernel keeps while it is not known yet where they belong.

The output is made from the form of index 0's result. Until then the results of other chunks wait here, of one
worker or thread; then they are put in their places, or handed over as pieces if there is nothing to wait for.
"""

from __future__ import annotations

import time

import numpy as np

from .columns import Column, Kind, Mixed, copied
from .job import Piece

# Results a worker may keep while the output is not known yet, before it waits for it.
HELD_NBYTES = 1 << 26
# Up to this much is handed over as it is when there are no more tickets, rather than wait for the output.
SHIP_NBYTES = 1 << 18
# Kept results are handed over after this long all the same, so that a death cannot take them along.
HELD_S = 0.05


class Held:
    """Pieces in the order in which they came."""

    def __init__(self) -> None:
        self._pieces: list[Piece] = []
        self._nbytes = 0
        self._since = 0.0

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def add(self, k: int, last: int, kind: Kind, columns: tuple[Column, ...]) -> None:
        """Keep a copy of columns of chunks ``[k, last)``: the function may use one buffer for all results."""
        kept = tuple(map(copied, columns))
        if not self._pieces:
            self._since = time.monotonic()
        self._pieces.append((k, last, (kind, kept)))
        self._nbytes += sum(column.nbytes for column in kept)

    def is_full(self) -> bool:
        """Whether the output is to be waited for before more is kept."""
        return self._nbytes > HELD_NBYTES

    def is_small(self) -> bool:
        """Whether it is so little that handing it over costs less than to wait."""
        return self._nbytes <= SHIP_NBYTES

    def is_old(self) -> bool:
        """Whether something has been kept for long."""
        return bool(self._pieces) and time.monotonic() - self._since > HELD_S

    def take(self) -> list[Piece]:
        """All pieces, which are not kept here any more."""
        pieces, self._pieces, self._nbytes = self._pieces, [], 0
        return pieces

    def take_merged(self) -> list[Piece]:
        """The same; if they are small, neighbouring chunks whose columns are alike come as one."""
        return merged(self.take()) if self.is_small() else self.take()


def merged(pieces: list[Piece]) -> list[Piece]:
    """Pieces of neighbouring chunks as one, where their columns are alike.

    A small piece by itself takes 4 us to pickle here and 4 to take in the caller; merging it with others, 1.
    """
    runs: list[list[Piece]] = []
    for piece in pieces:
        if runs and _follows(runs[-1][-1], piece):
            runs[-1].append(piece)
        else:
            runs.append([piece])
    return [_join(run) if len(run) > 1 else run[0] for run in runs]


def _follows(one: Piece, other: Piece) -> bool:
    """Whether a piece is the neighbour of another, and its columns are alike."""
    (_, stop, (kind, columns)), (first, _, (its_kind, its_columns)) = one, other
    if stop != first or kind is not its_kind or len(columns) != len(its_columns):
        return False
    return all(
        not isinstance(column, Mixed)
        and not isinstance(its_column, Mixed)
        and column.dtype == its_column.dtype
        and column.shape[1:] == its_column.shape[1:]
        for column, its_column in zip(columns, its_columns, strict=True)
    )


def _join(run: list[Piece]) -> Piece:
    columns = zip(*[columns for _, _, (_, columns) in run], strict=True)
    return run[0][0], run[-1][1], (run[0][2][0], tuple(map(np.concatenate, columns)))
