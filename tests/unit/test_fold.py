"""The tree in which partials are put together: whatever order they come in."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmmap._results.fold import MISSING, Fold, Tree


def no_note(exc: Exception, lefts: range, rights: range) -> None:
    """Nothing is raised here."""
    raise AssertionError(exc, lefts, rights)


def levels(partials: list[str]) -> str:
    """The tree as it is defined: neighbours pairwise, level by level, an odd last one moves up."""
    while len(partials) > 1:
        pairs = zip(partials[::2], partials[1::2], strict=False)
        joined = [f"({a}{b})" for a, b in pairs]
        partials = joined + partials[len(joined) * 2 :]
    return partials[0]


@given(n=st.integers(1, 70), data=st.data())
def test_the_tree_depends_on_nothing_but_the_number(n: int, data: Any) -> None:
    names = [chr(33 + leaf) for leaf in range(n)]
    names = [name if name not in "()" else "~" for name in names]
    tree = Tree(n, lambda left, right: f"({left}{right})", no_note)
    for leaf in data.draw(st.permutations(range(n))):
        tree.put(leaf, names[leaf])
    assert tree.root == levels(names)
    assert len(tree.held) == 1


@given(n=st.integers(1, 70), data=st.data())
def test_missing_leaves_change_nothing_for_the_others(n: int, data: Any) -> None:
    """C18: what could be put together is, in order."""
    missing = data.draw(st.sets(st.integers(0, n - 1)))
    tree = Tree(n, operator.add, no_note)
    for leaf in data.draw(st.permutations(range(n))):
        tree.put(leaf, MISSING if leaf in missing else [leaf])
    expected = [leaf for leaf in range(n) if leaf not in missing]
    assert tree.root == expected if expected else tree.root is MISSING


@given(n=st.integers(2, 70), data=st.data())
def test_errors_are_told_with_the_leaves_of_both_sides(n: int, data: Any) -> None:
    bad = data.draw(st.integers(0, n - 1))

    def join(left: Any, right: Any) -> Any:
        if bad in left + right:
            raise KeyError(left, right)
        return left + right

    seen: list[Any] = []
    tree = Tree(n, join, lambda *args: seen.append(args))
    for leaf in data.draw(st.permutations(range(n))):
        try:
            tree.put(leaf, [leaf])
        except KeyError as exc:
            assert seen == [(exc, *(range(side[0], side[-1] + 1) for side in exc.args))]
            return
    raise AssertionError("nothing was raised")


@given(n=st.integers(1, 5000), workers=st.integers(1, 64), seed=st.integers(0, 99))
def test_few_are_held(n: int, workers: int, seed: int) -> None:
    """B11: chunks come about in order, each worker one behind: one per worker and one per level."""
    rng = np.random.default_rng(seed)
    tree = Tree(n, operator.add, no_note)
    under_way, following, most = [], iter(range(n)), 0
    for leaf in following:
        under_way.append(leaf)
        if len(under_way) > workers:
            tree.put(under_way.pop(int(rng.integers(workers))), 1)
            most = max(most, len(tree.held))
    for leaf in under_way:
        tree.put(leaf, 1)
    assert tree.root == n
    # Overtaken chunks may stay behind for as long as chance lets them.
    assert most <= 8 * workers + math.log2(n) + 1


def add_into(left: Any, right: Any) -> Any:
    left += right
    return left


def test_what_combine_changes_is_its_own() -> None:
    """Arrays that are read-only or a view of shared memory are copied before `combine` sees them."""
    import shmmap

    x = shmmap.ones((2, 3))
    frozen = np.ones(3)
    frozen.flags.writeable = False
    fold = Fold(add_into, MISSING)
    for partial in (x[0], frozen, (x[0], [x[1]]), {"a": x[0]}, [frozen]):
        assert np.shares_memory(_array_of(fold.own(partial)), _array_of(partial)) is False
    ours = np.ones(3)
    assert fold.own(ours) is ours
    assert Fold(np.add, MISSING).own(x[0]).base is not None


def _array_of(partial: Any) -> Any:
    while not isinstance(partial, np.ndarray):
        partial = next(iter(partial.values() if isinstance(partial, dict) else partial))
    return partial


def test_initial_stays_the_callers() -> None:
    initial = np.ones(3)
    fold = Fold(add_into, initial)
    assert fold.finish(np.ones(3)).tolist() == [2, 2, 2]
    assert initial.tolist() == [1, 1, 1]
    assert Fold(add_into, MISSING).finish(MISSING) is None


masked_arrays = st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=3, max_size=3).map(
    lambda pairs: np.ma.array([a for a, _ in pairs], mask=[b for _, b in pairs])
)


@pytest.mark.parametrize(
    "ufunc",
    [np.add, np.multiply, np.maximum, np.minimum, np.bitwise_or],
    ids=lambda each: each.__name__,
)
@given(rows=st.lists(masked_arrays, min_size=2, max_size=6), data=st.data())
def test_masked_partials(ufunc: Any, rows: list[Any], data: Any) -> None:
    """A11: what is there in any partial is there in the result, as where NumPy reduces the whole."""
    fold = Fold(ufunc, MISSING)
    result = rows[0]
    for row in rows[1:]:
        result = fold.join(result, row)
    for column, each in enumerate(zip(*rows, strict=True)):
        there = [int(value) for value in each if value is not np.ma.masked]
        if there:
            assert result[column] == ufunc.reduce(there)
        else:
            assert np.ma.getmaskarray(result)[column]
    scalars = [row.sum() for row in rows]
    total = scalars[0]
    for each in scalars[1:]:
        total = Fold(np.add, MISSING).join(total, each)
    expected = np.ma.stack(rows).sum()
    assert total is np.ma.masked if expected is np.ma.masked else total == expected


def test_masked_with_plain_partials_and_combines_of_others() -> None:
    left = np.ma.array([1, 2], mask=[False, True])
    assert Fold(np.add, MISSING).join(left, np.array([10, 20])).tolist() == [11, 20]
    assert Fold(np.add, MISSING).join(np.array([10, 20]), left).tolist() == [11, 20]
    with pytest.raises(ValueError, match=r"combine=np\.add"):
        Fold(lambda a, b: a + b, MISSING).join(left, np.array([10, 20]))
    joined = Fold(lambda a, b: np.ma.concatenate([a, b]), MISSING).join(left, left)
    assert joined.tolist() == [1, None, 1, None]
