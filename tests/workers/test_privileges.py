"""C15: a program that changes its user or group while it has a warm team."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.helpers import run_script

pytestmark = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may become somebody else"
)

BEGIN = """
import os, sys, threading, time
import numpy as np
import shmmap, shmmap.testing

def who(_=None):
    return os.geteuid(), os.getegid()

def drop():
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
"""


@pytest.mark.parametrize("engine", ["default", "team", "fork engine"])
def test_functions_never_go_on_as_root(tmp_path: Path, engine: str) -> None:
    """C15: in maps and in what is submitted; workers of the former user are let go, others are started."""
    done = run_script(
        tmp_path,
        BEGIN
        + """
if sys.argv[1] == "fork engine":
    engine = "fork"
else:
    engine = shmmap.Team(2, start="fork")
x = shmmap.asshared(np.arange(4.0))
print(shmmap.pmap(who, [0], engine=engine))
drop()
print(shmmap.pmap(who, [0], engine=engine))
if engine != "fork":
    print(engine.submit(who).result(), list(engine.map(who, [0])))
print(shmmap.pmap_chunks(np.sqrt, x, engine=engine)[1])
""",
        engine,
    )
    nobody = (65534, 65534)
    submitted = "" if engine == "fork engine" else f"{nobody} [{nobody}]\n"
    assert done.stderr == ""
    assert done.stdout == f"[(0, 0)]\n[{nobody}]\n{submitted}1.0\n"


@pytest.mark.parametrize("start", ["clean", "fork"])
def test_the_group_is_followed_there_and_back(tmp_path: Path, start: str) -> None:
    """C15: a clean process is started anew as well; the initializer runs again."""
    done = run_script(
        tmp_path,
        BEGIN
        + """
team = shmmap.Team(1, start=sys.argv[1], initializer=lambda: print("started"))
for group in 0, 65534, 0:
    os.setegid(group)
    print(team.submit(who).result(), shmmap.pmap(who, [0], engine=team), flush=True)
""",
        start,
    )
    assert done.stderr == ""
    lines = [line for line in done.stdout.splitlines() if line != "started"]
    assert lines == [f"(0, {group}) [(0, {group})]" for group in (0, 65534, 0)]
    assert done.stdout.count("started") == 3


@pytest.mark.parametrize("start", ["clean", "fork"])
def test_workers_of_the_former_user_are_ended(tmp_path: Path, start: str) -> None:
    """C15: `timeout=` ends a worker that this process may not signal; another user cannot use a busy team."""
    done = run_script(
        tmp_path,
        BEGIN
        + """
team = shmmap.Team(1, start=sys.argv[1])
met = shmmap.zeros(1)

def hang(i):
    met[0] = 1
    time.sleep(60)

future = shmmap.pmap(hang, [0], engine=team, timeout=0.5, wait=False)
shmmap.testing.wait_until(lambda: met[0])
drop()
try:
    team.submit(who)
except RuntimeError as error:
    print("another user" in str(error))
try:
    future.result()
except TimeoutError:
    print("ended")
began = time.monotonic()
team.shutdown()
print(time.monotonic() - began < 5)
""",
        start,
    )
    assert (done.stdout, done.stderr) == ("True\nended\nTrue\n", "")
