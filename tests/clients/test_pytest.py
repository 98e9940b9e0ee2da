"""pytest: maps in tests, with xdist and in importlib mode, where no worker could import the test file."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tests.helpers import run_python

HELPERS = "FACTOR = 2\n\ndef scale(row):\n    return row.sum() * FACTOR\n"
TESTS = """
    import numpy as np, pytest, shmmap

    LOCAL = 10

    def add(row):
        return row.sum() + LOCAL

    class Model:
        def __call__(self, row):
            return row.max() + LOCAL

    @pytest.fixture
    def rows():
        return shmmap.asshared(np.arange(12.0).reshape(4, 3))

    @pytest.mark.parametrize("engine", ["processes", "fork"])
    def test_functions_of_the_test_file(rows, engine, monkeypatch):
        for func in (add, Model(), lambda row: add(row)):
            expected = [func(row) for row in rows]
            assert shmmap.pmap(func, rows, engine=engine, workers=2).tolist() == expected
        monkeypatch.setitem(globals(), "LOCAL", -1)
        assert shmmap.pmap(add, rows, engine=engine, workers=2).tolist() == [2, 11, 20, 29]

    def test_it_fails(rows):
        with pytest.raises(ZeroDivisionError):
            shmmap.pmap(lambda row: 1 // 0, rows, workers=2)

    def test_leak_guard(rows):
        from shmmap.testing import leak_guard

        with leak_guard():
            assert shmmap.pmap(add, rows, workers=2).shape == (4,)
"""
PATCHES = """
    import helpers

    def test_a_patched_helper(rows, monkeypatch):
        assert shmmap.pmap(helpers.scale, rows, workers=2).tolist() == [6, 24, 42, 60]
        monkeypatch.setattr(helpers, "FACTOR", 1)
        assert shmmap.pmap(helpers.scale, rows, workers=2).tolist() == [3, 12, 21, 30]
"""


@pytest.mark.few(2)
@pytest.mark.parametrize("options", ["--import-mode=importlib", "-n 2"])
def test_maps_in_tests(tmp_path: Path, options: str) -> None:
    if "-n" in options:
        pytest.importorskip("xdist")
    (tmp_path / "helpers.py").write_text(HELPERS)
    source = textwrap.dedent(TESTS)
    if "importlib" not in options:  # in that mode a test does not find what lies beside it
        source += textwrap.dedent(PATCHES)
    (tmp_path / "test_maps.py").write_text(source)
    done = run_python(
        *("-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", *options.split()),
        cwd=tmp_path,
        timeout_s=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
