"""The dtype of results is that of all of them together, whatever the chunks; and so are their values.

Also which axis of a chunk's result the chunks are joined along.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import shmmap
from shmmap._chunks.columns import Mixed, holds, is_ambiguous, promote, stack_items
from tests.conftest import ENGINES
from tests.helpers import assert_same

NUMBERS = [np.dtype(code) for code in "?bBhHiIqQefdgFDG"]
BIG = 2**53 + 1


def numbers() -> Any:
    """Results of all kinds of numbers, Python's own among them."""
    small = st.integers(0, 100)
    typed = st.builds(lambda dtype, value: dtype.type(value), st.sampled_from(NUMBERS), small)
    exact = st.sampled_from([np.int64(BIG), np.uint64(2**63 + 1), np.longdouble(1) / 3, 1 << 63])
    return st.one_of(typed, small, st.booleans(), st.floats(0, 9, width=16), exact)


@pytest.fixture(scope="module")
def every_engine(engines: Any) -> Any:
    """All engines, open for the whole module."""
    with engines() as opened:
        yield opened


# --- A24 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", [1, 2, 3])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_what_several_dtypes_become_together(engine: Any, chunksize: int, order: Any) -> None:
    """A24. Kind: promotion pair by pair, which `numpy.result_type` of all is not."""
    values = [np.int16(1), np.uint16(2), np.float32(3)]
    values = [values[i] for i in order]
    result = shmmap.pmap(
        lambda i: values[i], range(3), out=np.ndarray, chunksize=chunksize, engine=engine
    )
    assert_same(result, np.stack(values))
    rows = [np.full(2, value) for value in values]
    result = shmmap.pmap(lambda i: rows[i], np.arange(3), chunksize=chunksize, engine=engine)
    assert_same(result, np.stack(rows))
    both = shmmap.pmap(
        lambda i: (rows[i], values[i]), np.arange(3), chunksize=chunksize, engine=engine
    )
    assert_same(both, (np.stack(rows), np.stack(values)))
    blocks = shmmap.pmap_chunks(lambda c: rows[c[0]][:1], np.arange(3), chunksize=1, engine=engine)
    assert_same(blocks, np.concatenate([row[:1] for row in rows]))


@pytest.mark.slow
@pytest.mark.warm
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@given(
    values=st.lists(numbers(), min_size=1, max_size=9),
    chunksize=st.integers(1, 9),
    name=st.sampled_from(ENGINES),
    shape=st.sampled_from([(), (2,)]),
)
def test_random_dtypes(
    every_engine: Any, values: list[Any], chunksize: int, name: str, shape: Any
) -> None:
    """A24: dtype and bits of `numpy.stack`, on every engine, for numbers and for rows."""
    results = [np.full(shape, value) for value in values] if shape else values
    expected = np.stack([np.asarray(each) for each in results])
    options: dict[str, Any] = {"chunksize": chunksize, "engine": every_engine[name], "workers": 2}
    if expected.dtype.hasobject:
        return
    assert_same(shmmap.pmap(lambda i: results[i], np.arange(len(values)), **options), expected)


@pytest.mark.parametrize("chunksize", [1, 2, 3])
def test_numbers_cross_no_narrower_dtype(engine: Any, chunksize: int) -> None:
    """A24, the values: an integer that float64 does not hold, where there is a wider float as well."""
    values = [np.float64(0.5), np.int64(BIG), np.longdouble(1)]
    for order in itertools.permutations(values):
        result = shmmap.pmap(
            lambda i, order=order: order[i], np.arange(3), chunksize=chunksize, engine=engine
        )
        assert_same(result, np.stack(order))
        assert BIG in [int(value) for value in result]


@pytest.mark.parametrize("chunksize", [1, 2, 4])
def test_text_times_and_records(engine: Any, chunksize: int) -> None:
    """A24: strings of several lengths, units of time, records, booleans."""
    record = np.dtype([("a", "i4"), ("b", "f8")])
    wider = np.dtype([("a", "i8"), ("b", "f8")])
    for values in (
        ["a", "bcd", "", "ef"],
        [np.str_("abc"), np.str_("d"), "efghi", "j"],
        [b"a", b"bcd", b"ef", b""],
        [np.timedelta64(1, "D"), np.int64(3), np.timedelta64(1, "s"), np.timedelta64(2, "h")],
        [np.datetime64("2020-01-01"), np.datetime64("2020-01-01T12", "s")] * 2,
        [True, np.True_, np.int8(3), 4.5],
        [np.zeros((), record)[()], np.ones((), wider)[()]] * 2,
        [np.zeros(2, ">f8"), np.zeros(2, "<f4"), np.zeros(2, ">i2"), np.zeros(2)],
    ):
        result = shmmap.pmap(
            lambda i, values=values: values[i], np.arange(4), chunksize=chunksize, engine=engine
        )
        assert_same(result, np.stack([np.asarray(value) for value in values]))


