"""Fault 32: the caller leaves by an exception, `sys.exit`, `os._exit`, from a thread, while it maps."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import (
    run_script,
)


class Test32LeavingCaller:
    """The caller leaves by an exception, `sys.exit`, `os._exit`, from a thread, while it maps."""

    @pytest.mark.few(3)
    @pytest.mark.parametrize(
        ("end", "code"),
        [
            ("", 0),
            ("sys.exit(3)", 3),
            ("raise ValueError('end')", 1),
            ("os._exit(4)", 4),
            ("os.kill(os.getpid(), 15)", -15),
            ("os.abort()", -6),
        ],
    )
    @pytest.mark.parametrize("team", ["default", "own"])
    def test_nothing_is_left(self, tmp_path: Path, team: str, end: str, code: int) -> None:
        done = run_script(
            tmp_path,
            f"""
            import os, sys
            import numpy as np, shmmap
            engine = shmmap.Team(workers=2) if {team == "own"} else None
            a = shmmap.pmap_chunks(np.negative, np.ones(1 << 20), engine=engine)
            {end}
            """,
        )
        assert done.returncode == code
        assert done.stderr.count("Traceback") == (1 if "raise" in end else 0)
        assert "raise" in end or done.stderr == ""

    def test_while_a_map_runs_in_a_daemon_thread(self, tmp_path: Path) -> None:
        done = run_script(
            tmp_path,
            """
            import threading, time
            import numpy as np, shmmap
            running = shmmap.zeros(1, bool)
            def busy(i):
                running[0] = True
                time.sleep(30)
            threading.Thread(
                target=lambda: shmmap.pmap(busy, np.arange(2), workers=2), daemon=True).start()
            while not running[0]:
                time.sleep(0.001)
            """,
            timeout_s=15,
        )
        assert (done.returncode, done.stderr) == (0, "")

    def test_with_a_future_nobody_waited_for(self, tmp_path: Path) -> None:
        done = run_script(
            tmp_path,
            """
            import time
            import numpy as np, shmmap
            running = shmmap.zeros(1, bool)
            def busy(i):
                running[0] = True
                time.sleep(0.3)
            future = shmmap.pmap(busy, np.arange(2), workers=2, wait=False)
            while not running[0]:
                time.sleep(0.001)
            """,
            timeout_s=15,
        )
        assert (done.returncode, done.stderr) == (0, "")

    def test_map_at_interpreter_shutdown(self, tmp_path: Path) -> None:
        done = run_script(
            tmp_path,
            """
            import atexit
            import numpy as np, shmmap
            def last():
                try:
                    print(shmmap.pmap(lambda i: i * 2, np.arange(3)).tolist())
                except RuntimeError as error:
                    print("refused:", error)
            atexit.register(last)
            shmmap.pmap(lambda i: i, np.arange(3))
            """,
            timeout_s=15,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "[0, 2, 4]\n" or done.stdout.startswith("refused:")


@pytest.mark.parametrize("engine", ["processes", "fork"])
@pytest.mark.parametrize("closed", [0, 1, 2])
def test_32_without_standard_streams(tmp_path: Path, engine: str, closed: int) -> None:
    """As of a daemon: what is opened next gets the number of what is missing."""
    source = """
        import os, sys
        import numpy as np, shmmap

        x = shmmap.asshared(np.arange(100.0))
        os.close(int(sys.argv[2]))
        for _ in range(2):
            assert np.array_equal(
                shmmap.pmap_chunks(np.sqrt, x, engine=sys.argv[1], workers=2), np.sqrt(x)
            )
    """
    done = run_script(tmp_path, source, engine, str(closed))
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
