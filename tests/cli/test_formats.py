"""IN and OUT as zarr arrays and HDF5 datasets, and several OUT for a tuple."""

import os
import signal

import numpy as np
import pytest

from .conftest import Folder

zarr = pytest.importorskip("zarr")
h5py = pytest.importorskip("h5py")


pytestmark = pytest.mark.usefixtures("zarr_runs")


@pytest.fixture
def folder(tmp_path):
    folder = Folder(tmp_path)
    rows = folder.rows
    zarr.create_array(tmp_path / "in.zarr", data=rows, chunks=(3, 4))
    group = zarr.open_group(tmp_path / "group.zarr", mode="w")
    group.create_array("rows", data=rows, chunks=(6, 4))
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file["deep/rows"] = rows
        file["number"] = 3.0
    return folder


def read(folder, name):
    """What an OUT holds, in the fresh eyes of its own library."""
    path = folder.path / name
    if "::" in name:
        file, _, dataset = str(path).partition("::")
        with h5py.File(file) as opened:
            return opened[dataset][...]
    return np.load(path) if name.endswith(".npy") else zarr.open_array(path, mode="r")[...]


def run(folder, *args):
    done = folder.run("map", *args)
    assert (done.returncode, done.stderr) == (0, "")
    folder.assert_tidy()
    return done.stdout


@pytest.mark.few(6)
@pytest.mark.parametrize("out", ["out.npy", "out.zarr", "out.h5::a/b", "group.zarr/more"])
@pytest.mark.parametrize("source", ["in.npy", "in.zarr", "in.h5::deep/rows", "group.zarr/rows"])
@pytest.mark.parametrize("by", ["item", "chunk"])
def test_every_kind_into_every_kind(folder, source, out, by):
    run(folder, "numpy.sqrt", source, out, "--by", by, "--workers", 2)
    assert read(folder, out).tobytes() == np.sqrt(folder.rows).tobytes()


@pytest.mark.parametrize("out", ["out.zarr", "out.h5::x"])
@pytest.mark.parametrize("engine", ["fork", "threads", "serial"])
def test_engines_and_axes(folder, out, engine):
    run(folder, "numpy.sqrt", "in.zarr", out, "--by", "chunk", "--axis", 1, "--engine", engine)
    assert read(folder, out).tobytes() == np.sqrt(folder.rows).tobytes()
    run(folder, "numpy.sum", "in.zarr", out, "--axis", -1, "--engine", engine)
    np.testing.assert_array_equal(read(folder, out), folder.rows.sum(0))


@pytest.mark.parametrize("names", ["a{}.npy", "a{}.zarr", "a{}.h5::x"])
def test_a_tuple_goes_to_several(folder, names):
    outs = [names.format(i) for i in range(2)]
    stdout = run(folder, "work:mean_and_spread", "in.npy", *outs)
    np.testing.assert_array_equal(read(folder, outs[0]), folder.rows.mean(1))
    np.testing.assert_array_equal(read(folder, outs[1]), folder.rows.std(1))
    assert [line.partition(": ")[0] for line in stdout.splitlines()[:2]] == outs


