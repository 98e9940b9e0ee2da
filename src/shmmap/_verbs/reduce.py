"""`preduce`: chunks are folded, and the partials combined. The overloads are for type checkers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from .._results import MISSING, Fold, choose_combine
from .._wire import leave_out_ours
from .options import OF_CHUNKS, make_options
from .request import Request
from .run import run
from .signatures import Axis, Keywords, show_options

if TYPE_CHECKING:
    from .future import MapFuture
    from .signatures import (
        CombinedT,
        InitialT,
        OnError,
        StandIn,
        StandInFor,
        StandInT,
        T,
        VerbOptions,
    )


@overload
def preduce(
    func: Callable[..., T],
    *inputs: object,
    axis: Axis = 0,
    combine: Callable[[Any, Any], CombinedT] | None = None,
    initial: InitialT = ...,
    on_error: OnError | StandInFor[StandInT] = "raise",
    wait: Literal[True] = True,
    **options: Unpack[VerbOptions],
) -> T | CombinedT | InitialT | StandInT: ...
@overload
def preduce(
    func: Callable[..., T],
    *inputs: object,
    axis: Axis = 0,
    combine: Callable[[Any, Any], CombinedT] | None = None,
    initial: InitialT = ...,
    on_error: OnError | StandInFor[StandInT] = "raise",
    wait: Literal[False],
    **options: Unpack[VerbOptions],
) -> MapFuture[T | CombinedT | InitialT | StandInT]: ...
@overload
def preduce(
    func: Callable[..., object],
    *inputs: object,
    axis: Axis = 0,
    combine: Callable[[Any, Any], object] | None = None,
    initial: object = ...,
    on_error: OnError | StandIn = "raise",
    wait: bool,
    **options: Unpack[VerbOptions],
) -> Any: ...
@show_options(OF_CHUNKS)
def preduce(
    func: Callable[..., object],
    *inputs: object,
    axis: Axis = 0,
    combine: Callable[[Any, Any], object] | None = None,
    initial: object = MISSING,
    **options: Unpack[Keywords],
) -> Any:
    """Reduce every chunk to a partial result in parallel, then combine the partials in a fixed order.

    Parameters
    ----------
    func : callable
        ``func(chunk, ...)`` gives a partial: a number, an array, any object, or a tuple of them.
    *inputs, axis
        As for :func:`pmap_chunks`.
    combine : callable, optional
        ``combine(left, right)`` of two partials; for tuples it is applied element by element. It may change
        and return its left argument. It is only to be left out where `func` tells how its partials
        combine: for `numpy.sum`, ``prod``, ``max``, ``min``, ``any``, ``all``, their variants that skip
        NaN, `numpy.count_nonzero`, `numpy.size`, ``reduce`` of ufuncs such as ``numpy.add.reduce``, and
        Python's `sum`, `min`, `max`, `any`, `all` and `len`; also as a `functools.partial`.
    initial : object, optional
        Combined with the result from the left; what an empty input gives.

    Returns
    -------
    object
        The partials combined in a balanced tree over chunks in index order, so that the result depends
        neither on the engine nor on the number of workers, not a bit of it. They are combined as they come,
        in the calling process.

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
    TypeError
        Without `combine`, for a function whose partials do not combine, and for one that is not known.
    ValueError
        For an empty input without `initial`.
    Exception
        As for :func:`pmap`. ``MapError.result`` is what the other chunks' partials are together.

    Examples
    --------
    >>> import numpy as np, shmmap
    >>> x = shmmap.asshared(np.arange(1000))
    >>> shmmap.preduce(np.sum, x)
    np.int64(499500)
    >>> shmmap.preduce(lambda chunk: (chunk.sum(), len(chunk)), x, combine=np.add)
    (np.int64(499500), np.int64(1000))
    """
    if combine is None:
        fold = Fold(choose_combine(func, inputs, axis), initial, is_chosen=True)
    elif callable(combine):
        fold = Fold(combine, initial)
    else:
        raise TypeError(f"combine must be a function of two partials, not {combine!r}")
    try:
        return run(Request("chunks", func, inputs, axis=axis, fold=fold), *make_options(options))
    except BaseException as exc:
        leave_out_ours(exc)
        raise
