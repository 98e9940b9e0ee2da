"""What a function finds around it is the caller's, and what it changes there ends with its call."""

from __future__ import annotations

import concurrent.futures
import contextlib
import locale
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap._system.blas import BLAS_VARIABLES
from tests.helpers import run_python

# "KMP": by which `threadpoolctl` begins.
WORKERS_OWN = {*BLAS_VARIABLES, "KMP_DUPLICATE_LIB_OK"}


CATEGORIES = (
    locale.LC_CTYPE,
    locale.LC_NUMERIC,
    locale.LC_TIME,
    locale.LC_COLLATE,
    locale.LC_MONETARY,
)


STARTS = ("clean", "fork")


def look(_: Any = None) -> dict[str, Any]:
    """All of it, as a function sees it."""
    os.umask(umask := os.umask(0))
    return {
        "path": [entry for entry in sys.path if entry],
        "cwd": os.getcwd(),
        # How many threads BLAS may use is the worker's own.
        "environment": {k: v for k, v in os.environ.items() if k not in WORKERS_OWN},
        "errors": np.geterr(),
        "filters": [str(entry) for entry in warnings.filters if "shmmap" not in str(entry)],
        "disabled": logging.root.manager.disable,
        "umask": umask,
        "argv": list(sys.argv),
        "recursion limit": sys.getrecursionlimit(),
        "digits": sys.get_int_max_str_digits(),
        "zone": (time.tzname, time.timezone, time.strftime("%H", time.localtime(0))),
        "locale": [locale.setlocale(category) for category in CATEGORIES],
    }


@contextlib.contextmanager
def everything_changed(folder: Path) -> Iterator[None]:
    """Change all of it, and put it back."""
    before, cwd, path = dict(os.environ), os.getcwd(), list(sys.path)
    argv, limit, digits = sys.argv, sys.getrecursionlimit(), sys.get_int_max_str_digits()
    umask, where = os.umask(0o077), locale.setlocale(locale.LC_ALL)
    errors = np.seterr(divide="raise")
    with warnings.catch_warnings():
        try:
            warnings.filterwarnings("error", "something")
            os.environ["TZ"] = "XYZ-7"
            os.environ["SHMMAP_TEST"] = "1"
            time.tzset()
            os.chdir(folder)
            sys.path.insert(0, str(folder / "modules"))
            sys.argv = ["program", "--option"]
            sys.setrecursionlimit(limit + 500)
            sys.set_int_max_str_digits(1000)
            logging.disable(logging.INFO)
            locale.setlocale(locale.LC_ALL, "C")
            yield
        finally:
            logging.disable(logging.NOTSET)
            locale.setlocale(locale.LC_ALL, where)
            sys.set_int_max_str_digits(digits)
            sys.setrecursionlimit(limit)
            sys.argv, sys.path[:] = argv, path
            os.chdir(cwd)
            os.umask(umask)
            np.seterr(**errors)
            for name in ("TZ", "SHMMAP_TEST"):
                os.environ.pop(name)
            os.environ.update(before)
            time.tzset()


VERBS = {
    "pmap": lambda team: shmmap.pmap(look, [0, 1], engine=team)[1],
    "pmap_chunks": lambda team: shmmap.pmap_chunks(look, np.zeros(2), out=list, engine=team)[0],
    "pmap_ranges": lambda team: shmmap.pmap_ranges(lambda a, b: look(), 2, engine=team)[0],
    "preduce": lambda team: shmmap.preduce(
        look, np.zeros(2), combine=lambda a, b: a, chunksize=1, engine=team
    ),
    "submit": lambda team: team.submit(look).result(),
    "map": lambda team: next(iter(team.map(look, [0, 1]))),
    "wait=False": lambda team: shmmap.pmap(look, [0], engine=team, wait=False).result()[0],
}


@pytest.mark.few(2)
@pytest.mark.parametrize("verb", VERBS)
def test_a_function_sees_what_its_caller_sees(team: shmmap.Team, tmp_path: Path, verb: str) -> None:
    """A27: before a change, after it, and after it was taken back; the umask above all."""
    call = VERBS[verb]
    assert call(team) == look()
    with everything_changed(tmp_path):
        assert call(team) == look()
        os.umask(0o027)
        assert call(team)["umask"] == 0o027
    assert call(team) == look()


def test_on_every_engine(engine: Any, tmp_path: Path) -> None:
    """A27: the same on threads, serially, and on processes forked for the call."""
    with everything_changed(tmp_path), contextlib.ExitStack() as stack:
        if isinstance(engine, concurrent.futures.Executor) and not isinstance(engine, shmmap.Team):
            stack.enter_context(np.errstate(divide="warn"))  # its threads have their own
        assert shmmap.pmap(look, [0], engine=engine, workers=2)[0] == look()
    assert shmmap.pmap(look, [0], engine=engine, workers=2)[0] == look()


def test_files_of_functions_are_as_private_as_the_callers(
    team: shmmap.Team, tmp_path: Path
) -> None:
    """A27, the case itself: a umask that is set once workers are warm."""

    def write(i: Any) -> None:
        (tmp_path / f"{i}").touch()

    shmmap.pmap(write, [0], engine=team)
    umask = os.umask(0o077)
    try:
        shmmap.pmap(write, [1], engine=team)
        team.submit(write, 2).result()
    finally:
        os.umask(umask)
    modes = [(tmp_path / str(i)).stat().st_mode & 0o777 for i in range(3)]
    assert modes == [0o666 & ~umask, 0o600, 0o600]


