"""Arrays of a class that carries something besides numbers: it is kept, or refused, and never dropped.

The kind: subclasses of ndarray with attributes (a unit, a label, metadata), and arrays of other libraries.
Units are the worst of them: numbers in kilometres and in metres look alike once the units are gone.
"""

from __future__ import annotations

import functools
import multiprocessing
import operator
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pytest

import shmmap
from tests.conftest import ENGINES, open_engine


class Length(np.ndarray):
    """Numbers with a unit, which is passed on by views and by arithmetic."""

    unit: str | None

    def __new__(cls, values: Any, unit: str) -> Length:
        new = np.array(values, float).view(cls)
        new.unit = unit
        return new

    def __array_finalize__(self, source: Any) -> None:
        self.unit = getattr(source, "unit", None)

    def to(self, unit: str) -> Length:
        metres = {"m": 1.0, "km": 1000.0}
        return Length(np.asarray(self) * (metres[str(self.unit)] / metres[unit]), unit)


class OwnPickling(Length):
    """The same, with a pickling of its own."""

    def __reduce__(self) -> Any:
        make, args, state = super().__reduce__()  # type: ignore[misc]
        return make, args, (*state, self.unit)

    def __setstate__(self, state: Any) -> None:
        *rest, self.unit = state
        super().__setstate__(tuple(rest))


class Bare(np.ndarray):
    """A subclass that carries nothing."""


KM = Length(np.arange(12.0).reshape(4, 3), "km")
UNITS = [KM, KM.copy().view(OwnPickling)]


