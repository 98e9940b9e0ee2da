"""What goes between a map's caller and the code that runs its chunks: the job there, results back.

A `Job` says all there is to know of a map but its function. The verbs make it, and engines carry it to
where its chunks are run, whole or in parts; there a kernel (`_chunks.kernel`) binds it to the function.
Results come back in place or as a `Piece`, and from the `Form` of the first one the collector makes the
output.

Nothing here changes once it is made, but for what an engine keeps in a `Memo`.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from .._interop.numpy_types import Array
from .columns import Kind
from .plan import Plan
from .stencil import Stencil, Trim

Verb = Literal["items", "chunks", "ranges"]
"""What the function is called with: an item of each input, a chunk of each, or the limits of a range."""
InputKind = Literal["array", "stored", "whole", "items", "sequence", "rows"]
Store = Literal["", "write", "hand"]


class Input(NamedTuple):
    kind: InputKind
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
    """Items only: version of the user's modules that they need, see `_code.watch`."""


class Memo:
    """What an engine has prepared for a map that may come again; see `shmmap._verbs.memo`."""

    __slots__ = ("job_id", "packed")

    def __init__(self, job_id: int) -> None:
        self.job_id = job_id
        self.packed: Any = None


class Job(NamedTuple):
    """A map, checked and planned.

    The verbs bind it with inputs and outputs as the caller has them, and hand it over with both in the form
    in which the engine's workers get them.
    """

    # ---- arguments: of this very map
    inputs: tuple[Input, ...]
    out: tuple[Any, ...] | None
    """Where results go, if known in advance: handed over, axis first."""
    seed: tuple[int, int] | None
    """Key of the Philox streams for ``rng=``."""
    first: int
    """Index of item 0 in the map that the user knows, where this is a part of one over an iterator."""
    # ---- template: the same for all maps that are alike in verb, options, and layout of what comes and goes
    verb: Verb
    gather: bool
    """Results are gathered as objects; else they fill arrays."""
    plan: Plan
    axis: int
    """Along which blocks of results are put together; 0 but for ``"chunks"``."""
    dtypes: tuple[Any, ...] | None
    """Declared dtypes, one per output, or a single one for all."""
    timeout: float | None
    keep_going: bool
    """A failed item or chunk is reported, and does not stop the others."""
    retries: int
    """How often a failed call of the function is tried again, at once and in place."""
    may_join: bool
    """Chunks are of nobody's choosing: neighbours may be gone through as one, see `Kernel.joins`."""
    in_place: bool = False
    """An output is an input."""
    trim: Trim | None = None
    """Takes the neighbours off the results again."""
    store: Store = ""
    """``"write"``: outputs are stored arrays, written by whoever runs the chunk; ``"hand"``: by the caller,
    to whom every chunk's results are handed over; empty: outputs are in memory."""
    ndims: tuple[int, ...] = ()
    """Dimensions of the inputs that are cut (`chunks` only): a result of as many has the axis of the chunks
    where they have it. Empty where nothing can be wrong, or the length of another chunk tells."""
    memo: Memo | None = None
    """Only if everything it refers to lies in shared memory, so that it may come again."""

    def to_plain(self) -> tuple[Any, ...]:
        """The same as plain tuples: pickling them takes two thirds of the time."""
        plan = self.plan
        plain: dict[str, Any] = {
            "inputs": tuple(map(tuple, self.inputs)),
            "plan": (plan.n, plan.chunksize, plan.schedule),
            "memo": None,
        }
        return tuple(self._replace(**plain))

    @classmethod
    def from_plain(cls, plain: tuple[Any, ...]) -> Job:
        job = cls(*plain)
        inputs = tuple([Input(*entry) for entry in job.inputs])
        return job._replace(inputs=inputs, plan=Plan(*job.plan))  # type: ignore[misc]


class Form(NamedTuple):
    """What kind of thing a function returned: nothing, one array, or a tuple of arrays."""

    kind: Kind
    columns: tuple[tuple[tuple[int, ...], Any], ...]
    """Item shape and dtype of each array."""


Piece = tuple[int, int, Any]
"""``first, stop, results``: of chunks in that range, as one. Results are kind and columns; or what is
gathered, a list with one entry per item if the chunks are several."""


def form_of(kind: Kind, columns: tuple[Array, ...]) -> Form:
    """The form of results that are columns already."""
    return Form(kind, tuple([(column.shape[1:], column.dtype) for column in columns]))
