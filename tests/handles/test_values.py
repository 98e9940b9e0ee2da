"""What arrives by a handle is the same array: any view, dtype or file; writes are seen on both sides."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from tests.handles import reader
from tests.handles.reader import Reader
from tests.memory.test_handles import VIEWS


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Reader]:
    with Reader() as there:
        yield there


ARRAYS = {
    "large": lambda: shmmap.asshared(np.arange(1.0, 1 << 18).reshape(3, -1)),
    "small": lambda: shmmap.asshared(np.arange(24).reshape(2, 3, 4)),
    "fortran": lambda: shmmap.asshared(np.asfortranarray(np.arange(12.0).reshape(3, 4))),
    "0-d": lambda: shmmap.full((), 7),
    "no items": lambda: shmmap.empty((0, 3)),
    "no items of some": lambda: shmmap.zeros((5, 3))[5:],
    "structured": lambda: shmmap.zeros(3, [("name", "U3"), ("value", ">f4", (2,))]),
    "field": lambda: shmmap.zeros(3, [("a", "i1"), ("b", "f8")])["b"],
    "dates": lambda: shmmap.asshared(np.array(["2020-01-01", "NaT"], "M8[D]")),
    "strings": lambda: shmmap.asshared(np.array([b"ab", b"c"])),
    "complex": lambda: shmmap.asshared(np.array([1j, 2.0])),
    "big-endian": lambda: shmmap.asshared(np.arange(5, dtype=">i2")),
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_any_array(elsewhere: Reader, array: Any) -> None:
    h = shmmap.handle(array())
    assert len(pickle.dumps(shmmap.handle(h.array(), lease=0))) < 1000
    assert elsewhere(reader.look, h) == reader.look(h)


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_any_view(elsewhere: Reader, view: Any) -> None:
    x = shmmap.asshared(np.arange(120.0).reshape(4, 6, 5))
    v = view(x)
    h = shmmap.handle(v)
    assert elsewhere(reader.look, h) == reader.look(h)
    at = elsewhere(reader.keep, h) - 1
    x[...] = 3
    assert (elsewhere(reader.read, at) == v).all(), "what is written here is seen there"
    if v.flags.writeable and v.dtype == float:
        elsewhere(reader.fill, h, 9)
        assert (v == 9).all(), "and the other way round"
    back = elsewhere(reader.send_back, at).array()
    assert back.size == 0 or np.shares_memory(back, x), (
        "back home it is in the mapping that is there"
    )
    elsewhere(reader.drop)


def test_what_is_read_only_stays_so(elsewhere: Reader) -> None:
    x = shmmap.zeros(5)
    x.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        elsewhere(reader.fill, shmmap.handle(x), 1)


def test_views_of_one_array_overlap_there(elsewhere: Reader) -> None:
    x = shmmap.zeros((300, 400))
    before = elsewhere(reader.counts)
    for part in (x, x[::2], x.T, x[100:, 5]):
        elsewhere(reader.keep, shmmap.handle(part))
    after = elsewhere(reader.counts)
    assert after[1] == before[1] + 1, "mapped once"
    elsewhere(reader.fill, shmmap.handle(x[100]), 4)
    assert elsewhere(reader.read, -1)[0] == 4
    elsewhere(reader.drop)
    assert elsewhere(reader.counts) == before, "and let go with the last"


def test_through_a_team_there(elsewhere: Reader) -> None:
    x = shmmap.zeros((6, 50_000))
    elsewhere(reader.map_there, shmmap.handle(x))
    assert (x == 1).all()


def test_in_this_process() -> None:
    x = shmmap.zeros(10)
    h = shmmap.handle(x)
    assert h.array() is x
    assert copy.copy(h) is h and copy.deepcopy([h])[0] is h
    again = pickle.loads(pickle.dumps(h))
    assert np.shares_memory(again.array(), x)
    assert "shape (10,), dtype float64" in repr(again)


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_an_array_in_a_file_goes_by_the_file(elsewhere: Reader, tmp_path: Path, mode: Any) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.arange(60_000.0).reshape(60, 1000))
    a = shmmap.load(path, mode)
    for view in (a, a[::-2, 5:], a.T, np.asarray(a)[3:]):
        h = shmmap.handle(view)
        assert elsewhere(reader.look, h) == reader.look(h)
        assert np.shares_memory(pickle.loads(pickle.dumps(h)).array(), a)
    there = pickle.loads(pickle.dumps(shmmap.handle(a))).array()
    assert isinstance(there, np.memmap) and str(there.filename) == str(path)
    if mode == "r+":
        elsewhere(reader.fill, shmmap.handle(a), 5)
        assert (a == 5).all() and (np.load(path) == 5).all()
        elsewhere(reader.map_there, shmmap.handle(a))
        assert (a == 6).all()


def test_masked_arrays_keep_their_mask(elsewhere: Reader) -> None:
    m = shmmap.share(np.ma.masked_greater(np.arange(12).reshape(3, 4), 7))
    assert elsewhere(reader.look, shmmap.handle(m)) == reader.look(shmmap.handle(m))
    x, mask = shmmap.zeros(5), shmmap.zeros(5, bool)
    both = np.ma.MaskedArray(x, mask, copy=False)
    elsewhere(reader.fill, shmmap.handle(both[1:3]), np.ma.masked)
    assert mask.tolist() == [False, True, True, False, False]


def test_subclasses_keep_their_class(elsewhere: Reader) -> None:
    for kind in (np.recarray, np.matrix):
        x = shmmap.zeros((3, 2), [("a", "f8")] if kind is np.recarray else float).view(kind)
        assert elsewhere(reader.look, shmmap.handle(x))[0] == kind.__name__


def test_quantities_keep_their_unit(elsewhere: Reader) -> None:
    u = pytest.importorskip("astropy.units")
    q = u.Quantity(shmmap.ones(5), u.km, copy=False)
    back = pickle.loads(pickle.dumps(shmmap.handle(q[::2]))).array()
    assert back.unit == u.km and np.shares_memory(back, q)
    elsewhere(reader.fill, shmmap.handle(q), 7000 * u.m)
    assert (q == 7 * u.km).all()