@pytest.fixture(params=[*ENGINES, "clean", "process executor"])
def anywhere(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Every engine, teams of both starts, and an Executor whose workers are processes."""
    if request.param == "clean":
        with shmmap.Team(2) as team:
            yield team
    elif request.param == "process executor":
        with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as executor:
            yield executor
    else:
        with open_engine(request.param) as engine:
            yield engine


def look(part: Any) -> tuple[str, Any]:
    return type(part).__name__, getattr(part, "unit", "no unit at all")


def look_at_both(i: Any, whole: Any) -> Any:
    return look(whole), look(whole[i])


# ---------------------------------------------------------------- what goes in, and lists that come out


@pytest.mark.few(3)
@pytest.mark.parametrize("values", UNITS, ids=["plain pickling", "its own"])
def test_attributes_arrive(anywhere: Any, values: Any) -> None:
    """A26: items, chunks, whole inputs, captured, in lists, in `share`; C12: chunks with neighbours."""
    expected = look(values)
    pmap = functools.partial(shmmap.pmap, engine=anywhere, out=list)
    chunks = functools.partial(shmmap.pmap_chunks, engine=anywhere, out=list, chunksize=2)
    shared = shmmap.share(values)
    assert pmap(look, values) == [expected] * 4
    assert pmap(look, shared) == [expected] * 4
    assert pmap(look, list(values)) == [expected] * 4
    assert chunks(look, values) == [expected] * 2
    assert chunks(look, values, axis=1) == [expected] * 2
    assert pmap(look_at_both, range(4), values, axis=(0, None)) == [(expected, expected)] * 4
    assert pmap(lambda i: (look(values), look(shared)), range(2)) == [(expected, expected)] * 2
    for boundary in ("reflect", "periodic", "nearest", None, Length(1.0, "km")):
        assert chunks(look, values, depth=1, boundary=boundary) == [expected] * 2


@pytest.mark.few(2)
@pytest.mark.parametrize("values", UNITS, ids=["plain pickling", "its own"])
def test_attributes_come_back_in_lists(anywhere: Any, values: Any) -> None:
    """A26: a result of a worker process came back without its attributes."""
    expected = look(values)
    listed = shmmap.pmap(functools.partial(np.multiply, 2), values, out=list, engine=anywhere)
    assert [look(each) for each in listed] == [expected] * 4
    nested = shmmap.pmap(lambda i: {"a": [values]}, range(2), engine=anywhere)
    assert [look(each["a"][0]) for each in nested] == [expected] * 2
    total = shmmap.preduce(operator.pos, values, combine=np.add, chunksize=1, engine=anywhere)
    assert look(total) == expected
    np.testing.assert_array_equal(np.asarray(total), np.asarray(values).sum(axis=0)[None])


@pytest.mark.few(2)
def test_large_results_keep_their_attributes(anywhere: Any) -> None:
    """A26: results that come back through shared memory, too."""
    listed = shmmap.pmap(
        lambda i: Length(np.full(100_000, i), "m"), range(3), out=list, engine=anywhere
    )
    assert [look(each) for each in listed] == [("Length", "m")] * 3
    assert [float(each[-1]) for each in listed] == [0.0, 1.0, 2.0]
    listed[0][0] = 5  # what comes back is the caller's own


def test_neighbours_have_their_values(engine: str) -> None:
    """C12: what the boundary repeats, or a constant in the same unit."""
    items = Length(np.arange(4.0), "km")
    modes = {"reflect": "symmetric", "periodic": "wrap", "nearest": "edge"}
    for boundary, mode in modes.items():
        (part,) = shmmap.pmap_chunks(
            np.asarray, items, depth=2, boundary=boundary, out=list, chunksize=4, engine=engine
        )
        assert part.tolist() == np.pad(np.asarray(items), 2, mode).tolist()
    (part,) = shmmap.pmap_chunks(
        np.asarray,
        items,
        depth=1,
        boundary=Length(7.0, "km"),
        out=list,
        chunksize=4,
        engine=engine,
    )
    assert part.tolist() == [7.0, 0.0, 1.0, 2.0, 3.0, 7.0]


def test_a_boundary_with_a_unit_does_not_stand_beside_plain_items() -> None:
    """C12: a constant of another class would lend its numbers alone."""
    for items in (np.arange(4.0), np.arange(4.0).view(OwnPickling)):
        with pytest.raises(ValueError, match="boundary"):
            shmmap.pmap_chunks(
                np.negative, np.asarray(items), depth=1, boundary=Length(1.0, "m"), engine="serial"
            )
    with pytest.raises(ValueError, match="boundary"):
        shmmap.pmap_chunks(np.negative, KM, depth=1, boundary=Unrelated(1.0, "m"), engine="serial")


class Unrelated(np.ndarray):
    """Another class with a unit."""

    def __new__(cls, values: Any, unit: str) -> Unrelated:
        new = np.array(values, float).view(cls)
        new.unit = unit  # type: ignore[attr-defined]
        return new


# ---------------------------------------------------------------- arrays of results


def in_two_units(row: Any) -> Any:
    """Sums, small ones in kilometres and large ones in metres: equal as lengths go."""
    total = Length(np.asarray(row).sum(), "km")
    return total if np.asarray(row)[0] < 5 else total.to("m")


RESULTS: dict[str, Callable[[Any], Any]] = {
    "numbers": in_two_units,
    "rows": operator.pos,
    "in a tuple": lambda row: (1.0, row),
    "in a list": lambda row: [row, row],
    "with a pickling of its own": lambda row: row.view(OwnPickling),
    "attributes alone": lambda row: Unrelated(np.asarray(row), "m"),
}


def test_results_with_units_are_refused_in_arrays(engine: str) -> None:
    """A12: `[3, 12, 21000, 30000]` for sums of 3, 12, 21 and 30 km."""
    options: list[dict[str, Any]] = [{}, {"dtype": "f4"}, {"out": np.ndarray}, {"chunksize": 1}]
    for j, function in enumerate(RESULTS.values()):
        with pytest.raises(TypeError, match=r"besides its numbers.*out=list"):
            shmmap.pmap(function, KM, engine=engine, **options[j % 4])
        assert len(shmmap.pmap(function, KM, out=list, engine=engine)) == 4


def test_blocks_with_units_are_refused_in_arrays(engine: str) -> None:
    """A12: `pmap_chunks`, and outputs that the caller gives."""
    for out in (None, np.zeros((4, 3)), shmmap.zeros((4, 3)), np.ndarray):
        with pytest.raises(TypeError, match=r"besides its numbers.*out=list"):
            shmmap.pmap_chunks(operator.pos, KM, out=out, engine=engine)
    with pytest.raises(TypeError, match=r"besides its numbers.*out=list"):
        shmmap.pmap(operator.pos, KM, out=np.zeros((4, 3)), engine=engine)
    plain = shmmap.pmap_chunks(lambda c: np.asarray(c.to("m")), KM, engine=engine)
    np.testing.assert_array_equal(plain, np.asarray(KM) * 1000)


@pytest.mark.parametrize("at", [0, 2])
def test_one_result_with_a_unit_among_numbers_is_refused(at: int, engine: str) -> None:
    """A12: wherever it is, and although all others are written in place."""
    with pytest.raises(TypeError, match=r"besides its numbers.*out=list"):
        shmmap.pmap(lambda i: Length(i, "m") if i == at else float(i), np.arange(4), engine=engine)


def test_a_stand_in_with_a_unit_is_refused(engine: str) -> None:
    """A12: what `on_error` returns goes the same way."""
    with pytest.raises(TypeError, match="besides its numbers"):
        shmmap.pmap(
            lambda i: 1 // int(i), np.arange(3), on_error=lambda *_: Length(1, "m"), engine=engine
        )


@pytest.mark.parametrize("kind", [Bare, np.matrix, np.recarray, np.memmap])
def test_classes_that_carry_nothing_are_plain(kind: Any, tmp_path: Any) -> None:
    """A12: NumPy's own classes differ in how they are used, and have all they mean in their bytes."""
    engine = "fork"
    dtype = "i4,f8" if kind is np.recarray else "f8"
    plain = np.arange(4).astype("i4").astype(dtype).reshape(2, 2)

    def make(i: Any) -> Any:
        if kind is np.memmap:
            mapped = np.memmap(tmp_path / str(i), dtype, "w+", shape=(2, 2))
            mapped[...] = plain
            return mapped
        return plain.view(kind)

    result = shmmap.pmap(make, np.arange(3), engine=engine)
    assert type(result) is np.ndarray
    assert result.tolist() == [plain.tolist()] * 3


# ---------------------------------------------------------------- arrays of our own


@pytest.mark.parametrize("value", [KM, list(KM), UNITS[1], Unrelated(1.0, "m")])
def test_plain_copies_are_refused(value: Any) -> None:
    """A12: `asshared`, fill values, and ``out=``."""
    with pytest.raises(TypeError, match="besides its numbers"):
        shmmap.asshared(value)
    with pytest.raises(TypeError, match="besides its numbers"):
        shmmap.full((4, 3), value)
    with pytest.raises(TypeError, match="besides its numbers"):
        shmmap.full_like(np.zeros((4, 3)), value)
    if isinstance(value, np.ndarray) and value.ndim:
        with pytest.raises(TypeError, match="besides its numbers"):
            shmmap.pmap(operator.pos, np.zeros((4, 3)), out=value, engine="serial")
    assert shmmap.asshared(np.asarray(KM)).tolist() == KM.tolist()


# ---------------------------------------------------------------- where an error happened


class Stepwise(Length):
    """A class that iterates in a way of its own, as astropy's quantities do."""

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))


