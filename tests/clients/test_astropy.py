"""astropy: FITS images and tables reach workers by their file, whatever mode it was opened in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from tests.helpers import assert_same

from .memory import copied, growth

pytest.importorskip("astropy")
from astropy import units
from astropy.io import fits
from astropy.table import QTable, Table

ROWS, COLUMNS = 1024, 4096
IMAGE = np.arange(ROWS * COLUMNS, dtype="f4").reshape(ROWS, COLUMNS)
N = 400_000


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fits") / "a.fits"
    table = fits.BinTableHDU.from_columns(
        [
            fits.Column("x", "D", array=np.arange(float(N))),
            fits.Column("k", "J", array=np.arange(N, dtype="u4"), bzero=2**31),
            fits.Column("name", "4A", array=np.array(["one", "two"])[np.arange(N) % 2]),
            fits.Column("flag", "L", array=np.arange(N) % 2 == 0),
        ]
    )
    scaled = fits.ImageHDU(np.arange(N, dtype="u2"))
    fits.HDUList([fits.PrimaryHDU(IMAGE), table, scaled]).writeto(path)
    return path


@pytest.mark.few(4)
@pytest.mark.parametrize("mode", ["readonly", "denywrite", "copyonwrite", "update"])
def test_images(path: Path, mode: str) -> None:
    with fits.open(path, mode=mode, memmap=True) as file:
        image = file[0].data
        assert image.dtype.byteorder == ">"
        assert copied(image) < 1000
        medians = shmmap.pmap(np.median, image, workers=2)
        assert_same(medians, np.stack([np.median(row) for row in image]))
        assert_same(shmmap.pmap_chunks(np.sqrt, image, workers=2), np.sqrt(image))
    assert_same(shmmap.pmap_chunks(np.sqrt, image, workers=2), np.sqrt(image))


def test_the_pages_of_the_file_are_not_copied(path: Path) -> None:
    with fits.open(path) as file, shmmap.Team(1) as team:
        image = file[0].data
        shmmap.pmap(np.sum, image[:2], engine=team)
        more = growth(
            team,
            lambda memory: shmmap.pmap(
                lambda row: (row.sum(), *memory())[1:], image, engine=team, out=list
            ),
        )
    assert more.of_files > IMAGE.nbytes * 0.9
    assert more.own + more.shared < IMAGE.nbytes * 0.2


def test_what_was_changed_in_memory_is_what_workers_see(path: Path) -> None:
    with fits.open(path) as file:
        image = file[0].data
        image[7] = -1.0  # astropy maps the file copy-on-write: this stays in memory
        assert copied(image) >= image.nbytes
        assert_same(shmmap.pmap(np.sum, image, workers=2), np.stack([row.sum() for row in image]))
    with fits.open(path) as file:
        assert file[0].data[7, 0] == IMAGE[7, 0]


def test_an_image_is_an_output(tmp_path: Path, path: Path) -> None:
    other = tmp_path / "b.fits"
    other.write_bytes(path.read_bytes())
    with fits.open(other, mode="update") as file:
        shmmap.pmap_chunks(np.negative, file[0].data, out=file[0].data, workers=2)
    assert_same(np.asarray(fits.getdata(other), "f4"), -IMAGE)


def test_scaled_images_are_in_memory(path: Path) -> None:
    """astropy converts them as they are read: what workers get is a copy."""
    with fits.open(path) as file:
        image = file[2].data
    assert image.dtype == np.uint16
    assert_same(shmmap.pmap_chunks(np.square, image, workers=2), np.square(image))


def test_tables(path: Path) -> None:
    with fits.open(path) as file:
        table = file[1].data
        assert copied(table["x"]) < 1000, "a column as it is in the file"
        assert_same(shmmap.pmap_chunks(np.sqrt, table["x"], workers=2), np.sqrt(table["x"]))

        def look(rows: Any) -> Any:
            return [(type(rows).__name__, rows["x"].sum(), int(rows["k"][-1]), rows["name"][0])]

        def look_at_all(at: int) -> Any:
            return table["x"][at], int(table["k"][at]), table["name"][at], bool(table["flag"][at])

        parts = shmmap.pmap_chunks(look, table, chunksize=N // 4, out=list, workers=2)
        quarters = [table[at : at + N // 4] for at in range(0, N, N // 4)]
        assert [row for part in parts for row in part] == [look(rows)[0] for rows in quarters]
        assert shmmap.pmap(look_at_all, [0, 7, N - 1], workers=2) == [
            look_at_all(at) for at in (0, 7, N - 1)
        ]


def test_tables_of_astropy(path: Path) -> None:
    table = Table.read(path, hdu=1, memmap=True)
    assert copied(np.asarray(table["x"])) < 1000
    assert_same(
        shmmap.pmap_chunks(np.sqrt, np.asarray(table["x"]), workers=2), np.sqrt(np.arange(float(N)))
    )
    shared = shmmap.share(Table({"x": np.arange(float(N)), "i": np.arange(N)}))
    sums = shmmap.pmap_ranges(
        lambda start, stop: float(shared["x"][start:stop].sum()), N, chunksize=N // 4, workers=2
    )
    assert sums == [float(shared["x"][at : at + N // 4].sum()) for at in range(0, N, N // 4)]
    with pytest.raises(TypeError, match="QTable"):
        shmmap.pmap(len, QTable({"x": np.arange(3.0) * units.m}), workers=2)


def test_what_holds_the_file_is_refused_by_name(path: Path) -> None:
    with fits.open(path) as file:
        with pytest.raises(TypeError, match=r"file.*Open it inside the function, by path"):
            shmmap.pmap(lambda i: float(file[0].data[i].sum()), range(3), workers=2)

    def open_it(i: int) -> float:
        with fits.open(path) as file:
            return float(file[0].data[i].sum())

    assert shmmap.pmap(open_it, range(3), workers=2) == [float(row.sum()) for row in IMAGE[:3]]
