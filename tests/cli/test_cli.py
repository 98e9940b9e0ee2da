"""The command line, run as users run it: a process of its own, in a folder of its own."""

import os
import pty
import re
import resource
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest

import shmmap

DIGITS = Path(__file__).parents[2] / "examples" / "data" / "digits.npy"

# What users would have in a module of their own, beside their data.
WORK = """
import os, signal, time
from pathlib import Path
import numpy as np

def double(x):
    return 2 * x

def mean_and_spread(row):
    return row.mean(), row.std()

def as_array(row):
    return np.array([row.mean(), row.std()])

def nothing(row):
    return None

def ragged(row):
    return row[: 1 + int(row[0]) % 2]

def wider_later(row):
    return int(row[0]) if row[0] < 5 else 0.5 + row[0]

def longer_text_later(row):
    return "abc" if row[0] < 5 else "abcdef"

def no_values(row):
    return row[:0]

def fails_at_7(row):
    if row[0] == 7:
        raise ArithmeticError("row seven\\nis bad")
    return row.sum()

def dies_at_7(row):
    if row[0] == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return row.sum()

def dies_at_once(row):
    os._exit(3)

def one_sum(chunk):
    return chunk.sum()

def needs_five(chunk):
    if len(chunk) != 5:
        raise ValueError(f"{len(chunk)} rows")
    return chunk - chunk.mean(axis=0)

def waits(row):
    if row[0] > 0:  # not where the shape is found
        Path("running").touch()
        while not Path("go").exists():
            time.sleep(0.01)
    return row.sum()

class Tools:
    def __init__(self, row):
        pass

    @staticmethod
    def total(row):
        return row.sum()

number = 3
"""


class Folder:
    """A folder with ``in.npy`` and ``work.py``, in which commands are run."""

    def __init__(self, path):
        self.path = path
        self.rows = np.arange(80.0).reshape(20, 4) / 4
        np.save(path / "in.npy", self.rows)
        (path / "work.py").write_text(WORK)

    def command(self, *args):
        return [sys.executable, "-m", "shmmap", *map(str, args)]

    def run(self, *args, **options):
        options = {"cwd": self.path, "text": True, "capture_output": True, "timeout": 60} | options
        return subprocess.run(self.command(*args), **options)

    def start(self, *args, **options):
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
        return subprocess.Popen(
            self.command(*args), cwd=self.path, start_new_session=True, **options
        )

    def map(self, *args, **options):
        """Run ``shmmap map``, which must work, and return the array it wrote."""
        done = self.run("map", *args, **options)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        self.assert_tidy()
        self.stdout = done.stdout
        return np.load(self.path / args[2])

    def refuse(self, *args, **options):
        """Run a command that must fail, and return its exit code and its one line."""
        done = self.run(*args, **options)
        assert done.returncode > 0, done.stdout
        self.assert_tidy()
        assert done.stdout == ""
        assert re.fullmatch(r"shmmap( \w+)?: .+\n", done.stderr), done.stderr
        return done.returncode, done.stderr

    def assert_tidy(self):
        assert not list(self.path.rglob("*.partial"))

    def wait_for(self, name, process):
        deadline = time.monotonic() + 30
        while not (self.path / name).exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


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


