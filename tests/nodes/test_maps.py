"""Maps over nodes give what they give on one machine: the same bits, whatever goes in and out."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap._nodes.carried import FromFile
from tests.helpers import assert_same

pytest.importorskip("distributed")
pytestmark = pytest.mark.unguarded("the client has threads and sockets of its own")


def moments(row: Any) -> tuple[Any, Any]:
    return row.mean(), row * row


def drawn(row: Any, rng: Any) -> Any:
    return row.sum() + rng.normal()


def smooth(block: Any) -> Any:
    padded = np.pad(block, ((1, 1), (0, 0)), "edge")
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3


def growing(row: Any) -> Any:
    """Ints first, then floats, then complex numbers."""
    first = int(row[0])
    return first if first < 300 else first + 0.5 if first < 900 else first + 1j


CALLS: dict[str, Callable[..., Any]] = {
    "items": lambda x, **o: shmmap.pmap(np.sum, x, **o),
    "items, tuples": lambda x, **o: shmmap.pmap(moments, x, **o),
    "items, rng": lambda x, **o: shmmap.pmap(drawn, x, rng=7, **o),
    "items, dtypes that grow": lambda x, **o: shmmap.pmap(growing, x, chunksize=10, **o),
    "a list": lambda x, **o: shmmap.pmap(str, list(range(700)), **o),
    "a list of what differs": lambda x, **o: shmmap.pmap(
        lambda row: list(row[: int(row[0]) % 3]), x, out=list, **o
    ),
    "a list of much": lambda x, **o: shmmap.pmap(len, [bytes(50_000)] * 300, **o),
    "zipped": lambda x, **o: shmmap.pmap(
        lambda row, word: row[0] + len(word), x, ["ab"] * 500, **o
    ),
    "whole": lambda x, **o: shmmap.pmap(np.dot, x, np.arange(3.0), axis=(0, None), **o),
    "blocks": lambda x, **o: shmmap.pmap_chunks(np.sqrt, x, **o),
    "blocks along axis 1": lambda x, **o: shmmap.pmap_chunks(np.sqrt, x, axis=1, chunksize=1, **o),
    "blocks, rng": lambda x, **o: shmmap.pmap_chunks(
        lambda block, rng: block + rng.random(block.shape), x, rng=3, **o
    ),
    "neighbours": lambda x, **o: shmmap.pmap_chunks(
        smooth, x, depth=2, boundary="reflect", chunksize=33, **o
    ),
    "neighbours around": lambda x, **o: shmmap.pmap_chunks(
        smooth, x, depth=1, boundary="periodic", chunksize=40, **o
    ),
    "a sum": lambda x, **o: shmmap.preduce(np.sum, x * 0.1, chunksize=7, **o),
    "any combine": lambda x, **o: shmmap.preduce(
        lambda c: c[0], x, combine=lambda a, b: a * 0.5 + b, chunksize=3, **o
    ),
    "tuples combined": lambda x, **o: shmmap.preduce(
        lambda c: (c.sum(), len(c)), x * 0.3, combine=np.add, initial=(0.1, 2), **o
    ),
    "nothing": lambda x, **o: shmmap.pmap(lambda row: None, x, **o),
    "dtype": lambda x, **o: shmmap.pmap(np.sum, x, dtype="f4", **o),
    "an iterator": lambda x, **o: shmmap.pmap(abs, iter(range(-50, 50)), **o),
}


@pytest.fixture(scope="module")
def x() -> Any:
    return np.random.default_rng(0).random((500, 3)) * 3 + np.arange(500)[:, None] * 3


@pytest.mark.parametrize("name", CALLS)
def test_equal_bits(client: Any, x: Any, name: str) -> None:
    call = CALLS[name]
    assert_same(call(x, engine=client), call(x, engine="serial"))


@pytest.mark.parametrize("name", ["items", "a sum", "neighbours", "zipped"])
def test_equal_bits_of_shared_and_mapped_arrays(
    client: Any, x: Any, name: str, tmp_path: Path
) -> None:
    call, path = CALLS[name], tmp_path / "x.npy"
    np.save(path, x)
    wide = np.concatenate([x, x], axis=1)
    for a in (shmmap.asshared(x), shmmap.load(path, "r"), np.asfortranarray(x), wide[:, ::2]):
        assert_same(call(a, engine=client), call(a, engine="processes"))


def test_many_partials_are_put_together_in_the_same_order(client: Any) -> None:
    x = np.random.default_rng(1).random(5000)
    for chunksize in (1, 3, 64, 4999):
        got = shmmap.preduce(np.sum, x, chunksize=chunksize, engine=client)
        assert_same(got, shmmap.preduce(np.sum, x, chunksize=chunksize, engine="serial"))


def test_from_zarr_to_zarr_written_by_the_nodes(client: Any, tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    data = np.random.default_rng(2).random((400, 6))
    source = zarr.create_array(str(tmp_path / "in"), data=data, chunks=(40, 6))
    target = zarr.create_array(str(tmp_path / "out"), shape=(400, 6), chunks=(25, 6), dtype="f8")
    got = shmmap.pmap_chunks(np.sqrt, source, out=target, engine=client)
    assert got is target
    assert_same(target[:], np.sqrt(data))
    assert_same(
        shmmap.preduce(np.sum, source, engine=client),
        shmmap.preduce(np.sum, source, engine="serial"),
    )


def test_into_hdf5_written_by_the_caller(client: Any, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    x = np.arange(60.0).reshape(20, 3)
    with h5py.File(tmp_path / "out.h5", "w") as file:
        out = file.create_dataset("y", (20, 3), "f4")
        shmmap.pmap_chunks(np.sqrt, x, out=out, chunksize=3, engine=client)
        assert_same(out[:], np.sqrt(x).astype("f4"))


def test_outs_of_the_caller_are_filled(client: Any, tmp_path: Path) -> None:
    x = np.arange(60.0).reshape(20, 3)
    mapped = np.lib.format.open_memmap(tmp_path / "y.npy", "w+", "f8", (20, 3))
    for out in (np.zeros((20, 3)), shmmap.zeros((20, 3)), mapped):
        assert shmmap.pmap_chunks(np.sqrt, x, out=out, engine=client, chunksize=3) is out
        assert_same(np.array(out), np.sqrt(x))


def test_captured_arrays_travel_and_are_read_only(client: Any) -> None:
    table = shmmap.asshared(np.arange(1000.0))
    assert_same(shmmap.pmap(lambda i: table[i], range(50), engine=client), list(table[:50]))

    def write(i: Any) -> None:
        table[i] = 0

    with pytest.raises(ValueError, match="read-only"):
        shmmap.pmap(write, range(50), engine=client)


def test_a_file_that_is_not_the_same_is_refused(client: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.arange(100_000.0))
    found = FromFile.find(np.load(path, mmap_mode="r"), 2)
    assert found is not None
    assert_same(np.array(client.submit(found.open, "there").result()), np.arange(100_000.0))
    os.utime(path, ns=(1, 1))
    with pytest.raises(
        ValueError, match=r"input 2 is the file .*x\.npy', which is not the same on there"
    ):
        client.submit(found.open, "there", pure=False).result()
    path.unlink()
    with pytest.raises(
        ValueError, match=r"which cannot be opened on there \(No such file.*travels"
    ):
        client.submit(found.open, "there", pure=False).result()


def test_errors_have_the_index_of_the_whole_map(client: Any) -> None:
    def fail(v: Any) -> Any:
        if v in (321, 322):
            raise KeyError("hm")
        return v

    with pytest.raises(KeyError, match="hm") as caught:
        shmmap.pmap(fail, np.arange(500), engine=client, chunksize=10)
    notes = "\n".join(caught.value.__notes__)
    assert "for index 321 along axis 0 (chunk [320, 330))" in notes
    assert "in worker" in notes and ", on " in notes
    with pytest.raises(shmmap.MapError) as many:
        shmmap.pmap(fail, np.arange(500), engine=client, chunksize=10, on_error="continue")
    assert many.value.failed == ((321, 323),)
    assert many.value.result[320] == 320 and np.isnan(many.value.result.astype(float)[321]) in (
        0,
        1,
    )
    stood_in = shmmap.pmap(
        fail, np.arange(500), engine=client, chunksize=10, on_error=lambda exc, start, stop: -1
    )
    assert_same(stood_in, np.where(np.isin(np.arange(500), (321, 322)), -1, np.arange(500)))


def test_a_call_that_takes_too_long_is_ended_there(client: Any) -> None:
    def stuck(v: Any) -> Any:
        if v == 7:
            threading.Event().wait(60)
        return v

    with pytest.raises(TimeoutError, match=r"longer than 0\.5 s") as caught:
        shmmap.pmap(stuck, np.arange(20), engine=client, chunksize=2, timeout=0.5)
    assert "for index 7" in "\n".join(caught.value.__notes__)


def test_a_worker_that_dies_is_made_up_for_on_its_node(client: Any, tmp_path: Path) -> None:
    flag = str(tmp_path / "died")

    def die_once(v: Any) -> Any:
        if v == 33 and not os.path.exists(flag):
            open(flag, "w").close()
            os.kill(os.getpid(), 9)
        return v

    assert_same(shmmap.pmap(die_once, np.arange(90), engine=client, chunksize=2), np.arange(90))

    def die(v: Any) -> Any:
        if v == 33:
            os.kill(os.getpid(), 9)
        return v

    with pytest.raises(shmmap.WorkerDied, match="SIGKILL") as caught:
        shmmap.pmap(die, np.arange(90), engine=client, chunksize=2)
    assert any(start <= 33 < stop for start, stop in caught.value.failed)


def test_lost_writes_are_told(client: Any) -> None:
    seen: list[Any] = []
    with pytest.warns(RuntimeWarning, match="seen"):
        shmmap.pmap(lambda v: seen.append(v) or v, np.arange(10), engine=client)


def test_placed_arrays_are_carried_once(client: Any) -> None:
    a = np.random.default_rng(3).random((4000, 50))
    with shmmap.placed(client, a) as x:
        assert not x.flags.writeable
        for _ in range(2):
            assert_same(shmmap.pmap(np.sum, x, engine=client), a.sum(axis=1))
    assert_same(shmmap.pmap(np.sum, x, engine=client), a.sum(axis=1))


def test_config_and_workers(client: Any) -> None:
    with shmmap.config(engine=client, workers=1):
        assert_same(shmmap.pmap(np.sqrt, np.arange(9.0)), np.sqrt(np.arange(9.0)))


def test_a_checkpoint_goes_on(client: Any, tmp_path: Path) -> None:
    x = np.arange(400.0)
    folder = tmp_path / "run"

    def fail(v: Any) -> Any:
        if v == 333:
            raise KeyError
        return v * 2

    for _ in range(2):
        with pytest.raises(KeyError):
            shmmap.pmap(fail, x, engine=client, chunksize=5, checkpoint=folder)
    kept = shmmap.Checkpoint(folder, if_changed="keep")
    got = shmmap.pmap(lambda v: v * 2, x, engine=client, chunksize=5, checkpoint=kept)
    assert_same(np.array(got), x * 2)
    kept = shmmap.Checkpoint(tmp_path / "sum")
    for engine in (client, "serial"):
        got = shmmap.preduce(np.sum, x * 0.1, engine=engine, chunksize=5, checkpoint=kept)
        assert_same(got, shmmap.preduce(np.sum, x * 0.1, engine="serial", chunksize=5))
