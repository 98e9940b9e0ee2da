"""What a function finds around it is the caller's, and what it changes there ends with its call."""

from __future__ import annotations

import concurrent.futures
import contextlib
import locale
import logging
import os
import resource
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
from tests.helpers import assert_next_map_works, run_python, run_script

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


# --- what an initializer sets --------------------------------------------------------------------


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


# --- loggers ---------------------------------------------------------------------------------------


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


# --- modules ---------------------------------------------------------------------------------------


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


# --- what a function changes ------------------------------------------------------------------------


def lower(number: int, value: int) -> None:
    """Lower the limit itself."""
    resource.setrlimit(number, (value, resource.getrlimit(number)[1]))


def lower_for_good(number: int, value: int) -> None:
    """Lower it so that only a privileged process may raise it again."""
    resource.setrlimit(number, (value, value))


NOTHING = contextlib.nullcontext()
LIMITS = {
    "descriptors": (resource.RLIMIT_NOFILE, 3),
    "address space": (resource.RLIMIT_AS, 1 << 20),
    "data": (resource.RLIMIT_DATA, 1 << 20),
    "file size": (resource.RLIMIT_FSIZE, 0),
}


@pytest.mark.few(2)
@pytest.mark.parametrize("lowers", [lower, lower_for_good])
@pytest.mark.parametrize("limit", LIMITS)
def test_limits_that_a_function_lowers(team: shmmap.Team, limit: str, lowers: Any) -> None:
    """C17: they are as before in the next call; both in maps and in what is submitted."""
    number, value = LIMITS[limit]
    for _ in range(2):
        shmmap.pmap_ranges(lambda a, b: lowers(number, value), 2, engine=team, chunksize=1)
        # Its result may need what it has given up for good; a map's marks do not.
        with contextlib.suppress(shmmap.WorkerDied) if lowers is lower_for_good else NOTHING:
            team.submit(lowers, number, value).result()
        assert_next_map_works(team)
    assert team.submit(resource.getrlimit, number).result() == resource.getrlimit(number)


@pytest.mark.parametrize("start", STARTS)
def test_priority_and_levels(start: Any) -> None:
    """C17, its kind: what else a call may leave behind."""
    logging.getLogger("shmmap-quiet")

    def spoil(_: Any) -> None:
        os.nice(5)
        logging.getLogger("shmmap-quiet").setLevel(50)
        logging.disable(50)
        sys.setrecursionlimit(5000)
        os.umask(0o123)
        sys.argv.append("more")
        os.environ["TZ"] = "XYZ-7"
        time.tzset()

    def left(_: Any) -> tuple[Any, ...]:
        return os.nice(0), logging.getLogger("shmmap-quiet").level, look()

    expected = os.nice(0), 0, look()
    with shmmap.Team(1, start=start) as team:
        assert team.submit(left, 0).result() == expected
        shmmap.pmap(spoil, [0], engine=team)
        assert team.submit(left, 0).result() == expected


@pytest.mark.parametrize("start", STARTS)
def test_a_folder_that_was_removed(start: Any, tmp_path: Path) -> None:
    """C17, its kind: a function removes the folder it has gone to."""

    def vanish(_: Any) -> None:
        folder = tmp_path / f"gone{os.getpid()}"
        folder.mkdir(exist_ok=True)
        os.chdir(folder)
        folder.rmdir()

    with shmmap.Team(2, start=start) as team:
        shmmap.pmap(vanish, [0, 1], engine=team, chunksize=1)
        assert team.submit(os.getcwd).result() == os.getcwd()
        assert_next_map_works(team)


def log_one(i: Any) -> Any:
    """Log to a logger of the caller's."""
    logging.getLogger("shmmap-test.mine").info("item %s", i)
    return i


class Kept(logging.Handler):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.texts.append(record.getMessage())


@pytest.mark.parametrize("propagate", [True, False])
def test_a_logger_with_handlers_of_its_own(engine: Any, propagate: bool) -> None:
    """They get each record once, wherever it was logged, and none while the logger is disabled.

    A forked worker has copies of the handlers, from which nobody would read.
    """
    logger, handler = logging.getLogger("shmmap-test.mine"), Kept()
    logger.addHandler(handler)
    logger.propagate, logger.disabled = propagate, True
    logger.setLevel("INFO")
    try:
        for is_disabled, expected in ((True, []), (False, ["item 1", "item 2"])):
            logger.disabled = is_disabled
            assert shmmap.pmap(log_one, [1, 2], engine=engine, workers=2) == [1, 2]
            assert sorted(handler.texts) == expected
    finally:
        logger.removeHandler(handler)
        logger.propagate, logger.disabled = True, False
        logger.setLevel("NOTSET")


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("how", ["breakpoint()", "input()", "pdb.set_trace()"])
def test_what_asks_the_user(tmp_path: Path, start: str, how: str) -> None:
    """A worker has no standard input, and the error says where there is one (R11)."""
    source = f"""
        import pdb
        import shmmap

        with shmmap.Team(1, start="{start}") as team:
            try:
                shmmap.pmap(lambda i: {how}, [0], engine=team)
            except Exception as exc:
                words = str(exc), *getattr(exc, "__notes__", ())
                print("engine='serial'" in "".join(words))
            print(shmmap.pmap(abs, [-1], engine=team))
    """
    done = run_script(tmp_path, source)
    assert (done.stdout.splitlines()[-2:], done.stderr) == (["True", "[1]"], "")
