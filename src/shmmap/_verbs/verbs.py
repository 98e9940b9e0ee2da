"""READ FIRST. The four verbs: bind, plan, allocate, run, report.

A call of ``pmap(func, x)`` on a team, in six hops::

    caller                                        | each worker
    ----------------------------------------------+-------------------------------------------------
    1 verb: check options, bind arguments (bind)  |
    2 Plan: chunk limits, frozen (_plan)          |
    3 engine: open a control block, post the call |   parked in a read of its wake pipe (_worker)
      to the workers (_engines, _team)            |
                                                  | 4 draw a ticket: lseek on a shared description
                                                  | 5 the function gets views (kernel); its result
      first result tells shape and dtype:         |   goes into the output, or into a page
      allocate the output, tell all (_collect)    |
      ... blocked in one read of a pipe ...       | 6 mark the ledger; the last to leave says so
      all have left: does the ledger cover the    |
      extent exactly? (_outcome) -> result        |

Nothing but handles and 56-byte records crosses the border; arrays and results stay where they are.
`_worker.worker` is the right column; `_wire.control` lays out what both sides see; `_results.outcome`
decides about failures; `_team.workers` owns the processes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, TypeVar, Unpack

import numpy as np
from numpy.typing import DTypeLike

from .._chunks import Job
from .._engines import Route, Task, Work, resolve_engine
from .._interop.stored import Stored, Target
from .._memory import copy_into, empty
from .._results import MISSING, Collector, Fold, Folding, Outcome, choose_combine
from .._system.imports import late_import
from .._team import refuse_at_exit
from .bind import Bound, Request, bind, hand_over, hand_over_outputs
from .future import MapFuture, StreamFuture
from .memo import recall, remember
from .options import (
    Keywords,
    Options,
    make_key,
    make_options,
)
from .progress import Progress
from .windows import Stream, check_ends, is_stream

T = TypeVar("T")
Depth = int | tuple[Any, ...] | dict[int, Any]


# ---------------------------------------------------------------- the run


def _run(request: Request, options: Options) -> Any:
    """Everything below the verbs: plan, allocate, hand to the engine, wait."""
    if not callable(request.func):
        with late_import:
            from .._errors.words import explain_no_function

        verb = {"items": "pmap", "ranges": "pmap_ranges"}.get(
            request.verb, "preduce" if request.gather else "pmap_chunks"
        )
        raise TypeError(explain_no_function(request.func, request.inputs, verb))
    if options.buffersize is not None and request.verb != "items":
        raise ValueError(
            "buffersize= bounds how far pmap reads an iterator ahead; use it with pmap"
        )
    if not options.wait:
        refuse_at_exit()
    bound = recall(request, options)
    if bound is None:
        if is_stream(request):
            return _run_stream(request, options)
        bound = remember(request, options, bind(request, options))
    if bound.n == 0:
        return _finish_empty(request, bound, options)
    route = resolve_engine(options.engine, options.workers)
    if options.wait and options.progress is False and options.rng is None:
        # Most calls: nothing is to be undone afterwards.
        return _start(request, bound, options, route, None, None, 0)[0].wait()
    with ExitStack() as stack:
        tick = None
        if options.progress is not False:
            tick = Progress(options.progress, bound.n)
            stack.callback(tick.close)
        key = None if options.rng is None else make_key(options.rng, request.func)
        work, collector = _start(request, bound, options, route, tick, key, 0)
        if options.wait:
            return work.wait()
        ending = stack.pop_all()

    def wait() -> Any:
        with ending:
            return work.wait()

    return MapFuture(work, wait, collector, bound.gather and request.fold is None)


def _run_stream(request: Request, options: Options) -> Any:
    """A map over an iterator: windows of its items, each a map of its own."""
    if options.wait:
        check_ends(request)
    key = make_key(options.rng, request.func)
    route = resolve_engine(options.engine, options.workers)
    ending = ExitStack()
    progress: Progress | None = None

    def begin(window: Request, first: int, chunksize: Any) -> Work:
        def show(count: Callable[[], int]) -> None:
            assert progress is not None
            progress(lambda: first + count())

        tick = None if progress is None else show
        chosen = replace(options, chunksize=chunksize)
        bound = bind(window, chosen)
        work, _ = _start(
            window,
            bound,
            options,
            resolve_engine(options.engine, options.workers),
            tick,
            key,
            first,
        )
        return work

    stream = Stream(request, begin, options.buffersize, options.chunksize)
    # Now: when the first window is read, the interpreter may be about to end, and start nothing any more.
    route[0].warm_up(route[1])
    if options.progress is not False:
        progress = Progress(options.progress, None)
        ending.callback(progress.close)

    def wait() -> list[Any]:
        with ending:
            return stream.wait()

    return wait() if options.wait else StreamFuture(stream, wait)


def _start(
    request: Request,
    bound: Bound,
    options: Options,
    route: Route,
    tick: Callable[[Callable[[], int]], None] | None,
    key: tuple[int, int] | None,
    first: int,
) -> tuple[Work, Collector]:
    """Allocate, and hand to the engine."""
    func = request.func
    engine, workers, blas_threads = route
    if options.timeout is not None and not engine.can_replace_workers:
        raise ValueError("timeout= needs workers that can be ended: use an engine with processes")
    if not engine.shares_memory and (request.verb == "ranges" or bound.in_place):
        what = "pmap_ranges" if request.verb == "ranges" else "an out that is an input"
        raise ValueError(f"{what} needs shared memory, which an Executor's workers do not have")
    inputs, targets, keep, store = bound.inputs, bound.outs, (), ""
    if bound.memo is None:
        engine.warm_up(min(workers, bound.plan.chunks))
        inputs, keep = hand_over(inputs, bound.plan, engine)
        targets, store = hand_over_outputs(targets, engine)
        if options.on_error != "raise":
            _keep_what_was_there(bound.outs, targets)
    job = Job(
        request.verb,
        bound.gather,
        bound.n,
        bound.plan.chunksize,
        inputs,
        bound.axis,
        _axis_first(targets, bound.axis) if targets else None,
        bound.dtypes,
        key,
        options.timeout,
        options.on_error != "raise",
        options.retries,
        bound.trim,
        store,
        first,
        options.chunksize == "auto",
        bound.ndims,
    )

    def finish(result: Any) -> Any:
        for out, target in zip(bound.outs, targets, strict=True):
            if target is not out and type(out) is not Stored:
                copy_into(out, target)  # private: the workers have filled a shared one
        return request.finish(request.out)

    shape = finish if targets else request.finish
    if request.fold is None:
        collector = Collector(job, bound.plan, shape=shape, none_as_list=request.none_as_list)
    else:
        request.fold.are_new = engine.shares_memory and not engine.in_process
        collector = Folding(job, bound.plan, shape=shape, none_as_list=True, fold=request.fold)
    if store:
        ours = [
            out if type(out) is Stored else target
            for out, target in zip(bound.outs, targets, strict=True)
        ]
        collector.columns = _axis_first(tuple(ours), bound.axis)
    outcome = Outcome(
        job,
        bound.plan,
        collector,
        func,
        in_place=bound.in_place,
        on_error=options.on_error,
        axis=request.axis,
        first=first,
    )
    given: tuple[Any, ...] = ()
    if engine.sees_caller:
        given = tuple(
            [entry.data for entry in bound.inputs if entry.kind in ("sequence", "whole", "rows")]
        )
    task = Task(
        job,
        func,
        bound.plan,
        workers,
        collector,
        outcome,
        tick,
        blas_threads,
        keep,
        bound.memo,
        given,
    )
    return engine.start(task), collector


def _keep_what_was_there(outs: tuple[Any, ...], targets: tuple[Any, ...]) -> None:
    """Where a map goes on after failures, an output keeps what it has for them, also a private one."""
    for out, target in zip(outs, targets, strict=True):
        if target is not out and type(out) is not Stored:
            copy_into(target, out)


def _axis_first(arrays: tuple[Any, ...], axis: int) -> tuple[Any, ...]:
    return tuple(
        [
            Target(a, axis) if type(a) is Stored else np.moveaxis(a, axis, 0) if axis else a
            for a in arrays
        ]
    )


def _finish_empty(request: Request, bound: Bound, options: Options) -> Any:
    """A map over nothing: the function is not called."""
    result: Any
    dtypes = bound.dtypes
    if bound.outs:
        result = request.out
    elif request.fold is not None:
        result = request.fold.initial
        if result is MISSING:
            raise ValueError("an empty input has no reduction; give initial=")
    elif bound.gather:
        result = [] if request.none_as_list or request.verb != "ranges" else None
    elif dtypes is not None and len(dtypes) > 1:
        result = tuple(empty(0, dtype) for dtype in dtypes)
    else:
        result = empty(0, dtypes[0] if dtypes else np.float64)
    result = request.finish(result)
    if options.wait:
        return result
    job = Job(request.verb, bound.gather, 0, 1, (), 0, None, None, None, None, False, 0)
    collector = Collector(job, bound.plan, shape=lambda r: r, none_as_list=True)
    return MapFuture(_NoWork(), lambda: result, collector)


class _NoWork:
    """A map over nothing."""

    def wait(self) -> Any:
        return None

    def done(self) -> int:
        return 0

    def marks(self) -> bytes:
        return b""

    def cancel(self) -> None:
        pass


def _identity(result: T) -> T:
    return result


# ---------------------------------------------------------------- the verbs


def pmap(
    func: Callable[..., Any],
    *inputs: Any,
    axis: int | tuple[int | None, ...] = 0,
    out: Any = None,
    dtype: DTypeLike | tuple[DTypeLike, ...] | None = None,
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
    **options
        `workers`, `engine`, `chunksize`, `schedule`, `rng`, `on_error`, `retries`, `timeout`, `progress`,
        `wait`: see :doc:`/reference/options`.

    Returns
    -------
    array, tuple of arrays, list, None or MapFuture
        ``np.stack([func(i) for i in ...])`` in shared memory, a tuple of such if `func` returns tuples,
        None if it only ever returns None; a list if no input is an array; `out` if given.

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
    request = Request("items", func, inputs, 0, axis, out, dtype, None, True, _identity)
    return _run(request, make_options(options))


def pmap_chunks(
    func: Callable[..., Any],
    *inputs: Any,
    axis: int | tuple[int | None, ...] = 0,
    out: Any = None,
    dtype: DTypeLike | tuple[DTypeLike, ...] | None = None,
    depth: Depth | list[Depth] = 0,
    boundary: Any = None,
    **options: Unpack[Keywords],
) -> Any:
    """Call ``func(chunk, ...)`` for every chunk of indices along an axis, in parallel.

    Parameters
    ----------
    func : callable
        A vectorised function: gets one chunk of every input (a view) and returns an array, or a tuple of
        arrays, of the same length along `axis`.
    *inputs, axis, out, dtype, **options
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

    Raises
    ------
    Exception
        As for :func:`pmap`.

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
        "chunks", func, inputs, 0, axis, out, dtype, None, True, _identity, depth, boundary
    )
    return _run(request, make_options(options))


