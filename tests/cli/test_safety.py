"""The command line refuses in its own words, and runs and overwrites nothing of others (E4, F1, F2)."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WORK = """
import os, sys, time
from pathlib import Path
import numpy as np
import helper

def double(x):
    return helper.TWO * x

def one_sum(chunk):
    return chunk.sum()

def shorter_later(chunk):
    return chunk[:3] if chunk[0, 0] > 100 else chunk

def wider_later(row):
    return "text" if row[0] > 100 else row[0]

def dies(row):
    if row[0] > 100:
        os._exit(3)
    return row[0]

def waits(row):
    if row[0] > 100:
        Path("running").touch()
        while not Path("go").exists():
            time.sleep(0.005)
    return row[0]

def masked(row):
    return np.ma.array(row, mask=row > 3)

def folder_on_path(row):
    return float(os.getcwd() in sys.path)

def late(row):
    import later
    return later.VALUE
"""


LOCKED = """
import threading

class Adder:
    def __init__(self):
        self.lock = threading.Lock()

    def add(self, row):
        with self.lock:
            return row.sum()

adder = Adder()
"""


SCRIPT = """
import os, sys
if not sys.flags.safe_path:
    sys.path[0] = os.path.dirname(sys.executable)  # as the installed script has it
from shmmap._cli import main
sys.exit(main())
"""


class Folder:
    """A folder with ``in.npy`` and the user's own modules, in which commands are run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = np.arange(240.0).reshape(60, 4)
        np.save(path / "in.npy", self.rows)
        (path / "work.py").write_text(WORK)
        (path / "helper.py").write_text("TWO = 2\n")
        (path / "later.py").write_text("VALUE = 3.0\n")

    def run(
        self, *args: Any, program: tuple[str, ...] = ("-c", SCRIPT), **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run the command line in the folder."""
        return subprocess.run(
            [sys.executable, *program, *map(str, args)],
            cwd=self.path, text=True, capture_output=True, timeout=60, **options,
        )  # fmt: skip

    def refuse(self, *args: Any) -> tuple[int, str]:
        """Run a command that must fail with one line, and leave nothing."""
        before = set(self.path.iterdir())
        done = self.run("map", *args)
        assert done.stdout == ""
        assert re.fullmatch(r"shmmap( map)?: error: .+\n", done.stderr), done.stderr
        left = {path for path in set(self.path.iterdir()) - before if path.name != "__pycache__"}
        assert not left
        return done.returncode, done.stderr

    def map(self, *args: Any, **options: Any) -> np.ndarray[Any, Any]:
        """Run ``shmmap map``, which must work, and give what it wrote."""
        done = self.run("map", *args, **options)
        assert (done.returncode, done.stderr) == (0, "")
        assert not list(self.path.glob("*.partial"))
        out: np.ndarray[Any, Any] = np.load(self.path / args[2])
        return out


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Make one."""
    return Folder(tmp_path)


# --- words (E4, R5, R6, R7) ---------------------------------------------------------------------

ADVICE = re.compile(
    r"shmmap\.\w+|out=|engine=|workers=|dtype=|chunksize=|on_error|TypeError|ValueError"
)
"""What cannot be written on the command line."""


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("work:double", "in.npy", "out.npy", "--workers", 0), "--workers: '0' is neither"),
        (("work:double", "in.npy", "out.npy", "--workers", -2), "--workers: '-2' is neither"),
        (("work:double", "in.npy", "out.npy", "--workers", "two"), "--workers: 'two' is neither"),
        (("work:double", "in.npy", "out.npy", "--workers", 10**9), "are too many: at most"),
        (("work:double", "in.npy", "out.npy", "--chunksize", "8XB"), "--chunksize: '8XB' is no"),
        (("work:double", "in.npy", "out.npy", "--chunksize", 0), "--chunksize: '0' is no"),
        (("work:double", "in.npy", "out.npy", "--chunksize", -3), "--chunksize: '-3' is no"),
        (("work:double", "in.npy", "out.npy", "--chunksize", "0B"), "--chunksize: '0B' is no"),
        (
            ("work:double", "in.npy", "out.npy", "--dtype", "int8"),
            "--dtype int8 cannot hold what FUNC returns, which is float64",
        ),
        (("work:one_sum", "in.npy", "out.npy", "--by", "chunk"), r"returns shape \(\) for a block"),
        (("numpy.sum", "in.npy", "out.npy", "--by", "chunk"), "--by item calls it for one at a"),
        (("work:masked", "in.npy", "out.npy"), "masked array, whose mask OUT cannot hold"),
        (("work:double", "-", "out.npy"), "IN must be a file"),
        (("work:double", "in.npy", "-"), "OUT must be a file"),
        (("work:double", "in.npy", "out.txt"), "OUT is an .npy file"),
        (("work:double", "in.npy", "out.csv"), "OUT is an .npy file"),
    ],
)
def test_refused_before_it_began(folder: Folder, args: tuple[Any, ...], complaint: str) -> None:
    """E4; kind: arguments that make no sense. Exit code 2 and one line that can be followed."""
    code, line = folder.refuse(*args)
    assert code == 2
    assert re.search(complaint, line), line
    assert not ADVICE.search(line), line


