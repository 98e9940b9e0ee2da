"""Whether a block function looks beyond its chunk: the same call with several chunk limits, compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import shmmap

from .._interop.numpy_types import Array

# Chunks of one item are tried for so many items, for more of them a smaller number of larger chunks.
_CHUNKS_MOST = 1000


class ChunksDiffer(AssertionError):
    """What a block function gives depends on where the chunks end.

    Attributes
    ----------
    index : int
        The first index along the axis at which the results differ.
    chunksize : int
        The number of items per chunk with which they differ from those of one chunk that has all items.
    """

    def __init__(self, message: str, index: int, chunksize: int) -> None:
        super().__init__(message)
        self.index = index
        self.chunksize = chunksize

    def __reduce__(self) -> tuple[object, ...]:
        """By its three arguments, so that it reaches the caller of a worker."""
        return type(self), (str(self), self.index, self.chunksize)


def check_chunks(
    func: Callable[..., object],
    *inputs: object,
    axis: int | tuple[int | None, ...] = 0,
    depth: object = 0,
    boundary: object = None,
    chunksizes: tuple[int, ...] | None = None,
    rtol: float | None = None,
) -> None:
    """Check that a function for `pmap_chunks` gives the same wherever the chunks end.

    A function that looks beyond its chunk does not: a running sum begins anew with every chunk, a sort sorts
    each by itself, and the mean that is taken off is the chunk's. The function is run in this process, on all
    of the data as one chunk, and then in chunks of several sizes; so use a part of the data that takes a
    moment.

    Parameters
    ----------
    func, *inputs, axis, depth, boundary
        As for :func:`shmmap.pmap_chunks`; also for functions of frames and lists, and for those that work in
        place, on shared arrays, of which they get copies here.
    chunksizes : tuple of int, optional
        Numbers of items per chunk to try; by default a few small and large ones.
    rtol : float, optional
        Differences of floating-point results that are taken for rounding, relative to the larger one of the
        two values and to the largest in the result: a product of matrices may be computed in another order
        where it has fewer rows. By default the square root of the dtype's resolution; 0 asks for equal bits.
        NaN is equal to NaN. Anything that is no floating-point number has to be equal.

    Raises
    ------
    ChunksDiffer
        With the first index that differs, both values, and the limits of its chunk.
    TypeError, ValueError
        If there is nothing to compare: fewer than two items, or results that are not one per item.
    Exception
        What the function raises, with a note that names the number of items per chunk.

    Examples
    --------
    >>> import numpy as np
    >>> from shmmap.testing import check_chunks
    >>> x = np.arange(6.0)
    >>> check_chunks(np.sqrt, x)
    >>> check_chunks(np.cumsum, x)
    Traceback (most recent call last):
        ...
    shmmap.testing.ChunksDiffer: numpy.cumsum looks beyond its chunk: in chunks of 1, index 2 ...
    >>> def smooth(chunk):
    ...     return np.convolve(chunk, [1, 2, 1], "same")
    >>> check_chunks(smooth, x, depth=1, boundary="reflect")
    """
    inputs = tuple(list(each) if isinstance(each, Iterator) else each for each in inputs)
    trial = _Trial(func, inputs, axis, depth, boundary)
    n = trial.count_items()
    if n < 2:
        raise ValueError(f"{n} items cannot be cut into chunks: give at least two")
    whole = trial.run(n)
    for size in _choose_sizes(n) if chunksizes is None else chunksizes:
        found = trial.run(size)
        for part, (one, other) in enumerate(zip(found, whole, strict=True)):
            index = _first_difference(one, other, rtol)
            if index is None:
                continue
            where = f"index {index}" + (f" of result {part}" if len(whole) > 1 else "")
            one_text, other_text = _show(one, index), _show(other, index)
            if _first_difference(trial.run(n)[part], other, rtol) is not None:
                raise ChunksDiffer(
                    f"{trial.name} gives something else every time, whatever the chunks: {where} is "
                    f"{other_text}, and then {one_text}",
                    index,
                    size,
                )
            start = index // size * size
            raise ChunksDiffer(
                f"{trial.name} looks beyond its chunk: in chunks of {size}, {where} is {one_text}, and "
                f"{other_text} where all {n} items are one chunk; its chunk was "
                f"[{start}, {min(start + size, n)}). What it needs of its neighbours depth= gives; what it "
                "needs of all items, find first, with preduce",
                index,
                size,
            )


def _choose_sizes(n: int) -> list[int]:
    """Small and large ones; where there is a choice, with a last chunk that is shorter."""
    least = -(-n // _CHUNKS_MOST)
    sizes = []
    for size in (1, 2, 3, 7, n // 7, n // 3, n // 2, n - 1):
        size = max(size, least)
        while 1 < size < n and n % size == 0:
            size += 1
        if size < n and size not in sizes:
            sizes.append(size)
    return sizes or [1]


@dataclasses.dataclass
class _Trial:
    """A function, and what it is called with."""

    func: Callable[..., object]
    inputs: tuple[Any, ...]
    axis: Any
    depth: object
    boundary: object

    def __post_init__(self) -> None:
        func = self.func
        self._axes = self.axis if isinstance(self.axis, tuple) else (self.axis,) * len(self.inputs)
        module = getattr(func, "__module__", None)
        name = getattr(func, "__qualname__", None) or getattr(func, "__name__", repr(func))
        self.name = name if module is None else f"{module}.{name}"

    def count_items(self) -> int:
        """The length of what is cut into chunks."""
        for value, axis in zip(self.inputs, self._axes, strict=False):
            if axis is not None:
                return int(value.shape[axis]) if hasattr(value, "shape") else len(value)
        return 0

    def run(self, size: int) -> list[Array]:
        """What the function gives in chunks of so many items; each array has its items along axis 0."""
        # The function may work in place: never on the arrays themselves, which would differ the next time.
        given = [
            shmmap.asshared(np.array(each)) if shmmap.is_shared(each) else each
            for each in self.inputs
        ]
        options = {"axis": self.axis, "depth": self.depth, "boundary": self.boundary}
        try:
            result = shmmap.pmap_chunks(
                self.func, *given, chunksize=size, engine="serial", **options
            )
        except Exception as exc:
            exc.add_note(f"check_chunks ran it in chunks of {size}")
            raise
        if result is None or (isinstance(result, list) and all(each is None for each in result)):
            written = [
                np.moveaxis(a, axis, 0)
                for a, axis in zip(given, self._axes, strict=False)
                if axis is not None and shmmap.is_shared(a)
            ]
            if not written:
                raise TypeError(f"{self.name} returns None, and has no shared array to write into")
            return written
        if isinstance(result, list):
            return _joined(result, size, self.count_items())
        parts = result if isinstance(result, tuple) else (result,)
        axis = next((each for each in self._axes if each is not None), 0)
        return [np.moveaxis(part, axis, 0) for part in parts]


def _joined(pieces: list[object], size: int, n: int) -> list[Array]:
    """What was returned for chunks of frames or lists, as arrays with an entry per item."""
    columns = [piece if isinstance(piece, tuple) else (piece,) for piece in pieces]
    joined = []
    for column in zip(*columns, strict=True):
        arrays = [_as_items(each) for each in column]
        lengths = [a.shape[0] if a.ndim else 0 for a in arrays]
        if lengths != [min(size, n - at) for at in range(0, n, size)]:
            raise TypeError(
                f"the function returned {lengths[0]} entries for a chunk of {size} items: there is nothing "
                "to compare unless it returns one per item"
            )
        joined.append(np.concatenate(arrays))
    return joined


def _as_items(piece: object) -> Array:
    if hasattr(piece, "toarray"):  # a sparse matrix
        piece = piece.toarray()
    if not isinstance(piece, list):
        return np.asarray(piece)
    items = np.empty(len(piece), object)
    items[:] = piece
    return items


def _first_difference(one: Array, other: Array, rtol: float | None) -> int | None:
    """The first index along axis 0 at which two results differ."""
    if one.dtype != other.dtype or one.shape[1:] != other.shape[1:] or len(one) != len(other):
        return 0
    if one.dtype.kind == "O":
        pairs = zip(one.reshape(-1), other.reshape(-1), strict=True)
        is_equal = np.fromiter((_are_alike(a, b) for a, b in pairs), bool, one.size)
        is_equal = is_equal.reshape(one.shape)
    else:
        is_equal = (one == other) | ((one != one) & (other != other))  # both are NaN, or NaT
    if one.dtype.kind in "fc" and rtol != 0:
        resolution = float(np.finfo(one.dtype).resolution)
        finite = np.abs(other[np.isfinite(other)])
        relative = resolution**0.5 if rtol is None else rtol
        largest = float(finite.max()) if finite.size else 0.0
        is_equal |= np.isclose(one, other, rtol=relative, atol=relative * largest)
    differs = ~is_equal.reshape(len(one), -1).all(axis=1) if one.size else np.zeros(len(one), bool)
    return int(differs.argmax()) if differs.any() else None


def _are_alike(a: object, b: object) -> bool:
    if a is b:
        return True
    if isinstance(a, (list, tuple)) and type(a) is type(b) and len(a) == len(b):
        return all(_are_alike(x, y) for x, y in zip(a, b, strict=True))
    try:
        same: Any = a == b
        nothing: Any = (a != a) & (b != b)  # both are NaN
        return bool(np.all(same)) or bool(np.all(nothing))
    except (TypeError, ValueError):
        return repr(a) == repr(b)


def _show(a: Array, index: int) -> str:
    text = repr(a[index]) if a.ndim and len(a) > index else f"of shape {a.shape}"
    return f"{text[:60]}..." if len(text) > 60 else text
