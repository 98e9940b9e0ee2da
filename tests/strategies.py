"""What the property tests draw from: dtypes, values, layouts of arrays, and options of a map."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

import shmmap

PLAIN = [
    np.dtype(code)
    for code in [
        *("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"),
        *("f2", "f4", "f8", "g", "c8", "c16", "G"),
        *("M8[D]", "M8[ns]", "m8[s]", "m8[us]", "S5", "U3", "V7"),
        *(">i4", ">u2", ">f8", ">c16", ">M8[us]", ">U3"),
    ]
]
NUMERIC = [dtype for dtype in PLAIN if dtype.kind in "iufc"]
STRUCTURED = [
    np.dtype([("a", "i4"), ("b", "f8", (2, 3))]),
    np.dtype([("name", "U4"), ("when", "M8[s]"), ("inner", [("re", ">f4"), ("on", "?")])]),
    np.dtype([("byte", "i1"), ("double", "f8")], align=True),
]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a view lies in the array under it: what to allocate for a shape, and the view of that."""

    name: str
    allocate: Callable[[tuple[int, ...]], tuple[tuple[int, ...], str]]
    view: Callable[[Any], Any]

    def __repr__(self) -> str:
        return self.name


def _grown(shape: tuple[int, ...], by: Callable[[int], int]) -> tuple[int, ...]:
    return tuple(by(length) for length in shape)


def _broadcast(a: Any) -> Any:
    """Repeat the first entry along the first axis, with stride 0."""
    return np.broadcast_to(a[:1], a.shape) if a.ndim and len(a) else a


LAYOUTS = [
    Layout("C order", lambda shape: (shape, "C"), lambda a: a),
    Layout("Fortran order", lambda shape: (shape, "F"), lambda a: a),
    Layout("transposed", lambda shape: (shape[::-1], "C"), lambda a: a.T),
    Layout(
        "reversed",
        lambda shape: (shape, "C"),
        lambda a: a[tuple(slice(None, None, -1) for _ in range(a.ndim))],
    ),
    Layout(
        "every other",
        lambda shape: (_grown(shape, lambda length: 2 * length), "C"),
        lambda a: a[tuple(slice(None, None, 2) for _ in range(a.ndim))],
    ),
    Layout(
        "inner part",
        lambda shape: (_grown(shape, lambda length: length + 3), "F"),
        lambda a: a[tuple(slice(1, -2) for _ in range(a.ndim))],
    ),
    Layout("broadcast", lambda shape: (shape, "C"), _broadcast),
]


def fill(a: Any, seed: int) -> None:
    """Fill an array with values of its dtype, the odd ones included."""
    rng = np.random.default_rng(seed)
    if a.dtype.names is not None:
        for i, name in enumerate(a.dtype.names):
            fill(a[name], seed + i)
        return
    n = math.prod(a.shape)
    kind = a.dtype.kind
    if kind in "fc":
        values = rng.standard_normal(n) * 10.0 ** rng.integers(-3, 4, n)
        values[rng.random(n) < 0.1] = rng.choice([0.0, -0.0, np.inf, -np.inf, np.nan])
        values = values.astype(a.real.dtype)
        if kind == "c":
            values = np.stack([values, values[::-1]], axis=-1).view(a.dtype.newbyteorder("="))
    elif kind in "SU":
        values = np.array([chr(97 + i % 26) * (i % 6) for i in rng.integers(0, 100, n)], a.dtype)
    elif kind == "V":
        values = np.frombuffer(rng.bytes(n * a.dtype.itemsize), a.dtype)
    elif kind == "b":
        values = rng.random(n) < 0.5
    else:
        numbers = np.frombuffer(rng.bytes(n * a.dtype.itemsize), f"i{a.dtype.itemsize}")
        values = numbers.view(a.dtype.newbyteorder("="))
    with np.errstate(all="ignore"):
        a[...] = np.asarray(values).reshape(a.shape)


def dtypes() -> st.SearchStrategy[np.dtype[Any]]:
    """Every kind of dtype that is plain bytes."""
    return st.sampled_from(PLAIN + STRUCTURED)


def shapes(min_dims: int = 1, max_dims: int = 3) -> st.SearchStrategy[tuple[int, ...]]:
    """Small shapes; lengths of 0 and 1 among them."""
    return st.lists(st.integers(0, 9), min_size=min_dims, max_size=max_dims).map(tuple)


@st.composite
def arrays(
    draw: st.DrawFn,
    dtype: st.SearchStrategy[np.dtype[Any]] | None = None,
    shape: st.SearchStrategy[tuple[int, ...]] | None = None,
) -> Any:
    """An array of any dtype, shape, layout, shared or private."""
    layout = draw(st.sampled_from(LAYOUTS))
    base_shape, order = layout.allocate(draw(shapes() if shape is None else shape))
    zeros = draw(st.sampled_from([shmmap.zeros, np.zeros]))
    base = zeros(base_shape, draw(dtypes() if dtype is None else dtype), order)
    fill(base, draw(st.integers(0, 1 << 30)))
    return np.asanyarray(
        layout.view(base)
    )  # what has no axes left may be a scalar, which is no array


@st.composite
def arrays_and_axis(draw: st.DrawFn, **options: Any) -> tuple[Any, int]:
    """An array, and one of its axes, counted from either end."""
    a = draw(arrays(**options))
    return a, draw(st.integers(-a.ndim, a.ndim - 1))


def options() -> st.SearchStrategy[dict[str, Any]]:
    """Options that must not change the result of a map of items."""
    return st.fixed_dictionaries(
        {"workers": st.integers(1, 4)},
        optional={
            "chunksize": st.sampled_from([1, 2, 3, 100, "64B", "1KiB", "auto"]),
            "schedule": st.sampled_from(["dynamic", "static"]),
        },
    )