def set_up(folder: str) -> None:
    """An initializer that sets all of it."""
    os.environ["SHMMAP_INITIALIZER"] = "set"
    os.environ.pop("SHMMAP_UNWANTED", None)
    sys.path.insert(0, folder)
    os.chdir(folder)
    os.umask(0o077)
    np.seterr(invalid="raise")
    warnings.filterwarnings("error", "of the initializer")
    logging.getLogger("shmmap-initializer").setLevel(5)
    sys.setrecursionlimit(2345)


def is_set_up(folder: str) -> list[bool]:
    """Whether it is still as the initializer has set it."""
    os.umask(umask := os.umask(0))
    return [
        os.environ.get("SHMMAP_INITIALIZER") == "set",
        "SHMMAP_UNWANTED" not in os.environ,
        sys.path[0] == folder,
        os.getcwd() == folder,
        umask == 0o077,
        np.geterr()["invalid"] == "raise",
        any("of the initializer" in str(entry) for entry in warnings.filters),
        logging.getLogger("shmmap-initializer").level == 5,
        sys.getrecursionlimit() == 2345,
    ]


@pytest.mark.parametrize("start", STARTS)
def test_what_an_initializer_sets_stays_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, start: Any
) -> None:
    """C4: in every call, whatever changes in the caller, and after a function has changed it."""
    folder = str(tmp_path)
    monkeypatch.setenv("SHMMAP_UNWANTED", "1")

    def spoil(_: Any) -> None:
        os.environ.clear()
        sys.path.clear()
        os.chdir("/")
        os.umask(0)
        np.seterr(invalid="ignore")
        warnings.resetwarnings()
        logging.getLogger("shmmap-initializer").setLevel(50)
        sys.setrecursionlimit(1000)

    with shmmap.Team(1, start=start, initializer=set_up, initargs=(folder,)) as team:
        assert all(team.submit(is_set_up, folder).result())
        assert all(shmmap.pmap(is_set_up, [folder], engine=team)[0])
        shmmap.pmap(spoil, [0], engine=team)
        assert all(team.submit(is_set_up, folder).result())
        # Another value of another thing, or of the same kind.
        monkeypatch.setenv("SHMMAP_OTHER", "other")
        monkeypatch.syspath_prepend(str(tmp_path / "other"))
        with np.errstate(divide="raise"), warnings.catch_warnings():
            warnings.filterwarnings("error", "of the caller")
            assert all(team.submit(is_set_up, folder).result())
            assert team.submit(os.environ.get, "SHMMAP_OTHER").result() == "other"
            assert team.submit(np.geterr).result()["divide"] == "raise"
            assert str(tmp_path / "other") in team.submit(lambda: sys.path).result()
            filters = team.submit(lambda: str(warnings.filters)).result()
            assert "of the caller" in filters
            assert "of the initializer" in filters
        assert all(team.submit(is_set_up, folder).result())
        # The same thing is the caller's again once the caller changes it.
        monkeypatch.setenv("SHMMAP_INITIALIZER", "caller")
        assert team.submit(os.environ.get, "SHMMAP_INITIALIZER").result() == "caller"


def test_relative_entries_of_the_search_path(tmp_path: Path) -> None:
    """C16: they mean what they meant when the caller first searched them."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "helping.py").write_text("def func(i):\n    return i + 1\n")
    (tmp_path / "elsewhere" / "lib").mkdir(parents=True)
    (tmp_path / "elsewhere" / "lib" / "helping.py").write_text("func = None\n")
    source = """
import os, sys
sys.path.insert(0, "lib")
import shmmap, helping
os.chdir("elsewhere")
for start in "clean", "fork":
    with shmmap.Team(1, start=start) as team:
        print(shmmap.pmap(helping.func, [1], engine=team), team.submit(helping.func, 1).result())
"""
    done = run_python("-c", source, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("[2] 2\n[2] 2\n", "")


SHADOWS = (
    "cloudpickle",
    "numbers",
    "statistics",
    "locale",
    "resource",
    "helping",
    "multiprocessing",
)


@pytest.mark.parametrize("preload", [False, True])
def test_modules_of_a_folder_the_caller_has_gone_to(tmp_path: Path, preload: bool) -> None:
    """F3: none is run whose name the caller has imported from elsewhere, nor for a worker's own needs."""
    (tmp_path / "helping.py").write_text("def func(i):\n    import statistics\n    return i + 1\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in SHADOWS:
        (elsewhere / f"{name}.py").write_text(f"print('{name} was run'); raise SystemExit(3)\n")
    (elsewhere / "fresh.py").write_text("value = 5\n")
    source = f"""
import os, sys
assert sys.path[0] == ""
import shmmap, helping, statistics, cloudpickle, fractions
os.chdir("elsewhere")
def fresh(_):
    import fresh
    return fresh.value
with shmmap.Team(1, preload={["json"] if preload else []}) as team:
    print(shmmap.pmap(helping.func, [1], engine=team), shmmap.pmap(fresh, [0], engine=team))
    print(team.submit(lambda: __import__("statistics").mean([1, 3])).result())
"""
    done = run_python("-c", source, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("[2] [5]\n2\n", "")
