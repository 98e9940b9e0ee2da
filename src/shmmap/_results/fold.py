"""Partials of `preduce`, put together as they come.

The tree is fixed: neighbours are joined pairwise, level by level, and an odd last one moves up. Which
partials meet depends on their number alone, so that equal calls give equal bits whatever came first; and two
neighbours are joined as soon as both are there, so that only a few partials are alive at a time: one for each
level of the tree, and those of chunks that were overtaken.

`combine` runs in the calling process and nowhere else. What it raises ends the map, with a note that names
the indices of the two partials.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .._chunks import NUMBERS, Job, Piece, make_tuple, parts_of
from .._errors.arguments import Placeholder
from .._interop.masked import is_masked
from .._interop.scalars import SCALAR_CLASSES
from .._memory import handle_of
from .collect import Collector
from .combine import Combine

MISSING: object = Placeholder("<no value>")
"""What stands for a partial, or an initial value, that there is none of."""


class Tree:
    """Leaves 0 to n - 1, put in any order; `root` is what they are together.

    `join` gets the left one and the right one; `note` what that has raised, and the ranges of leaves that
    each of them stands for.
    """

    def __init__(
        self,
        n: int,
        join: Callable[[object, object], object],
        note: Callable[[Exception, range, range], None],
    ) -> None:
        self._n = n
        self._join = join
        self._note = note
        self._lengths = [n]
        """Of each level, from the leaves up."""
        while self._lengths[-1] > 1:
            self._lengths.append(-(-self._lengths[-1] // 2))
        self.held: dict[tuple[int, int], object] = {}
        """What waits for its neighbour, by level and place."""

    def put(self, leaf: int, value: object, level: int = 0) -> None:
        """Enter a leaf, and join all that are complete by it. MISSING leaves the other as it is.

        `level`: it is not a leaf but all those together that begin with this one, at that level.
        """
        place = leaf >> level
        held, lengths = self.held, self._lengths
        while level < len(lengths) - 1:
            neighbour = place ^ 1
            if neighbour < lengths[level]:
                other = held.pop((level, neighbour), held)  # the dictionary itself: it is not there
                if other is held:
                    break
                left, right = (value, other) if place < neighbour else (other, value)
                if left is MISSING or right is MISSING:
                    value = right if left is MISSING else left
                else:
                    try:
                        value = self._join(left, right)
                    except Exception as exc:
                        low = place & ~1
                        self._note(exc, self._leaves(level, low), self._leaves(level, low + 1))
                        raise
            level, place = level + 1, place // 2
        held[level, place] = value

    def _leaves(self, level: int, place: int) -> range:
        return range(place << level, min((place + 1) << level, self._n))

    def parts(self) -> list[tuple[int, int, object]]:
        """``first, stop, value``: what there is so far, each for the leaves in that range."""
        found = []
        for (level, place), value in sorted(self.held.items()):
            leaves = self._leaves(level, place)
            found.append((leaves.start, leaves.stop, value))
        return found

    @property
    def root(self) -> object:
        """All leaves together, once each of them was put."""
        return self.held[len(self._lengths) - 1, 0]


class Fold:
    """How the partials of one `preduce` are put together."""

    def __init__(self, combine: Combine, initial: object, *, is_chosen: bool = False) -> None:
        self._combine = combine
        self._is_chosen = is_chosen
        """`combine` was not given: it is that of a reduction, whose partials are parts of the same result."""
        self.initial = initial
        self.are_new = False
        """Partials come from other processes: what they are made of was made for this process."""
        self._may_change = not isinstance(combine, np.ufunc)
        """`combine` may change its left argument and return it."""

    def told(self) -> tuple[Combine, bool]:
        """What it takes to make the same elsewhere: `combine`, and whether it was chosen."""
        return self._combine, self._is_chosen

    def join(self, left: Any, right: Any) -> object:
        """Two partials as one; tuples element by element."""
        if type(left) in NUMBERS and type(right) in NUMBERS:  # most are
            return self._combine(left, right)
        if type(left) is type(right) is np.ndarray and left.shape == right.shape:
            return self._combine(left, right)
        if not self._is_chosen:
            return self._join_parts(left, right)
        shapes = () if self._may_change else (np.shape(left), np.shape(right))
        if len(set(shapes)) > 1:  # a ufunc would make them fit
            raise ValueError(
                "the items of the input have different shapes, so that there is no reduction of them: "
                "those of two partial results are {} and {}".format(*shapes)
            )
        return self._join_one(left, right)  # a tuple is an item, of which max takes one

    def _join_parts(self, left: object, right: object) -> object:
        if isinstance(left, tuple) and isinstance(right, tuple):
            if len(left) != len(right):
                raise ValueError(
                    "tuples are combined element by element, but one partial result has "
                    f"{len(left)} elements and the other {len(right)}; lists go to combine= as they are"
                )
            joined = [self._join_one(a, b) for a, b in zip(left, right, strict=True)]
            # What a tuple does not show is not combined, and so not kept.
            return make_tuple(type(left) if parts_of(left) is left else tuple, joined)
        if not self._may_change and (isinstance(left, tuple) or isinstance(right, tuple)):
            one, other = (type(each).__name__ for each in (left, right))
            raise TypeError(
                f"combine= got a {one} and a {other}, of which it would make one array: partial results and "
                "initial= must all be tuples, or none of them"
            )
        return self._join_one(left, right)

    def _join_one(self, left: object, right: object) -> object:
        if is_masked(left) or is_masked(right):
            return _join_masked(self._combine, left, right)
        return self._combine(left, right)

    def finish(self, root: object) -> object:
        """What `preduce` returns, from all partials together."""
        if root is MISSING:
            return None
        if self.initial is MISSING:
            return root
        return self._join_parts(_copied(self.initial) if self._may_change else self.initial, root)

    def own(self, partial: Any) -> object:
        """A partial that `combine` may change: a copy, where its memory is somebody else's as well."""
        if not self._may_change:
            return partial
        if isinstance(partial, np.ndarray):
            is_ours = partial.flags.writeable and handle_of(partial) is None
            return partial if is_ours else partial.copy()
        kind = type(partial)
        if kind is list:
            return [self.own(each) for each in partial]
        if kind is dict:
            return {key: self.own(value) for key, value in partial.items()}
        if isinstance(partial, tuple):
            return make_tuple(kind, [self.own(each) for each in parts_of(partial)])
        # The function may well return the same object every time.
        return partial if self.are_new or isinstance(partial, SCALAR_CLASSES) else _copied(partial)