@pytest.mark.parametrize("engine", ["processes", "fork", "threads", "serial"])
@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("work:shorter_later", "--by", "chunk", "--chunksize", 20), r"returns shape \(3, 4\) for"),
        (("work:wider_later",), "a result is <U4, but the first one was float64"),
        (("work:wider_later", "--dtype", "f4"), "a result is <U4, which float32 cannot hold"),
    ],
)
def test_failed_while_running(
    folder: Folder, args: tuple[Any, ...], complaint: str, engine: str
) -> None:
    """R6; kind: errors of the library's, whose advice is for those who write Python."""
    func, *options = args
    code, line = folder.refuse(func, "in.npy", "out.npy", "--engine", engine, *options)
    assert code == 1
    assert re.search(complaint, line), line
    assert not ADVICE.search(line), line


def test_worker_that_dies(folder: Folder) -> None:
    code, line = folder.refuse("work:dies", "in.npy", "out.npy", "--workers", 2)
    assert code == 1
    assert "exit code 3" in line or "exited" in line, line
    assert not ADVICE.search(line), line
    assert "partly written" not in line


@pytest.mark.few(2)
@pytest.mark.parametrize("chunksize", ["auto", 7, "64B", "1kB", "0.5 KiB"])
def test_chunk_sizes(folder: Folder, chunksize: Any) -> None:
    out = folder.map(
        "numpy.negative", "in.npy", "out.npy", "--by", "chunk", "--chunksize", chunksize
    )
    np.testing.assert_array_equal(out, -folder.rows)


# --- what is run (F1) ---------------------------------------------------------------------------

TRAP = "import os\nopen(os.environ['TRAPPED'], 'a').write(__name__ + ' ')\nraise SystemExit(77)\n"
LIBRARIES = ("cloudpickle", "numbers", "numpy", "tqdm", "threadpoolctl", "decimal", "ipywidgets")


