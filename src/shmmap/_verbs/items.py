"""READ FIRST. `pmap`: a verb says what is wanted, and `run` does it: bind, plan, allocate, run, report.

docs/design/life-of-a-call.md has a picture of a call. `_worker.worker` is its right column; `_wire.control`
lays out what both sides see; `_results.outcome` decides about failures; `_team.workers` owns the processes.
The overloads are for type checkers, see `signatures`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

import numpy as np

from .._wire import leave_out_ours
from .options import DEFAULTS, make_options
from .request import Request
from .run import run
from .signatures import Axis, Keywords, show_options

if TYPE_CHECKING:
    from .._interop.numpy_types import Array, ArrayOf, ScalarOf, ScalarT
    from .future import MapFuture
    from .signatures import (
        AnyFunc,
        ArrayFunc,
        ArrayT,
        DTypes,
        HasArrayT,
        ItemOptions,
        Items,
        MappedAxis,
        NoneFunc,
        OnError,
        OutArraysT,
        OutT,
        StandIn,
        StandInFor,
        StandInT,
        T,
        TupleFunc,
    )


@overload
def pmap(
    func: ArrayFunc,
    input: ArrayT,
    /,
    *inputs: object,
    axis: MappedAxis = 0,
    out: type[np.ndarray] | None = None,
    dtype: ScalarOf[ScalarT],
    on_error: OnError | StandIn = "raise",
    wait: Literal[True] = True,
    **options: Unpack[ItemOptions],
) -> ArrayOf[ScalarT]: ...
@overload
def pmap(
    func: ArrayFunc,
    input: ArrayT,
    /,
    *inputs: object,
    axis: MappedAxis = 0,
    out: type[np.ndarray] | None = None,
    dtype: DTypes = None,
    on_error: OnError | StandIn = "raise",
    wait: Literal[True] = True,
    **options: Unpack[ItemOptions],
) -> Array: ...
@overload
def pmap(
    func: TupleFunc,
    input: ArrayT,
    /,
    *inputs: object,
    axis: MappedAxis = 0,
    out: type[np.ndarray] | None = None,
    dtype: DTypes = None,
    on_error: OnError | StandIn = "raise",
    wait: Literal[True] = True,
    **options: Unpack[ItemOptions],
) -> tuple[Array, ...]: ...
@overload
def pmap(
    func: NoneFunc,
    input: ArrayT,
    /,
    *inputs: object,
    axis: MappedAxis = 0,
    out: type[np.ndarray] | None = None,
    on_error: OnError = "raise",
    wait: Literal[True] = True,
    **options: Unpack[ItemOptions],
) -> None: ...
@overload
def pmap(
    func: ArrayFunc,
    input: ArrayT,
    /,
    *inputs: object,
    axis: MappedAxis = 0,
    out: type[np.ndarray] | None = None,
    dtype: ScalarOf[ScalarT],
    on_error: OnError | StandIn = "raise",
    wait: Literal[False],
    **options: Unpack[ItemOptions],
) -> MapFuture[ArrayOf[ScalarT]]: ...
@overload
def pmap(
    func: ArrayFunc,
    input: ArrayT,
    /,
    *inputs: object,
    axis: MappedAxis = 0,
    out: type[np.ndarray] | None = None,
    dtype: DTypes = None,
    on_error: OnError | StandIn = "raise",
    wait: Literal[False],
    **options: Unpack[ItemOptions],
) -> MapFuture[Array]: ...
@overload
def pmap(
    func: TupleFunc,
    input: ArrayT,
    /,
    *inputs: object,
    axis: MappedAxis = 0,
    out: type[np.ndarray] | None = None,
    dtype: DTypes = None,
    on_error: OnError | StandIn = "raise",
    wait: Literal[False],
    **options: Unpack[ItemOptions],
) -> MapFuture[tuple[Array, ...]]: ...
@overload
def pmap(
    func: Callable[..., T],
    /,
    *inputs: object,
    axis: Axis = 0,
    out: type[list[Any]],
    on_error: OnError | StandInFor[StandInT] = "raise",
    wait: Literal[True] = True,
    **options: Unpack[ItemOptions],
) -> list[T | StandInT]: ...
@overload
def pmap(
    func: Callable[..., T],
    /,
    *inputs: object,
    axis: Axis = 0,
    out: type[list[Any]],
    on_error: OnError | StandInFor[StandInT] = "raise",
    wait: Literal[False],
    **options: Unpack[ItemOptions],
) -> MapFuture[list[T | StandInT]]: ...
@overload
def pmap(
    func: Callable[..., object],
    /,
    *inputs: object,
    axis: Axis = 0,
    out: OutT,
    on_error: OnError | StandIn = "raise",
    wait: Literal[True] = True,
    **options: Unpack[ItemOptions],
) -> OutT: ...
@overload
def pmap(
    func: Callable[..., object],
    /,
    *inputs: object,
    axis: Axis = 0,
    out: OutArraysT,
    on_error: OnError | StandIn = "raise",
    wait: Literal[False],
    **options: Unpack[ItemOptions],
) -> MapFuture[OutArraysT]: ...
@overload
def pmap(
    func: AnyFunc,
    input: HasArrayT,
    /,
    *inputs: object,
    axis: Axis = 0,
    out: object = None,
    dtype: DTypes = None,
    on_error: OnError | StandIn = "raise",
    wait: bool = True,
    **options: Unpack[ItemOptions],
) -> Any: ...
@overload
def pmap(
    func: Callable[..., T],
    input: Items,
    /,
    *inputs: Items,
    axis: Axis = 0,
    out: None = None,
    on_error: OnError | StandInFor[StandInT] = "raise",
    wait: Literal[True] = True,
    **options: Unpack[ItemOptions],
) -> list[T | StandInT]: ...
@overload
def pmap(
    func: Callable[..., T],
    input: Items,
    /,
    *inputs: Items,
    axis: Axis = 0,
    out: None = None,
    on_error: OnError | StandInFor[StandInT] = "raise",
    wait: Literal[False],
    **options: Unpack[ItemOptions],
) -> MapFuture[list[T | StandInT]]: ...
@overload
def pmap(
    func: Callable[..., T],
    input: Items,
    other: object,
    /,
    *inputs: object,
    axis: Axis = 0,
    out: object = None,
    dtype: DTypes = None,
    on_error: OnError | StandInFor[StandInT] = "raise",
    wait: bool = True,
    **options: Unpack[ItemOptions],
) -> Any: ...
@overload
def pmap(
    func: Callable[..., T],
    input: Items,
    /,
    *inputs: Items,
    axis: Axis = 0,
    out: object = None,
    dtype: DTypes = None,
    on_error: OnError | StandInFor[StandInT] = "raise",
    wait: bool,
    **options: Unpack[ItemOptions],
) -> Any: ...
@show_options(DEFAULTS)
def pmap(
    func: Callable[..., object],
    *inputs: object,
    axis: Axis = 0,
    out: object = None,
    dtype: np.typing.DTypeLike | tuple[np.typing.DTypeLike, ...] | None = None,
    **options: Unpack[Keywords],
) -> Any:
    """Call ``func(item, ...)`` for every index along an axis, in parallel.

    Parameters
    ----------
    func : callable
        Gets one item of every input (a view, no copy) and returns an array, a number, a tuple of them,
        or None; with ``out=list``, or if no input is an array, any object.
    *inputs : array or iterable
        Zipped: they must have equal lengths along `axis`. A generator or other iterator is read ahead by
        no more than `buffersize` items. Shared arrays and memory-mapped ones reach the
        workers without a copy; private ones are copied once, and are read-only in `func`. zarr arrays and
        ``h5py`` datasets are read range by range, by each worker itself.
    axis : int or tuple, default 0
        Axis to map over; a tuple has one entry per input, where None passes that input whole.
    out : array, tuple of arrays, ``list`` or ``numpy.ndarray``, optional
        Where results go: written by the workers if shared; a zarr array or ``h5py`` dataset, too. ``list``
        asks for a list of any objects, ``numpy.ndarray`` for an array where a list is the default.
    dtype : dtype-like or tuple of them, optional
        Dtype of the result; by default ``numpy.result_type`` of all results.

    Returns
    -------
    array, tuple of arrays, list, None or MapFuture
        ``np.stack([func(i) for i in ...])`` in shared memory, a tuple of such if `func` returns tuples,
        None if it only ever returns None; a list if no input is an array; `out` if given.

    Other Parameters
    ----------------
    workers : int, optional
        How many take part; by default, or by ``-1``, all usable cores.
    engine : {'serial', 'threads', 'processes', 'fork'}, Team, Executor, Nodes or Client, optional
        Where the calls are made; by default on the team whose ``with`` block this is, else on the default
        team.
    chunksize : int or str, default 'auto'
        Items per chunk: a number, or a size in bytes such as ``"8MiB"``, inputs and outputs together.
    schedule : {'dynamic', 'static'}, default 'dynamic'
        Whether workers draw chunks as they go, or have one contiguous share each.
    rng : seed, SeedSequence or Generator, optional
        Then `func` gets a ``numpy.random.Generator`` of its own as keyword ``rng``. Its stream belongs to the
        index, or to the start of the chunk.
    on_error : {'raise', 'continue'} or callable, default 'raise'
        Stop, and raise the failure; or finish the rest, then raise `MapError`. A function
        ``on_error(exc, start, stop)`` returns what stands in for the result.
    retries : int, default 0
        How often a range that failed, got stuck or was lost is run again.
    timeout : float, optional
        Seconds that one call of `func` may take; the worker that is stuck is replaced.
    progress : bool, str or callable, default False
        A progress bar, one with a description, or a function that gets ``(done, total)``.
    buffersize : int, optional
        Items taken from an iterator and not yet done, at most; by default 1024.
    checkpoint : str, path-like or Checkpoint, optional
        A folder in which what is done is kept: the same call, after a crash, runs only what is missing.
    wait : bool, default True
        False returns a `MapFuture` at once.

    Raises
    ------
    Exception
        What `func` raised, with a note that names index, chunk, worker and the remote traceback.
    WorkerDied
        If a worker died and its range could not be run again.
    TypeError, ValueError
        For arguments that make no sense, and for results that do not stack.
    SharedMemoryError
        If there is not enough shared memory for the result.

    Examples
    --------
    >>> import numpy as np, shmmap
    >>> x = shmmap.asshared(np.arange(6.0).reshape(3, 2))
    >>> shmmap.pmap(np.sum, x)
    array([1., 5., 9.])
    >>> shmmap.pmap(lambda row, scale: row * scale, x, 10, axis=(0, None))
    array([[ 0., 10.],
           [20., 30.],
           [40., 50.]])
    >>> shmmap.pmap(str.upper, ["a", "b"])
    ['A', 'B']
    """
    request = Request("items", func, inputs, axis=axis, out=out, dtype=dtype)
    try:
        return run(request, *make_options(options))
    except BaseException as exc:
        leave_out_ours(exc)
        raise