class TestTarget:
    """OUT under its final name is the old one, or none, until the new one is complete."""

    @pytest.fixture
    def old(self, folder):
        np.save(folder.path / "out.npy", np.array([1, 2, 3]))
        return folder.path / "out.npy"

    def test_an_existing_one_is_replaced_and_keeps_its_mode(self, folder, old):
        old.chmod(0o640)
        folder.map("work:double", "in.npy", "out.npy")
        assert np.load(old).shape == (20, 4)
        assert old.stat().st_mode & 0o777 == 0o640

    def test_a_new_one_has_the_mode_of_new_files(self, folder):
        folder.map("work:double", "in.npy", "out.npy")
        (folder.path / "plain").touch()
        modes = [(folder.path / name).stat().st_mode for name in ("out.npy", "plain")]
        assert modes[0] == modes[1]

    def test_the_file_behind_a_link_is_replaced(self, folder, old):
        (folder.path / "link.npy").symlink_to("out.npy")
        folder.map("work:double", "in.npy", "link.npy")
        assert (folder.path / "link.npy").is_symlink()
        assert np.load(old).shape == (20, 4)

    def test_an_existing_one_survives_a_failure(self, folder, old):
        np.save(folder.path / "in.npy", np.arange(80.0).reshape(20, 4) // 4)
        before = old.read_bytes()
        folder.refuse("map", "work:fails_at_7", "in.npy", "out.npy")
        assert old.read_bytes() == before

    def test_it_appears_when_it_is_complete_with_its_space_reserved_before(self, folder):
        n = 1 << 18
        np.save(folder.path / "in.npy", np.arange(n, dtype="f8").reshape(-1, 1) // (n - 1))
        process = folder.start("map", "work:waits", "in.npy", "out.npy", "--workers", 2)
        folder.wait_for("running", process)
        (partial,) = folder.path.glob(".shmmap-*.partial")
        status = partial.stat()
        assert status.st_size > n * 8
        assert status.st_blocks * 512 >= n * 8
        assert not (folder.path / "out.npy").exists()
        (folder.path / "go").touch()
        stdout, stderr = process.communicate(timeout=60)
        assert (process.returncode, stderr) == (0, "")
        assert "max 1" in stdout
        assert np.load(folder.path / "out.npy").sum() == 1
        folder.assert_tidy()

    @pytest.mark.privileged
    def test_a_full_disk(self, folder):
        """A file system of 1 MiB, on which 1.6 MB are wanted: found before the map starts."""
        np.save(folder.path / "in.npy", np.zeros(200_000))
        disk = folder.path / "disk"
        disk.mkdir()
        mount = f"mount -t tmpfs -o size=1m tmpfs {disk}"
        if not (shutil.which("unshare") and shutil.which("mount")):
            pytest.skip("needs unshare and mount")
        if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode:
            pytest.skip("may not mount a file system")
        # The list of what is left there has to come from inside the namespace.
        script = f'{mount} && "$@"; code=$?; ls -A {disk}; exit $code'
        command = folder.command("map", "work:double", "in.npy", "disk/out.npy", "--by", "chunk")
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", script, "sh", *command],
            cwd=folder.path,
            text=True,
            capture_output=True,
            timeout=60,
        )
        assert done.returncode == 2
        assert done.stdout == ""
        assert re.fullmatch(
            r"shmmap: error: cannot write disk/out.npy: No space left on device: 1,600,000 bytes "
            r"wanted, [\d,]+ free in .*disk\n",
            done.stderr,
        ), done.stderr


class TestSignals:
    @pytest.fixture(params=["processes", "fork", "serial"])
    def running(self, request, folder):
        """A map in the middle of its run, over an OUT that is there already."""
        np.save(folder.path / "out.npy", np.array([1, 2, 3]))
        args = "map", "work:waits", "in.npy", "out.npy", "--engine", request.param, "--workers", 2
        process = folder.start(*args, "--chunksize", 1)
        folder.wait_for("running", process)
        yield process
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()

    @pytest.mark.parametrize(
        ("kill", "signum", "word"),
        [
            (os.killpg, signal.SIGINT, "interrupted"),  # as a terminal does for Ctrl-C
            (os.kill, signal.SIGINT, "interrupted"),
            (os.kill, signal.SIGTERM, "terminated"),
            (os.kill, signal.SIGHUP, "terminated"),
        ],
    )
    def test_one(self, folder, running, kill, signum, word):
        kill(running.pid, signum)
        stdout, stderr = running.communicate(timeout=10)
        assert (running.returncode, stdout, stderr) == (128 + signum, "", f"shmmap: {word}\n")
        assert np.load(folder.path / "out.npy").tolist() == [1, 2, 3]
        folder.assert_tidy()

    def test_two(self, folder, running):
        os.killpg(running.pid, signal.SIGINT)
        time.sleep(0.05)  # into the clean-up, or after it: either way it must hold
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGINT)
        _, stderr = running.communicate(timeout=10)
        # The second may come so late that Python no longer calls handlers: the same to a shell.
        assert running.returncode in (130, -signal.SIGINT)
        assert stderr in ("", "shmmap: interrupted\n")
        assert np.load(folder.path / "out.npy").tolist() == [1, 2, 3]
        folder.assert_tidy()

    def test_what_nohup_ignores_stays_ignored(self, folder):
        def ignore():
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

        process = folder.start("map", "work:waits", "in.npy", "out.npy", preexec_fn=ignore)
        folder.wait_for("running", process)
        os.kill(process.pid, signal.SIGHUP)
        (folder.path / "go").touch()
        _, stderr = process.communicate(timeout=60)
        assert (process.returncode, stderr) == (0, "")
        np.testing.assert_array_equal(np.load(folder.path / "out.npy"), folder.rows.sum(1))


