"""`pmap_chunks`: a map whose function gets a block at a time. The overloads are for type checkers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

import numpy as np

from .._wire import leave_out_ours
from .options import OF_CHUNKS, make_options
from .request import Request
from .run import run
from .signatures import Axis, Depth, Keywords, show_options

if TYPE_CHECKING:
    from .._interop.numpy_types import Array, ArrayOf, ScalarOf, ScalarT
    from .future import MapFuture
    from .signatures import (
        AnyFunc,
        ArrayFunc,
        ArrayT,
        ChunkOptions,
        DTypes,
        HasArrayT,
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
def pmap_chunks(
    func: ArrayFunc,
    input: ArrayT,
    /,
    *inputs: object,
    axis: MappedAxis = 0,
    out: type[np.ndarray] | None = None,
    dtype: ScalarOf[ScalarT],
    on_error: OnError | StandIn = "raise",
    wait: Literal[True] = True,
    **options: Unpack[ChunkOptions],
) -> ArrayOf[ScalarT]: ...
@overload
def pmap_chunks(
    func: ArrayFunc,
    input: ArrayT,
    /,
    *inputs: object,
    axis: MappedAxis = 0,
    out: type[np.ndarray] | None = None,
    dtype: DTypes = None,
    on_error: OnError | StandIn = "raise",
    wait: Literal[True] = True,
    **options: Unpack[ChunkOptions],
) -> Array: ...
@overload
def pmap_chunks(
    func: TupleFunc,
    input: ArrayT,
    /,
    *inputs: object,
    axis: MappedAxis = 0,
    out: type[np.ndarray] | None = None,
    dtype: DTypes = None,
    on_error: OnError | StandIn = "raise",
    wait: Literal[True] = True,
    **options: Unpack[ChunkOptions],
) -> tuple[Array, ...]: ...
@overload
def pmap_chunks(
    func: NoneFunc,
    input: ArrayT,
    /,
    *inputs: object,
    axis: MappedAxis = 0,
    out: type[np.ndarray] | None = None,
    on_error: OnError = "raise",
    wait: Literal[True] = True,
    **options: Unpack[ChunkOptions],
) -> None: ...
@overload
def pmap_chunks(
    func: ArrayFunc,
    input: ArrayT,
    /,
    *inputs: object,
    axis: MappedAxis = 0,
    out: type[np.ndarray] | None = None,
    dtype: ScalarOf[ScalarT],
    on_error: OnError | StandIn = "raise",
    wait: Literal[False],
    **options: Unpack[ChunkOptions],
) -> MapFuture[ArrayOf[ScalarT]]: ...
@overload
def pmap_chunks(
    func: ArrayFunc,
    input: ArrayT,
    /,
    *inputs: object,
    axis: MappedAxis = 0,
    out: type[np.ndarray] | None = None,
    dtype: DTypes = None,
    on_error: OnError | StandIn = "raise",
    wait: Literal[False],
    **options: Unpack[ChunkOptions],
) -> MapFuture[Array]: ...
@overload
def pmap_chunks(
    func: TupleFunc,
    input: ArrayT,
    /,
    *inputs: object,
    axis: MappedAxis = 0,
    out: type[np.ndarray] | None = None,
    dtype: DTypes = None,
    on_error: OnError | StandIn = "raise",
    wait: Literal[False],
    **options: Unpack[ChunkOptions],
) -> MapFuture[tuple[Array, ...]]: ...
@overload
def pmap_chunks(
    func: Callable[..., T],
    /,
    *inputs: object,
    axis: Axis = 0,
    out: type[list[Any]],
    on_error: OnError | StandInFor[StandInT] = "raise",
    wait: Literal[True] = True,
    **options: Unpack[ChunkOptions],
) -> list[T | StandInT]: ...
@overload
def pmap_chunks(
    func: Callable[..., T],
    /,
    *inputs: object,
    axis: Axis = 0,
    out: type[list[Any]],
    on_error: OnError | StandInFor[StandInT] = "raise",
    wait: Literal[False],
    **options: Unpack[ChunkOptions],
) -> MapFuture[list[T | StandInT]]: ...
@overload
def pmap_chunks(
    func: Callable[..., object],
    /,
    *inputs: object,
    axis: Axis = 0,
    out: OutT,
    on_error: OnError | StandIn = "raise",
    wait: Literal[True] = True,
    **options: Unpack[ChunkOptions],
) -> OutT: ...
@overload
def pmap_chunks(
    func: Callable[..., object],
    /,
    *inputs: object,
    axis: Axis = 0,
    out: OutArraysT,
    on_error: OnError | StandIn = "raise",
    wait: Literal[False],
    **options: Unpack[ChunkOptions],
) -> MapFuture[OutArraysT]: ...
@overload
def pmap_chunks(
    func: AnyFunc,
    input: HasArrayT,
    /,
    *inputs: object,
    axis: Axis = 0,
    out: object = None,
    dtype: DTypes = None,
    on_error: OnError | StandIn = "raise",
    wait: bool = True,
    **options: Unpack[ChunkOptions],
) -> Any: ...
@overload
def pmap_chunks(
    func: Callable[..., T],
    input: Items,
    /,
    *inputs: Items,
    axis: Axis = 0,
    out: None = None,
    on_error: OnError | StandInFor[StandInT] = "raise",
    wait: Literal[True] = True,
    **options: Unpack[ChunkOptions],
) -> list[T | StandInT]: ...
@overload
def pmap_chunks(
    func: Callable[..., T],
    input: Items,
    /,
    *inputs: Items,
    axis: Axis = 0,
    out: None = None,
    on_error: OnError | StandInFor[StandInT] = "raise",
    wait: Literal[False],
    **options: Unpack[ChunkOptions],
) -> MapFuture[list[T | StandInT]]: ...
@overload
def pmap_chunks(
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
    **options: Unpack[ChunkOptions],
) -> Any: ...
@overload
def pmap_chunks(
    func: Callable[..., T],
    input: Items,
    /,
    *inputs: Items,
    axis: Axis = 0,
    out: object = None,
    dtype: DTypes = None,
    on_error: OnError | StandInFor[StandInT] = "raise",
    wait: bool,
    **options: Unpack[ChunkOptions],
) -> Any: ...
@show_options(OF_CHUNKS)
def pmap_chunks(
    func: Callable[..., object],
    *inputs: object,
    axis: Axis = 0,
    out: object = None,
    dtype: np.typing.DTypeLike | tuple[np.typing.DTypeLike, ...] | None = None,
    depth: Depth | list[Depth] = 0,
    boundary: object = None,
    **options: Unpack[Keywords],
) -> Any:
    """Call ``func(chunk, ...)`` for every chunk of indices along an axis, in parallel.

    Parameters
    ----------
    func : callable
        A vectorised function: gets one chunk of every input (a view) and returns an array, or a tuple of
        arrays, of the same length along `axis`. If it is a ufunc, or has a parameter ``out=None``, it may be
        called with the array that its result belongs to; see Notes.
    *inputs, axis, out, dtype
        As for :func:`pmap`. ``out`` may be an input: the map then works in place. Of data frames, Arrow
        tables and CSR matrices, chunks are rows, in an object of the same class.
    depth : int, tuple or dict, default 0
        Neighbours that each chunk gets on each side, along `axis`; a pair for before and after. A dict or
        a tuple gives them by axis, a list by input. They are taken off the result, unless ``out=list``.
    boundary : None, str, constant, tuple or dict, default None
        What lies outside the array: nothing (None or ``"none"``), ``"reflect"``, ``"periodic"``,
        ``"nearest"``, or a constant; by axis or input as `depth`.

    Returns
    -------
    array, tuple of arrays, list, None or MapFuture
        ``np.concatenate`` of the results along `axis`; with ``out=list``, or if no input is an array, the
        list of what `func` returned, one entry per chunk.

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
    checkpoint : str, path-like or Checkpoint, optional
        A folder in which what is done is kept: the same call, after a crash, runs only what is missing.
    wait : bool, default True
        False returns a `MapFuture` at once.

    Raises
    ------
    Exception
        As for :func:`pmap`.

    Notes
    -----
    A result is written twice: by `func`, and then where it belongs. A ufunc of one output, and a function
    written in Python that has a parameter ``out`` with default None, as NumPy's own have it, can write it
    there at once. Such a function is called with ``out=`` an array of the shape and dtype of its result for
    the chunk, which may hold anything and overlaps no input; it writes its result into that array and returns
    it. It has to work without ``out`` as well: it is called so for the first chunks, where its result would
    be of another dtype than the output, or with an output that is an input.

    Examples
    --------
    >>> import numpy as np, shmmap
    >>> x = shmmap.asshared([1.0, 4.0, 9.0])
    >>> shmmap.pmap_chunks(np.sqrt, x)
    array([1., 2., 3.])
    >>> shmmap.pmap_chunks(np.sqrt, x, out=x) is x
    True
    >>> x
    array([1., 2., 3.])
    >>> def smooth(x):
    ...     return np.convolve(x, [0.25, 0.5, 0.25], "same")
    >>> shmmap.pmap_chunks(smooth, x, depth=1, boundary="reflect")
    array([1.25, 2.  , 2.75])
    """
    request = Request(
        "chunks", func, inputs, axis=axis, out=out, dtype=dtype, depth=depth, boundary=boundary
    )
    try:
        return run(request, *make_options(options))
    except BaseException as exc:
        leave_out_ours(exc)
        raise
