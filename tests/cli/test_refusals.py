"""What ``shmmap map`` refuses, and what fails in it: one line, in words of the command line."""

import os
import re

import numpy as np
import pytest


class TestRefusals:
    """One clear line, a non-zero exit code, no OUT."""

    @pytest.mark.few(3)
    @pytest.mark.parametrize(
        ("func", "complaint"),
        [
            ("nosuchmodule:f", "cannot import nosuchmodule:f: ModuleNotFoundError: .*nosuchmodule"),
            ("nosuchmodule.f", "cannot import nosuchmodule.f: ModuleNotFoundError: .*nosuchmodule"),
            ("work:nosuch", "cannot import work:nosuch: work has no 'nosuch'"),
            ("numpy.linalg.nrom", "numpy.linalg has no 'nrom'"),
            ("broken:f", "cannot import broken:f: ModuleNotFoundError: .*'nosuchmodule'"),
            ("broken.f", "cannot import broken.f: ModuleNotFoundError: .*'nosuchmodule'"),
            ("unfinished:f", "cannot import unfinished:f: SyntaxError: "),
            ("leaves:f", "cannot import leaves:f: SystemExit: 3"),
            ("work:number", "work:number is not callable: it is of type int"),
            ("numpy.linalg", "numpy.linalg is not callable: it is of type module"),
            ("work.py:double", "cannot import work.py:double: ModuleNotFoundError: .*work.py"),
            ("./work:double", "FUNC is package.module:function or a dotted path, not"),
            ("work:", "FUNC is package.module:function or a dotted path, not"),
            ("work:nothing", "FUNC returns None, but OUT holds one array"),
            ("work:mean_and_spread", "FUNC returns a tuple of 2, but OUT holds one array"),
            ("work:Tools", "FUNC returns a Tools, but OUT holds numbers"),
        ],
    )
    def test_function(self, folder, func, complaint):
        (folder.path / "broken.py").write_text("import nosuchmodule\n")
        (folder.path / "unfinished.py").write_text("def f(\n")
        (folder.path / "leaves.py").write_text("raise SystemExit(3)\n")
        code, line = folder.refuse("map", func, "in.npy", "out.npy")
        assert code == 2
        assert re.search(complaint, line), line
        assert not (folder.path / "out.npy").exists()

    @pytest.mark.few(2)
    @pytest.mark.parametrize(
        ("source", "complaint"),
        [
            ("nosuch.npy", "cannot read nosuch.npy: No such file or directory"),
            ("sub", "sub is not a regular file"),
            ("pipe", "pipe is not a regular file"),
            ("text.npy", "text.npy is not an .npy file"),
            ("nothing.npy", "nothing.npy is not an .npy file"),
            ("archive.npz", "archive.npz is not an .npy file: an .npz or another archive?"),
            ("short.npy", "cannot read short.npy: "),
            ("header.npy", "cannot read header.npy: "),
            ("objects.npy", "cannot read objects.npy: .*[Oo]bject"),
            ("scalar.npy", "scalar.npy holds a single value: there is no axis to map over"),
        ],
    )
    def test_source(self, folder, source, complaint):
        path = folder.path
        (path / "sub").mkdir()
        os.mkfifo(path / "pipe")
        (path / "text.npy").write_text("1, 2, 3\n")
        (path / "nothing.npy").touch()
        np.savez(path / "archive.npz", folder.rows)
        whole = (path / "in.npy").read_bytes()
        (path / "short.npy").write_bytes(whole[:-8])
        (path / "header.npy").write_bytes(whole[:50])
        np.save(path / "objects.npy", np.array([{}, None]), allow_pickle=True)
        np.save(path / "scalar.npy", np.array(3.0))
        code, line = folder.refuse("map", "work:double", source, "out.npy")
        assert code == 2
        assert re.search(complaint, line), line
        assert not (path / "out.npy").exists()

    @pytest.mark.few(2)
    @pytest.mark.parametrize(
        ("target", "complaint"),
        [
            ("nosuch/out.npy", "cannot write nosuch/out.npy: there is no folder .*nosuch"),
            ("sub", "cannot write sub: it is not a regular file"),
            ("page.html", "cannot write page.html: OUT is an .npy file, .* says otherwise"),
            ("in.npy", "cannot write in.npy: it is the same file as IN"),
            ("./in.npy", "cannot write ./in.npy: it is the same file as IN"),
            ("link.npy", "cannot write link.npy: it is the same file as IN"),
            ("hard.npy", "cannot write hard.npy: it is the same file as IN"),
            ("/dev/null", "cannot write /dev/null: it is not a regular file"),
            ("/proc/out.npy", "cannot write /proc/out.npy: No such file or directory"),
        ],
    )
    def test_target(self, folder, target, complaint):
        path = folder.path
        (path / "sub").mkdir()
        (path / "link.npy").symlink_to("in.npy")
        os.link(path / "in.npy", path / "hard.npy")
        code, line = folder.refuse("map", "work:double", "in.npy", target)
        assert code == 2
        assert re.search(complaint, line), line
        np.testing.assert_array_equal(np.load(path / "in.npy"), folder.rows)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_target_without_permission(self, folder):
        (folder.path / "sub").mkdir(mode=0o500)
        code, line = folder.refuse("map", "work:double", "in.npy", "sub/out.npy")
        assert code == 2
        assert "Permission denied" in line

    @pytest.mark.few(3)
    @pytest.mark.parametrize(
        ("options", "complaint"),
        [
            (("--axis", 2), r"--axis 2 is out of range: in.npy has 2 axes, shape \(20, 4\)"),
            (("--axis", -3), r"--axis -3 is out of range: in.npy has 2 axes, shape \(20, 4\)"),
            (("--axis", "x"), "--axis: invalid int value: 'x'"),
            (("--dtype", "float31"), "--dtype float31 is not a dtype NumPy knows"),
            (("--dtype", "object"), "--dtype object: Python objects cannot be memory-mapped"),
            (("--dtype", "int32"), "int32"),
            (("--workers", 0), "workers"),
            (("--workers", -2), "workers"),
            (("--chunksize", 0), "chunksize"),
            (("--chunksize", "8MB?"), "chunksize"),
            (("--by", "row"), "--by: invalid choice: 'row'"),
            (("--engine", "gpu"), "--engine: invalid choice: 'gpu'"),
            (("--nosuch",), "unrecognized arguments: --nosuch"),
        ],
    )
    def test_options(self, folder, options, complaint):
        code, line = folder.refuse("map", "work:double", "in.npy", "out.npy", *options)
        assert code == 2
        assert re.search(complaint, line), line
        assert not (folder.path / "out.npy").exists()

    @pytest.mark.few(2)
    @pytest.mark.parametrize(
        "args", [(), ("nosuch",), ("map",), ("map", "work:double", "in.npy"), ("info", "more")]
    )
    def test_arguments(self, folder, args):
        assert folder.refuse(*args)[0] == 2

    def test_what_may_be_left_out_is_not_asked_for(self, folder):
        code, line = folder.refuse("reduce", "numpy.sum")
        assert (code, "OUT" in line) == (2, False)

    @pytest.mark.parametrize("engine", ["processes", "serial"])
    @pytest.mark.parametrize(
        ("func", "options", "complaint"),
        [
            ("work:fails_at_7", (), "ArithmeticError: row seven is bad .*\\b7\\b"),
            ("work:ragged", (), "shape .*\\b1\\b"),
            ("work:wider_later", (), "a result is float64, but the first one was int64"),
            ("work:longer_text_later", (), "a result is <U6, but the first one was <U3"),
        ],
    )
    def test_a_run_that_fails(self, folder, engine, func, options, complaint):
        np.save(folder.path / "in.npy", np.arange(80.0).reshape(20, 4) // 4)
        args = "map", func, "in.npy", "out.npy", "--engine", engine, *options
        code, line = folder.refuse(*args)
        assert code == 1
        assert re.search(complaint, line), line
        assert not (folder.path / "out.npy").exists()

    def test_a_wider_result_is_named(self, folder):
        np.save(folder.path / "in.npy", np.arange(80.0).reshape(20, 4) // 4)
        _, line = folder.refuse("map", "work:wider_later", "in.npy", "out.npy", "--chunksize", 1)
        assert "pass --dtype float64" in line
        assert re.search(r"\b5\b", line), line

    def test_a_worker_that_dies(self, folder):
        np.save(folder.path / "in.npy", np.arange(80.0).reshape(20, 4) // 4)
        args = "map", "work:dies_at_7", "in.npy", "out.npy", "--workers", 2, "--chunksize", 1
        code, line = folder.refuse(*args)
        assert code == 1
        assert "WorkerDied" in line and "[7, 8)" in line and "SIGKILL" in line
        assert not (folder.path / "out.npy").exists()

    def test_killed_worker_on_the_first_item(self, folder):
        code, line = folder.refuse("map", "work:dies_at_once", "in.npy", "out.npy")
        assert code == 1
        assert "WorkerDied" in line and "[0, 1)" in line and "status 3" in line

    def test_traceback_on_request(self, folder):
        np.save(folder.path / "in.npy", np.arange(80.0).reshape(20, 4) // 4)
        done = folder.run("map", "work:fails_at_7", "in.npy", "out.npy", "--traceback")
        assert done.returncode == 1
        assert "Traceback (most recent call last)" in done.stderr
        assert "in fails_at_7" in done.stderr
        assert done.stderr.splitlines()[-1].startswith("shmmap: error: ArithmeticError: row seven")
