"""Shared arrays are what NumPy's functions of the same name give, but for where they live."""

from __future__ import annotations

from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import shmmap
from tests.helpers import assert_same
from tests.strategies import PLAIN, arrays, dtypes, fill, shapes

ORDERS = st.sampled_from(["C", "F", "A", "K", None])


def assert_shared_like(result: Any, expected: Any) -> None:
    """Assert that a shared array equals another one, in its layout too."""
    assert type(result) is np.ndarray
    assert shmmap.is_shared(result)
    assert_same(result, expected)
    assert result.flags.c_contiguous == expected.flags.c_contiguous
    assert result.flags.f_contiguous == expected.flags.f_contiguous
    assert result.flags.writeable


@given(a=arrays(shape=shapes(0, 3)), order=ORDERS)
def test_asshared_is_asarray(a: Any, order: Any) -> None:
    result = shmmap.asshared(a, order=order)
    assert shmmap.is_shared(result)
    assert_same(result, np.asarray(a, order=order))


@given(a=arrays(shape=shapes(0, 3)), order=ORDERS)
def test_asshared_copies_only_what_is_not_shared(a: Any, order: Any) -> None:
    once = shmmap.asshared(a, order=order)
    again = shmmap.asshared(once, order=order)
    assert np.may_share_memory(once, again) or once.size == 0
    if not shmmap.is_shared(a):
        assert not np.may_share_memory(once, a)


@given(a=arrays(dtype=st.sampled_from(["i2", "f4", "?", "u8"]).map(np.dtype)))
def test_asshared_converts_as_asarray_does(a: Any) -> None:
    assert_same(shmmap.asshared(a, dtype="f8"), np.asarray(a, dtype="f8"))


@pytest.mark.parametrize("value", [3, 2.5, [1, 2], [[True], [False]], (), "text", np.float32(1)])
def test_asshared_takes_what_asarray_takes(value: Any) -> None:
    result = shmmap.asshared(value)
    assert shmmap.is_shared(result)
    assert_same(result, np.asarray(value))


@given(shape=shapes(0, 3), dtype=dtypes(), order=st.sampled_from("CF"))
def test_allocation_is_numpys(shape: Any, dtype: Any, order: Any) -> None:
    assert_shared_like(shmmap.zeros(shape, dtype, order), np.zeros(shape, dtype, order))
    empty = shmmap.empty(shape, dtype, order)
    expected = np.empty(shape, dtype, order)
    empty[...] = expected[...] = np.zeros((), dtype)
    assert_shared_like(empty, expected)


@given(shape=shapes(0, 3), dtype=st.sampled_from(PLAIN), order=st.sampled_from("CF"))
def test_ones_is_numpys(shape: Any, dtype: Any, order: Any) -> None:
    try:
        expected = np.ones(shape, dtype, order)
    except (TypeError, ValueError) as error:
        with pytest.raises(type(error)):
            shmmap.ones(shape, dtype, order)
    else:
        assert_shared_like(shmmap.ones(shape, dtype, order), expected)


@pytest.mark.parametrize("value", [7, 2.5, True, 1j, "abc", b"xy", np.float32(3), [1, 2, 3]])
def test_full_is_numpys(value: Any) -> None:
    assert_shared_like(shmmap.full((2, 3), value), np.full((2, 3), value))
    assert_shared_like(shmmap.full((3,), value, "U9"), np.full((3,), value, "U9"))


def test_defaults_are_numpys() -> None:
    for name in ("empty", "zeros", "ones"):
        assert getattr(shmmap, name)(3).dtype == np.float64
        assert getattr(shmmap, name)((2, 3)).shape == (2, 3)


@given(prototype=arrays(shape=shapes(0, 3)), order=st.sampled_from("CFAK"))
def test_like_is_numpys(prototype: Any, order: Any) -> None:
    result = shmmap.zeros_like(prototype, order=order)
    expected = np.zeros_like(prototype, order=order)
    assert_shared_like(result, expected)
    if prototype.size:
        assert result.strides == expected.strides
    result = shmmap.empty_like(prototype, order=order)
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
    assert shmmap.is_shared(result)


@given(prototype=arrays(dtype=st.sampled_from(["i2", "f4", "c8"]).map(np.dtype)))
def test_like_takes_dtype_and_shape(prototype: Any) -> None:
    assert_shared_like(shmmap.ones_like(prototype), np.ones_like(prototype))
    assert_shared_like(shmmap.ones_like(prototype, "i8"), np.ones_like(prototype, "i8"))
    assert_shared_like(
        shmmap.full_like(prototype, 5, shape=(2, 2)), np.full_like(prototype, 5, shape=(2, 2))
    )
    assert_shared_like(shmmap.zeros_like([1, 2]), np.zeros_like([1, 2]))


@pytest.mark.parametrize("mmap_mode", [None, "r", "r+", "c"])
@given(a=arrays(shape=shapes(0, 3)))
def test_load_is_numpys(tmp_path_factory: Any, mmap_mode: Any, a: Any) -> None:
    path = tmp_path_factory.mktemp("load") / "a.npy"
    np.save(path, a)
    if mmap_mode is None:
        result, expected = shmmap.load(path), np.load(path)
        assert_shared_like(result, expected)
    elif a.size:  # NumPy does not map empty files either
        result, expected = shmmap.load(path, mmap_mode), np.load(path, mmap_mode)
        assert isinstance(result, np.memmap)
        assert_same(np.asarray(result), np.asarray(expected))
        assert result.flags.writeable == expected.flags.writeable
        assert shmmap.is_shared(result) == (mmap_mode != "c")


def test_load_takes_a_name_and_a_path(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(5))
    for path in (tmp_path / "a.npy", str(tmp_path / "a.npy")):
        assert_same(shmmap.load(path), np.arange(5))


@given(
    shape=shapes(0, 3), dtype=dtypes(), order=st.sampled_from("CF"), offset=st.sampled_from([0, 64])
)
def test_adopt_sees_the_bytes(shape: Any, dtype: Any, order: Any, offset: int) -> None:
    nbytes = int(np.prod(shape)) * dtype.itemsize
    memory = shared_memory.SharedMemory(create=True, size=max(1, offset + nbytes))
    try:
        for which in (memory, memory.name):
            a = shmmap.adopt(which, shape, dtype, offset=offset, order=order)
            assert (a.shape, a.dtype) == (shape, dtype)
            assert shmmap.is_shared(a)
            fill(a, 1)
            there = np.ndarray(shape, dtype, bytes(memory.buf), offset, order=order)
            assert_same(np.asarray(a), there)
            assert a.flags.f_contiguous == there.flags.f_contiguous
            del a
    finally:
        memory.close()
        memory.unlink()


@given(a=arrays(shape=shapes(1, 3)))
def test_any_view_of_a_shared_array_is_shared(a: Any) -> None:
    shared = shmmap.asshared(a)
    for view in (shared[::-1], shared.T, shared[1:], np.asarray(shared), shared[..., None]):
        assert shmmap.is_shared(view)
    assert not shmmap.is_shared(np.array(shared))


@given(dtype=st.sampled_from([object, [("a", "i4"), ("b", object)]]))
def test_object_dtype_is_refused_with_a_way_out(dtype: Any) -> None:
    a = np.zeros(3, dtype)
    for call in (
        lambda: shmmap.asshared(a),
        lambda: shmmap.zeros(3, dtype),
        lambda: shmmap.empty_like(a),
    ):
        with pytest.raises(TypeError, match="object"):
            call()
