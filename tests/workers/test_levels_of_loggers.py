"""Loggers of workers are made by their libraries, and have the levels of the caller's."""

from __future__ import annotations

from pathlib import Path

from tests.helpers import run_script


def test_loggers_are_made_by_their_libraries(tmp_path: Path) -> None:
    """C1: a level is kept until the logger is there; no plain logger takes the name of another class's."""
    (tmp_path / "library.py").write_text(
        """
import logging

class Chatty(logging.Logger):
    def chat(self, text):
        self.info("chat: %s", text)

before = logging.getLoggerClass()
logging.setLoggerClass(Chatty)
log = logging.getLogger("library")
child = logging.getLogger("library.child")
logging.setLoggerClass(before)
log.setLevel(logging.ERROR)
"""
    )
    done = run_script(
        tmp_path,
        """
import logging, sys
import shmmap
logging.basicConfig(stream=sys.stdout, format="%(name)s %(message)s")

import library
library.log.setLevel(logging.DEBUG)
library.child.propagate = False
library.child.addHandler(logging.StreamHandler(sys.stdout))

def chat(i):
    import library
    library.log.chat(i)
    library.child.chat(i)
    return library.log.level, type(library.log).__name__

for start in "clean", "fork":
    with shmmap.Team(1, start=start) as team:
        team.submit(chat, 0).result()
        print(team.submit(chat, 1).result())
        library.log.setLevel(logging.INFO)
        print(team.submit(chat, 2).result())
        logging.disable(logging.INFO)
        print(team.submit(chat, 3).result())
        logging.disable(0)
    library.log.setLevel(logging.DEBUG)
""",
    )
    assert done.stderr == ""
    lines = [line for line in done.stdout.splitlines() if " 0" not in line]
    expected = []
    for level, i in ((10, 1), (20, 2), (20, 3)):
        if i < 3:
            expected += [f"library chat: {i}", f"chat: {i}"]
        expected.append(str((level, "Chatty")))
    assert sorted(lines) == sorted(expected * 2)


def test_records_make_no_loggers_in_the_caller(tmp_path: Path) -> None:
    """C1, the other way: a library that only workers have imported makes its own logger later here, too."""
    (tmp_path / "library.py").write_text(
        """
import logging

class Chatty(logging.Logger):
    def chat(self):
        self.warning("chat")

logging.setLoggerClass(Chatty)
log = logging.getLogger("library.deep")
logging.setLoggerClass(logging.Logger)
"""
    )
    done = run_script(
        tmp_path,
        """
import logging, sys
import shmmap
logging.basicConfig(stream=sys.stdout, format="%(name)s %(message)s")

def chat(i):
    import library
    library.log.chat()

with shmmap.Team(1) as team:
    shmmap.pmap(chat, [0], engine=team)
    import library
    library.log.chat()
    logging.getLogger("library").setLevel(logging.ERROR)
    shmmap.pmap(chat, [0], engine=team)
""",
    )
    assert (done.stdout, done.stderr) == ("library.deep chat\n" * 2, "")
