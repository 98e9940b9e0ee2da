"""Engines carry chunks to those that run them. Planning, collection and errors are none of their business."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from .._chunks import Job
from .._profile.log import MapLog
from .._results import Collector, Outcome

# After an error, a Ctrl-C or a cancellation, chunks under way get this long. Then their workers are ended; in
# this process they are left alone.
GRACE_S = 1.0
# How often progress and time limits are looked at: most chunks end without waking the thread that waits.
TICK_S = 0.05

Tick = Callable[[Callable[[], int]], None]
"""Progress: called now and then with a function that counts the items done."""


class Task(NamedTuple):
    """A map as an engine gets it: a job handed over, the function, and what takes the results."""

    job: Job
    func: Callable[..., object]
    workers: int
    blas_threads: int
    collector: Collector
    outcome: Outcome
    tick: Tick | None
    given: tuple[object, ...]
    """Objects of the caller's among the inputs, in which private arrays may lie; see `_chunks.freeze`."""
    log: MapLog | None
    """What is noted of the map, if it is profiled."""
    begun: bytes | None
    """The ledger that the map begins with, if another run of it has done a part; see `_checkpoint`."""
    is_awaited: bool = False
    """Somebody waits for its end at once, and for nothing before."""


class Work(Protocol):
    """A map under way."""

    @property
    def in_steps(self) -> SteppedWork | None:
        """The same, if it can be waited for in steps."""

    def wait(self) -> Any:
        """Wait for the end; the result is returned, or the map's exception raised."""

    def done(self) -> int:
        """Number of items done so far."""

    def marks(self) -> bytes:
        """The ledger: a byte per chunk, see `_wire.control`."""

    def cancel(self) -> None:
        """Stop: chunks under way may finish within a second. `wait` then raises CancelledError."""


class SteppedWork(Work, Protocol):
    """A map under way that can be waited for in steps. One thread takes a step at a time."""

    def be_attended(self, attend: Callable[[], object]) -> None:
        """Nobody waits for it just now: `attend` is called once somebody has to, which may be at once."""

    def step(self) -> bool:
        """Wait until results have come, where they are wanted as they come; or it is over, as is returned."""

    def finish(self) -> Any:
        """After the last step: the result, or the map's exception."""


class GivenEngine(ABC):
    """An engine that ``engine=`` takes as it is, beside those that have names; see `Engine`."""

    name: str
    shares_memory: bool
    in_process: bool
    sees_caller: bool
    can_replace_workers: bool
    writes_stores: bool

    @abstractmethod
    def count(self, workers: int | None) -> int:
        """How many workers an option ``workers=`` means to it."""

    @abstractmethod
    def warm_up(self, workers: int) -> None:
        """See `Engine`."""

    @abstractmethod
    def start(self, task: Task) -> Work:
        """See `Engine`."""


class Engine(Protocol):
    """Carries chunks to workers."""

    @property
    def name(self) -> str:
        """How a report calls it."""

    shares_memory: bool
    """Workers write into shared arrays of the caller's."""
    in_process: bool
    """Workers write into any array of the caller's."""
    sees_caller: bool
    """Workers see the caller's objects: inputs need no pickling."""
    can_replace_workers: bool
    """A stuck worker can be ended (``timeout=``)."""
    writes_stores: bool
    """Workers write into stored arrays that several processes can write at once."""

    def warm_up(self, workers: int) -> None:
        """Begin to start what a map needs; returns at once, and its inputs are placed meanwhile."""

    def start(self, task: Task) -> Work:
        """Begin; what can fail at once fails here."""
