"""joblib's own tests of its backends, from the installed package, with this backend in the place of loky.

None of them is copied: a pytest of its own runs them, in whose process, and in those that the tests start,
the name "loky" stands for this library's backend (`as_loky/sitecustomize.py`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import pytest

joblib = pytest.importorskip("joblib", minversion="1.5", reason="the backend is one of joblib's")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.unguarded("other programs than this one run the tests"),
    pytest.mark.timeout(900),
]

FOLDER = Path(__file__).with_name("as_loky")

NOT_LOKY = {
    "test_nested_parallel_warnings[loky-multiprocessing-True]": "nested pools work, and do not warn",
    "test_nested_parallel_warnings[multiprocessing-loky-True]": "it works in daemons, and does not warn",
    "test_nested_parallel_warnings[threading-loky-True]": "it works in threads, and does not warn",
    **{
        f"test_multiple_generator_call_separated_gc[{one}-{other}-loky-True]": (
            "that one call is dropped is no error of another"
        )
        for one in ("generator", "generator_unordered")
        for other in ("generator", "generator_unordered")
    },
    "test_memmapping_leaks[loky]": "asks for np.memmap by class: arrays are plain, and nothing is a file",
    "test_auto_memmap_on_arrays_from_generator[loky]": "asks for np.memmap by class",
    "test_parallel_with_interactively_defined_bound_method_loky": "looks for loky's log messages",
}
"""Tests that do not pass, and why. One that passes is to be taken off."""


@pytest.mark.skipif(find_spec("joblib.test") is None, reason="this joblib ships no tests")
def test_what_does_not_pass_is_listed(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(tmp_path)]
    command += ["-p", "as_loky_plugin", "-p", "no:cacheprovider", "-n", "2", "--timeout", "120"]
    command += ["-W", "ignore", "--tb=short", f"--junitxml={report}"]
    command += ["--pyargs", "joblib.test.test_parallel"]
    env = {**os.environ, "PYTHONPATH": str(FOLDER), "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = {
        case.attrib["name"]
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    }
    assert len(cases) > 250, done.stdout[-2000:]
    assert failed == set(NOT_LOKY), done.stdout[-10_000:]