@pytest.mark.parametrize("chunksize", [1, 3])
def test_numbers_among_text_are_refused(engine: Any, chunksize: int) -> None:
    """A24: what their text is would depend on what they were before, so on the chunks."""
    for values in ([1, "a", 2.5], ["a", 1, True], [np.float32(0.1), 1.0, "a"]):
        with pytest.raises(TypeError, match="out=list"):
            shmmap.pmap(
                lambda i, values=values: values[i],
                np.arange(3),
                chunksize=chunksize,
                engine=engine,
            )


@pytest.mark.parametrize("chunksize", [1, 2, 3])
def test_declared_dtypes_take_each_result_by_itself(engine: Any, chunksize: int) -> None:
    """A24: with dtype= and out=, nothing is promoted on the way."""
    values = [np.int64(BIG), np.uint64(7), np.int8(-1)]
    options: dict[str, Any] = {"chunksize": chunksize, "engine": engine}
    result = shmmap.pmap(lambda i: values[i], np.arange(3), dtype=np.int64, **options)
    assert_same(result, np.array([BIG, 7, -1]))
    out = shmmap.zeros(3, np.int64)
    assert shmmap.pmap(lambda i: values[i], np.arange(3), out=out, **options) is out
    assert_same(np.array(out), np.array([BIG, 7, -1]))


@pytest.mark.parametrize("order", ["as_completed", "in_order"])
def test_parts_of_a_map_with_several_dtypes(engine: Any, order: str) -> None:
    """A24: what iterating over a future gives."""
    values = [np.int16(1), np.float32(2), np.int8(3), np.uint16(4)]
    future = shmmap.pmap(lambda i: values[i], np.arange(4), chunksize=2, engine=engine, wait=False)
    parts = sorted(
        ((start, stop, part.tolist()) for start, stop, part in getattr(future, order)()),
    )
    assert parts == [(0, 2, [1, 2]), (2, 4, [3, 4])]
    assert_same(future.result(), np.stack(values))


def test_stored_outputs_take_several_dtypes(tmp_path: Any) -> None:
    """A24, into a file."""
    out = np.lib.format.open_memmap(tmp_path / "a.npy", mode="w+", dtype="f8", shape=(4,))
    values = [np.int16(1), np.float32(2), np.int8(3), 4]
    shmmap.pmap(lambda i: values[i], np.arange(4), chunksize=4, out=out)
    assert out.tolist() == [1, 2, 3, 4]


def test_a_dtype_that_an_output_holds_decides_nothing() -> None:
    """A24: what goes into an output at once is forgotten, so it must change neither dtype nor value."""
    for one, target in itertools.product(NUMBERS, NUMBERS):
        if not holds(target, np.zeros(1, one)):
            continue
        for others in itertools.combinations(NUMBERS, 2):
            assert promote(one, target, *others) == promote(target, *others)
    assert holds(np.dtype("f8"), np.array([2**53, -(2**53)]))
    assert not holds(np.dtype("f8"), np.array([2**53 + 1]))
    assert not holds(np.dtype("f8"), np.array([2**63 + 1], "u8"))
    assert not holds(np.dtype("c16"), np.array([-(2**53) - 1]))
    assert holds(np.dtype("U5"), np.array(["abc"]))
    assert not holds(np.dtype("m8[s]"), np.zeros(1, "m8[D]"))
    assert not holds(np.dtype("U21"), np.zeros(1, int))


@given(values=st.lists(numbers(), min_size=1, max_size=8))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_items_by_themselves(values: list[Any]) -> None:
    items = [np.asarray(value) for value in values]
    column = stack_items(items)
    assert column.shape == (len(items),)
    if isinstance(column, Mixed):
        found = {}
        for places, part in column.parts():
            found.update(zip(places.tolist(), part, strict=True))
        assert sorted(found) == list(range(len(items)))
        for i, item in enumerate(items):
            assert_same(found[i], item[()])


# --- A15 ------------------------------------------------------------------------------------------


def check_refused(engine: Any, func: Any, a: Any, axis: int, **options: Any) -> None:
    with pytest.raises(ValueError, match=r"axis -?\d") as caught:
        shmmap.pmap_chunks(func, a, axis=axis, chunksize=2, engine=engine, **options)
    assert "\n" not in str(caught.value)


