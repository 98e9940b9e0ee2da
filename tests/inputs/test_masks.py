"""Masks arrive, or what would lose them is refused.

The kind: whatever is a masked array, or is read as one. Plain data in its place would show the values
below the mask, fill values for the most part, as if they had been measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap

MASKED = np.ma.masked_array(
    np.arange(12.0).reshape(4, 3), np.arange(12).reshape(4, 3) % 5 == 1, fill_value=-999.0
)
MEANS = np.asarray(MASKED.mean(axis=1))


class Reader:
    """What a library lends that reads masked arrays out of a file, in a few lines."""

    def __init__(self, values: Any) -> None:
        self.values = values
        self.shape, self.dtype, self.ndim = values.shape, values.dtype, values.ndim

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.values if dtype is None else self.values.astype(dtype)

    def __getitem__(self, index: Any) -> Any:
        return self.values[index]

    def __len__(self) -> int:
        return len(self.values)


def as_reader(folder: Path) -> Any:
    return Reader(MASKED)


def as_netcdf(folder: Path) -> Any:
    """Packed integers, scaled and shifted when they are read, as archives have them."""
    netcdf = pytest.importorskip("netCDF4")
    with netcdf.Dataset(folder / "sst.nc", "w") as dataset:
        dataset.createDimension("t", 4)
        dataset.createDimension("x", 3)
        variable = dataset.createVariable("sst", "i2", ("t", "x"), fill_value=-999)
        variable.scale_factor, variable.add_offset = 0.5, 3.0
        variable[:] = MASKED
    return netcdf.Dataset(folder / "sst.nc")["sst"]


def as_dask(folder: Path) -> Any:
    return pytest.importorskip("dask.array").from_array(MASKED, chunks=2)


sources = pytest.mark.parametrize("source", [as_reader, as_netcdf, as_dask])


@sources
def test_what_is_read_with_a_mask_is_mapped_with_it(
    source: Any, tmp_path: Path, engine: str
) -> None:
    """A10: `np.mean` of an item of a `netCDF4.Variable` took fill values for data."""
    values = source(tmp_path)
    np.testing.assert_allclose(shmmap.pmap(np.mean, values, engine=engine), MEANS)
    parts = shmmap.pmap_chunks(lambda c: c, values, chunksize=3, out=list, engine=engine)
    assert [np.ma.getmaskarray(part).tolist() for part in parts] == [
        MASKED.mask[:3].tolist(),
        MASKED.mask[3:].tolist(),
    ]
    total = shmmap.preduce(lambda c: c.sum(), values, combine=lambda a, b: a + b, engine=engine)
    np.testing.assert_allclose(total, MASKED.sum())
    along = shmmap.pmap(lambda column: column.sum(), values, axis=1, engine=engine)
    np.testing.assert_allclose(along, MASKED.sum(axis=0))


@sources
def test_a_plain_copy_is_refused(source: Any, tmp_path: Path) -> None:
    """A10: `asshared` of what is read with a mask had the fill values as data."""
    values = source(tmp_path)
    with pytest.raises(TypeError, match="mask"):
        shmmap.asshared(values)
    with pytest.raises(TypeError, match="mask"):
        shmmap.asshared(values, "f4")


@pytest.mark.parametrize(
    "value", [[MASKED, MASKED], [1.0, np.ma.masked], ([MASKED[0]],), [Reader(MASKED)]]
)
def test_lists_of_masked_arrays_are_no_plain_array(value: Any) -> None:
    """A10: NumPy makes a plain array of a list of masked ones, without the masks."""
    with pytest.raises(TypeError, match="mask"):
        shmmap.asshared(value)
    with pytest.raises(TypeError, match="mask"):
        shmmap.pmap(lambda i: value[0] if isinstance(value, tuple) else value, np.arange(2))


def test_a_masked_output_is_refused(engine: str) -> None:
    """A10: results written into the data of a masked array leave its mask as it was."""
    for out in (MASKED[0].copy(), (np.zeros(3), MASKED[0].copy())):
        with pytest.raises(TypeError, match="mask"):
            shmmap.pmap(lambda i: i, np.arange(3.0), out=out, engine=engine)


@pytest.mark.parametrize("verb", [shmmap.pmap, shmmap.pmap_chunks])
def test_masked_results_are_refused_in_arrays(verb: Any, engine: str) -> None:
    """A10: `np.stack` of masked arrays drops the masks; so nothing but a list holds them."""
    for out in (None, np.ndarray, np.zeros((4, 3))):
        with pytest.raises(TypeError, match=r"mask.*out=list"):
            verb(lambda part: part * 2, MASKED, out=out, engine=engine)
    with pytest.raises(TypeError, match=r"mask.*out=list"):
        verb(lambda part: (np.asarray(part), part), MASKED, engine=engine)
    listed = verb(lambda part: part * 2, MASKED, out=list, chunksize=2, engine=engine)
    together = np.ma.concatenate([each.reshape(-1, 3) for each in listed])
    assert together.tolist() == (MASKED * 2).tolist()


def test_masked_scalars_are_refused(engine: str) -> None:
    """A10: the mean of a row that is masked altogether is `np.ma.masked`, which is no number."""
    rows = np.ma.masked_array(np.ones((3, 2)), [[0, 0], [1, 1], [0, 0]])
    with pytest.raises(TypeError, match="mask"):
        shmmap.pmap(lambda row: row.mean(), rows, engine=engine)


def test_masks_arrive_whole_and_captured(engine: str) -> None:
    """A10: with ``axis=None``, captured, and in `share`."""

    def look(i: Any, whole: Any) -> Any:
        return whole[i].sum(), MASKED[i].sum(), shared[i].sum(), whole.fill_value

    shared = shmmap.share(MASKED)
    sums = np.asarray(MASKED.sum(axis=1))
    result = shmmap.pmap(look, range(4), MASKED, axis=(0, None), engine=engine)
    assert result == [(each, each, each, -999.0) for each in sums]


def test_a_masked_boundary_stays_masked(engine: str) -> None:
    """A10: ``boundary=np.ma.masked`` became 0.0 with no mask."""
    items = np.ma.masked_array(np.arange(1.0, 5.0), [0, 1, 0, 0])
    parts = shmmap.pmap_chunks(
        lambda c: c.tolist(), items, depth=1, boundary=np.ma.masked, out=list, engine=engine
    )
    assert parts[0][0] is None
    assert parts[-1][-1] is None
    with pytest.raises(ValueError, match="boundary"):
        shmmap.pmap_chunks(
            np.negative, np.arange(4.0), depth=1, boundary=np.ma.masked, engine=engine
        )


def test_hard_masks_stay_hard_beside_a_boundary() -> None:
    items = np.ma.masked_array(np.arange(1.0, 5.0), [0, 1, 0, 1], hard_mask=True)
    (part,) = shmmap.pmap_chunks(
        lambda c: (c.tolist(), c.hardmask),
        items,
        depth=1,
        boundary="reflect",
        out=list,
        chunksize=4,
        engine="serial",
    )
    assert part == ([1.0, 1.0, None, 3.0, None, None], True)


@pytest.mark.parametrize("make", [shmmap.full, shmmap.full_like])
def test_a_masked_fill_value_is_refused(make: Any) -> None:
    """A10: a plain array filled with `np.ma.masked` would hold zeros."""
    with pytest.raises(TypeError, match="mask"):
        make(2 if make is shmmap.full else np.zeros(2), np.ma.masked)
