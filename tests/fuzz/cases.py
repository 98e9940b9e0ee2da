"""Maps drawn at random from a seed, each with what plain NumPy and a plain loop give for it.

A *case* is a call of this library and a check of what it returns or raises. `draw_case` makes one from a
seed and nothing else, so that a finding is known by its seed. What is expected is computed without this
library, on copies in private memory.
"""

from __future__ import annotations

import functools
import operator
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import Any

import numpy as np

import shmmap
from tests import functions
from tests.fuzz import settings
from tests.helpers import assert_same
from tests.strategies import NUMERIC, PLAIN

from .draw import (
    CHUNK_FUNCTIONS,
    EXACT,
    ITEM_FUNCTIONS,
    NUMBER_FUNCTIONS,
    Case,
    Draw,
    first,
    looked_up,
    offset_by,
    outcome_of,
    quiet,
    stacked,
)
from .special import draw_executor, draw_failure, draw_random, draw_writes


def draw_items(draw: Draw) -> Case:
    """`pmap` over arrays: along any axis, several inputs, whole ones, any output."""
    n, count = draw.length(), draw.of(1, 1, 1, 2, 3)
    is_numeric = draw.often(0.6)
    axes: list[Any] = []
    inputs: list[Any] = []
    for i in range(count):
        ndim = 1 if is_numeric and count > 1 else draw.of(1, 1, 2, 3)
        axis = draw.rng.randrange(ndim)
        dtypes = NUMERIC if is_numeric else PLAIN
        inputs.append(draw.array(dtypes, draw.shape(n, axis, ndim), f"{draw.folder}/in{i}.npy"))
        axes.append(draw.of(axis, axis - ndim))
    functions_ = NUMBER_FUNCTIONS + ITEM_FUNCTIONS if is_numeric else ITEM_FUNCTIONS
    func = draw.of(*functions_)
    if is_numeric and draw.often(0.2):
        func = offset_by(draw.of(1, 2.5, np.float32(3)))
    if draw.often(0.1):
        func = looked_up(draw.array(NUMERIC, (5,)))
    if func in (settings.scaled, *NUMBER_FUNCTIONS[2:]):
        inputs, axes = inputs[:1], axes[:1]
        if draw.often(0.5):
            settings.FACTOR = draw.of(1, 2, 3)
            settings.TABLE["offset"] = draw.of(0, 10)
            settings.Model.shift = draw.of(0, 100)
    if draw.often(0.15):
        inputs.append(draw.array(NUMERIC, (2,)))
        axes.append(None)
        func = first
    func = quiet(func)
    columns = [
        [np.array(a)] * n if axis is None else list(np.moveaxis(np.array(a), axis, 0))
        for a, axis in zip(inputs, axes, strict=True)
    ]
    results = [outcome_of(func, *row) for row in zip(*columns, strict=True)]
    if any(isinstance(result, Exception) for result in results):
        func, results = first, columns[0]
    options = draw.options()
    form = draw.of("array", "array", "array", "list", "out", "later")
    if any(a.dtype.str[:2] == ">M" for a in inputs) and form == "list":
        form = (
            "array"  # a pickle of NumPy's keeps the values of such times, but not their byte order
        )
    axis = axes[0] if len(axes) == 1 else tuple(axes)
    text = f"pmap {n=} {axes=} {[(a.dtype.str, a.shape) for a in inputs]} {form} {options}"

    def run(engine: Any) -> None:
        keywords = {**options, "axis": axis, "engine": engine}
        if form == "list":
            assert_same(shmmap.pmap(func, *inputs, out=list, **keywords), results)
        elif form == "later":
            future = shmmap.pmap(func, *inputs, wait=False, **keywords)
            assert_same(future.result(), stacked(results))
        elif form == "out" and isinstance(expected := stacked(results), np.ndarray) and n:
            out = draw.of(shmmap.empty, np.empty)(expected.shape, expected.dtype)
            assert shmmap.pmap(func, *inputs, out=out, **keywords) is out
            assert_same(out, expected)
        else:
            assert_same(shmmap.pmap(func, *inputs, **keywords), stacked(results))

    return Case(text, run)


def draw_sequence(draw: Draw) -> Case:
    """`pmap` over what is no array: lists of any objects, ranges, iterators."""
    n = draw.length()
    items: Any = draw.of(
        list(range(n)),
        [f"{i:03}" for i in range(n)],
        [np.arange(3.0) + i for i in range(n)],
        [{"i": i, "x": np.full(2, i)} for i in range(n)],
        [(i, str(i), None) for i in range(n)],
        range(n),
        tuple(float(i) for i in range(n)),
    )
    func = draw.of(functions.identity, lambda item: (item, item), lambda item: [item, [item]], str)
    results = [func(item) for item in items]
    is_iterator = draw.often(0.3)
    options = draw.options()
    if is_iterator:
        options["buffersize"] = draw.of(1, 3, 100)
    text = f"pmap over {type(items).__name__} {n=} {is_iterator=} {options}"

    def run(engine: Any) -> None:
        given = iter(items) if is_iterator else items
        got = shmmap.pmap(func, given, engine=engine, **options)
        assert type(got) is list
        assert len(got) == n
        assert repr(got) == repr(results)

    return Case(text, run)


