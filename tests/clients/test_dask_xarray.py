"""dask and xarray: a team is dask's scheduler, a block function of xarray's may be a map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from tests.helpers import assert_same

from .memory import copied

N = 1000


def test_dask_scheduler(team: shmmap.Team) -> None:
    dask = pytest.importorskip("dask")
    da, bag = pytest.importorskip("dask.array"), pytest.importorskip("dask.bag")
    values = np.random.default_rng(0).normal(size=(N, N))
    x = da.from_array(values, chunks=(250, N))
    for work in (lambda x: x.sum(axis=0), lambda x: (x @ x.T)[:5], lambda x: da.fft.fft(x)[0]):
        expected = work(x).compute(scheduler="synchronous")
        assert_same(work(x).compute(scheduler=team), expected)
    with dask.config.set(scheduler=team):
        assert bag.from_sequence(range(10)).map(lambda v: v * 2).compute() == list(range(0, 20, 2))

    def fail(block: Any) -> Any:
        raise ValueError("in a block")

    with pytest.raises(ValueError, match="in a block"):
        x.map_blocks(fail, dtype=float, meta=np.zeros((0, 0))).compute(scheduler=team)


def test_dask_array_as_an_input() -> None:
    da = pytest.importorskip("dask.array")
    values = np.random.default_rng(0).normal(size=(N, 10))
    x = da.from_array(values, chunks=(100, 10))
    assert_same(shmmap.pmap(np.sum, x, workers=2), np.stack([row.sum() for row in values]))
    masked = da.ma.masked_greater(x, 1.0)
    (items,) = shmmap.pmap_chunks(
        lambda rows: [rows.count()], masked, chunksize=N, out=list, workers=2
    )
    assert items == [(values <= 1.0).sum()]


@pytest.fixture
def cube() -> Any:
    xarray = pytest.importorskip("xarray")
    values = np.random.default_rng(0).normal(size=(N, 200))
    return xarray.DataArray(
        values, dims=("time", "x"), coords={"time": np.arange(N)}, attrs={"units": "K"}, name="t"
    )


def test_xarray_apply_ufunc(cube: Any) -> None:
    import xarray

    shared = shmmap.share(cube)
    assert shared.identical(cube)
    assert copied(shared) < 20_000
    roots = xarray.apply_ufunc(
        lambda a: shmmap.pmap_chunks(np.square, a, workers=2), shared, keep_attrs=True
    )
    assert roots.identical(xarray.apply_ufunc(np.square, cube, keep_attrs=True))
    medians = xarray.apply_ufunc(
        lambda a: shmmap.pmap(np.median, a, workers=2), shared, input_core_dims=[["x"]]
    )
    assert medians.equals(cube.median("x"))


def test_xarray_dataset_by_ranges(cube: Any) -> None:
    data = shmmap.share(cube.to_dataset())
    assert copied(data) < 20_000
    means = shmmap.pmap_ranges(
        lambda start, stop: data.t.isel(time=slice(start, stop)).mean("x").values, N, workers=2
    )
    np.testing.assert_array_equal(np.concatenate(means), cube.mean("x").values)


def test_xarray_of_a_file(cube: Any, tmp_path: Path) -> None:
    """An opened dataset goes by the path of its file; workers read their own ranges."""
    import xarray

    pytest.importorskip("netCDF4")
    cube.to_dataset().to_netcdf(tmp_path / "cube.nc")
    with xarray.open_dataset(tmp_path / "cube.nc") as data:
        assert copied(data) < 20_000
        sums = shmmap.pmap_ranges(
            lambda start, stop: data.t[start:stop].sum("x").values, N, workers=2
        )
        np.testing.assert_array_equal(np.concatenate(sums), cube.sum("x").values)
    chunked = xarray.open_dataset(tmp_path / "cube.nc", chunks={"time": 250})
    with chunked, shmmap.Team(2) as team:
        result = chunked.t.mean("x").compute(scheduler=team)
    np.testing.assert_array_equal(result.values, cube.mean("x").values)