def _copied(value: object) -> object:
    """An object of the caller's, for a `combine` that may change it."""
    try:
        return copy.deepcopy(value)
    except Exception:
        return value  # which cannot be copied, so that only its own class knows how it is combined


def _join_masked(combine: Combine, left: Any, right: Any) -> object:
    """Two partials of which one at least is masked: what one of them has, the result has as well."""
    if isinstance(combine, np.ufunc):
        masked = np.ma.masked  # which is a float, whatever the other one is
        if left is masked or right is masked:
            return right if left is masked else left
        a, b = np.ma.getmaskarray(left), np.ma.getmaskarray(right)
        one, other = np.ma.getdata(left), np.ma.getdata(right)
        with np.errstate(all="ignore"):  # what is behind a mask has no meaning
            data = np.array(combine(one, other))
        shape = data.shape
        a, b = np.broadcast_to(a, shape), np.broadcast_to(b, shape)
        np.copyto(data, np.broadcast_to(other, shape), where=a & ~b, casting="unsafe")
        np.copyto(data, np.broadcast_to(one, shape), where=b & ~a, casting="unsafe")
        mask = a & b
        if not shape:
            return np.ma.masked if mask else data[()]
        return np.ma.array(data, mask=mask)
    joined: Any = combine(left, right)
    a, b = np.ma.getmaskarray(left), np.ma.getmaskarray(right)
    mask = np.ma.getmaskarray(joined) if is_masked(joined) else np.False_
    if mask.dtype != bool:  # one for each field
        return joined
    if np.shape(mask) == np.broadcast_shapes(a.shape, b.shape) and np.any(mask & ~(a & b)):
        raise ValueError(
            "combine= has masked what one of two partials has; use a ufunc, such as combine=np.add, which "
            "takes what is masked as missing, or let the partials be (c.filled(0), ~mask)"
        )
    return joined


class Folding(Collector):
    """Gathers partials, and puts them together as they come.

    A partial is that of a chunk, or of as many together as a node of the tree stands for.
    """

    folds = True

    def __init__(self, job: Job, fold: Fold, leaves: int | None = None, first: int = 0) -> None:
        """`leaves`: of the whole tree, if the map is a part of one, which begins with leaf `first`."""
        super().__init__(job)
        self._first_leaf = first
        self.is_listened_to = (
            True  # so that few partials are kept: they are put together as they come
        )
        self.fold = fold
        self._tree = Tree(leaves or self.plan.chunks, fold.join, self._note)

    def _note(self, exc: Exception, lefts: range, rights: range) -> None:
        (start, middle), (_, stop) = self._limits(lefts), self._limits(rights)
        exc.add_note(
            f"raised by combine for the partial results of indices [{start}, {middle}) and [{middle}, {stop})"
        )

    def _limits(self, chunks: range) -> tuple[int, int]:
        size = self.plan.chunksize
        end = self._first_leaf * size + self.plan.n
        return chunks[0] * size, min((chunks[-1] + 1) * size, end)

    def add(self, pieces: list[Piece]) -> None:
        """Take partials. What `combine` raises is kept in `failure`, and ends the map."""
        try:
            for first, last, partial in pieces:
                self._take(first, last, self.fold.own(partial))
        except Exception as exc:
            self.failure = exc

    def _take(self, first: int, last: int, partial: object) -> None:
        # One may come twice, if its worker died over telling so.
        if self.failure is None and not self.pieces.came(first):
            self.pieces.enter(first, last)
            if self.keeper is not None and partial is not MISSING:
                self.keeper.keep(first, last, partial)  # as it came: `combine` may change it
            leaf = self._first_leaf + first
            self._tree.put(leaf, partial, (last - first - 1).bit_length())

    def value_of(self, k: int, mark: int, over: bool) -> object:
        """See `Collector`; there is no part of the result that a chunk is."""
        raise TypeError(
            "preduce has one result, and its partials are put together as they come; to iterate over them "
            "use pmap_chunks(func, ..., out=list, wait=False)"
        )

    def finish(self, failed: Sequence[tuple[int, int]] = ()) -> object:
        """The reduction, or what could be reduced if some index ranges have `failed`; None if all have."""
        size = self.plan.chunksize
        missing = {k for start, stop in failed for k in range(start // size, -(-stop // size))}
        for k in range(self.plan.chunks) if self.pieces.count() < self.plan.chunks else ():
            # A partial that is None is not handed over.
            self.add([(k, k + 1, MISSING if k in missing else None)])
        if self.failure is not None:
            raise self.failure
        return self.fold.finish(self._tree.root)

    def release(self) -> None:
        super().release()
        self._tree.held.clear()
        self.failure = None