@pytest.fixture
def trapped(folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Have somebody's modules in the folder under the names of libraries; where they say they ran."""
    for name in LIBRARIES:
        (folder.path / f"{name}.py").write_text(TRAP)
    return tmp_path_factory.mktemp("trapped") / "said"


@pytest.mark.few(2)
@pytest.mark.parametrize("engine", ["processes", "fork", "serial"])
@pytest.mark.parametrize("flags", [(), ("-P",), ("-I",), ("PYTHONSAFEPATH",)])
@pytest.mark.parametrize("func", ["numpy.linalg.norm", "work:double"])
def test_libraries_are_not_taken_from_the_current_folder(
    folder: Folder, trapped: Path, flags: tuple[str, ...], func: str, engine: str
) -> None:
    """F1; kind: modules that are imported late, in the caller and in workers, by name."""
    environment = os.environ | {"TRAPPED": str(trapped)}
    if flags == ("PYTHONSAFEPATH",):
        flags, environment = (), environment | {"PYTHONSAFEPATH": "1"}
    done = folder.run(
        "map", func, "in.npy", "out.npy", "--workers", 2, "--engine", engine,
        program=(*flags, "-c", SCRIPT), env=environment,
    )  # fmt: skip
    assert not trapped.exists(), trapped.read_text()
    is_safe = bool(flags) or "PYTHONSAFEPATH" in environment
    if func == "work:double" and is_safe:
        assert done.returncode == 2
        assert (
            "cannot import work:double: ModuleNotFoundError: No module named 'work'" in done.stderr
        )
    else:
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("flags", [(), ("-P",)])
def test_python_dash_m(folder: Folder, trapped: Path, flags: tuple[str, ...]) -> None:
    """Python itself searches the folder first until the library has been imported, but no longer."""
    (folder.path / "numpy.py").unlink()
    for name in ("numbers", "decimal"):  # NumPy imports these
        (folder.path / f"{name}.py").unlink()
    done = folder.run(
        "map", "numpy.linalg.norm", "in.npy", "out.npy", "--workers", 2,
        program=(*flags, "-m", "shmmap"), env=os.environ | {"TRAPPED": str(trapped)},
    )  # fmt: skip
    assert not trapped.exists(), trapped.read_text()
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("program", [("-c", SCRIPT), ("-m", "shmmap")], ids=["script", "-m"])
@pytest.mark.parametrize("engine", ["processes", "fork", "serial"])
def test_own_modules_are_found_in_the_current_folder(
    folder: Folder, program: tuple[str, ...], engine: str
) -> None:
    """In workers too, and also what is imported while the function runs."""
    options = "--engine", engine, "--workers", 2
    out = folder.map("work:double", "in.npy", "out.npy", *options, program=program)
    np.testing.assert_array_equal(out, folder.rows * 2)
    assert folder.map("work:late", "in.npy", "out.npy", *options, program=program)[0] == 3
    assert folder.map("work:folder_on_path", "in.npy", "out.npy", *options, program=program)[0] == 1


# --- what is written (F2) -----------------------------------------------------------------------


def start(folder: Folder, *args: Any) -> subprocess.Popen[str]:
    """Start ``shmmap map work:waits``, and return when it is in the middle of its run."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "map", "work:waits", "in.npy", "out.npy", *args],
        cwd=folder.path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    while not (folder.path / "running").exists():
        assert process.poll() is None, process.communicate()
    return process


@pytest.mark.parametrize("engine", ["processes", "fork", "threads"])
@pytest.mark.parametrize("kind", ["symlink", "file"])
def test_name_that_becomes_somebody_elses(folder: Folder, kind: str, engine: str) -> None:
    """F2; kind: a name in a folder that others may write. Nothing is written through it."""
    victim = folder.path / "victim"
    victim.write_bytes(b"precious" * 1000)
    process = start(folder, "--engine", engine, "--workers", "2", "--chunksize", "1")
    (partial,) = folder.path.glob(".shmmap-*.partial")
    partial.unlink()
    if kind == "symlink":
        partial.symlink_to(victim)
    else:
        os.link(victim, partial)
    (folder.path / "go").touch()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "somebody has put another file in the place of" in errors
    assert victim.read_bytes() == b"precious" * 1000
    assert not (folder.path / "out.npy").exists()


@pytest.mark.parametrize("engine", ["processes", "fork"])
def test_workers_do_not_look_the_name_up(folder: Folder, engine: str) -> None:
    """A name that has gone while it runs is missed at the end only."""
    process = start(folder, "--engine", engine, "--workers", "2", "--chunksize", "1")
    (partial,) = folder.path.glob(".shmmap-*.partial")
    moved = partial.with_name("moved")
    partial.rename(moved)
    (folder.path / "go").touch()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.startswith("shmmap: error: ")
    np.testing.assert_array_equal(np.load(moved), folder.rows[:, 0])


@pytest.mark.slow
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
@pytest.mark.parametrize("was", [None, 0o600, 0o664])
def test_modes(folder: Folder, umask: int, was: int | None) -> None:
    """As the umask wants it, or as OUT was; and nobody else's while it is being made."""
    out = folder.path / "out.npy"
    if was is not None:
        np.save(out, np.zeros(3))
        out.chmod(was)
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "map", "work:waits", "in.npy", "out.npy"],
        cwd=folder.path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, umask=umask,
    )  # fmt: skip
    while not (folder.path / "running").exists():
        assert process.poll() is None, process.communicate()
    (partial,) = folder.path.glob(".shmmap-*.partial")
    assert stat.S_IMODE(partial.stat().st_mode) == 0o600
    (folder.path / "go").touch()
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert stat.S_IMODE(out.stat().st_mode) == (0o666 & ~umask if was is None else was)


@pytest.mark.parametrize("engine", ["processes", "fork", "threads", "serial"])
@pytest.mark.parametrize("by", ["item", "chunk"])
def test_function_that_ends_its_process_at_once(folder: Folder, engine: str, by: str) -> None:
    """The trial on the first item is in a worker wherever the map runs: an error, and nothing is left."""
    (folder.path / "work.py").write_text(f"{WORK}\ndef dies_at_once(x):\n    os._exit(3)\n")
    code, line = folder.refuse(
        "work:dies_at_once", "in.npy", "out.npy", "--engine", engine, "--by", by
    )
    assert code == 1
    assert "WorkerDied" in line and "exited with status 3" in line


@pytest.mark.parametrize("engine", ["threads", "serial"])
def test_function_that_cannot_be_sent_to_workers(folder: Folder, engine: str) -> None:
    """One that takes the caller's own process, as it holds a lock, is tried there."""
    (folder.path / "locked.py").write_text(LOCKED)
    out = folder.map("locked:adder.add", "in.npy", "out.npy", "--engine", engine)
    np.testing.assert_array_equal(out, folder.rows.sum(1))


def test_summary_does_not_read_what_is_larger_than_memory(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from shmmap._cli.summary import summarize

    a = np.arange(8.0)
    assert summarize(a, {"engine": "serial"}) == "shape (8,), float64, min 0, mean 3.5, max 7"
    monkeypatch.setattr("shmmap._system.limits.available", lambda: (63, "physical memory"))
    assert summarize(a, {"engine": "serial"}) == "shape (8,), float64"
