"""tifffile and scikit-image: stacks are mapped from their file, filters run on frames and on bands."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

import shmmap
from tests.helpers import assert_same

from .memory import copied, growth

STACK = np.random.default_rng(0).integers(0, 60_000, (40, 512, 512)).astype("u2")


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_tifffile(tmp_path: Path, byteorder: str) -> None:
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, STACK, photometric="minisblack", byteorder=byteorder)
    stack = tifffile.memmap(path, mode="r")
    assert shmmap.is_shared(stack)
    assert copied(stack) < 1000
    assert_same(shmmap.pmap(np.max, stack, workers=2), STACK.max(axis=(1, 2)))
    out = tifffile.memmap(
        tmp_path / "out.tif", shape=STACK.shape, dtype="u2", photometric="minisblack"
    )
    shmmap.pmap_chunks(lambda part: part // 2, stack, out=out, workers=2)
    out.flush()
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), STACK // 2)


def test_the_pages_of_the_file_are_not_copied(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "stack.tif", STACK, photometric="minisblack")
    stack = tifffile.memmap(tmp_path / "stack.tif", mode="r")
    with shmmap.Team(1) as team:
        shmmap.pmap(np.sum, stack[:2], engine=team)
        more = growth(
            team,
            lambda memory: shmmap.pmap(
                lambda frame: (frame.max(), *memory())[1:], stack, engine=team, out=list
            ),
        )
    assert more.of_files > STACK.nbytes * 0.9
    assert more.own + more.shared < STACK.nbytes * 0.2


@pytest.mark.unguarded  # the event loop of zarr stays
def test_a_zarr_view_of_a_tiff_is_refused(tmp_path: Path) -> None:
    tifffile, zarr = pytest.importorskip("tifffile"), pytest.importorskip("zarr", "3")
    tifffile.imwrite(tmp_path / "stack.tif", STACK[:4], photometric="minisblack")
    with tifffile.imread(tmp_path / "stack.tif", aszarr=True) as store:
        view = zarr.open(store, mode="r")
        with pytest.raises(ValueError, match=r"ZarrTiffStore: use engine='threads'"):
            shmmap.pmap(np.max, view, workers=2)
        assert_same(shmmap.pmap(np.max, view, engine="threads"), STACK[:4].max(axis=(1, 2)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_skimage() -> None:
    filters = pytest.importorskip("skimage.filters")
    stack = shmmap.asshared(STACK[:6, :64, :64] / 60_000)
    blur = functools.partial(filters.gaussian, sigma=2)
    expected = np.stack([blur(frame) for frame in stack])
    assert_same(shmmap.pmap(blur, stack, workers=2), expected)
    large = stack.reshape(-1, 64)
    bands = shmmap.pmap_chunks(
        functools.partial(filters.gaussian, sigma=1, truncate=4.0, mode="nearest"),
        large,
        depth=4,
        boundary="nearest",
        chunksize=50,
        workers=2,
    )
    np.testing.assert_allclose(
        bands, filters.gaussian(large, sigma=1, truncate=4.0, mode="nearest"), rtol=1e-12
    )
