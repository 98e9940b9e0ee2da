"""`load` of ``.npz`` files: arrays by name, lazily, in shared memory or mapped."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given

import shmmap
from tests.helpers import assert_same
from tests.strategies import arrays

from .test_arrays import shapes

ARRAYS: dict[str, Any] = {
    "x": np.arange(12.0).reshape(3, 4),
    "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "empty": np.zeros((0, 3)),
    "scalar": np.array(5, ">i2"),
    "text": np.array(["a", "bcd"]),
    "record": np.zeros(2, [("a", "f8"), ("b", "i4")]),
    "arr.dots": np.ones(2),
}


@pytest.fixture(params=["stored", "compressed"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "a.npz"
    (np.savez if request.param == "stored" else np.savez_compressed)(path, **ARRAYS)
    return path


@pytest.mark.parametrize("mode", [None, "r"])
def test_it_is_numpys(path: Path, mode: Any) -> None:
    loaded = shmmap.load(path, mode)
    with np.load(path) as expected, loaded as archive:
        assert archive.files == list(archive) == list(archive.keys()) == expected.files
        assert len(archive) == len(ARRAYS) and "x" in archive and "x.npy" in archive
        assert "y" not in archive
        for name in expected.files:
            assert_same(np.asarray(archive[name]), expected[name])
            assert archive[name].flags.f_contiguous == expected[name].flags.f_contiguous
            assert archive[name].flags.writeable == (mode is None)
            if archive[name].size:
                assert shmmap.is_shared(archive[name])
        assert_same(np.asarray(archive["x.npy"]), expected["x"])
    assert_same(np.asarray(loaded["x"]), ARRAYS["x"])
    with pytest.raises(KeyError, match=r"nothing.*which has x, fortran"):
        loaded["nothing"]


@given(a=arrays(shape=shapes(0, 3)))
def test_any_array(tmp_path_factory: Any, a: Any) -> None:
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    np.savez(path, a)
    for mode in (None, "r"):
        assert_same(np.asarray(shmmap.load(path, mode)["arr_0"]), a)


def test_each_is_read_once_and_let_go(path: Path) -> None:
    loaded = shmmap.load(str(path))
    x = loaded["x"]
    assert loaded["x"] is x
    x[0, 0] = -1
    del x
    assert loaded["x"][0, 0] == 0.0


def test_mapped_where_it_may_be(tmp_path: Path) -> None:
    """What is stored as it is, at a place that fits its numbers, is mapped; all else is read."""
    big = np.arange(100_000.0)
    for at in range(8):  # NumPy does not align what it stores
        np.savez(tmp_path / "a.npz", **{"n" * (at + 1): big})
        (a,) = shmmap.load(tmp_path / "a.npz", "r").values()
        assert_same(np.asarray(a), big)
        if isinstance(a, np.memmap):
            break
    else:
        pytest.fail("it was never mapped")
    total = shmmap.preduce(np.sum, a, workers=2)
    assert total == shmmap.preduce(np.sum, big, workers=2)
    np.savez_compressed(tmp_path / "a.npz", x=big)
    assert type(shmmap.load(tmp_path / "a.npz", "r")["x"]) is np.ndarray


def test_in_workers(path: Path) -> None:
    loaded = shmmap.load(path)
    assert shmmap.pmap(lambda i: float(loaded["x"][i].sum()), range(3), workers=2) == [6, 22, 38]
    x = loaded["x"]
    assert_same(shmmap.pmap(np.sum, x, workers=2), np.stack([row.sum() for row in x]))


def test_what_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, o=np.array([1, "a"], object), x=np.arange(3))
    for mode in ("r+", "c"):
        with pytest.raises(ValueError, match="mapped for reading only"):
            shmmap.load(path, mode)
    loaded = shmmap.load(path)
    with pytest.raises(TypeError, match=r"object.*|o\.npy"):
        loaded["o"]
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("note.txt", "hello there")
    with pytest.raises(ValueError, match="another file now"):
        loaded["x"]
    loaded = shmmap.load(path)
    with pytest.raises(ValueError, match=r"note\.txt"):
        loaded["note.txt"]
    assert_same(loaded["x"], np.arange(3))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match="damaged"):
        shmmap.load(path)
    np.savez(path, x=np.arange(1000))
    damaged = bytearray(path.read_bytes())
    damaged[1000] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"damaged.*CRC"):
        shmmap.load(path)["x"]
    path.unlink()
    with pytest.raises(FileNotFoundError):
        shmmap.load(path)


def test_the_folder_may_change(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    loaded = shmmap.load(path.name)
    monkeypatch.chdir(os.sep)
    assert_same(loaded["x"], ARRAYS["x"])
