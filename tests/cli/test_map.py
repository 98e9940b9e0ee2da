"""``shmmap map`` writes what the function gives, whatever the array, its axis, its dtype and the engine."""

import os
import re
import resource

import numpy as np
import pytest

from .conftest import DIGITS


class TestMap:
    def test_real_array_and_its_summary(self, folder):
        norms = folder.map("numpy.linalg.norm", DIGITS, "out.npy")
        expected = np.array([np.linalg.norm(row) for row in np.load(DIGITS)])
        assert norms.tobytes() == expected.tobytes()
        first, second = folder.stdout.splitlines()
        assert first == (
            f"out.npy: shape (1797,), float64, min {expected.min():.6g}, "
            f"mean {expected.mean():.6g}, max {expected.max():.6g}"
        )
        assert re.fullmatch(
            rf"1,797 items along axis 0 of {re.escape(str(DIGITS))} in [\d.e-]+ s "
            r"\(processes, workers=\d+\)",
            second,
        )

    @pytest.mark.parametrize("name", ["work:double", "work.double", "numpy.negative"])
    def test_names_of_functions(self, folder, name):
        out = folder.map(name, "in.npy", "out.npy")
        np.testing.assert_array_equal(out, folder.rows * (-1 if "numpy" in name else 2))

    @pytest.mark.parametrize("name", ["work:Tools.total", "work.Tools.total"])
    def test_attribute_of_a_class(self, folder, name):
        np.testing.assert_array_equal(folder.map(name, "in.npy", "out.npy"), folder.rows.sum(1))

    @pytest.mark.parametrize("axis", [0, 1, -1])
    def test_items_along_an_axis(self, folder, axis):
        out = folder.map("work:as_array", "in.npy", "out.npy", "--axis", axis)
        rows = np.moveaxis(folder.rows, axis, 0)
        np.testing.assert_array_equal(out, [(row.mean(), row.std()) for row in rows])

    @pytest.mark.parametrize("axis", [0, 1])
    @pytest.mark.parametrize("chunksize", ["auto", "3", "64B"])
    def test_chunks_along_an_axis(self, folder, axis, chunksize):
        args = "--by", "chunk", "--axis", axis, "--chunksize", chunksize
        out = folder.map("numpy.sqrt", "in.npy", "out.npy", *args)
        np.testing.assert_array_equal(out, np.sqrt(folder.rows))

    def test_the_first_chunk_has_the_size_asked_for(self, folder):
        args = "--by", "chunk", "--chunksize", 5
        out = folder.map("work:needs_five", "in.npy", "out.npy", *args)
        chunks = [chunk - chunk.mean(axis=0) for chunk in np.split(folder.rows, 4)]
        np.testing.assert_array_equal(out, np.concatenate(chunks))

    @pytest.mark.parametrize("engine", ["processes", "fork", "threads", "serial"])
    @pytest.mark.parametrize("workers", [1, 3])
    def test_same_bytes_whatever_runs_it(self, folder, engine, workers):
        args = "--engine", engine, "--workers", workers
        folder.map("work:as_array", "in.npy", "out.npy", *args)
        np.save(folder.path / "expected.npy", [(row.mean(), row.std()) for row in folder.rows])
        wanted = (folder.path / "expected.npy").read_bytes()
        assert (folder.path / "out.npy").read_bytes() == wanted

    @pytest.mark.few(2)
    @pytest.mark.parametrize("dtype", ["?", "f2", "c16", "U3", "M8[s]", "i4,f8", ">f8"])
    def test_dtypes(self, folder, dtype):
        rows = np.arange(120.0).astype(dtype)
        expected = np.concatenate([rows[:60], rows[60:]])  # in the byte order of the machine
        np.save(folder.path / "in.npy", rows)
        out = folder.map("numpy.copy", "in.npy", "out.npy", "--by", "chunk")
        assert out.dtype == expected.dtype
        assert out.tobytes() == expected.tobytes()

    def test_fortran_order(self, folder):
        np.save(folder.path / "in.npy", np.asfortranarray(folder.rows))
        out = folder.map("work:double", "in.npy", "out.npy")
        np.testing.assert_array_equal(out, folder.rows * 2)

    def test_given_dtype(self, folder):
        out = folder.map("work:double", "in.npy", "out.npy", "--dtype", "float32")
        assert out.dtype == np.float32
        np.testing.assert_array_equal(out, (2 * folder.rows).astype(np.float32))

    @pytest.mark.parametrize("dtype", ["f8", "c16"])
    def test_wider_results_fit_into_a_given_dtype(self, folder, dtype):
        out = folder.map("work:wider_later", "in.npy", "out.npy", "--dtype", dtype)
        first = folder.rows[:, 0]
        np.testing.assert_array_equal(out, np.where(first < 5, first.astype(int), first + 0.5))

    @pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 0)])
    def test_no_values_in(self, folder, shape):
        np.save(folder.path / "in.npy", np.zeros(shape))
        out = folder.map("numpy.sum", "in.npy", "out.npy")
        np.testing.assert_array_equal(out, np.zeros(shape[0]))

    def test_no_values_out(self, folder):
        assert folder.map("work:no_values", "in.npy", "out.npy").shape == (20, 0)

    def test_summary_counts_nan(self, folder):
        np.save(folder.path / "in.npy", np.array([1.0, np.nan, 4.0]))
        folder.map("numpy.negative", "in.npy", "out.npy")
        assert "min -4, mean -2.5, max -1, 1 NaN" in folder.stdout

    def test_function_made_in_a_folder_on_the_python_path(self, folder, tmp_path_factory):
        library = tmp_path_factory.mktemp("library")
        (library / "theirs.py").write_text("def third(row):\n    return row[2]\n")
        path = os.pathsep.join(filter(None, [str(library), os.environ.get("PYTHONPATH")]))
        environ = os.environ | {"PYTHONPATH": path}
        out = folder.map("theirs:third", "in.npy", "out.npy", env=environ)
        np.testing.assert_array_equal(out, folder.rows[:, 2])

    @pytest.mark.slow
    def test_files_larger_than_memory(self, folder):
        """256 MiB of private memory for each process, and 768 MiB in and out."""
        n = 768 << 17
        np.lib.format.open_memmap(folder.path / "in.npy", mode="w+", dtype="f8", shape=(n,))[-1] = 3

        def limit():
            resource.setrlimit(resource.RLIMIT_DATA, (256 << 20, 256 << 20))

        environ = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
        args = "map", "work:double", "in.npy", "out.npy", "--by", "chunk", "--workers", 2
        done = folder.run(*args, preexec_fn=limit, env=environ)
        assert (done.returncode, done.stderr) == (0, "")
        out = np.load(folder.path / "out.npy", mmap_mode="r")
        assert (out.shape, out[-1]) == ((n,), 6)
        assert "min 0," in done.stdout and "max 6" in done.stdout
