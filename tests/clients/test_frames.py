"""pandas, polars and Arrow: frames are mapped by rows, and shared frames are not copied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap

from .memory import copied

N = 300_000


def columns() -> dict[str, Any]:
    return {
        "x": np.random.default_rng(0).normal(size=N),
        "i": np.arange(N),
        "name": [f"n{i % 7}" for i in range(N)],
    }


def test_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")  # strings are Python objects without it, and not shared
    frame = pandas.DataFrame(columns())
    shared = shmmap.share(frame)
    assert copied(shared) < 20_000
    assert shmmap.is_shared(shared["x"].to_numpy())

    def work(rows: Any) -> Any:
        return rows.assign(y=rows["x"] * 2, length=rows["name"].str.len())

    assert pandas.concat(shmmap.pmap_chunks(work, shared, workers=2)).equals(work(frame))
    total = shmmap.preduce(lambda rows: rows["i"].sum(), shared, combine=np.add, workers=2)
    assert total == frame["i"].sum()
    squares = shmmap.pmap_chunks(np.square, shared["x"], workers=2)
    np.testing.assert_array_equal(squares, np.square(frame["x"].to_numpy()))


def test_pandas_groups() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"key": np.arange(1000) % 7, "x": np.arange(1000.0)})
    groups = dict(tuple(frame.groupby("key")))
    spreads = shmmap.pmap(lambda rows: float(np.ptp(rows["x"])), list(groups.values()), workers=2)
    assert spreads == [float(np.ptp(rows["x"])) for rows in groups.values()]


@pytest.mark.unguarded  # the threads of polars stay
def test_polars() -> None:
    polars = pytest.importorskip("polars")
    pytest.importorskip("pyarrow")
    frame = polars.DataFrame(columns())
    shared = shmmap.share(frame)
    assert copied(shared) < 20_000

    def work(rows: Any) -> Any:
        return rows.with_columns(y=rows["x"] * 2, length=rows["name"].str.len_chars())

    assert polars.concat(shmmap.pmap_chunks(work, shared, workers=2)).equals(work(frame))
    total = shmmap.preduce(lambda rows: rows["i"].sum(), shared, combine=np.add, workers=2)
    assert total == frame["i"].sum()


def test_arrow() -> None:
    arrow = pytest.importorskip("pyarrow")
    compute = pytest.importorskip("pyarrow.compute")
    table = arrow.table(columns())
    shared = shmmap.share(table)
    assert copied(shared) < 20_000

    def work(rows: Any) -> Any:
        return rows.append_column("y", compute.multiply(rows["x"], 2))

    parts = shmmap.pmap_chunks(work, shared, workers=2)
    assert arrow.concat_tables(parts).equals(work(table))


def test_arrow_files_are_not_copied(tmp_path: Path) -> None:
    """A table in a memory-mapped file: workers map the file."""
    arrow = pytest.importorskip("pyarrow")
    table = arrow.table({"x": columns()["x"]})
    path = str(tmp_path / "table.arrow")
    with arrow.OSFile(path, "wb") as file, arrow.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    with arrow.memory_map(path) as file:
        mapped = arrow.ipc.open_file(file).read_all()
    assert copied(mapped) < 20_000
    values = mapped["x"].chunk(0).to_numpy()
    assert copied(values) < 20_000
    parts = shmmap.pmap_chunks(lambda rows: rows["x"].to_numpy() * 2, mapped, workers=2)
    np.testing.assert_array_equal(np.concatenate(parts), columns()["x"] * 2)
    np.testing.assert_array_equal(
        shmmap.pmap_chunks(np.square, values, workers=2), np.square(columns()["x"])
    )
