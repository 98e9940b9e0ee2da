"""A warm team that has nothing to do lets the processor be: no thread of it wakes, in no process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import run_script

PROGRAM = """
import os, re, sys, time
from pathlib import Path
import shmmap

def half(value):
    return value / 2

def family():
    "This process, and all it has started."
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            pass
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found

def switches():
    "Of every thread but the one that asks."
    return {
        task.name: re.findall(r"ctxt_switches:\\s*(\\d+)", (task / "status").read_text())
        for pid in family()
        for task in Path(f"/proc/{pid}/task").iterdir()
        if task.name != str(os.getpid())
    }

with shmmap.Team(2, start=sys.argv[1]) as team:
    shmmap.pmap(half, range(100), engine=team)
    assert list(team.map(half, range(10))) == [i / 2 for i in range(10)]
    assert team.submit(half, 2).result() == 1
    for _ in range(3):  # what just ended may have something to put away
        before = switches()
        time.sleep(2)
        after = switches()
        if after == before:
            break
    print(len(family()) > 2, [name for name in after if after[name] != before.get(name)])
"""


@pytest.mark.parametrize("start", ["clean", "fork"])
def test_nobody_wakes(tmp_path: Path, start: str) -> None:
    done = run_script(tmp_path, PROGRAM, start)
    assert (done.stdout.strip(), done.stderr) == ("True []", "")
