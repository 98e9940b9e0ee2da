"""`share` gives an equal object whose arrays and buffers workers reach without a copy."""

from __future__ import annotations

import collections
import dataclasses
import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import shmmap
from shmmap._wire.pickling import pack
from shmmap.testing import wait_until
from tests.helpers import assert_same, descriptor_count, shared_memory_in_use
from tests.strategies import arrays, shapes

pytestmark = pytest.mark.warm


N = 50_000


Pair = collections.namedtuple("Pair", "left right")


@dataclasses.dataclass
class Model:
    """A dataclass as users write them."""

    name: str
    weights: Any
    layers: list[Any]

    def predict(self, i: int) -> float:
        return float(self.weights[i])


class Labelled(np.ndarray):
    """A subclass of ndarray with an attribute."""

    label: str


class Quantity(np.ndarray):
    """A subclass that says itself how it is pickled."""

    unit: str

    def __reduce__(self) -> Any:
        function, arguments, state = super().__reduce__()
        return function, arguments, (state, self.unit)

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state[0])
        self.unit = state[1]


def arrays_in(obj: Any) -> list[Any]:
    """All arrays of an object, however deep."""
    found, seen, stack = [], set(), [obj]
    while stack:
        each = stack.pop()
        if id(each) in seen or isinstance(each, type):
            continue
        seen.add(id(each))
        if isinstance(each, np.ndarray):
            found.append(each)
        elif isinstance(each, dict):
            stack += each.values()
        elif isinstance(each, list | tuple):
            stack += each
        elif hasattr(each, "__dict__"):
            stack += vars(each).values()
    return found


def trees() -> st.SearchStrategy[Any]:
    """Nested objects with arrays of every dtype and layout in them."""
    leaves = st.one_of(arrays(shape=shapes(0, 3)), st.integers(), st.text(max_size=5), st.none())
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(st.text(max_size=3), inner, max_size=3),
            st.builds(Pair, inner, inner),
            st.builds(Model, st.text(max_size=3), inner, st.lists(inner, max_size=2)),
        ),
        max_leaves=6,
    )


def assert_same_tree(result: Any, expected: Any) -> None:
    assert type(result) is type(expected)
    if isinstance(expected, dict):
        assert list(result) == list(expected)
        assert_same_tree(list(result.values()), list(expected.values()))
    elif isinstance(expected, list | tuple):
        assert len(result) == len(expected)
        for one, other in zip(result, expected, strict=True):
            assert_same_tree(one, other)
    elif isinstance(expected, Model):
        assert_same_tree(vars(result), vars(expected))
    else:
        assert_same(result, expected)


@given(tree=trees())
def test_share_gives_an_equal_object(tree: Any) -> None:
    shared = shmmap.share(tree)
    assert_same_tree(shared, tree)
    for a in arrays_in(shared):
        assert shmmap.is_shared(a)
        assert not a.flags.writeable


@given(tree=trees())
def test_a_shared_object_travels_without_a_copy(tree: Any) -> None:
    packed = pack(shmmap.share(tree))
    assert packed.placed == 0
    (there,) = shmmap.pmap(lambda i, tree: tree, [0], shmmap.share(tree), axis=(0, None))
    assert_same_tree(there, tree)


def test_nothing_is_copied_twice() -> None:
    model = shmmap.share(Model("m", np.arange(1e6), [np.ones(3)]))
    before = shared_memory_in_use()
    again = shmmap.share({"model": model})
    assert np.shares_memory(again["model"].weights, model.weights)
    assert shared_memory_in_use() == before


def test_what_its_owner_could_still_change_is_copied() -> None:
    a = shmmap.zeros(10)
    shared = shmmap.share([a])
    a[:] = 1
    assert not shared[0].any()


def test_arrays_that_are_one_stay_one() -> None:
    a = np.arange(10)
    left, right = shmmap.share(Pair(a, [a]))
    assert left is right[0]


def test_functions_and_classes_stay_what_they_are() -> None:
    def local() -> None:
        """Not to be pickled by its name."""

    class Local:
        """Nor this."""

    assert shmmap.share([local, Local, len, np]) == [local, Local, len, np]


def test_one_block_whatever_it_consists_of() -> None:
    before = descriptor_count()
    shared = shmmap.share([np.zeros(200_000) for _ in range(50)])
    assert descriptor_count() - before <= 2
    assert all(map(shmmap.is_shared, shared))


