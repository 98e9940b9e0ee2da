"""READ FIRST. The four verbs: bind, plan, allocate, run, report.

A call of ``pmap(func, x)`` on a team, in six hops::

    caller                                        | each worker
    ----------------------------------------------+-------------------------------------------------
    1 verb: check options, bind arguments (_bind) |
    2 Plan: chunk limits, frozen (_plan)          |
    3 engine: open a control block, post the call |   parked in recvmsg on its line (_worker)
      to the workers' lines (_engines, _team)     |
                                                  | 4 draw a ticket: lseek on a shared description
                                                  | 5 the function gets views (_kernel); its result
      first result tells shape and dtype:         |   goes into the output, or into a page
      allocate the output, tell all (_collect)    |
      ... blocked in one read of a pipe ...       | 6 mark the ledger; no tickets left: write LEAVE
      all have left: does the ledger cover the    |
      extent exactly? (_outcome) -> result        |

Nothing but handles and 56-byte records crosses the border; arrays and results stay where they are.
`_worker` is the right column; `_control` lays out what both sides see; `_outcome` decides about
failures; `_team` owns the processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, nullcontext
from typing import Any, TypeVar, Unpack

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import _array
from ._bind import bind_inputs, check_out, check_overlap, declared_dtypes, hand_over, outputs_of
from ._collect import Collector
from ._engines import Task
from ._freeze import frozen
from ._future import MapFuture
from ._kernel import Input, Job
from ._options import Keywords, Options, make_key, make_options, resolve_engine
from ._outcome import Outcome
from ._plan import Plan, parse_chunksize
from ._progress import Progress
from ._team import Team, name_of

__all__ = ["pmap", "pmap_chunks", "pmap_ranges", "preduce"]

Array = NDArray[Any]
T = TypeVar("T")

_MISSING: Any = object()


# ---------------------------------------------------------------- the run


def _run(
    verb: str,
    func: Callable[..., Any],
    bound: list[Input],
    n: int,
    nbytes: int,
    axis: int,
    out: Any,
    dtype: Any,
    options: Options,
    finish: Callable[[Any], Any],
    note_axis: Any,
    gather: bool,
    none_as_list: bool,
) -> Any:
    """Everything below the verbs: plan, allocate, hand to the engine, wait."""
    if not callable(func):
        raise TypeError(
            f"the first argument is the function, and {type(func).__name__!r} is not callable"
        )
    outs = outputs_of(out)
    if outs and dtype is not None:
        raise TypeError("give out= or dtype=, not both: the output's dtype is that of out")
    if gather and dtype is not None:
        raise TypeError("dtype= is for arrays of results; these results are a list")
    result_axis = axis if verb == "chunks" else 0
    for j, each in enumerate(outs):
        check_out(each, n, result_axis, "out" if len(outs) == 1 else f"out[{j}]")
    in_place = check_overlap(outs, result_axis, bound)
    if in_place and options.retries:
        raise ValueError(
            "retries= needs an out that is not an input: a range begun twice would differ"
        )
    out_nbytes = sum(each.nbytes // max(1, n) for each in outs)
    size = parse_chunksize(options.chunksize, n, nbytes + out_nbytes, verb != "items")
    plan = Plan(n, size, options.schedule)
    dtypes = declared_dtypes(dtype)
    if n == 0:
        return _finish_empty(verb, outs, out, dtypes, gather, none_as_list, finish, options)
    engine, workers, blas_threads = resolve_engine(options)
    if options.timeout is not None and not engine.can_replace_workers:
        raise ValueError("timeout= needs workers that can be ended: use an engine with processes")
    if not engine.shares_memory and (verb == "ranges" or in_place):
        what = "pmap_ranges" if verb == "ranges" else "an out that is an input"
        raise ValueError(f"{what} needs shared memory, which an Executor's workers do not have")
    handed, keep = hand_over(bound, plan, engine)
    private = [
        j
        for j, each in enumerate(outs)
        if not engine.in_process and engine.shares_memory and _array.handle_of(each) is None
    ]
    targets = [_array.empty_like(each) if j in private else each for j, each in enumerate(outs)]
    columns = tuple(np.moveaxis(each, result_axis, 0) for each in targets) if outs else None
    job = Job(
        verb,
        gather,
        n,
        size,
        tuple(handed),
        result_axis,
        columns,
        dtypes,
        make_key(options.rng),
        options.timeout,
        options.on_error != "raise",
        options.retries,
    )

    def shape_result(result: Any) -> Any:
        for j in private:
            _array.copy_into(outs[j], targets[j])
        return finish(out if outs else result)

    name = name_of(func)
    collector = Collector(
        job,
        plan,
        shape=shape_result,
        none_as_list=none_as_list,
    )
    outcome = Outcome(
        job,
        plan,
        collector,
        name,
        in_place=in_place,
        on_error=options.on_error,
        axis=note_axis,
    )
    with ExitStack() as stack:
        stack.enter_context(frozen(func) if engine.sees_caller else nullcontext())
        tick = None
        if options.progress is not False:
            tick = Progress(options.progress, n)
            stack.callback(tick.close)
        task = Task(job, func, plan, workers, collector, outcome, tick, blas_threads, tuple(keep))
        work = engine.start(task)
        if options.wait:
            return work.wait()
        ending = stack.pop_all()

    def wait() -> Any:
        with ending:
            return work.wait()

    return MapFuture(work, wait, collector)


def _finish_empty(
    verb: str,
    outs: tuple[Any, ...],
    out: Any,
    dtypes: tuple[Any, ...] | None,
    gather: bool,
    none_as_list: bool,
    finish: Callable[[Any], Any],
    options: Options,
) -> Any:
    """A map over nothing: the function is not called."""
    result: Any
    if outs:
        result = out
    elif gather:
        result = [] if none_as_list or verb != "ranges" else None
    elif dtypes is not None and len(dtypes) > 1:
        result = tuple(_array.empty(0, dtype) for dtype in dtypes)
    else:
        result = _array.empty(0, dtypes[0] if dtypes else np.float64)
    result = finish(result)
    if options.wait:
        return result
    plan = Plan(0, 1)
    job = Job(verb, gather, 0, 1, (), 0, None, None, None, None, False, 0)
    collector = Collector(job, plan, shape=lambda r: r, none_as_list=True)
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
        Zipped: they must have equal lengths along `axis`. Shared arrays and memory-mapped ones reach the
        workers without a copy; private ones are copied once, and are read-only in `func`.
    axis : int or tuple, default 0
        Axis to map over; a tuple has one entry per input, where None passes that input whole.
    out : array, tuple of arrays, ``list`` or ``numpy.ndarray``, optional
        Where results go: written by the workers if shared. ``list`` asks for a list of any objects,
        ``numpy.ndarray`` for an array where a list is the default.
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
    opts = make_options(dict(options))
    bound, n, nbytes, first_axis = bind_inputs(inputs, axis)
    has_array = any(entry.kind == "array" for entry in bound)
    gather = out is list or (out is None and not has_array)
    return _run(
        "items", func, bound, n, nbytes, first_axis, out, dtype, opts, _identity, axis, gather, True
    )


def pmap_chunks(
    func: Callable[..., Any],
    *inputs: Any,
    axis: int | tuple[int | None, ...] = 0,
    out: Any = None,
    dtype: DTypeLike | tuple[DTypeLike, ...] | None = None,
    **options: Unpack[Keywords],
) -> Any:
    """Call ``func(chunk, ...)`` for every chunk of indices along an axis, in parallel.

    Parameters
    ----------
    func : callable
        A vectorised function: gets one chunk of every input (a view) and returns an array, or a tuple of
        arrays, of the same length along `axis`.
    *inputs, axis, out, dtype, **options
        As for :func:`pmap`. ``out`` may be an input: the map then works in place.

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
    """
    opts = make_options(dict(options))
    bound, n, nbytes, first_axis = bind_inputs(inputs, axis)
    has_array = any(entry.kind == "array" for entry in bound)
    gather = out is list or (out is None and not has_array)
    return _run(
        "chunks",
        func,
        bound,
        n,
        nbytes,
        first_axis,
        out,
        dtype,
        opts,
        _identity,
        axis,
        gather,
        True,
    )


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
    opts = make_options(dict(options))
    if isinstance(n, bool) or not hasattr(n, "__index__"):
        raise TypeError(f"n must be an int, not {type(n).__name__}")
    n = n.__index__()
    if n < 0:
        raise ValueError(f"n={n}: a number of indices is not negative")
    return _run("ranges", func, [], n, 1, 0, None, None, opts, _identity, None, True, False)


def preduce(
    func: Callable[..., Any],
    *inputs: Any,
    axis: int | tuple[int | None, ...] = 0,
    combine: Callable[[Any, Any], Any] = np.add,
    initial: Any = _MISSING,
    **options: Unpack[Keywords],
) -> Any:
    """Reduce every chunk to a partial result in parallel, then combine the partials in a fixed order.

    Parameters
    ----------
    func : callable
        ``func(chunk, ...)`` gives a partial: a number, an array, any object, or a tuple of them.
    *inputs, axis, **options
        As for :func:`pmap`.
    combine : callable, default ``numpy.add``
        ``combine(left, right)`` of two partials; for tuples it is applied element by element.
    initial : object, optional
        Combined with the result from the left; what an empty input gives.

    Returns
    -------
    object
        The partials combined in a balanced tree over chunks in index order, so that the result depends
        neither on the engine nor on the number of workers, not a bit of it.

    Raises
    ------
    ValueError
        For an empty input without `initial`.
    Exception
        As for :func:`pmap`.

    Examples
    --------
    >>> import numpy as np, shmmap
    >>> x = shmmap.asshared(np.arange(1000))
    >>> shmmap.preduce(np.sum, x)
    np.int64(499500)
    >>> shmmap.preduce(lambda chunk: (chunk.sum(), len(chunk)), x)
    (np.int64(499500), np.int64(1000))
    """
    opts = make_options(dict(options))
    if not callable(combine):
        raise TypeError("combine must be callable")
    bound, n, nbytes, first_axis = bind_inputs(inputs, axis)
    if n == 0 and initial is _MISSING:
        raise ValueError("an empty input has no reduction; give initial=")

    def finish(partials: Any) -> Any:
        return _combine(partials or [], combine, initial)

    return _run(
        "chunks", func, bound, n, nbytes, first_axis, None, None, opts, finish, axis, True, True
    )


def _combine(partials: list[Any], combine: Callable[[Any, Any], Any], initial: Any) -> Any:
    """Fold neighbours pairwise, level by level: the order depends on the number of partials alone."""

    def join(left: Any, right: Any) -> Any:
        if isinstance(left, tuple) and isinstance(right, tuple) and len(left) == len(right):
            joined = [combine(a, b) for a, b in zip(left, right, strict=True)]
            return tuple(joined) if type(left) is tuple else type(left)(*joined)
        return combine(left, right)

    while len(partials) > 1:
        joined = [join(a, b) for a, b in zip(partials[::2], partials[1::2], strict=False)]
        partials = joined + partials[len(joined) * 2 :]
    if initial is _MISSING:
        return partials[0]
    return join(initial, partials[0]) if partials else initial


def map_iterables(
    team: Team,
    func: Callable[..., Any],
    iterables: tuple[Iterable[Any], ...],
    timeout: float | None,
    chunksize: int | None,
) -> Iterator[Any]:
    """``Team.map``: the Executor's face of `pmap`."""
    if not iterables:
        raise TypeError("map needs at least one iterable")
    columns = list(map(list, iterables))
    n = min(map(len, columns))
    future = pmap(
        func,
        *(column[:n] for column in columns),
        out=list,
        engine=team,
        chunksize="auto" if chunksize is None else chunksize,
        wait=False,
    )

    def results() -> Iterator[Any]:
        try:
            yield from future.iterate_items(timeout)
        finally:
            future.cancel()

    return results()
