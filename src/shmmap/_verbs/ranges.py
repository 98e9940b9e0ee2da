"""`pmap_ranges`: the function gets limits of index ranges. The overloads are for type checkers."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

import numpy as np

from .._interop.numpy_types import Int
from .._system.imports import late_import
from .._wire import leave_out_ours
from .options import OF_CHUNKS, make_options
from .request import Request
from .run import run
from .signatures import Keywords, show_options

if TYPE_CHECKING:
    from .future import MapFuture
    from .signatures import OnError, StandIn, StandInFor, StandInT, T, VerbOptions


@overload
def pmap_ranges(  # type: ignore[overload-overlap]
    func: Callable[[int, int], None],
    n: Int,
    *,
    on_error: OnError = "raise",
    wait: Literal[True] = True,
    **options: Unpack[VerbOptions],
) -> None: ...
@overload
def pmap_ranges(
    func: Callable[[int, int], T],
    n: Int,
    *,
    on_error: OnError | StandInFor[StandInT] = "raise",
    wait: Literal[True] = True,
    **options: Unpack[VerbOptions],
) -> list[T | StandInT]: ...
@overload
def pmap_ranges(  # type: ignore[overload-overlap]
    func: Callable[[int, int], None],
    n: Int,
    *,
    on_error: OnError = "raise",
    wait: Literal[False],
    **options: Unpack[VerbOptions],
) -> MapFuture[None]: ...
@overload
def pmap_ranges(
    func: Callable[[int, int], T],
    n: Int,
    *,
    on_error: OnError | StandInFor[StandInT] = "raise",
    wait: Literal[False],
    **options: Unpack[VerbOptions],
) -> MapFuture[list[T | StandInT]]: ...
@overload
def pmap_ranges(
    func: Callable[[int, int], object],
    n: Int,
    *,
    on_error: OnError | StandIn = "raise",
    wait: bool,
    **options: Unpack[VerbOptions],
) -> Any: ...
@show_options(OF_CHUNKS)
def pmap_ranges(func: Callable[[int, int], object], n: Int, **options: Unpack[Keywords]) -> Any:
    """Call ``func(start, stop)`` for every chunk of ``range(n)``, in parallel.

    Parameters
    ----------
    func : callable
        Gets the limits of a half-open index range; it usually works on shared arrays it captures.
    n : int
        Number of indices.

    Returns
    -------
    list, None or MapFuture
        What `func` returned, one entry per chunk; None if that is all it ever returned.

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

    Examples
    --------
    >>> import shmmap
    >>> x = shmmap.zeros(10)
    >>> def fill(start, stop):
    ...     x[start:stop] = range(start, stop)
    >>> shmmap.pmap_ranges(fill, len(x))
    >>> x.sum()
    np.float64(45.0)
    """
    n = _to_count(n, func)
    if n < 0:
        raise ValueError(f"n={n}: a number of indices is not negative")
    try:
        return run(Request("ranges", func, n=n), *make_options(options))
    except BaseException as exc:
        leave_out_ours(exc)
        raise


def _to_count(n: Any, func: object) -> int:
    """The number of indices that `pmap_ranges` was given."""
    try:
        if isinstance(n, (bool, np.bool_)):
            raise TypeError
        return operator.index(n)
    except TypeError:
        if callable(n) and not callable(func):
            with late_import:
                from .._errors.words import explain_no_function

            raise TypeError(explain_no_function(func, (n,), "pmap_ranges")) from None
        hint = "; for the ranges of an array, its length: n=len(x)" if hasattr(n, "__len__") else ""
        raise TypeError(f"n must be an int, not {type(n).__name__}{hint}") from None
