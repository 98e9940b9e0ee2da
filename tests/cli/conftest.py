"""A folder with a real array and a module of functions, in which the command is run."""

import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

DIGITS = Path(__file__).parents[2] / "examples" / "data" / "digits.npy"


# What users would have in a module of their own, beside their data.
WORK = """
import os, signal, time
from pathlib import Path
import numpy as np

def double(x):
    return 2 * x

def mean_and_spread(row):
    return row.mean(), row.std()

def as_array(row):
    return np.array([row.mean(), row.std()])

def nothing(row):
    return None

def ragged(row):
    return row[: 1 + int(row[0]) % 2]

def wider_later(row):
    return int(row[0]) if row[0] < 5 else 0.5 + row[0]

def longer_text_later(row):
    return "abc" if row[0] < 5 else "abcdef"

def no_values(row):
    return row[:0]

def fails_at_7(row):
    if row[0] == 7:
        raise ArithmeticError("row seven\\nis bad")
    return row.sum()

def dies_at_7(row):
    if row[0] == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return row.sum()

def dies_at_once(row):
    os._exit(3)

def one_sum(chunk):
    return chunk.sum()

def needs_five(chunk):
    if len(chunk) != 5:
        raise ValueError(f"{len(chunk)} rows")
    return chunk - chunk.mean(axis=0)

def waits(row):
    if row[0] > 0:  # not where the shape is found
        Path("running").touch()
        while not Path("go").exists():
            time.sleep(0.01)
    return row.sum()

class Tools:
    def __init__(self, row):
        pass

    @staticmethod
    def total(row):
        return row.sum()

number = 3
"""


class Folder:
    """A folder with ``in.npy`` and ``work.py``, in which commands are run."""

    def __init__(self, path):
        self.path = path
        self.rows = np.arange(80.0).reshape(20, 4) / 4
        np.save(path / "in.npy", self.rows)
        (path / "work.py").write_text(WORK)

    def command(self, *args):
        return [sys.executable, "-m", "shmmap", *map(str, args)]

    def run(self, *args, **options):
        options = {"cwd": self.path, "text": True, "capture_output": True, "timeout": 60} | options
        return subprocess.run(self.command(*args), **options)

    def start(self, *args, **options):
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
        return subprocess.Popen(
            self.command(*args), cwd=self.path, start_new_session=True, **options
        )

    def map(self, *args, **options):
        """Run ``shmmap map``, which must work, and return the array it wrote."""
        done = self.run("map", *args, **options)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        self.assert_tidy()
        self.stdout = done.stdout
        return np.load(self.path / args[2])

    def refuse(self, *args, **options):
        """Run a command that must fail, and return its exit code and its one line."""
        done = self.run(*args, **options)
        assert done.returncode > 0, done.stdout
        self.assert_tidy()
        assert done.stdout == ""
        assert re.fullmatch(r"shmmap( \w+)?: .+\n", done.stderr), done.stderr
        return done.returncode, done.stderr

    def assert_tidy(self):
        assert not list(self.path.rglob("*.partial"))

    def wait_for(self, name, process):
        deadline = time.monotonic() + 30
        while not (self.path / name).exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)
