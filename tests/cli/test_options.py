"""``--param``, ``--rng``, ``--on-error``, ``--quiet`` and ``--report``; and ``shmmap reduce``."""

import json

import numpy as np
import pytest

from .conftest import Folder

MORE = """
import numpy as np

def scaled(row, factor, *, offset=0.0, kind="plain", **_):
    return row * factor + offset + (kind == "special") * 1000

def exact(row, factor=1):
    return row * factor

def noisy(row, rng):
    return row.sum() + rng.random()

def fails(row):
    if row[0] in (0, 7, 8):
        raise ValueError("no good")
    return row.sum()

def fails_in_int(row):
    return int(fails(row))

def pair(chunk):
    return chunk.max(), -chunk.min()
"""


@pytest.fixture
def folder(tmp_path):
    folder = Folder(tmp_path)
    (tmp_path / "more.py").write_text(MORE)
    return folder


class TestParameters:
    @pytest.mark.parametrize(
        ("params", "expected"),
        [
            (["factor=3"], lambda rows: rows * 3),
            (["factor=[1, 2, 3, 4]", "offset=-.5"], lambda rows: rows * [1, 2, 3, 4] - 0.5),
            (["factor = nan"], lambda rows: rows * np.nan),
            (["factor=1", "kind=special", "other=None"], lambda rows: rows + 1000),
        ],
    )
    def test_values(self, folder, params, expected):
        options = [word for param in params for word in ("--param", param)]
        out = folder.map("more:scaled", "in.npy", "out.npy", *options)
        np.testing.assert_array_equal(out, expected(folder.rows))

    @pytest.mark.few(4)
    @pytest.mark.parametrize(
        ("func", "params", "complaint"),
        [
            ("exact", ["factr=2"], "--param factr: more:exact has no such parameter; it has factor"),
            ("exact", ["row=2"], "--param row: that is what more:exact gets from IN"),
            ("exact", ["factor"], "--param 'factor' is not NAME=VALUE"),
            ("exact", ["=2"], "--param '=2' is not NAME=VALUE"),
            ("exact", ["factor=1", "factor=2"], "--param factor is given twice"),
            ("exact", ["factor=true"], "--param factor: write True, or 'true' in quotes for a text"),
            ("exact", ["factor=[1,"], "'[1,' is no Python literal; a text like it stands in quotes"),
            ("exact", ["factor="], "'' is no Python literal"),
            ("scaled", ["offset=1"], "more:scaled needs factor: give --param factor=..."),
            ("fails", ["row=1"], "that is what more:fails gets from IN"),
            ("fails", ["other=1"], "more:fails has no such parameter; it has no other"),
        ],
    )  # fmt: skip
    def test_refused(self, folder, func, params, complaint):
        options = [word for param in params for word in ("--param", param)]
        code, line = folder.refuse("map", f"more:{func}", "in.npy", "out.npy", *options)
        assert code == 2
        assert complaint in line, line

    def test_what_functions_of_numpys_take(self, folder):
        out = folder.map("numpy.quantile", "in.npy", "out.npy", "--param", "q=[0.25, 0.5]")
        np.testing.assert_array_equal(out, np.quantile(folder.rows, [0.25, 0.5], axis=1).T)


class TestRandomNumbers:
    def test_they_belong_to_the_index(self, folder):
        args = "more:noisy", "in.npy", "out.npy", "--rng", 3
        one = folder.map(*args, "--workers", 1)
        two = folder.map(*args, "--workers", 2, "--engine", "threads", "--chunksize", 3)
        other = folder.map(*args[:-1], 4)
        assert one.tobytes() == two.tobytes() != other.tobytes()

    def test_a_function_that_takes_none(self, folder):
        code, line = folder.refuse("map", "more:exact", "in.npy", "out.npy", "--rng", 3)
        assert code == 2 and "--rng: more:exact has no parameter rng" in line

    def test_a_seed_that_is_none(self, folder):
        assert folder.refuse("map", "more:noisy", "in.npy", "out.npy", "--rng", "x")[0] == 2


