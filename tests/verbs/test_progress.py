"""Progress wherever a program runs: terminals, notebooks, logs, and where it cannot be shown (R10)."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

import shmmap
from shmmap._verbs import progress
from tests import functions
from tests.helpers import run_script

LINE = r"(\w+: )?100% {n}/{n} \[\d\d:\d\d<00:00, .*(it/s|s/it)\]\n"


def run_with(file: Any, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    """Map with some other stderr."""
    monkeypatch.setattr(sys, "stderr", file)
    return shmmap.pmap(functions.double, range(5), **{"progress": "rows", **options})


# --- a log --------------------------------------------------------------------------------------


def test_a_short_map_is_one_line_in_a_log(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kind: stderr that is no terminal: a file, a pipe, a test runner's."""
    log = io.StringIO()
    assert run_with(log, monkeypatch, engine=engine) == [0, 2, 4, 6, 8]
    assert re.fullmatch(LINE.format(n=5), log.getvalue())
    assert log.getvalue().startswith("rows: ")


def test_lines_now_and_then(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more often than they are to come; with what is done, what is left, and the time."""
    monkeypatch.setattr(progress, "_LINE_S", 0.1)
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    began = time.monotonic()
    shmmap.pmap(time.sleep, [0.06] * 12, chunksize=1, workers=1, progress=True, engine=engine)
    *lines, last = log.getvalue().splitlines(keepends=True)
    assert 1 <= len(lines) <= (time.monotonic() - began) / 0.1
    for line in lines:
        assert re.fullmatch(r"\d+% \d+/12 \[\d\d:\d\d<[\d:?]+, .*\]\n", line)
    assert re.fullmatch(LINE.format(n=12), last)


def test_an_iterator_in_a_log(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows how many there are."""
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    shmmap.pmap(functions.double, iter(range(5)), progress="rows", engine=engine)
    assert re.fullmatch(r"rows: 5 \[\d\d:\d\d, .*\]\n", log.getvalue())


def test_a_map_that_fails_says_how_far_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with pytest.raises(ZeroDivisionError):
        shmmap.pmap(lambda i: 1 // (2 - i), range(3), chunksize=1, progress=True, engine="serial")
    assert re.fullmatch(r"\d+% \d/3 \[.*\]\n", log.getvalue())


def test_in_a_batch_job(tmp_path: Path) -> None:
    """A program whose stderr is a file."""
    done = run_script(
        tmp_path,
        """
        import numpy as np, shmmap
        shmmap.pmap_chunks(np.negative, np.arange(5), progress="negating", workers=2)
        """,
    )
    assert done.stdout == ""
    assert re.fullmatch(LINE.format(n=5), done.stderr), done.stderr


# --- where nothing can be shown -----------------------------------------------------------------


class Broken(io.StringIO):
    """A stderr that fails when it is written to."""

    def __init__(self, error: Exception, is_terminal: bool) -> None:
        super().__init__()
        self.error = error
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        """Whether it says to be a terminal."""
        return self.is_terminal

    def write(self, text: str) -> NoReturn:
        """Fail."""
        raise self.error


def closed() -> io.StringIO:
    """A stderr that has been closed."""
    file = io.StringIO()
    file.close()
    return file


@pytest.mark.parametrize(
    "make",
    [
        lambda: None,
        closed,
        object,
        lambda: Broken(BrokenPipeError(), True),
        lambda: Broken(BrokenPipeError(), False),
        lambda: Broken(OSError(28, "No space left on device"), False),
        lambda: Broken(UnicodeEncodeError("ascii", "\u2588", 0, 1, "no"), True),
        lambda: Broken(RuntimeError("the user's own"), True),
    ],
    ids=["None", "closed", "no file", "pipe, terminal", "pipe", "full", "ascii", "own"],
)
def test_progress_never_breaks_a_map(
    make: Callable[[], Any], engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_with(make(), monkeypatch, engine=engine) == [0, 2, 4, 6, 8]
    assert run_with(make(), monkeypatch, engine=engine, wait=False).result() == [0, 2, 4, 6, 8]
    got = shmmap.pmap(functions.double, iter(range(3)), progress=True, engine=engine)
    assert got == [0, 2, 4]


@pytest.mark.parametrize("redirect", ["2>&-", "2>/dev/full"])
def test_program_without_stderr(tmp_path: Path, redirect: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import numpy as np, shmmap\n"
        "print(shmmap.pmap(np.negative, np.arange(3), progress=True, workers=2))\n"
    )
    done = os.popen(f"{sys.executable} {script} {redirect}")
    assert done.read() == "[ 0 -1 -2]\n"
    assert done.close() is None


def test_the_users_own_function_may_end_the_map(engine: Any) -> None:
    """It gets what is done, and how many there are; what it raises is the user's to see."""
    seen = []
    shmmap.pmap(functions.double, range(5), engine=engine, progress=lambda *at: seen.append(at))
    assert seen[-1] == (5, 5)
    assert seen == sorted(seen)

    def fail(done: int, total: int) -> NoReturn:
        raise KeyError(total)

    with pytest.raises(KeyError, match="5"):
        shmmap.pmap(functions.double, range(5), engine=engine, progress=fail)


# --- terminals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [40, 80])
def test_bar_in_a_terminal(columns: int, tmp_path: Path) -> None:
    """It fits, and its clock goes on while the first items take their time."""
    pexpect = pytest.importorskip("pexpect")
    script = tmp_path / "script.py"
    script.write_text(
        "import time, shmmap\n"
        "shmmap.pmap(time.sleep, [1.2, 1.2], progress='rows', workers=2, chunksize=1)\n"
    )
    child = pexpect.spawn(sys.executable, [str(script)], dimensions=(24, columns), timeout=30)
    child.expect(pexpect.EOF)
    child.close()
    text = child.before.decode()
    frames = [frame for frame in re.split(r"[\r\n]+", text) if frame.strip()]
    assert all(len(frame) <= columns for frame in frames), frames
    assert any(re.search(r"0/2 \[00:0[12]", frame) for frame in frames), frames
    assert "100%" in frames[-1]


# --- notebooks ----------------------------------------------------------------------------------


NOTEBOOK = """
    import json, os
    from jupyter_client.manager import start_new_kernel

    kernel, client = start_new_kernel(kernel_name="python3", env=os.environ.copy())
    texts = {}
    try:
        client.execute(
            "import shmmap\\n"
            "r = shmmap.pmap(lambda v: 2 * v, range(4), progress='rows', workers=2)\\n"
            "print(r)\\n"
            "shmmap.shutdown()"
        )
        while True:
            message = client.get_iopub_msg(timeout=60)
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                break
            if kind == "stream":
                texts[content["name"]] = texts.get(content["name"], "") + content["text"]
            elif kind in ("display_data", "error"):
                texts[kind] = texts.get(kind, "") + str(content)
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)
    print(json.dumps(texts))
"""


def test_bar_in_a_notebook(tmp_path: Path) -> None:
    """In a real kernel: a widget where there is ipywidgets, else the bar as text."""
    if not (find_spec("jupyter_client") and find_spec("ipykernel")):
        pytest.skip("there is no kernel")
    done = run_script(tmp_path, NOTEBOOK)
    texts = json.loads(done.stdout)
    assert texts["stdout"] == "[0, 2, 4, 6]\n"
    assert "error" not in texts
    if find_spec("ipywidgets"):
        assert "widget-view" in texts["display_data"]
    else:
        assert "rows: 100%" in texts["stderr"]
        assert "4/4" in texts["stderr"]
        assert "IProgress" not in texts["stderr"]


def test_shown_by_a_thread_of_the_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``wait=False`` too, and then by no other."""
    log = io.StringIO()
    seen = set()
    monkeypatch.setattr(sys, "stderr", log)
    future = shmmap.pmap(
        functions.double,
        np.arange(5),
        progress=lambda done, total: seen.add(threading.get_ident()),
        wait=False,
    )
    future.result()
    assert len(seen) == 1
    assert threading.get_ident() not in seen