@pytest.mark.parametrize("out", ["out.zarr", "out.h5::x"])
def test_what_failed_is_missing(folder, out):
    np.save(folder.path / "in.npy", np.arange(80.0).reshape(20, 4) // 4)
    done = folder.run("map", "work:fails_at_7", "in.npy", out, "--on-error", "continue")
    assert done.returncode == 1
    expected = np.arange(20.0) * 4
    expected[7] = np.nan
    np.testing.assert_array_equal(read(folder, out), expected)


def test_what_is_stored_as_one(folder):
    """As in IN, or parts that workers can share out."""
    run(folder, "numpy.sqrt", "in.zarr", "out.zarr", "--by", "chunk")
    assert zarr.open_array(folder.path / "out.zarr").chunks == (3, 4)
    np.save(folder.path / "long.npy", np.zeros((5000, 2), "f4"))
    run(folder, "numpy.sum", "long.npy", "long.zarr")
    (rows,) = zarr.open_array(folder.path / "long.zarr").chunks
    assert 50 < 5000 / rows <= 100


class TestWhatWasThere:
    def test_a_zarr_array_is_replaced_by_a_whole_one(self, folder):
        old = zarr.create_array(folder.path / "out.zarr", shape=(2,), dtype="i1", chunks=(1,))
        old[:] = 1
        np.save(folder.path / "in.npy", np.arange(80.0).reshape(20, 4) // 4)
        folder.refuse("map", "work:fails_at_7", "in.npy", "out.zarr")
        assert read(folder, "out.zarr").tolist() == [1, 1]
        run(folder, "numpy.sum", "in.npy", "out.zarr")
        assert read(folder, "out.zarr").tolist() == np.load(folder.path / "in.npy").sum(1).tolist()

    def test_other_datasets_of_the_file_stay(self, folder):
        for name in ("out.h5::a", "out.h5::b/c", "out.h5::a"):
            run(folder, "numpy.sum", "in.npy", name)
        np.save(folder.path / "in.npy", np.arange(80.0).reshape(20, 4) // 4)
        folder.refuse("map", "work:fails_at_7", "in.npy", "out.h5::a")
        with h5py.File(folder.path / "out.h5") as file:
            assert sorted(file) == ["a", "b"]
            assert file["a"][...].tobytes() == folder.rows.sum(1).tobytes()

    @pytest.mark.parametrize("out", ["out.zarr", "new.h5::a", "in.h5::a"])
    @pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_leaves_nothing(self, folder, out, signum):
        process = folder.start("map", "work:waits", "in.npy", out, "--workers", 2, "--chunksize", 1)
        folder.wait_for("running", process)
        os.kill(process.pid, signum)
        _, stderr = process.communicate(timeout=10)
        word = "interrupted" if signum == signal.SIGINT else "terminated"
        assert (process.returncode, stderr) == (128 + signum, f"shmmap: {word}\n")
        folder.assert_tidy()
        assert not (folder.path / out.partition("::")[0]).exists() or out.startswith("in.h5")
        with h5py.File(folder.path / "in.h5") as file:
            assert sorted(file) == ["deep", "number"]


@pytest.mark.few(4)
@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("group.zarr", "out.npy"), "is a zarr group, of arrays such as group.zarr/rows"),
        (("nosuch.zarr", "out.npy"), "cannot read nosuch.zarr: No such file or directory"),
        (("empty.zarr", "out.npy"), "cannot read empty.zarr: it is no zarr array"),
        (("nosuch.h5::a", "out.npy"), "cannot read nosuch.h5: No such file or directory"),
        (("in.npy::a", "out.npy"), "cannot read in.npy: "),
        (("in.h5::b", "out.npy"), "in.h5::b is not there; datasets of the file: in.h5::deep/rows, in"),
        (("in.h5::deep", "out.npy"), "in.h5::deep is no dataset; datasets of the file: in.h5::deep/r"),
        (("in.h5::", "out.npy"), "an HDF5 dataset is named as file.h5::dataset"),
        (("in.h5::number", "out.npy"), "in.h5::number holds a single value"),
        (("in.h5", "out.npy"), "an HDF5 file, in which a dataset is named as in.h5::dataset"),
        (("in.npy", "out.h5"), "an HDF5 dataset is named as out.h5::dataset"),
        (("in.npy", "::a"), "an HDF5 dataset is named as file.h5::dataset"),
        (("in.npy", "no/out.h5::a"), "cannot write no/out.h5::a: there is no folder"),
        (("in.npy", "no/out.zarr"), "cannot write no/out.zarr: there is no folder"),
        (("in.npy", "in.npy::a"), "cannot write in.npy::a: IN lies in the same HDF5 file"),
        (("in.h5::deep/rows", "in.h5::a"), "IN lies in the same HDF5 file"),
        (("in.npy", "in.h5::deep"), "cannot write in.h5::deep: a group of that name is there"),
        (("in.npy", "group.zarr"), "cannot write group.zarr: a zarr group is there"),
        (("in.zarr", "in.zarr"), "cannot write in.zarr: it is the same array as IN"),
        (("in.npy", "file.zarr"), "something that is no zarr array is there"),
        (("in.npy", "a.npy", "b.npy"), "FUNC returns one result, but 2 OUT are named"),
        (("in.npy", "a.npy", "./a.npy"), "OUT a.npy is named twice"),
        (("in.npy", "a.npy", "b.zarr"), "several OUT are all .npy files, all zarr arrays or all HDF5"),
        (("in.npy", "a.h5::a", "a.h5::b"), "of one HDF5 file, only one dataset can be OUT"),
    ],
)  # fmt: skip
def test_refused(folder, args, complaint):
    (folder.path / "file.zarr").touch()
    (folder.path / "empty.zarr").mkdir()
    before = sorted(folder.path.iterdir())
    code, line = folder.refuse("map", "numpy.sum", *args)
    assert code == 2
    assert complaint in line, line
    assert sorted(folder.path.iterdir()) == before


@pytest.mark.parametrize("name", ["zarr", "h5py"])
def test_a_library_that_is_not_installed(folder, name, tmp_path_factory):
    missing = tmp_path_factory.mktemp("missing")
    (missing / f"{name}.py").write_text("raise ImportError")
    environ = os.environ | {"PYTHONPATH": str(missing)}
    out = "out.zarr" if name == "zarr" else "out.h5::a"
    code, line = folder.refuse("map", "numpy.sum", "in.npy", out, env=environ)
    assert code == 2
    assert f"{out} needs the package {name}, which is not installed" in line
