"""Private arrays are read-only wherever a function captures them; what to write instead is said."""

from __future__ import annotations

import gc
import types
import weakref
from typing import Any

import numpy as np
import pytest

import shmmap

from .test_read_only import is_writeable, open_one, refused


def test_items_of_an_iterator(engine: Any) -> None:
    """A23. Kind: private arrays in what an iterator gives, in every window, however deep."""

    def write(item: Any) -> None:
        array = item["a"][0] if isinstance(item, dict) else item
        array[0] = 3

    for make in (lambda a: a, lambda a: {"a": (a,)}):
        arrays = [np.zeros(2) for _ in range(5)]
        assert refused(
            lambda arrays=arrays, make=make: shmmap.pmap(  # type: ignore[misc]
                write, map(make, arrays), engine=engine, buffersize=4
            )
        )
        last = [np.zeros(2) for _ in range(5)]

        def write_last(item: Any) -> None:
            if item[1] == 4:
                write(item[0])

        assert refused(
            lambda last=last, make=make: shmmap.pmap(  # type: ignore[misc]
                write_last, ((make(a), i) for i, a in enumerate(last)), engine=engine, buffersize=4
            )
        )
        for a in arrays + last:
            assert a.tolist() == [0, 0]
            assert is_writeable(a)


@pytest.mark.parametrize("engine", ["serial", "threads", "fork"])
def test_captured_beyond_ten_thousand_objects(engine: str) -> None:
    """A23. Kind: a limit of what is looked at: a large list, and objects of the user's in a chain."""

    class Node:
        def __init__(self, array: Any, rest: Any) -> None:
            self.array = array
            self.rest = rest

    many = [np.zeros(2) for _ in range(12_000)]
    chain: Any = None
    last = np.zeros(2)
    for i in range(4_000):
        chain = Node(last if i == 0 else np.zeros(2), chain)
    assert refused(
        lambda: shmmap.pmap(lambda i: many[i].__setitem__(0, 1), [0, 11_999], engine=engine)
    )

    def write_last(i: int) -> None:
        node = chain
        while node.rest is not None:
            node = node.rest
        node.array[0] = 1

    assert refused(lambda: shmmap.pmap(write_last, [0], engine=engine))
    assert not any(a.any() for a in many)
    assert is_writeable(last, many[0], many[-1])


TABLE = np.zeros(3)


def test_globals_of_a_function_that_travels_by_value(engine: Any) -> None:
    """A23. Kind: what a lambda of an imported module refers to by name is sent along, as of a script."""
    assert refused(lambda: shmmap.pmap(lambda i: TABLE.__setitem__(0, 1), [0], engine=engine))
    assert TABLE.tolist() == [0, 0, 0]


@pytest.mark.parametrize("start", ["clean", "fork", "serial", "threads", "fork engine", "pool"])
def test_arrays_of_objects(start: str) -> None:
    """A23. Kind: arrays that are pickled by value, and so arrived writeable."""
    a = np.array([None, "x"], object)
    t = np.array(["a", "bc"], np.dtypes.StringDType())

    def write(i: int) -> None:
        (a if i else t)[0] = "y"

    with open_one(start) as engine:
        for i in (0, 1):
            assert refused(lambda i=i: shmmap.pmap(write, [i], engine=engine))  # type: ignore[misc]
    assert a.tolist() == [None, "x"]
    assert t.tolist() == ["a", "bc"]
    assert is_writeable(a, t)


@pytest.mark.parametrize("start", ["clean", "serial", "threads", "fork engine", "pool", "executor"])
def test_objects_of_libraries_work(start: str) -> None:
    """B17. Kind: objects of C libraries that keep books in arrays of their own, or hold array and view."""
    pd = pytest.importorskip("pandas")
    sparse = pytest.importorskip("scipy.sparse")
    interpolate = pytest.importorskip("scipy.interpolate")
    spatial = pytest.importorskip("scipy.spatial")
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "yz"], "c": pd.Categorical(["u", "v"])})
    lil = sparse.lil_matrix(np.eye(3))
    x = np.linspace(0, 1, 9)
    spline = interpolate.UnivariateSpline(x, x**2, s=0)
    rbf = interpolate.RBFInterpolator(x[:, None], x**2)
    tree = spatial.cKDTree(np.arange(6.0).reshape(3, 2))

    def use(i: int) -> list[Any]:
        return [
            float(frame["a"].sum()),
            frame["b"].str.len().tolist(),
            frame.sort_values("a", ascending=False).index.tolist(),
            frame.groupby("c", observed=True)["a"].sum().tolist(),
            float(lil[i, i]),
            float(lil.tocsr().sum()),
            round(float(spline(0.5)), 6),
            round(float(rbf(np.array([[0.5]]))[0]), 6),
            int(tree.query([4.0, 5.0])[1]),
        ]

    with open_one(start) as engine:
        assert shmmap.pmap(use, [0, 1], engine=engine) == [use(0), use(1)]
        assert refused(
            lambda: shmmap.pmap(lambda i: x.__setitem__(0, spline(0.5)), [0], engine=engine)
        )
    frame.loc[0, "a"] = 9.0
    lil[0, 1] = 2


