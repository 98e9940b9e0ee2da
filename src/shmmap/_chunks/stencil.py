"""Neighbours of chunks, ``depth=`` and ``boundary=``: pure geometry, as `dask.array.map_overlap` defines it.

`Stencil.cut` gives a chunk with its neighbours, `Trim` takes them off the function's result. See
docs/design/0023-neighbours-are-slices.md. `_verbs.bind` binds, `_chunks.kernel` applies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .._errors.arguments import as_int
from .._interop.masked import is_masked
from .._interop.numpy_types import Array, Places
from .._interop.plain import what_is_lost
from .columns import check_axis
from .tuples import make_tuple, parts_of

_MODES = ("none", "reflect", "periodic", "nearest")

# Neighbours are read twice: with "auto", chunks hold at least this many times as many items of their own.
LEAST_RATIO = 4
# More neighbours than memory can hold are a mistake, and no number that arithmetic should be done with.
DEPTH_MAX = 1 << 40


class Stencil(NamedTuple):
    """What chunks of one input get besides their own items."""

    axis: int
    """Along which chunks are cut."""
    shape: tuple[int, ...]
    """Of the whole input."""
    depth: tuple[tuple[int, int], ...]
    """Neighbours before and after, for each axis."""
    boundary: tuple[object, ...]
    """For each axis one of `_MODES`, or a constant as an array of no dimensions."""

    @property
    def reaches_others(self) -> bool:
        """Whether chunks see items that belong to other chunks."""
        return self.depth[self.axis] != (0, 0)

    @property
    def least_chunksize(self) -> int:
        """Items a chunk should have at least for its neighbours not to dominate."""
        return LEAST_RATIO * sum(self.depth[self.axis])

    def limits(self, axis: int, start: int, stop: int) -> tuple[int, int]:
        """What a chunk covers along an axis; less than 0 and more than the length is outside."""
        length = self.shape[axis]
        low, high = (start, stop) if axis == self.axis else (0, length)
        before, after = self.depth[axis]
        low, high = low - before, high + after
        if isinstance(self.boundary[axis], str) and self.boundary[axis] == "none":
            low, high = max(low, 0), min(high, length)
        return low, high

    def cut(self, data: Any, start: int, stop: int) -> Array:
        """The chunk ``[start, stop)`` of `data` with its neighbours, read-only.

        `data` is an array, or anything that takes a tuple of slices and gives an array.
        """
        limits = [self.limits(axis, start, stop) for axis in range(len(self.shape))]
        inside = [
            slice(max(low, 0), min(high, length))
            for (low, high), length in zip(limits, self.shape, strict=True)
        ]
        chunk: Array = data[tuple(inside)]
        if any(low < 0 or high > n for (low, high), n in zip(limits, self.shape, strict=True)):
            chunk = self._pad(data, chunk, inside, limits)
        chunk.flags.writeable = False  # others see the same items, or nobody would see a write
        return chunk

    def check_constants(self, data: Any, position: int) -> None:
        """Refuse constants that the input's class does not take: such in another unit, or in none.

        Raises ValueError with what the class says of it.
        """
        is_plain = not isinstance(data, np.ndarray) or not what_is_lost(data)
        for value in self.boundary:
            if isinstance(value, str) or (is_plain and not what_is_lost(value)):
                continue
            try:
                if is_plain:
                    raise TypeError("its items are plain numbers")
                if what_is_lost(value) and not isinstance(data, type(value)):
                    if not isinstance(value, type(data)):  # it may take the numbers alone
                        raise TypeError("which is of another class")
                np.empty_like(data, shape=(1,) * data.ndim)[...] = value
            except (TypeError, ValueError) as exc:
                raise ValueError(
                    f"boundary={value!r} is no value for input {position}, a {type(data).__name__}: {exc}"
                ) from None

    def _pad(
        self, data: Any, core: Array, inside: list[slice], limits: list[tuple[int, int]]
    ) -> Array:
        """`core` with what lies outside the array added; corners come out as if axis by axis."""
        shape = [high - low for low, high in limits]
        # Of the class of `core`, which passes its attributes on and converts what is put into it.
        padded: Any = np.empty_like(core, order="C", shape=shape)
        is_hard = is_masked(core) and padded.hardmask
        if is_hard:
            padded.soften_mask()
        put = [
            slice(s.start - low, s.stop - low) for s, (low, _) in zip(inside, limits, strict=True)
        ]
        padded[tuple(put)] = core
        constants = []
        # The axis of the chunks first: what its boundary repeats may lie in other chunks.
        for axis in sorted(range(len(limits)), key=lambda axis: axis != self.axis):
            (low, high), length, boundary = limits[axis], self.shape[axis], self.boundary[axis]
            for first, last in ((low, min(high, 0)), (max(low, length), high)):
                if first >= last:
                    continue
                where = [slice(None)] * len(limits)
                where[axis] = slice(first - low, last - low)
                if not isinstance(boundary, str):
                    constants.append((axis, tuple(where), boundary))
                    continue
                sources = _repeat(np.arange(first, last), length, boundary)
                if axis == self.axis:
                    within, source = list(inside), int(sources.min())
                    within[axis] = slice(source, int(sources.max()) + 1)
                    place = list(put)
                    place[axis] = where[axis]
                    padded[tuple(place)] = data[tuple(within)].take(sources - source, axis)
                else:
                    padded[tuple(where)] = padded.take(sources - low, axis)
        for _, place_of, value in sorted(constants, key=lambda each: each[0]):
            padded[place_of] = value
        if is_hard:
            padded.harden_mask()
        new: Array = padded.view(np.ndarray) if type(core) is np.memmap else padded
        return new


def _repeat(positions: Places, length: int, mode: str) -> Places:
    """Which items inside stand for these positions outside."""
    if mode == "nearest":
        return np.clip(positions, 0, length - 1)
    if mode == "periodic":
        return positions % length
    folded = positions % (2 * length)
    return np.minimum(folded, 2 * length - 1 - folded)


class Trim(NamedTuple):
    """Takes the neighbours off the results of a function."""

    stencil: Stencil
    axis: int
    """Of the results, along which they are put together."""

    def wrap(self, func: Callable[..., object], position: Any, first: int) -> Callable[..., object]:
        """`func` with its results trimmed; `position` tells the chunk, counted from index `first`."""

        def trimmed(*args: object, **kwargs: object) -> object:
            result = func(*args, **kwargs)
            if result is None:
                return None
            start, stop = position.start + first, position.stop + first
            if isinstance(result, tuple):
                parts = [self.apply(part, start, stop) for part in parts_of(result)]
                return make_tuple(type(result), parts)
            return self.apply(result, start, stop)

        return trimmed

    def apply(self, result: object, start: int, stop: int) -> Array:
        """One array that was returned for chunk ``[start, stop)``, without the neighbours."""
        a = np.asanyarray(result)
        cut = [slice(None)] * a.ndim
        for axis, depth in enumerate(self.stencil.depth):
            if depth == (0, 0):
                continue
            low, high = self.stencil.limits(axis, start, stop)
            own = (start, stop) if axis == self.stencil.axis else (0, self.stencil.shape[axis])
            where = self.axis if axis == self.stencil.axis else axis
            if not -a.ndim <= where < a.ndim or a.shape[where] != high - low:
                raise ValueError(
                    f"the function returned shape {a.shape} for a chunk that has {high - low} items "
                    f"along axis {where}, neighbours included: with depth= a result has as many, and "
                    "the neighbours' are taken off"
                )
            if axis == self.stencil.axis and self._are_alike(stop - start):
                check_axis(a.shape, where, high - low, (len(self.stencil.shape),))
            cut[where] = slice(own[0] - low, own[1] - low)
        trimmed: Array = a[tuple(cut)]
        return trimmed

    def _are_alike(self, length: int) -> bool:
        """Whether chunks are several of one length, so that none of another length tells their axis."""
        n = self.stencil.shape[self.stencil.axis]
        return length < n and n % length == 0


# ---------------------------------------------------------------- arguments


def make_stencils(
    depth: object, boundary: object, inputs: Sequence[tuple[tuple[int, ...], object, int] | None]
) -> list[Stencil | None]:
    """A stencil for each input, given as ``shape, dtype, axis``; None for those that get none.

    Raises TypeError or ValueError for a depth or boundary that makes no sense for these inputs.
    """
    stencils: list[Stencil | None] = []
    depths, boundaries = _per_input(depth, len(inputs)), _per_input(boundary, len(inputs))
    for position, its_input in enumerate(inputs):
        its_depth, its_boundary = depths[position], boundaries[position]
        if its_input is None:
            if isinstance(depth, list) and its_depth:
                raise TypeError(f"depth={its_depth!r} for input {position}, which is not cut")
            stencils.append(None)
            continue
        shape, dtype, axis = its_input
        pairs = _parse_depth(its_depth, len(shape), axis, position)
        modes = _parse_boundary(its_boundary, len(shape), dtype, position)
        for i, (each, mode) in enumerate(zip(pairs, modes, strict=True)):
            is_none = each == (0, 0) or (isinstance(mode, str) and mode == "none")
            if i != axis and not shape[i] and not is_none:
                raise ValueError(
                    f"input {position} has shape {shape}: an axis of length 0 has no boundary"
                )
        needed = any(each != (0, 0) for each in pairs)
        stencils.append(Stencil(axis, shape, pairs, modes) if needed else None)
    return stencils


def _per_input(value: object, count: int) -> list[object]:
    if not isinstance(value, list):
        return [value] * count
    if len(value) != count:
        raise ValueError(f"a list has one entry per input: {len(value)} given for {count} inputs")
    return value


def _per_axis(value: Any, ndim: int, name: str, position: int, default: object) -> list[object]:
    """Entries of a dict or tuple, one per axis."""
    if isinstance(value, tuple):
        if len(value) != ndim:
            hint = f"; {{axis: {value!r}}} is before and after along one axis" if ndim == 1 else ""
            raise ValueError(
                f"{name}={value!r} has {len(value)} entries for the {ndim} axes of input {position}{hint}"
            )
        return list(value)
    entries = [default] * ndim
    for axis, each in value.items():
        if isinstance(axis, bool) or not hasattr(axis, "__index__"):
            raise TypeError(f"{name} names axes by ints, not {axis!r}")
        if not -ndim <= axis < ndim:
            raise np.exceptions.AxisError(axis, ndim)
        entries[axis] = each
    return entries


def _parse_depth(depth: object, ndim: int, axis: int, position: int) -> tuple[tuple[int, int], ...]:
    if not isinstance(depth, (tuple, dict)):
        depth = {axis: depth}
    pairs = []
    for each in _per_axis(depth, ndim, "depth", position, 0):
        pair = each if isinstance(each, tuple) else (each, each)
        kinds = "an int, a pair (before, after) of them, or a tuple or dict of these by axis"
        if len(pair) != 2:
            raise TypeError(f"depth must be {kinds}, not {each!r}")
        before, after = (as_int(d, "depth", kinds=kinds) for d in pair)
        if not (0 <= before <= DEPTH_MAX and 0 <= after <= DEPTH_MAX):
            raise ValueError(
                f"depth={each!r}: a number of neighbours is not negative, and at most {DEPTH_MAX}"
            )
        pairs.append((before, after))
    return tuple(pairs)


def _parse_boundary(boundary: object, ndim: int, dtype: Any, position: int) -> tuple[object, ...]:
    if isinstance(boundary, (tuple, dict)):
        entries = _per_axis(boundary, ndim, "boundary", position, "none")
    else:
        entries = [boundary] * ndim
    modes: list[object] = []
    for each in entries:
        if each is None or isinstance(each, str):
            mode = each or "none"
            if mode not in _MODES:
                raise ValueError(
                    f"boundary={each!r}: it is one of {', '.join(map(repr, _MODES))}, None or a constant"
                )
            modes.append(mode)
            continue
        try:
            if what_is_lost(each):  # `check_constants` looks whether the input takes it
                constant, lossy = np.asanyarray(each), False
            else:
                with np.errstate(invalid="ignore"):
                    constant = np.array(each).astype(dtype)
                lossy = dtype.kind in "biu" and bool(constant != each)
        except (TypeError, ValueError, OverflowError):
            lossy = True
        if lossy or constant.ndim:
            raise ValueError(
                f"boundary={each!r} is no value of dtype {dtype}, which input {position} has"
            )
        modes.append(constant)
    return tuple(modes)


def choose_trim(stencils: Sequence[Stencil | None], axis: int) -> Trim | None:
    """What results are trimmed by: the input of most dimensions, the first of them, as dask has it."""
    given = [stencil for stencil in stencils if stencil is not None]
    if not given:
        return None
    return Trim(max(given, key=lambda stencil: len(stencil.shape)), axis)
