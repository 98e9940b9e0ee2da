"""What a report holds of each map: plain data, made once and not changed.

Times have two forms. In `BARS` and `Stamps` they are nanoseconds of `time.perf_counter_ns`, which on one
machine is the same clock in every process: differences of any two are meaningful. Everything else is in
seconds, as durations.

`BARS`, a row for each thing that somebody did, sorted by `rank` and then `began_ns`:

============= =====================================================================================
field         meaning
============= =====================================================================================
rank          number of the worker in its team, from 0, or of the thread; on another library's Executor,
              its workers numbered as they were first heard of
pid           its process: a rank has several if a worker died and another one took its seat
kind          `Kind`: calls of func, handing over, the worker's whole part, or a death
attempt       0 for what is run for the first time; 1, 2, ... for what is run again, after a death or a
              failure in another round of the map
first, stop   the chunks it was at, half-open. If `merged` is 0 and `attempt` is 0, these are exactly
              `chunks` chunks that were run here; else the range holds them, and others perhaps. Of `SPAN`
              rows both are 0; of `DEATH` rows, what was begun and not finished, both 0 if nothing was
start_index,  the same as indices along the axis, half-open, as the user counts them
stop_index
chunks        how many chunks were run in it: over all rows of kind `CALL`, those of the plan, each once,
              but for what was run again
began_ns,     when it began and ended. A `DEATH` row ends when the caller knew of it, and begins when the
ended_ns      worker was last known to be alive
busy_ns       how much of it was spent in this kind of thing: ``ended_ns - began_ns``, but less than that
              where rows have been merged, and in the chunk by whose result the output was made
merged        how many more rows are in this one. A worker keeps 4,096 rows of a map, and merges those
              that began at about the same time when they are full; sums stay exact
============= =====================================================================================

Rows of one rank do not overlap, but for `SPAN` rows, which contain the others.

Only data stands here. What is concluded of them are functions of files beside this one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._interop.numpy_types import Array
from .._wire import RowKind
from .log import Kept, Verb

BARS = np.dtype(
    [
        ("rank", np.int32),
        ("pid", np.int32),
        ("kind", np.int16),
        ("attempt", np.int16),
        ("first", np.int64),
        ("stop", np.int64),
        ("start_index", np.int64),
        ("stop_index", np.int64),
        ("chunks", np.int64),
        ("began_ns", np.int64),
        ("ended_ns", np.int64),
        ("busy_ns", np.int64),
        ("merged", np.int32),
    ],
    align=True,
)
"""The dtype of a map's `bars`."""

Bars = Array
"""An array of dtype `BARS`, of one dimension."""

Stack = tuple[str, ...]
"""Frames from the outermost to the innermost, each as ``"function (file.py:12)"``."""


Kind = RowKind
"""What a row of `BARS` is of: `CALL`, `HANDING`, `SPAN` or `DEATH`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamps:
    """When the caller did what, in nanoseconds of `time.perf_counter_ns`; None for what has not happened.

    In the order in which they happen, but for `output`, which is known before `posted` or comes after the
    first result. From one to the next, the caller did what the second is named for.
    """

    called: int
    """The verb was called."""
    bound: int | None = None
    """Arguments are checked, and the map is planned."""
    placed: int | None = None
    """Private inputs are copied to where workers see them, and outputs known in advance are made."""
    posted: int | None = None
    """The engine has started the map: workers have been told. On ``"serial"``: the first chunk may begin."""
    output: int | None = None
    """An output that was not known in advance has been made after the first result."""
    heard: int | None = None
    """The caller has heard that the last worker has left."""
    returned: int | None = None
    """Results have been taken over and put together; the map is over, by its result or its exception."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phases:
    """Where the time of a map went as its caller saw it, in seconds: wall = before + at_work + after."""

    wall: float
    """From the call to its end, or until now if the map still runs."""
    before: float
    """Until the first chunk was begun."""
    at_work: float
    """From the first chunk's beginning to the last one's end."""
    after: float
    """From the last chunk's end on."""
    binding: float
    """A part of `before`: checking arguments, and planning."""
    placing: float
    """A part of `before`: copying private inputs to where workers see them, and making outputs."""
    posting: float
    """A part of `before`: telling workers, or waiting until they have started."""
    placed: int
    """Bytes of private arrays that were copied, and of other inputs that were pickled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfiledWorker:
    """What one rank did in one map, in seconds: busy + between + waiting is the map's `at_work`."""

    rank: int
    host: str
    pid: int
    """The last one's, if a worker died and another took its seat."""
    busy: float
    """In calls of the function, results written into place included."""
    between: float
    """From its first chunk to its last one, but not busy: drawing, handing over results."""
    waiting: float
    """Before its first chunk, while others were at work already, and after its last one."""
    handing: float
    """A part of `between`: handing over results."""
    chunks: int
    nbytes: int
    """Bytes of array inputs and outputs in its chunks."""
    deaths: int
    """How many workers died on this seat."""
    cpu: float | None
    """Seconds of a core that its process took, all its threads; None if that is not known."""
    faults: int | None
    """Pages it touched for the first time."""
    switches: int | None
    """How often another program was given its core although it had not finished."""
    waits: int | None = None
    """How often it gave its core up itself, as it waited for something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowRow:
    """One of the longest rows of a map."""

    start: int
    stop: int
    """Indices along the axis, half-open."""
    chunks: int
    rank: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What to change, with its figure."""

    rule: str
    """Which rule it follows from, in one word."""
    text: str
    """The figure, then what to write, in one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Indices that failed or were lost, and by what."""

    start: int
    stop: int
    error: str
    """The exception's type and message, or the cause of a worker's death."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfiledMap:
    """One map, as far as it is known when it was asked for."""

    number: int
    """Maps of a report are numbered from 0, in the order in which they began."""
    verb: Verb
    func: str
    """How the function is called in messages."""
    n: int
    """How many items."""
    first: int
    """Index of the first item: not 0 if this map is a window of one over an iterator."""
    chunks: int
    """How many chunks the plan has."""
    chunksize: int
    """Items a chunk."""
    engine: str
    """``"serial"``, ``"threads"``, ``"processes"``, ``"fork"``, or the class of an Executor."""
    thread: str
    """Name of the thread that made the call."""
    kept: Kept = "array"
    """What becomes of results: they make a new array or a list, are written to an ``out`` of the caller's, or
    are combined."""
    is_auto: bool = True
    """The chunk size was left to the library."""
    is_static: bool = False
    """``schedule="static"``."""
    is_cold: bool = False
    """Workers had to be started before the first chunk."""
    out_nbytes: int = 0
    """Bytes of the outputs that are arrays."""
    is_running: bool
    """The map was not over when the report was asked."""
    stamps: Stamps
    phases: Phases
    workers: tuple[ProfiledWorker, ...]
    """A worker for each rank that took part, by rank."""
    slowest: tuple[SlowRow, ...]
    """The longest rows, at most ten, the longest first."""
    advice: tuple[Advice, ...]
    """At most three, what gains most first; empty if nothing is to be gained by other options."""
    failed: tuple[Failure, ...]
    """By index. What was lost with a worker and then done by another one is not among them."""
    bars: Bars
    stacks: dict[Stack, int] | None
    """With ``stacks=True``: how often each stack was seen, over all workers; else None."""
