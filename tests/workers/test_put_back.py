"""What a function changes around it ends with its call."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import shmmap
from tests.helpers import assert_next_map_works, run_script

from .test_surroundings import STARTS, look


def lower(number: int, value: int) -> None:
    """Lower the limit itself."""
    resource.setrlimit(number, (value, resource.getrlimit(number)[1]))


def lower_for_good(number: int, value: int) -> None:
    """Lower it so that only a privileged process may raise it again."""
    resource.setrlimit(number, (value, value))


NOTHING = contextlib.nullcontext()


LIMITS = {
    "descriptors": (resource.RLIMIT_NOFILE, 3),
    "address space": (resource.RLIMIT_AS, 1 << 20),
    "data": (resource.RLIMIT_DATA, 1 << 20),
    "file size": (resource.RLIMIT_FSIZE, 0),
}


@pytest.mark.few(2)
@pytest.mark.parametrize("lowers", [lower, lower_for_good])
@pytest.mark.parametrize("limit", LIMITS)
def test_limits_that_a_function_lowers(team: shmmap.Team, limit: str, lowers: Any) -> None:
    """C17: they are as before in the next call; both in maps and in what is submitted."""
    number, value = LIMITS[limit]
    for _ in range(2):
        shmmap.pmap_ranges(lambda a, b: lowers(number, value), 2, engine=team, chunksize=1)
        # Its result may need what it has given up for good; a map's marks do not.
        with contextlib.suppress(shmmap.WorkerDied) if lowers is lower_for_good else NOTHING:
            team.submit(lowers, number, value).result()
        assert_next_map_works(team)
    assert team.submit(resource.getrlimit, number).result() == resource.getrlimit(number)


@pytest.mark.parametrize("start", STARTS)
def test_priority_and_levels(start: Any) -> None:
    """C17, its kind: what else a call may leave behind."""
    logging.getLogger("shmmap-quiet")

    def spoil(_: Any) -> None:
        os.nice(5)
        logging.getLogger("shmmap-quiet").setLevel(50)
        logging.disable(50)
        sys.setrecursionlimit(5000)
        os.umask(0o123)
        sys.argv.append("more")
        os.environ["TZ"] = "XYZ-7"
        time.tzset()

    def left(_: Any) -> tuple[Any, ...]:
        return os.nice(0), logging.getLogger("shmmap-quiet").level, look()

    expected = os.nice(0), 0, look()
    with shmmap.Team(1, start=start) as team:
        assert team.submit(left, 0).result() == expected
        shmmap.pmap(spoil, [0], engine=team)
        assert team.submit(left, 0).result() == expected


@pytest.mark.parametrize("start", STARTS)
def test_a_folder_that_was_removed(start: Any, tmp_path: Path) -> None:
    """C17, its kind: a function removes the folder it has gone to."""

    def vanish(_: Any) -> None:
        folder = tmp_path / f"gone{os.getpid()}"
        folder.mkdir(exist_ok=True)
        os.chdir(folder)
        folder.rmdir()

    with shmmap.Team(2, start=start) as team:
        shmmap.pmap(vanish, [0, 1], engine=team, chunksize=1)
        assert team.submit(os.getcwd).result() == os.getcwd()
        assert_next_map_works(team)


def log_one(i: Any) -> Any:
    """Log to a logger of the caller's."""
    logging.getLogger("shmmap-test.mine").info("item %s", i)
    return i


class Kept(logging.Handler):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.texts.append(record.getMessage())


@pytest.mark.parametrize("propagate", [True, False])
def test_a_logger_with_handlers_of_its_own(engine: Any, propagate: bool) -> None:
    """They get each record once, wherever it was logged, and none while the logger is disabled.

    A forked worker has copies of the handlers, from which nobody would read.
    """
    logger, handler = logging.getLogger("shmmap-test.mine"), Kept()
    logger.addHandler(handler)
    logger.propagate, logger.disabled = propagate, True
    logger.setLevel("INFO")
    try:
        for is_disabled, expected in ((True, []), (False, ["item 1", "item 2"])):
            logger.disabled = is_disabled
            assert shmmap.pmap(log_one, [1, 2], engine=engine, workers=2) == [1, 2]
            assert sorted(handler.texts) == expected
    finally:
        logger.removeHandler(handler)
        logger.propagate, logger.disabled = True, False
        logger.setLevel("NOTSET")


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("how", ["breakpoint()", "input()", "pdb.set_trace()"])
def test_what_asks_the_user(tmp_path: Path, start: str, how: str) -> None:
    """A worker has no standard input, and the error says where there is one (R11)."""
    source = f"""
        import pdb
        import shmmap

        with shmmap.Team(1, start="{start}") as team:
            try:
                shmmap.pmap(lambda i: {how}, [0], engine=team)
            except Exception as exc:
                words = str(exc), *getattr(exc, "__notes__", ())
                print("engine='serial'" in "".join(words))
            print(shmmap.pmap(abs, [-1], engine=team))
    """
    done = run_script(tmp_path, source)
    assert (done.stdout.splitlines()[-2:], done.stderr) == (["True", "[1]"], "")
