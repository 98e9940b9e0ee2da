"""READ FIRST. The four verbs, which say what is wanted; `run` does it: bind, plan, allocate, run, report.

docs/design/life-of-a-call.md has a picture of a call. `_worker.worker` is its right column; `_wire.control`
lays out what both sides see; `_results.outcome` decides about failures; `_team.workers` owns the processes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Unpack

import numpy as np

from .._results import MISSING, Fold, choose_combine
from .._system.imports import late_import
from .options import Keywords, make_options
from .request import Request
from .run import run

Depth = int | tuple[object, ...] | dict[int, object]


def pmap(
    func: Callable[..., object],
    *inputs: object,
    axis: int | tuple[int | None, ...] = 0,
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
    request = Request("items", func, inputs, axis=axis, out=out, dtype=dtype)
    return run(request, *make_options(options))


def pmap_chunks(
    func: Callable[..., object],
    *inputs: object,
    axis: int | tuple[int | None, ...] = 0,
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
    return run(request, *make_options(options))


def pmap_ranges(func: Callable[[int, int], object], n: int, **options: Unpack[Keywords]) -> Any:
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
    return run(Request("ranges", func, n=n), *make_options(options))


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


def preduce(
    func: Callable[..., object],
    *inputs: object,
    axis: int | tuple[int | None, ...] = 0,
    combine: Callable[[Any, Any], object] | None = None,
    initial: object = MISSING,
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
    if combine is None:
        fold = Fold(choose_combine(func, inputs, axis), initial, is_chosen=True)
    elif callable(combine):
        fold = Fold(combine, initial)
    else:
        raise TypeError(f"combine must be a function of two partials, not {combine!r}")
    return run(Request("chunks", func, inputs, axis=axis, fold=fold), *make_options(options))
