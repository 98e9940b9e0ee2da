"""Functions defined where people define them: in a script, ``python -c``, a REPL, a notebook."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import Terminal, run_python, run_script, write_script

EXPECTED = "[0, 1, 4, 9, 16]"


def test_script_without_a_guard(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
        import numpy as np
        import shmmap

        print("this file runs once")

        factor = 1

        def square(i):
            return factor * i * i

        class Model:
            def __init__(self, power):
                self.power = power
            def __call__(self, i):
                return i ** self.power

        print(shmmap.pmap(lambda i: i * i, np.arange(5)).tolist())
        print(shmmap.pmap(square, np.arange(5)).tolist())
        print(shmmap.pmap(Model(2), np.arange(5)).tolist())
        factor = 2
        print(shmmap.pmap(square, np.arange(5)).tolist())
        """,
    )
    assert done.stderr == ""
    doubled = "[0, 2, 8, 18, 32]"
    assert done.stdout.splitlines() == ["this file runs once", *[EXPECTED] * 3, doubled]
    assert done.returncode == 0


def test_command() -> None:
    done = run_python(
        "-c",
        "import numpy as np, shmmap; print(shmmap.pmap(lambda i: i * i, np.arange(5)).tolist())",
    )
    assert (done.stdout, done.stderr, done.returncode) == (EXPECTED + "\n", "", 0)


def test_standard_input() -> None:
    done = run_python(
        "-",
        input="import numpy as np, shmmap\n"
        "print(shmmap.pmap(lambda i: i * i, np.arange(5)).tolist())\n",
    )
    assert (done.stdout, done.stderr, done.returncode) == (EXPECTED + "\n", "", 0)


def test_module(tmp_path: Path) -> None:
    write_script(
        tmp_path,
        """
        import numpy as np, shmmap
        def square(i):
            return i * i
        print(shmmap.pmap(square, np.arange(5)).tolist())
        """,
    )
    done = run_python("-m", "script", cwd=tmp_path)
    assert (done.stdout, done.stderr, done.returncode) == (EXPECTED + "\n", "", 0)


def test_repl() -> None:
    with Terminal("-i", "-q") as terminal:
        terminal.read_until(">>> ")
        for line in (
            "import numpy as np, shmmap",
            "factor = 1",
            "square = lambda i: factor * i * i",
            "shmmap.pmap(square, np.arange(5)).tolist()",
        ):
            terminal.write(line + "\n")
            answer = terminal.read_until(">>> ")
        assert EXPECTED in answer
        for line in ("factor = 2", "shmmap.pmap(square, np.arange(5)).tolist()"):
            terminal.write(line + "\n")
            answer = terminal.read_until(">>> ")
        assert "[0, 2, 8, 18, 32]" in answer
        terminal.write("\x04")
        assert "Traceback" not in terminal.read_to_end()
        assert terminal.process.returncode == 0


def test_notebook_kernel() -> None:
    """A real kernel runs cells: functions, changed globals, and what workers print, are there."""
    manager = pytest.importorskip("jupyter_client.manager")
    pytest.importorskip("ipykernel")
    kernel, client = manager.start_new_kernel(kernel_name="python3", startup_timeout=60)
    try:

        def run(code: str) -> tuple[str, list[dict[str, Any]]]:
            """Run a cell; return its text and what it answered."""
            outputs: list[dict[str, Any]] = []
            reply = client.execute_interactive(
                code, timeout=60, output_hook=lambda message: outputs.append(message["content"])
            )
            assert reply["content"]["status"] == "ok", reply["content"]
            return "".join(content.get("text", "") for content in outputs), outputs

        run("import numpy as np, shmmap\nfactor = 1\ndef square(i):\n    return factor * i * i")
        assert EXPECTED in run("print(shmmap.pmap(square, np.arange(5)).tolist())")[0]
        assert EXPECTED in run("print(shmmap.pmap(lambda i: i * i, np.arange(5)).tolist())")[0]
        run("factor = 2")
        text, _ = run("print(shmmap.pmap(square, np.arange(5)).tolist())")
        assert "[0, 2, 8, 18, 32]" in text
        text, _ = run("shmmap.pmap(lambda i: print('worker', int(i)), np.arange(3))")
        assert sorted(re.findall(r"worker \d", text)) == ["worker 0", "worker 1", "worker 2"]
        run("result = await shmmap.pmap(square, np.arange(5), wait=False)")
        assert "[0, 2, 8, 18, 32]" in run("print(result.tolist())")[0]
    finally:
        client.stop_channels()
        kernel.shutdown_kernel()
        # The client's blocking calls run on an event loop of their own, which nobody closes.
        pytest.importorskip("jupyter_core.utils").ensure_event_loop().close()


def test_functions_of_main_share_one_namespace(tmp_path: Path) -> None:
    """``def init(): global model`` works: functions of the script see each other's globals."""
    done = run_script(
        tmp_path,
        """
        import shmmap

        def init(value):
            global model
            model = value

        def use(i):
            return model * i

        with shmmap.Team(workers=2, initializer=init, initargs=(7,)) as team:
            print(list(team.map(use, range(4))), shmmap.pmap(use, range(4), engine=team))
        """,
    )
    assert done.stderr == ""
    assert done.stdout == "[0, 7, 14, 21] [0, 7, 14, 21]\n"


def test_classes_of_main_come_back_as_the_callers_own(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
        import dataclasses, enum, warnings
        import shmmap

        warnings.simplefilter("ignore", RuntimeWarning)  # what is appended in a worker is lost

        @dataclasses.dataclass
        class Point:
            x: int
            seen = []

        class Colour(enum.Enum):
            RED = 1

        own = Point
        Point.seen.append("caller")

        def make(i):
            Point.seen.append("worker")
            return Point(i), Colour.RED

        for _ in range(2):
            results = shmmap.pmap(make, [1, 2, 3])
            assert [type(p) for p, _ in results] == [own] * 3, results
            assert all(colour is Colour.RED for _, colour in results)
            assert own is Point and Point.seen == ["caller"], Point.seen
        assert isinstance(results[0][0], Point)

        class Failure(Exception):
            def __init__(self, code):
                super().__init__(code)
                self.code = code

        def fail(i):
            raise Failure(40 + i)

        try:
            shmmap.pmap(fail, [2])
        except Failure as error:
            print("own class", error.code)
        """,
    )
    assert done.stderr == ""
    assert done.stdout == "own class 42\n"


def test_redefined_functions_are_seen(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
        import shmmap

        def helper(i): return 1
        def func(i, shift=0): return helper(i) + shift
        print(shmmap.pmap(func, [0, 1]))
        def helper(i): return 2
        print(shmmap.pmap(func, [0, 1]))
        func.__defaults__ = (10,)
        print(shmmap.pmap(func, [0, 1]))
        def func(i): return "new"
        print(shmmap.pmap(func, [0, 1]))
        """,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["[1, 1]", "[2, 2]", "[12, 12]", "['new', 'new']"]


def test_changed_global_of_a_module_made_in_the_caller(tmp_path: Path) -> None:
    """A worker's own copy of an imported module is its own: API.md speaks of the caller's main."""
    (tmp_path / "helping.py").write_text("def func(i):\n    return i + 1\n")
    done = run_script(
        tmp_path,
        """
        import shmmap, helping
        print(shmmap.pmap(helping.func, [0, 1]))
        """,
    )
    assert (done.stdout, done.stderr) == ("[1, 2]\n", "")