class TestOnError:
    def test_what_failed_is_missing_and_the_rest_is_there(self, folder):
        np.save(folder.path / "in.npy", np.arange(80.0).reshape(20, 4) // 4)
        done = folder.run("map", "more:fails", "in.npy", "out.npy", "--on-error", "continue")
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert "3 of 20 items failed" in line and "[0, 1), [7, 9)" in line
        assert "the first by ValueError: no good (raised by fails for index 0" in line
        folder.assert_tidy()
        expected = np.arange(20.0) * 4
        expected[[0, 7, 8]] = np.nan
        np.testing.assert_array_equal(np.load(folder.path / "out.npy"), expected)

    def test_where_there_is_no_nan(self, folder):
        np.save(folder.path / "in.npy", np.arange(80.0).reshape(20, 4) // 4)
        done = folder.run("map", "more:fails_in_int", "in.npy", "out.npy", "--on-error", "continue")
        assert done.returncode == 1
        assert np.load(folder.path / "out.npy")[[0, 6, 7, 8]].tolist() == [0, 24, 0, 0]

    def test_all_fail(self, folder):
        np.save(folder.path / "in.npy", np.zeros((20, 4)))
        code, line = folder.refuse(
            "map", "more:fails", "in.npy", "out.npy", "--on-error", "continue"
        )
        assert code == 1 and "ValueError: no good" in line


class TestReport:
    def test_a_page_and_a_trace(self, folder):
        folder.map("numpy.sqrt", "in.npy", "out.npy", "--report", "run.html")
        page = (folder.path / "run.html").read_text()
        assert page.lower().startswith("<!doctype html>") and "sqrt" in page
        folder.map("numpy.sqrt", "in.npy", "out.npy", "--report", "run.json", "--by", "chunk")
        trace = json.loads((folder.path / "run.json").read_text())
        assert trace["traceEvents"]

    def test_of_a_run_that_failed(self, folder):
        args = "map", "work:fails_at_7", "in.npy", "out.npy", "--report", "run.json"
        np.save(folder.path / "in.npy", np.arange(80.0).reshape(20, 4) // 4)
        assert folder.refuse(*args)[0] == 1
        assert json.loads((folder.path / "run.json").read_text())["traceEvents"]

    @pytest.mark.parametrize("name", ["run.txt", "run", "nosuch/run.html", "sub.html"])
    def test_refused_before_anything_is_run(self, folder, name):
        (folder.path / "sub.html").mkdir()
        code, line = folder.refuse("map", "numpy.sqrt", "in.npy", "out.npy", "--report", name)
        assert code == 2 and f"--report {name}" in line
        assert not (folder.path / "out.npy").exists()


def test_quiet(folder):
    folder.map("numpy.sqrt", "in.npy", "out.npy", "--quiet")
    assert folder.stdout == ""


class TestReduce:
    @pytest.mark.parametrize(
        ("args", "expected"),
        [
            (("numpy.sum",), lambda rows: repr(float(rows.sum()))),
            (("numpy.max", "--axis", -1, "--workers", 2), lambda rows: repr(float(rows.max()))),
            (("numpy.add.reduce",), lambda rows: str(rows.sum(0))),
            (
                ("more:pair", "--combine", "numpy.maximum"),
                lambda rows: f"{rows.max()}\n{-rows.min()}",
            ),
            (("numpy.max", "--initial", "1e3"), lambda rows: "1000.0"),
            (("numpy.sum", "--param", "axis=0", "--chunksize", 3), lambda rows: str(rows.sum(0))),
        ],
    )
    def test_printed(self, folder, args, expected):
        func, *options = args
        done = folder.run("reduce", func, "in.npy", *options)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.rstrip("\n") == expected(folder.rows)

    def test_saved(self, folder):
        done = folder.run("reduce", "numpy.add.reduce", "in.npy", "out.npy")
        assert (done.returncode, done.stderr) == (0, "")
        np.testing.assert_array_equal(np.load(folder.path / "out.npy"), folder.rows.sum(0))
        args = "more:pair", "in.npy", "high.npy", "low.npy", "--combine", "numpy.maximum", "--quiet"
        done = folder.run("reduce", *args)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert np.load(folder.path / "high.npy") == folder.rows.max()
        folder.assert_tidy()

    @pytest.mark.few(3)
    @pytest.mark.parametrize(
        ("code", "args", "complaint"),
        [
            (2, ("numpy.mean", "in.npy"), "partial results of numpy.mean do not combine"),
            (2, ("more:pair", "in.npy"), "it is not known how two results of more:pair combine"),
            (2, ("numpy.sum", "in.npy", "out.txt"), "goes to an .npy file"),
            (2, ("numpy.sum", "in.npy", "a.npy", "a.npy"), "OUT a.npy is named twice"),
            (1, ("numpy.sum", "in.npy", "a.npy", "b.npy"), "the result is one result, but 2 OUT"),
            (2, ("numpy.sum", "in.npy", "--combine", "numpy.nosuch"), "numpy has no 'nosuch'"),
            (2, ("numpy.sum", "none.npy"), "none.npy has no items along axis 0: give --initial"),
            (2, ("numpy.sum", "in.npy", "--axis", 2), "--axis 2 is out of range"),
            (1, ("work:one_sum", "in.npy", "--combine", "len"), "cannot import len"),
        ],
    )
    def test_refused(self, folder, code, args, complaint):
        np.save(folder.path / "none.npy", np.zeros((0, 3)))
        found, line = folder.refuse("reduce", *args)
        assert complaint in line, line
        assert found == (2 if "cannot import" in complaint else code)