def test_an_error_names_its_index(engine: str) -> None:
    """The kind: iterators that do not know how many items are left, by which an error finds its index."""
    items = Length(np.arange(6.0), "m").view(Stepwise)
    with pytest.raises(ZeroDivisionError) as caught:
        shmmap.pmap(lambda v: 1 // int(v - 4), items, chunksize=6, engine=engine)
    assert "for index 4 " in "".join(caught.value.__notes__)


# ---------------------------------------------------------------- other libraries


def test_astropy(process_engine: Any) -> None:
    """A12, C12, A26: the rows of the issue themselves."""
    u = pytest.importorskip("astropy.units")
    km = np.arange(12.0).reshape(4, 3) * u.km
    for engine in ("serial", "threads", process_engine):
        with pytest.raises(TypeError, match=r"a Quantity has besides its numbers.*out=list"):
            shmmap.pmap(
                lambda r: r.sum() if r[0] < 5 * u.km else r.sum().to(u.m), km, engine=engine
            )
        sums = shmmap.pmap(lambda r: r.sum(), km, out=list, engine=engine)
        assert [each.to_value(u.m) for each in sums] == [3000.0, 12000.0, 21000.0, 30000.0]
        for boundary in ("reflect", "periodic", "nearest", None, 5 * u.m):
            metres = shmmap.pmap_chunks(
                lambda c: c.to_value(u.m),
                np.arange(12.0) * u.km,
                depth=1,
                boundary=boundary,
                chunksize=4,
                engine=engine,
            )
            assert metres.tolist() == (np.arange(12.0) * 1000).tolist()
        first, *_ = shmmap.pmap_chunks(
            lambda c: c[0].to_value(u.m), km[:, 0], depth=1, boundary=5 * u.m, out=list,
            engine=engine,
        )  # fmt: skip
        assert first == 5.0
        total = shmmap.preduce(lambda c: c.sum(), km, combine=operator.add, engine=engine)
        assert total == 66 * u.km
    with pytest.raises(ValueError, match="boundary"):
        shmmap.pmap_chunks(np.negative, km, depth=1, boundary=5.0)


def test_tables_of_astropy() -> None:
    """A12: a table as a structured array has the numbers of its columns, without their units."""
    table = pytest.importorskip("astropy.table")
    with_units = table.QTable({"a": np.arange(3.0)}, units={"a": "km"})
    with pytest.raises(TypeError, match="no NumPy array"):
        shmmap.pmap(len, with_units, engine="serial")
    with pytest.raises(TypeError, match="besides its numbers"):
        shmmap.asshared(with_units)
    assert shmmap.pmap(lambda v: v.value, with_units["a"], engine="serial").tolist() == [0, 1, 2]
    plain = table.Table({"a": np.arange(3)})
    assert shmmap.pmap(lambda row: row["a"], plain, engine="serial").tolist() == [0, 1, 2]


def test_astropy_masked() -> None:
    """A10: masked quantities, whose masks are an attribute."""
    masked = pytest.importorskip("astropy.utils.masked").Masked
    values = masked(np.arange(6.0).reshape(2, 3), mask=[[0, 1, 0], [0, 0, 0]])
    masks = shmmap.pmap(lambda r: r.mask.tolist(), values, engine="fork", out=list)
    assert masks == [[False, True, False], [False] * 3]
    with pytest.raises(TypeError, match="besides its numbers"):
        shmmap.asshared(values)


@pytest.mark.parametrize("library", ["pint", "unyt"])
def test_other_libraries_of_units(library: str) -> None:
    """A12: arrays of a class of their own (pint), or a subclass (unyt)."""
    module = pytest.importorskip(library)
    make = module.UnitRegistry().Quantity if library == "pint" else module.unyt_array
    km = make(np.arange(12.0).reshape(4, 3), "km")
    for refused in (
        lambda: shmmap.pmap(lambda i: make(np.arange(3.0), "km"), np.arange(2), engine="serial"),
        lambda: shmmap.pmap(lambda i: make(2.0, "km"), np.arange(2), engine="serial"),
        lambda: shmmap.asshared(km),
    ):
        with pytest.raises(TypeError, match="besides its numbers"):
            refused()
    if library == "pint":
        with pytest.raises(TypeError, match="no NumPy array"):
            shmmap.pmap(np.sum, km, engine="serial")
    else:
        (first, *_) = shmmap.pmap(lambda r: r.sum(), km, out=list, engine="fork")
        assert str(first.to("m")) == "3000.0 m"
