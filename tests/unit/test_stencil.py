"""The geometry of neighbours, without a process: against padding the whole array."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmmap._chunks.stencil import Trim, choose_trim, make_stencils

PAD_MODES = {"reflect": "symmetric", "periodic": "wrap", "nearest": "edge"}


def make(depth: Any, boundary: Any, a: Any, axis: int) -> Any:
    return make_stencils(depth, boundary, [(a.shape, a.dtype, axis)])[0]


def pad(a: Any, depth: dict[int, tuple[int, int]], boundary: dict[int, Any]) -> Any:
    """`a` padded axis by axis, in order, as dask does it."""
    for axis in sorted(depth):
        if boundary[axis] == "none":
            continue
        width = [(0, 0)] * a.ndim
        width[axis] = depth[axis]
        if isinstance(boundary[axis], str):
            a = np.pad(a, width, mode=PAD_MODES[boundary[axis]])  # type: ignore[call-overload]
        else:
            a = np.pad(a, width, constant_values=boundary[axis])
    return a


@st.composite
def cases(draw: st.DrawFn) -> Any:
    ndim = draw(st.integers(1, 3))
    shape = tuple(draw(st.integers(1, 7)) for _ in range(ndim))
    a = np.arange(1, 1 + np.prod(shape), dtype=draw(st.sampled_from(["i4", ">i2", "f8"])))
    a = a.reshape(shape)
    axis = draw(st.integers(0, ndim - 1))
    sides = st.integers(0, 9)  # more than the array has, too
    axes = draw(st.sets(st.integers(0, ndim - 1), min_size=1))
    depth = {each: (draw(sides), draw(sides)) for each in axes}
    modes = st.sampled_from(["none", "reflect", "periodic", "nearest", 0, -3])
    return a, axis, depth, {each: draw(modes) for each in axes}, draw(st.integers(1, 8))


@given(case=cases())
def test_chunks_are_slices_of_the_padded_array(case: Any) -> None:
    a, axis, depth, boundary, size = case
    stencil = make(depth, boundary, a, axis)
    padded = pad(a, depth, boundary)
    before, after = depth.get(axis, (0, 0))
    shift = 0 if boundary.get(axis, "none") == "none" else before
    for start in range(0, a.shape[axis], size):
        stop = min(start + size, a.shape[axis])
        if stencil is None:
            assert not any(map(any, depth.values()))
            return
        low, high = max(0, start - before + shift), stop + after + shift
        expected = padded[(slice(None),) * axis + (slice(low, high),)]
        chunk = stencil.cut(a, start, stop)
        assert chunk.dtype == a.dtype
        assert not chunk.flags.writeable
        np.testing.assert_array_equal(chunk, expected)
        own = a[(slice(None),) * axis + (slice(start, stop),)]
        np.testing.assert_array_equal(Trim(stencil, axis).apply(chunk, start, stop), own)


@pytest.mark.parametrize("boundary", [None, "reflect", "periodic", "nearest", 5.0])
def test_chunks_inside_are_views(boundary: Any) -> None:
    a = np.arange(200.0).reshape(50, 4)
    stencil = make(3, boundary, a, 0)
    for start in range(0, 50, 10):
        chunk = stencil.cut(a, start, start + 10)
        inside = 3 <= start and start + 13 <= 50
        assert np.shares_memory(chunk, a) == (inside or boundary is None)
        assert a.flags.writeable


def test_an_int_is_along_the_axis_of_the_chunks() -> None:
    a = np.zeros((4, 5))
    assert make(2, "reflect", a, 1).depth == ((0, 0), (2, 2))
    assert make({0: 1, -1: (2, 3)}, None, a, 1).depth == ((1, 1), (2, 3))
    assert make((1, (0, 2)), None, a, 0).depth == ((1, 1), (0, 2))
    assert make(0, "reflect", a, 0) is None


def test_a_list_is_by_input() -> None:
    specs: list[Any] = [((6, 2), np.dtype(float), 0), ((6,), np.dtype(int), 0), None]
    one, two, three = make_stencils([{0: 1}, (2,), 0], ["nearest", 7, None], specs)
    assert one is not None and two is not None and three is None
    assert one.depth == ((1, 1), (0, 0)) and two.depth == ((2, 2),)
    assert one.boundary == ("nearest", "nearest") and two.boundary == (7,)
    trim = choose_trim([two, one], 0)
    assert trim is not None and trim.stencil is one  # the one of most dimensions


@pytest.mark.parametrize(
    ("depth", "boundary", "error", "text"),
    [
        (-1, None, ValueError, "not negative"),
        (1.5, None, TypeError, "depth must be an int"),
        (True, None, TypeError, "depth must be an int"),
        ((1, 2, 3), None, ValueError, "3 entries for the 2 axes"),
        ({2: 1}, None, np.exceptions.AxisError, "out of bounds"),
        ({"x": 1}, None, TypeError, "names axes by ints"),
        ({0: (1, 2, 3)}, None, TypeError, "a pair"),
        ([1, 2], None, ValueError, "one entry per input"),
        (1, "mirror", ValueError, "boundary='mirror'"),
        (1, np.nan, ValueError, "no value of dtype int16"),
        (1, 1 << 20, ValueError, "no value of dtype int16"),
        (1, 0.5, ValueError, "no value of dtype int16"),
        (1, np.arange(4), ValueError, "no value of dtype int16"),
        ({1: 1}, 0, ValueError, "length 0 has no boundary"),
    ],
)
def test_what_makes_no_sense_is_refused(
    depth: Any, boundary: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        make(depth, boundary, np.zeros((4, 0), np.int16), 0)


def test_results_must_have_the_neighbours_too() -> None:
    stencil = make({0: 1, 1: 1}, "nearest", np.zeros((8, 3)), 0)
    trim = Trim(stencil, 0)
    assert trim.apply(np.zeros((6, 5)), 2, 6).shape == (4, 3)
    for shape in [(4, 3), (6, 3), (4, 5), (6,), ()]:
        with pytest.raises(ValueError, match="neighbours included"):
            trim.apply(np.zeros(shape), 2, 6)