def draw_chunks(draw: Draw) -> Case:
    """`pmap_chunks` with functions that work on each element by itself, also in place."""
    n, ndim = draw.length() + 1, draw.of(1, 2, 3)
    axis = draw.rng.randrange(ndim)
    a = draw.array(NUMERIC, draw.shape(n, axis, ndim), f"{draw.folder}/in.npy")
    func = quiet(draw.of(*CHUNK_FUNCTIONS))
    whole = outcome_of(func, np.array(a))
    if isinstance(whole, Exception):
        func, whole = np.array, np.array(a)
    # As `concatenate` gives it: in the byte order of the machine.
    parts = whole if isinstance(whole, tuple) else (whole,)
    wanted = [np.concatenate([part], axis=axis) for part in parts]
    options = draw.options()
    is_in_place = a.flags.writeable and draw.often(0.3) and "retries" not in options
    text = f"pmap_chunks {a.dtype.str} {a.shape} {axis=} {is_in_place=} {options}"

    def run(engine: Any) -> None:
        keywords = {**options, "axis": axis, "engine": engine}
        if is_in_place:
            if isinstance(engine, Executor) and not isinstance(engine, shmmap.Team):
                return
            if not isinstance(whole, tuple) and whole.dtype == a.dtype:
                assert shmmap.pmap_chunks(func, a, out=a, **keywords) is a
                assert_same(np.array(a), np.array(whole))
                return
        got = shmmap.pmap_chunks(func, a, **keywords)
        assert_same(got if isinstance(whole, tuple) else (got,), tuple(wanted))

    return Case(text, run)


def draw_stencil(draw: Draw) -> Case:
    """`pmap_chunks` with neighbours: a sum over a window, against the padded whole."""
    n, depth = draw.of(1, 2, 3, 8, 50), draw.of(1, 2)
    if n < depth:
        n = depth
    boundary = draw.of("reflect", "nearest", "periodic", 7)
    a = draw.array(EXACT, draw.shape(n, 0, draw.of(1, 2)))

    def window(c: Any) -> Any:
        return sum((np.roll(c, shift, 0) for shift in range(-depth, depth + 1)), np.zeros_like(c))

    modes = {"reflect": "symmetric", "nearest": "edge", "periodic": "wrap"}
    width = [(depth, depth), *[(0, 0)] * (a.ndim - 1)]
    if boundary == 7:
        padded = np.pad(np.array(a), width, constant_values=7)
    else:
        padded = np.pad(np.array(a), width, modes[boundary])
    expected = quiet(window)(padded)[depth:-depth]
    options = draw.options()

    def run(engine: Any) -> None:
        got = shmmap.pmap_chunks(
            quiet(window), a, depth=depth, boundary=boundary, engine=engine, **options
        )
        assert_same(got, expected)

    return Case(f"stencil {a.dtype.str} {a.shape} {depth=} {boundary=} {options}", run)


def draw_reduction(draw: Draw) -> Case:
    """`preduce` with NumPy's own reductions, and with any function and `combine=`."""
    n = draw.length() + 1
    a = draw.array(EXACT, draw.shape(n, 0, draw.of(1, 2)))
    if not a.size:
        a = draw.array(EXACT, (n,))
    func = draw.of(np.sum, np.max, np.min, np.any, np.all, np.count_nonzero, np.prod)
    options = draw.options()
    has_combine = draw.often(0.4)

    def run(engine: Any) -> None:
        with np.errstate(all="ignore"):
            if has_combine:
                got = shmmap.preduce(
                    np.ndarray.tolist, a, combine=operator.add, engine=engine, **options
                )
                assert got == a.tolist()
            else:
                got, expected = shmmap.preduce(func, a, engine=engine, **options), func(np.array(a))
                assert type(got) is type(expected)
                assert got == expected

    return Case(f"preduce {func.__name__} {has_combine=} {a.dtype.str} {a.shape} {options}", run)


