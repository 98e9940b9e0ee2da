"""What these tests stand on: engines with workers that are there before a change, and modules to change."""

from __future__ import annotations

import concurrent.futures
import importlib
import multiprocessing
import os
import sys
import textwrap
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import shmmap
from tests.conftest import ENGINES, open_engine

Write = Callable[..., types.ModuleType]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a module into a folder of the search path, and import it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    names: list[str] = []

    def write_module(name: str, source: str, load: bool = True) -> Any:
        path = tmp_path.joinpath(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))
        # Compiled modules go by size and second, and a worker may just have written one.
        written_at = time.time() + 2 * len(names)
        os.utime(path, (written_at, written_at))
        importlib.invalidate_caches()
        names.append(name)
        return importlib.import_module(name) if load else None

    yield write_module
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture(params=[*ENGINES, "clean", "process pool"])
def engine(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Run the test on every engine, with workers that are there before and after a change."""
    if request.param == "clean":
        with shmmap.Team(workers=2) as team:
            yield team
    elif request.param == "process pool":
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
            yield pool
    else:
        with open_engine(request.param) as engine:
            yield engine


CONFIG = """
    K = 2
    TABLE = {"gain": 1}
    LIMITS = [1, 2]
    WEIGHTS = (1.0, [2.0])

    def f(v):
        return v * K

    def by_table(v):
        return v * TABLE["gain"] + sum(LIMITS) + WEIGHTS[1][0]
"""
