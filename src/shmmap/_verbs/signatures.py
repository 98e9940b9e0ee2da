"""What type checkers, `help` and editors are told of the verbs. Nothing here runs when a verb is called.

Checkers take the first overload that fits, and so the verbs' overloads stand in one order: what a
function returns decides what the map gives, and a function of which nothing is known is taken for one
that gives numbers or arrays. Functions and arrays are type variables in all of them, or mypy would take
each array for ambiguous, because ``Any`` stands in its type. Overloads that promise nothing come last, so
that no right program is refused. docs/design/0051-types-of-verbs.md has the alternatives.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, MappingView, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Executor
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Protocol, TypedDict, TypeVar

import numpy as np

from .._errors.arguments import Placeholder
from .._interop.numpy_types import Array, Int, Seconds

if TYPE_CHECKING:
    from .._nodes import Nodes
    from .kept import Checkpoint

P = ParamSpec("P")
T = TypeVar("T")

EngineName = Literal["serial", "threads", "processes", "fork"]
Schedule = Literal["dynamic", "static"]
OnError = Literal["raise", "continue"]
StandIn = Callable[[Exception, int, int], Any]
"""Gives the value that stands in for what failed."""
Progress = bool | str | Callable[[int, int], object]
"""A function of what is done and of what there is in all; for an iterator that is None."""
Seed = Int | Sequence[int] | np.ndarray[Any, np.dtype[np.integer[Any]]]
Axis = Int | tuple[Int | None, ...]
Depth = int | tuple[object, ...] | dict[int, object]


class ClusterClient(Protocol):
    """A `dask.distributed.Client`, of which its library tells no types."""

    def scatter(self, data: Any, /) -> Any:
        """Put data into the cluster."""

    def scheduler_info(self) -> Any:
        """What there is in the cluster."""


# ------------------------------------------------------------------------------------- options


class OutsideOptions(TypedDict, total=False):
    """Options that cannot change a result: `config` takes them, too."""

    workers: Int | None
    engine: EngineName | Executor | Nodes | ClusterClient | None
    schedule: Schedule
    retries: Int
    timeout: Seconds | None
    progress: Progress


class VerbOptions(OutsideOptions, total=False):
    """Those that decide nothing about the type of what a verb returns."""

    chunksize: Int | str
    rng: Seed | np.random.SeedSequence | np.random.Generator | None
    checkpoint: str | os.PathLike[str] | Checkpoint | None


class ItemOptions(VerbOptions, total=False):
    """Those of `pmap`, likewise."""

    buffersize: Int | None


class ChunkOptions(VerbOptions, total=False):
    """Those of `pmap_chunks`, likewise, and its parameters of that kind."""

    depth: Depth | list[Depth]
    boundary: object


class Keywords(ItemOptions, total=False):
    """All options, as they are written."""

    on_error: OnError | StandIn
    wait: bool


# ------------------------------------------------------------------------- functions and inputs


class StoredArray(Protocol):
    """An array that is not in memory: one of zarr, HDF5 or dask."""

    @property
    def dtype(self) -> Any: ...

    @property
    def chunks(self) -> Any: ...

    def __array__(self) -> Any: ...


class HasArray(Protocol):
    """Also an array of torch, or a column of a frame: it is read as an array, unless that holds objects."""

    @property
    def dtype(self) -> Any: ...

    def __array__(self) -> Any: ...


class _HashableIterable(Hashable, Iterable[Any], Protocol):
    """An object of a user's class that is iterated over: arrays are iterable, and never hashable."""


Items = (
    Sequence[Any]
    | AbstractSet[Any]
    | Mapping[Any, Any]
    | MappingView
    | Iterator[Any]
    | _HashableIterable
)
"""What is mapped item by item, and gives a list: anything that is iterated over, but arrays."""


class HasColumns(Protocol):
    """A data frame or a table: its chunks are rows, in an object of the same class."""

    @property
    def columns(self) -> Any: ...

    def __len__(self) -> int: ...


class Writable(Protocol):
    """An array of some library that results are written into."""

    @property
    def dtype(self) -> Any: ...

    def __setitem__(self, key: Any, value: Any, /) -> None: ...


if TYPE_CHECKING:
    # Of these Python has the defaults from 3.13 on; checkers know them for all versions.
    from typing import Never

    from numpy.typing import DTypeLike
    from typing_extensions import TypeVar as DefaultTypeVar

    StandInT = DefaultTypeVar("StandInT", default=Never)
    """What ``on_error=`` puts in the place of results, if it is a function."""
    CombinedT = DefaultTypeVar("CombinedT", default=Never)
    InitialT = DefaultTypeVar("InitialT", default=Never)

    ArrayT = TypeVar("ArrayT", bound=Array | StoredArray)
    HasArrayT = TypeVar("HasArrayT", bound=HasArray)
    OutT = TypeVar("OutT", bound=Writable | tuple[Writable, ...])
    OutArraysT = TypeVar("OutArraysT", bound=Array | tuple[Array, ...])

    DTypes = DTypeLike | tuple[DTypeLike, ...] | None
    _Stacks = Array | np.generic | complex | str | bytes | list[Any] | HasArray
    ArrayFunc = TypeVar("ArrayFunc", bound=Callable[..., _Stacks])
    """A function whose results are put together as an array."""
    TupleFunc = TypeVar("TupleFunc", bound=Callable[..., tuple[Any, ...]])
    NoneFunc = TypeVar("NoneFunc", bound=Callable[..., None])
    AnyFunc = TypeVar("AnyFunc", bound=Callable[..., object])

    MappedAxis = Int | tuple[Int, *tuple[Int | None, ...]]
    """The first input is mapped."""
    StandInFor = Callable[[Exception, int, int], StandInT]


# ------------------------------------------------------------------------------ at run time

UNCHANGED = Placeholder("<unchanged>")
"""What `config` leaves as it is."""


def show_options(
    defaults: Mapping[str, object] = MappingProxyType({}),
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Have `defaults` shown in place of ``**options`` where a signature is read; nothing else changes.

    Types are left out: the docstring has them in words, and a line of names and defaults can be read.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        shown = [
            each.replace(annotation=inspect.Parameter.empty)
            for each in inspect.signature(function).parameters.values()
            if each.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        for name, default in defaults.items():
            shown.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default))
        setattr(function, "__signature__", inspect.Signature(shown))  # noqa: B010
        return function

    return decorate