def draw_masked(draw: Draw) -> Case:
    """`preduce` of masked arrays, over some axes, also of floats and in tuples."""
    n, ndim = draw.length() + 1, draw.of(1, 2, 3)
    axis = draw.rng.randrange(ndim)
    shape = tuple(n if i == axis else draw.of(1, 2, 3) for i in range(ndim))
    data = np.array(draw.array([*EXACT, np.dtype("f8")], shape))
    if data.dtype.kind == "f":  # of which sums are exact
        data = np.round(np.nan_to_num(data, nan=0, posinf=1, neginf=-1).clip(-99, 99))
    random = np.random.default_rng(draw.rng.randrange(1 << 30))
    mask = random.random(shape) < draw.of(0, 0.3, 0.9, 1)
    a = np.ma.array(data, mask=mask) if draw.often(0.7) else data
    keywords: dict[str, Any] = draw.of({}, {"axis": axis}, {"axis": axis - ndim})
    if keywords and draw.often(0.3):
        keywords["keepdims"] = True
    func = functools.partial(draw.of(np.sum, np.max, np.min, np.any, np.all), **keywords)
    is_pair = draw.often(0.3)
    combine = functions_of_pairs[func.func] if is_pair or draw.often(0.3) else None
    options = draw.options()

    def run(engine: Any) -> None:
        with np.errstate(all="ignore"):
            given = (lambda c: (func(c), func(-c))) if is_pair else func
            if data.dtype.kind not in "if":
                given = func
            got = shmmap.preduce(given, a, axis=axis, combine=combine, engine=engine, **options)
            expected = given(a)
        pairs = [(got, expected)] if given is func else zip(got, expected, strict=True)
        for one, other in pairs:
            if other is np.ma.masked:
                assert one is np.ma.masked
                continue
            assert_same(np.ma.getmaskarray(one), np.ma.getmaskarray(other))
            assert np.asarray(one).dtype == np.asarray(other).dtype
            assert np.ma.allequal(one, other)
            assert np.shape(one) == np.shape(other)

    text = f"masked {func.func.__name__} {keywords} {is_pair=} {combine=} {axis=} {a!r} {options}"
    return Case(text, run)


functions_of_pairs: dict[Any, Any] = {
    np.sum: np.add,
    np.max: np.maximum,
    np.min: np.minimum,
    np.any: np.logical_or,
    np.all: np.logical_and,
}


def draw_mixed(draw: Draw) -> Case:
    """`pmap` of results that are of several dtypes, and of several kinds."""
    n = draw.length() + 1
    numbers = [1, -1, 2**40, 2**62, 2**63, 0.5, 1j, True, np.int8(-3), np.uint8(200)]
    numbers += [np.uint64(2**63), np.float32(0.1), np.float16(2), np.bool_(False), np.longdouble(1)]
    texts = ["a", "bcd", "", np.str_("xy")]
    times = [np.timedelta64(1, "s"), np.timedelta64(2, "ms"), np.timedelta64("NaT", "s")]
    chosen = draw.of(numbers, numbers, texts, times, [np.zeros(2, "i2"), np.ones(2), [1, 2]])
    chosen = [draw.of(*chosen) for _ in range(draw.of(1, 2, 3))]
    values: list[Any] = [draw.of(*chosen) for _ in range(n)]
    if draw.often(0.3):
        values = [(value, draw.of(1, 0.5)) for value in values]
    if draw.often(0.1):
        values[draw.rng.randrange(n)] = draw.of(None, (1,), (1, 2, 3), [[1]], np.zeros(3), {})
    expected = outcome_of(stacked, values) if all_alike(values) else TypeError()
    if isinstance(expected, np.ndarray) and expected.dtype.hasobject:
        expected = TypeError()
    options = draw.options()

    def run(engine: Any) -> None:
        try:
            got = shmmap.pmap(lambda i: values[int(i)], np.arange(n), engine=engine, **options)
        except (TypeError, ValueError):
            assert isinstance(expected, Exception)
        else:
            assert_same(got, expected)

    return Case(f"mixed {values} {options}", run)


def all_alike(values: list[Any]) -> bool:
    """Whether all are tuples of one length, or none is one, and all are None or none is."""
    widths = {len(value) if isinstance(value, tuple) else -1 for value in values}
    return len(widths) == 1 and len({value is None for value in values}) == 1


def draw_ranges(draw: Draw) -> Case:
    """`pmap_ranges`: each index once, and writes into a captured shared array land."""
    n = draw.length()
    target = shmmap.zeros(n, np.int64)
    options = draw.options()

    def visit(start: int, stop: int) -> Any:
        target[start:stop] += np.arange(start, stop) + 1
        return start, stop

    def run(engine: Any) -> None:
        target[:] = 0
        if isinstance(engine, Executor) and not isinstance(engine, shmmap.Team):
            return
        ranges = shmmap.pmap_ranges(visit, n, engine=engine, **options)
        assert_same(np.array(target), np.arange(n) + 1)
        limits = [edge for limits in ranges or [] for edge in limits]
        assert sorted(ranges or []) == (ranges or [])
        assert limits[1:-1:2] == limits[2::2]
        if n:
            assert (limits[0], limits[-1]) == (0, n)

    return Case(f"pmap_ranges {n=} {options}", run)


KINDS: list[Callable[[Draw], Case]] = [
    *[draw_items] * 4,
    *[draw_chunks] * 2,
    draw_sequence,
    draw_stencil,
    draw_reduction,
    draw_masked,
    draw_mixed,
    draw_ranges,
    draw_failure,
    draw_writes,
    draw_random,
    draw_executor,
]


def draw_case(seed: int, folder: str) -> Case:
    """The case of a seed; `folder` is where it may make files."""
    draw = Draw(seed)
    draw.folder = os.fspath(folder)
    return draw.of(*KINDS)(draw)


def seeds(first: int) -> Iterator[int]:
    """Numbers from one on."""
    while True:
        yield first
        first += 1
