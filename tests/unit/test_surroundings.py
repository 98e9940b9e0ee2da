"""What is carried to workers: each entry is noticed when it changes, and can be put back."""

from __future__ import annotations

import contextlib
import decimal
import locale
import logging
import multiprocessing.process
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shmmap._wire.surroundings import ENTRIES, note_surroundings, put_back, snapshot


def change_zone() -> None:
    os.environ["TZ"] = "XYZ-7"
    time.tzset()


# By the names of the entries: each changes this one, and maybe others.
CHANGES: dict[str, Callable[[], object]] = {
    "search path": lambda: sys.path.append("elsewhere"),
    "working directory": lambda: os.chdir(".."),
    "environment": lambda: os.environ.update(SHMMAP_TEST="1"),
    "names of the time zone": change_zone,
    "NumPy's floating-point errors": lambda: np.seterr(divide="raise", over="ignore"),
    "filters of warnings": lambda: warnings.filterwarnings("error", "something"),
    "levels of loggers": lambda: logging.getLogger("shmmap.test").setLevel(logging.INFO),
    "level up to which all loggers are silenced": lambda: logging.disable(logging.INFO),
    "umask": lambda: os.umask(0o027),
    "arguments of the program": lambda: sys.argv.append("--option"),
    "recursion limit": lambda: sys.setrecursionlimit(sys.getrecursionlimit() + 500),
    "digits of integers that are converted to text": lambda: sys.set_int_max_str_digits(1000),
    "locale": lambda: locale.setlocale(locale.LC_ALL, "C"),
    "key by which processes of `multiprocessing` know each other": lambda: setattr(
        multiprocessing.process.current_process(), "authkey", b"another"
    ),
    "decimal context": lambda: setattr(decimal.getcontext(), "prec", 7),
}
NAMES = [entry.name for entry in ENTRIES]


@pytest.fixture(autouse=True)
def restored(tmp_path: Path) -> Iterator[None]:
    """Whatever the library does: this process is as it was."""
    path, argv, cwd = list(sys.path), list(sys.argv), os.getcwd()
    limit, digits, umask = sys.getrecursionlimit(), sys.get_int_max_str_digits(), os.umask(0o022)
    where, key = locale.setlocale(locale.LC_ALL), multiprocessing.process.current_process().authkey
    os.umask(umask)
    logging.getLogger("shmmap.test")
    environment = dict(os.environ)
    os.chdir(tmp_path)
    with np.errstate(), warnings.catch_warnings(), decimal.localcontext():
        yield
    os.chdir(cwd)
    sys.path[:], sys.argv[:] = path, argv
    for name in ("TZ", "SHMMAP_TEST"):
        os.environ.pop(name, None)
    os.environ.update(environment)
    time.tzset()
    logging.getLogger("shmmap.test").setLevel(logging.NOTSET)
    logging.disable(logging.NOTSET)
    os.umask(umask)
    sys.setrecursionlimit(limit)
    sys.set_int_max_str_digits(digits)
    locale.setlocale(locale.LC_ALL, where)
    multiprocessing.process.current_process().authkey = key


def test_every_entry_is_tested() -> None:
    assert list(CHANGES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_change_is_noticed_and_put_back(name: str) -> None:
    if name == "locale":
        locale.setlocale(locale.LC_ALL, "C.UTF-8")
    at = NAMES.index(name)
    was = note_surroundings()
    assert snapshot() is was
    CHANGES[name]()
    now = snapshot()
    assert now[at] != was[at]
    assert snapshot() is now
    changed = {entry for entry, one, other in zip(NAMES, was, now, strict=True) if one != other}
    also = {"environment"} if name == "names of the time zone" else set()
    assert changed == {name} | also
    assert put_back(was) == was
    assert snapshot() == was


@pytest.mark.parametrize("name", NAMES)
def test_what_was_changed_and_changed_back_is_equal(name: str) -> None:
    was = note_surroundings()
    CHANGES[name]()
    snapshot()
    put_back(was)
    assert snapshot() == was


def test_the_next_change_of_the_same_thing_is_noticed_too() -> None:
    """Nothing that is looked at first hides what it stands for."""
    for divide in ("raise", "warn", "ignore"):
        with np.errstate(divide=divide):
            assert value_of("NumPy's floating-point errors")["divide"] == divide
    logger = logging.getLogger("shmmap.test")
    for level in (10, 20, 30):
        logger.level = level  # not by `setLevel`, which other libraries do as well
        assert value_of("levels of loggers")["shmmap.test"] == level
    for precision in (5, 6):
        decimal.getcontext().prec = precision
        assert value_of("decimal context")[0] == precision
    decimal.getcontext().traps[decimal.Inexact] = True
    assert decimal.Inexact in value_of("decimal context")
    for text in ("a", "b"):
        os.environ["SHMMAP_TEST"] = text
        assert value_of("environment")["SHMMAP_TEST"] == text
    sys.path[0] = "changed in place"
    assert value_of("search path")[0] == "changed in place"
    sys.argv[:] = []
    assert value_of("arguments of the program") == ()


def value_of(name: str) -> Any:
    return snapshot()[NAMES.index(name)]


def test_threads_have_their_own_settings() -> None:
    def look() -> None:
        np.seterr(divide="raise")
        decimal.getcontext().prec = 5
        seen.append(snapshot())

    seen = [snapshot()]
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    seen.append(snapshot())
    assert seen[0] == seen[2] != seen[1]
    for name in ("NumPy's floating-point errors", "decimal context"):
        assert seen[0][NAMES.index(name)] != seen[1][NAMES.index(name)]


def test_a_folder_that_was_removed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.chdir(tmp_path / "folder")
    (tmp_path / "folder").rmdir()
    try:
        assert value_of("working directory") is None
        assert snapshot() is snapshot()
    finally:
        os.chdir(tmp_path)
    with contextlib.suppress(OSError):
        assert value_of("working directory") == os.getcwdb()