class TestTerminal:
    def stderr_of(self, folder, *options):
        """What a terminal shows of stderr."""
        mine, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 100))
        args = "map", "work:double", "in.npy", "out.npy", *options
        process = folder.start(*args, stderr=theirs)
        os.close(theirs)
        process.communicate(timeout=60)
        shown = b""
        while True:
            try:
                block = os.read(mine, 4096)
            except OSError:  # how Linux says that the other end is closed
                break
            if not block:
                break
            shown += block
        os.close(mine)
        assert process.returncode == 0
        return shown.decode()

    def test_bar(self, folder):
        shown = self.stderr_of(folder)
        assert "work:double" in shown and "100%" in shown

    def test_no_bar(self, folder):
        assert self.stderr_of(folder, "--no-progress") == ""


class TestInfo:
    @pytest.fixture
    def facts(self, folder):
        done = folder.run("info")
        assert (done.returncode, done.stderr) == (0, "")
        return dict(re.split(r"\s{2,}", line, maxsplit=1) for line in done.stdout.splitlines())

    def test_cores(self, facts):
        cores, total = map(int, facts["cores usable"].split(" of "))
        assert 1 <= cores <= len(os.sched_getaffinity(0))
        assert total == os.cpu_count()

    def test_affinity_counts(self, folder):
        core = min(os.sched_getaffinity(0))
        done = folder.run("info", preexec_fn=lambda: os.sched_setaffinity(0, {core}))
        assert f"cores usable      1 of {os.cpu_count()}\n" in done.stdout

    def test_shared_memory(self, facts):
        shm = os.statvfs("/dev/shm")
        free, total = re.fullmatch(
            r"([\d.]+) GiB free of ([\d.]+) GiB in /dev/shm", facts["shared memory"]
        ).groups()
        assert float(total) == round(shm.f_blocks * shm.f_frsize / 2**30, 1)
        assert float(free) <= float(total)

    def test_memory(self, facts):
        assert re.match(r"[\d.]+ GiB available in ", facts["memory"])
        assert re.match(r"no limit|[\d.]+ GiB below its limit", facts["memory cgroup"])

    def test_huge_pages(self, facts):
        setting = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
        if not setting.exists():
            assert facts["huge pages"] == "unknown"
        else:
            assert re.search(r"\[(.*)\]", setting.read_text())[1] in facts["huge pages"]

    def test_versions(self, facts):
        assert f"shmmap {shmmap.__version__}, Python {sys.version.split()[0]}" in facts["versions"]
        assert f"numpy {np.__version__}" in facts["versions"]
        assert facts["start method"].startswith("clean")


class TestHelp:
    @pytest.mark.parametrize("args", [("--help",), ("map", "--help"), ("info", "--help")])
    def test_help(self, folder, args):
        done = folder.run(*args)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("usage: shmmap")

    def test_version(self, folder):
        assert folder.run("--version").stdout == f"shmmap {shmmap.__version__}\n"

    def test_reader_that_leaves(self, folder):
        """``shmmap info | head -c 0`` is no reason for a traceback."""
        read_end, write_end = os.pipe()
        os.close(read_end)
        done = folder.run("info", capture_output=False, stdout=write_end, stderr=subprocess.PIPE)
        os.close(write_end)
        assert done.stderr == ""
