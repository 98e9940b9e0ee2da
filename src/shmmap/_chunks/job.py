"""What goes between a map's caller and the code that runs its chunks: the job there, results back.

A `Job` says all there is to know of a map but its function. The verbs make it, and engines carry it to
where its chunks are run, whole or in parts; there a kernel (`_chunks.kernels`) binds it to the function.
Results come back in place or as a `Piece`, and from the `Form` of the first one the collector makes the
output.

Nothing here changes once it is made.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from .._interop.numpy_types import Array
from .stencil import Stencil, Trim


class Input(NamedTuple):
    """One input of a map."""

    kind: str
    """``"array"``: sliced along `axis`; ``"stored"``: the same, read at every slice; ``"whole"``: passed
    whole; ``"items"``: a pickled sequence; ``"sequence"``: a sequence that is sliced as it is (range, or any
    in the caller's process); ``"rows"``: a frame or sparse matrix, see `_interop.rows`."""
    data: Any
    axis: int = 0
    offsets: Any = None
    """Items only: where each pickle begins in `data`, one more entry than pickles."""
    segments: frozenset[int] = frozenset()
    """Items only: segments that their pickles refer to."""
    stencil: Stencil | None = None
    """Arrays only: the neighbours that each chunk gets."""
    by_value: bool = False
    """Items only: see `Packed.by_value`."""
    parcel: int = 0
    """Items only: how many are in one pickle, where they `are_plain`; else it is the items of a chunk."""
    modules: int = 0
    """Items only: version of the user\'s modules that they need, see `_code.reach`."""


class Job(NamedTuple):
    """A map as every engine gets it: bound, planned, checked."""

    verb: str
    """``"items"``, ``"chunks"`` or ``"ranges"``."""
    gather: bool
    """Results are gathered as objects; else they fill arrays."""
    n: int
    chunksize: int
    inputs: tuple[Input, ...]
    axis: int
    """Along which blocks of results are put together (`chunks` only)."""
    out: tuple[Array, ...] | None
    """Where results go, axis first, if known in advance."""
    dtypes: tuple[Any, ...] | None
    """Declared dtypes, one per output, or a single one for all."""
    seed: tuple[int, int] | None
    """Key of the Philox streams for ``rng=``."""
    timeout: float | None
    keep_going: bool
    """A failed item or chunk is reported, and does not stop the others."""
    retries: int
    """How often a failed call of the function is tried again, at once and in place."""
    trim: Trim | None = None
    """Takes the neighbours off the results again."""
    store: str = ""
    """``"write"``: outputs are stored arrays, written by whoever runs the chunk; ``"hand"``: by the caller,
    to whom every chunk's results are handed over; empty: outputs are in memory."""
    first: int = 0
    """Index of item 0 in the map that the user knows, where this is a part of one over an iterator."""
    may_join: bool = False
    """Chunks are of nobody's choosing: neighbours may be gone through as one, see `Kernel.joins`."""
    ndims: tuple[int, ...] = ()
    """Dimensions of the inputs that are cut (`chunks` only): a result of as many has the axis of the chunks
    where they have it. Empty where nothing can be wrong, or the length of another chunk tells."""

    def to_plain(self) -> tuple[Any, ...]:
        """The same as plain tuples: pickling them takes two thirds of the time."""
        return tuple(self._replace(inputs=tuple(map(tuple, self.inputs))))  # type: ignore[arg-type]

    @classmethod
    def from_plain(cls, plain: tuple[Any, ...]) -> Job:
        """Undo `to_plain`."""
        job = cls(*plain)
        return job._replace(inputs=tuple([Input(*entry) for entry in job.inputs]))


class Form(NamedTuple):
    """What kind of thing a function returned: nothing, one array, or a tuple of arrays."""

    kind: Any
    """``None``, ``"array"``, or the tuple's class."""
    columns: tuple[tuple[tuple[int, ...], Any], ...]
    """Item shape and dtype of each array."""


Piece = tuple[int, int, Any]
"""``first, stop, results``: of chunks in that range, as one. Results are kind and columns; or what is
gathered, a list with one entry per item if the chunks are several."""


def form_of(kind: Any, columns: tuple[Array, ...]) -> Form:
    """The form of results that are columns already."""
    return Form(kind, tuple([(column.shape[1:], column.dtype) for column in columns]))
