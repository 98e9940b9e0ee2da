"""zarr, h5py and netCDF4: workers open the store themselves, or it is read once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from tests.helpers import assert_same

VALUES = np.random.default_rng(0).normal(size=(400, 50))
SUMS = np.stack([row.sum() for row in VALUES])


@pytest.mark.unguarded  # the event loop of zarr stays
def test_zarr(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr", "3")
    source = zarr.create_array(tmp_path / "in", shape=VALUES.shape, chunks=(40, 50), dtype="f8")
    target = zarr.create_array(tmp_path / "out", shape=VALUES.shape, chunks=(30, 50), dtype="f8")
    source[:] = VALUES
    assert_same(shmmap.pmap(np.sum, source, workers=2), SUMS)
    assert shmmap.pmap_chunks(np.negative, source, out=target, workers=2) is target
    assert_same(target[:], -VALUES)


def test_h5py(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=VALUES, chunks=(40, 50), compression="gzip")
    with h5py.File(tmp_path / "x.h5") as file, h5py.File(tmp_path / "y.h5", "w") as out:
        assert_same(shmmap.pmap(np.sum, file["x"], workers=2), SUMS)
        y = out.create_dataset("y", VALUES.shape, "f4")
        shmmap.pmap_chunks(np.negative, file["x"], out=y, workers=2)
        np.testing.assert_array_equal(y[:], -VALUES.astype("f4"))
        with pytest.raises(TypeError, match="does not pickle"):
            shmmap.pmap(lambda i: file["x"][i].sum(), range(3), workers=2)


def test_netcdf4(tmp_path: Path) -> None:
    netcdf = pytest.importorskip("netCDF4")
    path = tmp_path / "x.nc"
    with netcdf.Dataset(path, "w") as file:
        file.createDimension("t", 400)
        file.createDimension("x", 50)
        file.createVariable("x", "f8", ("t", "x"))[:] = VALUES
        masked = file.createVariable("m", "i4", ("t",), fill_value=-1)
        masked[:] = np.ma.masked_equal(np.arange(400) % 5, 0)
    with netcdf.Dataset(path) as file:
        assert_same(shmmap.pmap(np.sum, file["x"], workers=2), SUMS)
        counts = shmmap.pmap_chunks(
            lambda part: [int(part.count())], file["m"], chunksize=100, out=list, workers=2
        )
        assert [count for part in counts for count in part] == [80] * 4, "the mask is there"
        variable = file["x"]
        with pytest.raises(TypeError, match=r"variable is of type netCDF4.*open it in"):
            shmmap.pmap(lambda i: variable[i].sum(), range(3), workers=2)

    def read(start: int, stop: int) -> Any:
        with netcdf.Dataset(path) as file:
            return np.asarray(file["x"][start:stop].sum(axis=1))

    assert_same(np.concatenate(shmmap.pmap_ranges(read, 400, workers=2)), VALUES.sum(axis=1))
