"""What goes between a map's caller and the code that runs its chunks: the job there, results back.

A `Job` says all there is to know of a map but its function. The verbs make it, and engines carry it to
where its chunks are run, whole or in parts; there a kernel (`_chunks.kernel`) binds it to the function.
Results come back in place or as a `Piece`, and from the `Form` of the first one the collector makes the
output.

Nothing here changes once it is made, but for what an engine keeps in a `Template`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from .._interop.numpy_types import Array
from .._wire import Packed
from .columns import Kind
from .plan import Plan
from .stencil import Stencil, Trim

Verb = Literal["items", "chunks", "ranges"]
"""What the function is called with: an item of each input, a chunk of each, or the limits of a range."""
InputKind = Literal["array", "stored", "whole", "items", "sequence", "rows"]
Store = Literal["", "write", "hand"]


Place = tuple[int, int]
"""The segment that an array lies in, and where in it the first element is."""


class Pickles(NamedTuple):
    """A sequence of objects, pickled a few at a time."""

    bytes: Any
    """The pickles, one after the other: bytes, or an array of them in shared memory."""
    offsets: list[int]
    """Where each pickle begins, one more entry than pickles."""
    parcel: int = 0
    """How many items are in one pickle, where they `are_plain`; else it is the items of a chunk."""
    packed: Sequence[Packed] = ()
    """What else there is to know of the pickles; without their `data`."""


class Input(NamedTuple):
    kind: InputKind
    """``"array"``: sliced along `axis`; ``"stored"``: the same, read at every slice; ``"whole"``: passed
    whole; ``"items"``: `Pickles`; ``"sequence"``: a sequence that is sliced as it is (a range, a list of
    plain values, or any in the caller's process); ``"rows"``: a frame or sparse matrix, see
    `_interop.rows`."""
    data: Any
    axis: int = 0
    stencil: Stencil | None = None
    """Arrays only: the neighbours that each chunk gets."""
    layout: Any = None
    """How the data are made of the argument that stands for them, see `arguments`; None if not known yet."""
    place: Place | None = None
    """Where an array lies in shared memory, if that is known already."""
    first: int = 0
    """Where in the data item 0 of the map is: the map may be a part of one over all of them."""


class Template:
    """What an engine keeps for calls alike; see `_verbs.templates`."""

    __slots__ = ("forms", "packed", "works")

    def __init__(self) -> None:
        self.forms: dict[bytes, Form] = {}
        """By function: what its results were like, where they are small arrays of numbers."""
        self.works: dict[bytes, float] = {}
        """By function: how many seconds of work the last map was, for all workers together."""
        self.packed: dict[object, tuple[int, Any]] = {}
        """By the layouts of inputs and outputs: under which number workers keep the job without its
        arguments, and that job, packed."""


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
    template: Template | None = None
    """None if it is not known what a call like this one has in common with it."""
    out_seen: tuple[tuple[Any, Place | None], ...] = ()
    """An argument, too: of each output, how it is laid out and where it lies, if that is known already."""

    def to_plain(self) -> tuple[object, ...]:
        """The same as plain tuples: pickling them takes two thirds of the time."""
        plan = self.plan
        plain: dict[str, Any] = {
            "inputs": tuple(map(tuple, self.inputs)),
            "plan": (plan.n, plan.chunksize, plan.schedule),
            "template": None,
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
