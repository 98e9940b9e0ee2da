"""A program that ends by a Ctrl-C, or another exception, while maps run."""

from __future__ import annotations

import signal
import textwrap
import time
from pathlib import Path

import pytest

from shmmap.testing import wait_until
from tests.helpers import Terminal, in_time, is_alive, process_tree, write_script

from .test_exit import BEGIN, run

WAITING = {
    "in a block": "with shmmap.Team(2) as team: team.submit(slow, 0).result()",
    "at its end": "with shmmap.Team(2) as team: team.submit(slow, 0)",
    "result": "team = shmmap.Team(2); team.submit(slow, 0).result()",
    "map": "team = shmmap.Team(2); list(team.map(slow, [0]))",
    "map in a block": "with shmmap.Team(2) as team: list(team.map(slow, [0]))",
    "map that is not waited for": "shmmap.pmap(slow, [0], workers=1, wait=False).result()",
    "threads": "import threading\n"
    "shmmap.pmap(slow, [0], workers=1, wait=False); threading.Event().wait()",
    "exit": "team = shmmap.Team(2); team.submit(slow, 0)",
    "exit, dropped": "shmmap.Team(2).submit(slow, 0)",
    "exit, map": "shmmap.pmap(slow, [0], workers=1, wait=False)",
    "shutdown": "team = shmmap.Team(2); team.submit(slow, 0); team.shutdown()",
    "event loop": """
import asyncio
async def main():
    with shmmap.Team(2) as team:
        await asyncio.get_running_loop().run_in_executor(team, slow, 0)
asyncio.run(main())""",
    "event loop, team outside": """
import asyncio
team = shmmap.Team(2)
async def main():
    await asyncio.get_running_loop().run_in_executor(team, slow, 0)
asyncio.run(main())""",
    "event loop, map": """
import asyncio
async def main():
    await shmmap.pmap(slow, [0], workers=1, wait=False)
asyncio.run(main())""",
    "event loop, no block": """
import asyncio
loop = asyncio.new_event_loop()
loop.run_until_complete(loop.run_in_executor(shmmap.Team(2), slow, 0))""",
}


class TestInterrupted:
    """B5: a Ctrl-C ends the program within 2 s, whatever it waits for."""

    @pytest.mark.few(4)
    @pytest.mark.parametrize("times", [1, 2])
    @pytest.mark.parametrize("waiting", WAITING.values(), ids=WAITING)
    def test_it_ends(self, tmp_path: Path, waiting: str, times: int) -> None:
        """And B12: a second one, soon after the first, changes nothing."""
        script = write_script(tmp_path, BEGIN.format(start="clean") + waiting)
        with Terminal(script) as terminal:
            terminal.read_until("running\n")
            tree = process_tree(terminal.process.pid)
            with in_time(2):
                terminal.write("\x03")
                if times == 2:
                    time.sleep(
                        0.1
                    )  # the moment is the point: the clean-up after the first is under way
                    terminal.write("\x03")
                text = terminal.read_to_end()
            most = 2 if "asyncio.run" in waiting else 1  # it tells of the task, too
            assert text.count("Traceback (most recent call last)") <= most, text
            wait_until(lambda: not any(map(is_alive, tree)), 2)


@pytest.mark.parametrize("engine", ["processes", "fork", "team", "serial", "executor"])
@pytest.mark.parametrize("after_ms", [50, 150, 300])
def test_twice_within_a_moment(tmp_path: Path, engine: str, after_ms: int) -> None:
    """B12: two Ctrl-C within 50 to 300 ms are one traceback."""
    source = """
        import concurrent.futures
        func = lambda i: slow(i)
        name = sys.argv[1]
        if name == "executor":
            engine = concurrent.futures.ThreadPoolExecutor(1)
            slow = lambda i: (print("running", flush=True), time.sleep(2))
        else:
            engine = shmmap.Team(2) if name == "team" else name
        shmmap.pmap(func, [0, 1], engine=engine, workers=2)
        """
    script = write_script(tmp_path, BEGIN.format(start="clean") + textwrap.dedent(source))
    with Terminal(script, engine) as terminal:
        terminal.read_until("running\n")
        tree = process_tree(terminal.process.pid)
        with in_time(4 if engine == "executor" else 2.5):
            terminal.write("\x03")
            time.sleep(after_ms / 1000)  # the moment is the point
            terminal.write("\x03")
            text = terminal.read_to_end()
        if engine == "executor":  # the interpreter waits for its thread, which is not ours
            return
        assert text.count("Traceback (most recent call last)") == 1, text
        assert text.rstrip().endswith("KeyboardInterrupt")
        assert terminal.process.returncode == -signal.SIGINT
        wait_until(lambda: not any(map(is_alive, tree)), 2)


def test_an_ordinary_exception_waits_for_what_runs(tmp_path: Path) -> None:
    """And what has not begun is cancelled."""
    source = """
        try:
            with shmmap.Team(1) as team:
                begun = shmmap.zeros(1, bool)
                def func():
                    begun[0] = True
                    time.sleep(0.3)
                    return 1
                futures = [team.submit(func) for _ in range(3)]
                while not begun[0]:
                    time.sleep(0.001)
                raise LookupError
        except LookupError:
            print([future.cancelled() or future.result() for future in futures])
        """
    done = run(tmp_path, source)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[1, True, True]\n", "")