def test_results_that_have_moved_the_axis(engine: Any) -> None:
    """A15. Kind: a result that drops or adds an axis before the one of the chunks, of just its length."""
    a = shmmap.asshared(np.arange(48.0).reshape(4, 6, 2))
    check_refused(engine, lambda c: c.mean(axis=0), a, 1)
    check_refused(engine, lambda c: c.mean(axis=0), a, 1, dtype="f4")
    check_refused(engine, lambda c: (c, c.mean(axis=0)), a, 1)
    check_refused(engine, lambda c: c.mean(axis=0)[:, :1], a, 1)
    check_refused(engine, lambda c: c.mean(axis=0), a, 1, depth=1, boundary="reflect")
    square = shmmap.asshared(np.arange(96.0).reshape(4, 6, 4))
    check_refused(engine, lambda c: c.mean(axis=0), square, 1, depth=1, boundary="reflect")
    b = shmmap.asshared(np.arange(24.0).reshape(2, 6, 2))
    check_refused(engine, lambda c: np.stack([c, -c], axis=1), b, 1)
    check_refused(engine, lambda c: c.mean(axis=2), b.transpose(2, 1, 0), -2)
    c = shmmap.asshared(np.arange(12.0).reshape(6, 2))
    check_refused(engine, lambda c: np.stack([c, -c]), c, 0)
    check_refused(engine, lambda c: c.sum(axis=1)[None], c, 0)


def test_results_of_another_length(engine: Any) -> None:
    """A15: along any axis."""
    a = shmmap.asshared(np.arange(48.0).reshape(4, 6, 2))
    for axis in (0, 1, 2, -1, -2):
        check_refused(
            engine, lambda c, axis=axis: c.take([0], axis=axis), shmmap.zeros((4, 4, 4)), axis
        )
    check_refused(engine, lambda c: c.mean(axis=0, keepdims=True), a, 0)
    check_refused(engine, lambda c: c.mean(), a, 0)
    check_refused(engine, lambda c: c.mean(axis=0), a, 1, out=shmmap.zeros((6, 2)))


@pytest.mark.slow
def test_results_with_other_axes_that_are_clear(engine: Any) -> None:
    """A15: what can be told is not refused."""
    a = shmmap.asshared(np.arange(42.0).reshape(3, 7, 2))
    options: dict[str, Any] = {"chunksize": 2, "engine": engine}
    assert_same(shmmap.pmap_chunks(lambda c: c.mean(axis=2), a, axis=1, **options), a.mean(axis=2))
    assert_same(
        shmmap.pmap_chunks(lambda c: c.mean(axis=0), a, axis=-2, chunksize=3, engine=engine),
        a.mean(axis=0),
    )
    assert_same(
        shmmap.pmap_chunks(lambda c: c.sum(axis=(1, 2)), a, axis=0, **options), a.sum(axis=(1, 2))
    )
    x = np.arange(6.0)
    grid = np.arange(3.0)
    assert_same(shmmap.pmap_chunks(lambda c: c[:, None] * grid, x, **options), x[:, None] * grid)
    assert_same(
        shmmap.pmap_chunks(lambda c: c[:, None], x, chunksize=1, engine=engine), x[:, None].copy()
    )
    # An output tells where the axis is; so does one chunk alone, or a last one of another length.
    out = shmmap.zeros((6, 3))
    shmmap.pmap_chunks(lambda c: c[:, None] * grid, x, chunksize=3, out=out, engine=engine)
    assert_same(np.array(out), x[:, None] * grid)
    y = np.arange(5.0)
    assert_same(
        shmmap.pmap_chunks(lambda c: c[:, None] * [1, 2], y, **options), y[:, None] * [1, 2]
    )
    assert_same(
        shmmap.pmap_chunks(lambda c: c[:, None] * grid, x[:3], chunksize=3, engine=engine),
        x[:3, None] * grid,
    )


@given(
    shape=st.lists(st.integers(2, 4), min_size=1, max_size=4),
    data=st.data(),
)
def test_no_moved_axis_passes(shape: list[int], data: Any) -> None:
    """A15: whatever axes are dropped, what passes has the chunk's axis where it is expected."""
    ndim = len(shape)
    axis = data.draw(st.integers(-ndim, ndim - 1))
    dropped = data.draw(st.sets(st.integers(0, ndim - 1).filter(lambda i: i != axis % ndim)))
    kept = [i for i in range(ndim) if i not in dropped]
    result = tuple(shape[i] for i in kept)
    length = shape[axis]
    if -len(result) <= axis < len(result) and result[axis] == length:
        is_there = kept.index(axis % ndim) == axis % len(result)
        assert is_there or is_ambiguous(result, axis, length, (ndim,))