def pmap_ranges(func: Callable[[int, int], Any], n: int, **options: Unpack[Keywords]) -> Any:
    """Call ``func(start, stop)`` for every chunk of ``range(n)``, in parallel.

    Parameters
    ----------
    func : callable
        Gets the limits of a half-open index range; it usually works on shared arrays it captures.
    n : int
        Number of indices.
    **options
        As for :func:`pmap`.

    Returns
    -------
    list, None or MapFuture
        What `func` returned, one entry per chunk; None if that is all it ever returned.

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
    request = Request("ranges", func, (), n, None, None, None, True, False, _identity)
    return _run(request, make_options(options))


def _to_count(n: Any, func: Any) -> int:
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


def preduce(
    func: Callable[..., Any],
    *inputs: Any,
    axis: int | tuple[int | None, ...] = 0,
    combine: Callable[[Any, Any], Any] | None = None,
    initial: Any = MISSING,
    **options: Unpack[Keywords],
) -> Any:
    """Reduce every chunk to a partial result in parallel, then combine the partials in a fixed order.

    Parameters
    ----------
    func : callable
        ``func(chunk, ...)`` gives a partial: a number, an array, any object, or a tuple of them.
    *inputs, axis, **options
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
    is_chosen = combine is None
    if combine is None:
        combine = choose_combine(func, inputs, axis)
    elif not callable(combine):
        raise TypeError(f"combine must be a function of two partials, not {combine!r}")
    fold = Fold(combine, initial, is_chosen=is_chosen)
    request = Request("chunks", func, inputs, 0, axis, None, None, True, True, _identity, fold=fold)
    return _run(request, make_options(options))