def test_memory_goes_back_with_the_last_part() -> None:
    before = shared_memory_in_use()
    shared = shmmap.share({"a": np.zeros(1 << 20), "b": np.zeros(1 << 20)})
    part = shared["a"][5:10]
    del shared
    gc.collect()
    assert shared_memory_in_use() - before >= 1 << 24
    assert not part.any()
    del part
    gc.collect()
    wait_until(lambda: shared_memory_in_use() - before < 1 << 22, 5)  # it may be kept for a moment


@pytest.mark.parametrize(
    "view",
    [
        lambda a: np.broadcast_to(a, (1 << 20, *a.shape)),
        lambda a: np.lib.stride_tricks.sliding_window_view(a, 500),
        lambda a: np.lib.stride_tricks.sliding_window_view(a[::-1], 500),
    ],
)
def test_what_overlaps_itself_takes_no_more_memory(view: Any) -> None:
    v = view(np.arange(1000.0))
    before = shared_memory_in_use()
    shared = shmmap.share(v)
    assert shared_memory_in_use() - before <= 1 << 22
    assert (shared.shape, shared.strides) == (v.shape, v.strides)
    assert_same(shared[:3], v[:3])
    assert_same(shmmap.pmap(np.sum, v[:50]), v[:50].sum(axis=1))


def test_object_arrays_are_refused_at_the_top_and_copied_within() -> None:
    a = np.array([1, "a", None], object)
    with pytest.raises(TypeError, match="Python objects"):
        shmmap.share(a)
    shared = shmmap.share({"names": a, "x": np.ones(3)})
    assert list(shared["names"]) == list(a)
    assert shmmap.is_shared(shared["x"])


def test_what_cannot_be_pickled_says_so() -> None:
    with pytest.raises(TypeError) as caught:
        shmmap.share({"x": np.zeros(3), "them": (i for i in range(3))})
    assert any("shmmap.share" in note for note in caught.value.__notes__)


def _labelled() -> Any:
    a = np.arange(N).view(Labelled)
    a.label = "rows"
    return a


def _quantity() -> Any:
    a = np.arange(10.0).view(Quantity)
    a.unit = "m"
    return a


def _masked() -> Any:
    a = np.ma.masked_array(np.arange(N), np.arange(N) % 3 == 0, fill_value=-7)
    return a.harden_mask()


def describe_class(a: Any) -> Any:
    """What must not be lost of an array that is more than its bytes."""
    rest = {name: getattr(a, name, None) for name in ("label", "unit", "fill_value", "hardmask")}
    mask = np.ma.getmaskarray(a).tobytes() if isinstance(a, np.ma.MaskedArray) else None
    return type(a), a.dtype, a.shape, np.asarray(a).tobytes(), mask, rest


CLASSES: dict[str, Callable[[], Any]] = {
    "matrix": lambda: np.arange(N).reshape(-1, 10).view(np.matrix),
    "recarray": lambda: np.rec.array(np.zeros(N, [("a", "i4"), ("b", "U3")])),
    "masked": _masked,
    "masked, no mask": lambda: np.ma.masked_array(np.arange(N)),
    "masked records": lambda: np.ma.masked_array(np.zeros(9, "i4,f8"), mask=[(1, 0)] * 9),
    "masked matrix": lambda: np.ma.masked_array(
        np.array([[1, 2], [3, 4]]).view(np.matrix), [[0, 1], [0, 0]]
    ),
    "subclass": _labelled,
    "subclass with its own pickling": _quantity,
}


@pytest.mark.few(1)
@pytest.mark.parametrize("make", CLASSES.values(), ids=CLASSES)
def test_classes_are_kept_where_they_are_captured(engines: Any, make: Any) -> None:
    expected = describe_class(make())
    with engines() as opened:
        for a in (make(), shmmap.share(make())):
            assert describe_class(a) == expected

            def look(i: Any, a: Any = a) -> Any:
                return describe_class(a), a.flags.writeable

            for name, engine in opened.items():
                assert shmmap.pmap(look, [0], engine=engine) == [(expected, False)], name
                (there,) = shmmap.pmap(
                    lambda i, a: describe_class(a), [0], a, axis=(0, None), engine=engine
                )
                assert there == expected, name


def test_the_mask_is_as_read_only_as_the_data() -> None:
    for a in (_masked(), shmmap.share(_masked())):
        for engine in ("serial", "threads", "processes", "fork"):

            def write(i: Any, a: Any = a) -> None:
                a.soften_mask()
                a[1] = np.ma.masked

            with pytest.raises(ValueError, match="read-only"):
                shmmap.pmap(write, range(1), engine=engine)
