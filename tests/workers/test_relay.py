"""What workers print, log and warn reaches the caller's own streams, loggers and filters."""

from __future__ import annotations

import contextlib
import io
import logging
import queue
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap.testing import Flood
from tests.conftest import open_engine
from tests.helpers import Terminal, run_script, write_script


@pytest.fixture(params=["processes", "fork", "team"])
def engine(request: pytest.FixtureRequest) -> Any:
    """Run the test once per engine with processes."""
    with open_engine(request.param) as engine:
        yield engine


def test_prints_reach_the_callers_streams(engine: Any) -> None:
    def talk(i: Any) -> None:
        print("out", int(i))
        print("err", int(i), file=sys.stderr)

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        shmmap.pmap(talk, np.arange(20), engine=engine, workers=2)
    assert sorted(out.getvalue().splitlines()) == sorted(f"out {i}" for i in range(20))
    assert sorted(err.getvalue().splitlines()) == sorted(f"err {i}" for i in range(20))


def test_text_before_an_error_is_not_lost(engine: Any) -> None:
    def fail(i: Any) -> None:
        print("last words", end="")
        raise ValueError("on purpose")

    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(ValueError, match="on purpose"):
        shmmap.pmap(fail, [0], engine=engine)
    assert out.getvalue() == "last words"


def test_a_flood_is_no_blockade(engine: Any) -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        shmmap.pmap(Flood(1 << 20), np.arange(4), engine=engine, workers=2)
    # Lines of different workers may be cut into each other, but no character is lost.
    assert len(out.getvalue()) == 4 * ((1 << 20) // 100) * 100
    assert out.getvalue().count("\n") == 4 * ((1 << 20) // 100)


def test_log_records_reach_the_callers_loggers(
    engine: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def log(i: Any) -> None:
        logging.getLogger("shmmap_test.worker").info("item %d", int(i))
        logging.getLogger("shmmap_test.worker").debug("unheard")

    with caplog.at_level(logging.INFO, "shmmap_test"):
        shmmap.pmap(log, np.arange(5), engine=engine, workers=2)
    records = [record for record in caplog.records if record.name == "shmmap_test.worker"]
    assert sorted(record.getMessage() for record in records) == [f"item {i}" for i in range(5)]
    assert {record.levelname for record in records} == {"INFO"}


def test_warnings_reach_the_callers_filters(engine: Any) -> None:
    def warn(i: Any) -> None:
        warnings.warn("careful", UserWarning, stacklevel=1)

    with pytest.warns(UserWarning, match="careful"):
        shmmap.pmap(warn, np.arange(5), engine=engine, workers=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shmmap.pmap(warn, np.arange(5), engine=engine, workers=2)


def test_numpys_warnings_reach_the_caller(engine: Any) -> None:
    with pytest.warns(RuntimeWarning, match="divide by zero"):
        shmmap.pmap_chunks(lambda chunk: 1 / chunk, np.zeros(10), engine=engine, workers=2)


def test_submitted_calls_print_too() -> None:
    out = io.StringIO()
    with shmmap.Team(workers=1) as team, contextlib.redirect_stdout(out):
        team.submit(print, "hello").result(timeout=20)
        assert list(team.map(print, ["a", "b"])) == [None, None]
    assert out.getvalue().splitlines() == ["hello", "a", "b"]


@pytest.mark.parametrize("start", ["clean", "fork"])
@pytest.mark.parametrize("fails", [False, True])
def test_what_a_submitted_function_says_is_there_before_its_result(start: Any, fails: bool) -> None:
    """However the two come in, and though the last line is not ended."""
    came: list[str] = []
    before: queue.SimpleQueue[tuple[str, ...]] = queue.SimpleQueue()

    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            came.append(text)
            return len(text)

    def talk(i: int) -> int:
        print("said", i, end="")
        if fails:
            raise ValueError("on purpose")
        return i

    with shmmap.Team(1, start=start) as team, contextlib.redirect_stdout(Stream()):
        for i in range(50):
            future = team.submit(talk, i)
            future.add_done_callback(lambda _: before.put(tuple(came)))
            assert isinstance(future.exception(20), ValueError) is fails
            assert before.get(timeout=20) == (f"said {i}",)
            came.clear()


def test_output_of_c_code_and_children_is_not_lost(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
        import os, shmmap
        shmmap.pmap(lambda i: os.write(1, b"raw\\n") and os.system("echo child") and None, [0])
        """,
    )
    assert done.stderr == ""
    assert sorted(done.stdout.split()) == ["child", "raw"]


def test_standard_input_is_the_callers(tmp_path: Path) -> None:
    """A worker that reads standard input gets nothing, and takes nothing away from the caller."""
    done = run_script(
        tmp_path,
        """
        import shmmap, sys
        print(shmmap.pmap(lambda i: sys.stdin.read(), [0]))
        print(input())
        """,
        input="for the caller\n",
    )
    assert done.stderr == ""
    assert done.stdout == "['']\nfor the caller\n"


def test_silence_is_golden(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
        import numpy as np, shmmap
        for engine in ("processes", "fork", "threads", "serial"):
            shmmap.pmap(np.negative, np.arange(10), engine=engine)
        """,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_progress_bar_in_a_terminal(tmp_path: Path) -> None:
    script = write_script(
        tmp_path,
        """
        import numpy as np, shmmap
        shmmap.pmap(np.negative, np.arange(5), progress="negating", workers=2)
        shmmap.pmap(lambda i: print("said", int(i)), np.arange(3), progress=True, workers=2)
        """,
    )
    with Terminal(script) as terminal:
        text = terminal.read_to_end()
    assert "negating" in text
    assert "5/5" in text
    assert "3/3" in text
    assert all(f"said {i}\n" in text for i in range(3))