class Tagged(np.ndarray):
    """An array with an attribute."""

    unit = ""


def tagged(*values: float) -> Tagged:
    a = np.array(values).view(Tagged)
    a.unit = "km"
    return a


@pytest.mark.parametrize("start", ["clean", "serial", "threads", "fork engine", "pool", "executor"])
def test_attributes_of_a_subclass(start: str) -> None:
    """A26. Kind: attributes of ndarray subclasses on their way: captured, items, whole, nested; and back."""
    a = tagged(1.0, 2.0)

    def units(item: Any, whole: Any) -> list[str]:
        array = item[0] if isinstance(item, tuple) else item
        return [array.unit, whole.unit, a.unit]

    with open_one(start) as engine:
        for items in ([a, a], [(a,), (a,)]):
            found = shmmap.pmap(units, items, a, axis=(0, None), engine=engine)
            assert found == [["km"] * 3] * 2
        assert refused(lambda: shmmap.pmap(lambda item: item.__setitem__(0, 1), [a], engine=engine))
    assert is_writeable(a)
    gc.collect()


def refuse_as_numba(i: Any) -> None:
    raise TypeError("No matching definition for argument type(s) readonly array(float64, 1d, C)")


def refuse_as_cython(i: Any) -> None:
    raise ValueError("buffer source array is read-only")


def refuse_as_numpy(i: Any) -> None:
    i[0] = 1


@pytest.mark.parametrize("refuse", [refuse_as_numba, refuse_as_cython, refuse_as_numpy])
def test_a_note_says_what_to_write_instead(engine: Any, refuse: Any) -> None:
    """E6. Kind: libraries that refuse a read-only array in words of their own."""
    with pytest.raises((TypeError, ValueError)) as caught:
        shmmap.pmap(refuse, [np.zeros(3)], engine=engine)
    notes = "\n".join(caught.value.__notes__)
    assert "shmmap.asshared(a)" in notes
    assert "a.copy()" in notes
    with pytest.raises(ValueError, match="else") as caught:
        shmmap.pmap(_raise_another, [1], engine=engine)
    assert "asshared" not in "\n".join(caught.value.__notes__)


def _raise_another(i: Any) -> None:
    raise ValueError("something else")


def test_a_note_on_a_submitted_function(team: shmmap.Team) -> None:
    """E6, by `Team.submit`."""
    with pytest.raises(ValueError, match="read-only") as caught:
        team.submit(refuse_as_numpy, np.zeros(3)).result()
    assert "shmmap.asshared(a)" in "\n".join(caught.value.__notes__)


class Lazy:
    """Stands for an object that it cannot find just now, as proxies of web frameworks do."""

    @property
    def __class__(self) -> Any:
        raise RuntimeError("working outside of a context")


class Stands:
    """Says that it is an array, as transparent proxies do, and is pickled in its own way."""

    @property
    def __class__(self) -> Any:
        return np.ndarray

    def __reduce__(self) -> Any:
        return Stands, ()

    def plus(self, v: Any) -> Any:
        return v + 1


def test_proxies_of_arrays_are_pickled_as_they_say(engine: Any) -> None:
    proxy = Stands()
    got = shmmap.pmap(lambda v: proxy.plus(v), np.arange(3), engine=engine)
    assert got.tolist() == [1, 2, 3]


def test_proxies_of_what_is_gone(engine: Any) -> None:
    """Compiled functions of numba have such, and `isinstance` of them raises."""
    gone = Lazy()
    kept = types.SimpleNamespace(proxy=weakref.proxy(gone), ref=weakref.ref(gone))
    holder = types.SimpleNamespace(lazy=Lazy())
    del gone

    def add(v: Any) -> Any:
        return v + len(vars(kept)) * 0 + len(vars(holder))

    if engine == "processes" or isinstance(engine, shmmap.Team):  # where functions are pickled
        del kept.proxy, kept.ref
        with pytest.raises(TypeError, match=r"holder\.lazy .* does not pickle"):
            shmmap.pmap(add, np.arange(3), engine=engine)
        del holder.lazy
        holder.other = 1
    assert shmmap.pmap(add, np.arange(3), engine=engine).tolist() == [1, 2, 3]
