"""What every test stands on: the leak guard, the time limit, and the settings of hypothesis."""

from __future__ import annotations

import concurrent.futures
import contextlib
import faulthandler
import gc
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import numpy as np
import pytest

import shmmap
from shmmap._system import witness
from shmmap.testing import census, leak_guard, wait_until
from tests.sampling import PART, is_sampled, part, sample, starts_nothing

ENGINES = ("serial", "threads", "processes", "fork", "team", "executor")
"""Where a map may run; the last two are a `Team` and a `ThreadPoolExecutor` of the test's own."""

# The same examples each time, few in a plain run; "thorough" looks for new ones.
_settings: dict[str, Any] = {
    "deadline": None,
    # An engine is opened once for all the examples of a test, which is the point of keeping it.
    "suppress_health_check": [
        hypothesis.HealthCheck.too_slow,
        hypothesis.HealthCheck.function_scoped_fixture,
    ],
}
_settings_of_all: dict[str, Any] = {"derandomize": True, "database": None, **_settings}
hypothesis.settings.register_profile("default", max_examples=20, **_settings_of_all)
hypothesis.settings.register_profile("plain", max_examples=6, **_settings_of_all)
hypothesis.settings.register_profile("thorough", max_examples=1000, print_blob=True, **_settings)
hypothesis.settings.load_profile("default")

_failed = pytest.StashKey[bool]()
_token = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Name the markers of this suite."""
    config.addinivalue_line("markers", "unguarded(reason): the leak guard would be in the way")
    config.addinivalue_line("markers", "few(n): a plain run has n of its cases")
    config.addinivalue_line("markers", "warm: the default team is to be there before the test")
    if config.option.markexpr == "not slow" and not config.option.hypothesis_profile:
        hypothesis.settings.load_profile("plain")
    if not hasattr(config, "workerinput"):
        config.stash[_token] = witness.mark_children()


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End the programs of tests that were interrupted, which have process groups of their own."""
    if token := config.stash.get(_token, None):
        for (pid, _), command in census.processes_of(token).items():
            # The tracker of `multiprocessing` ends with those it serves, and tidies up after them.
            if "resource_tracker" not in command:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run the whole suite in several processes, where pytest-xdist is there and ``-n`` says nothing."""
    named = config.args_source is pytest.Config.ArgsSource.ARGS
    if not named and not hasattr(config, "workerinput"):
        if getattr(config.option, "numprocesses", 0) is None:
            config.option.numprocesses = "auto"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more process than there are cores, as most tests wait most of the time.

    But the limits of time that the tests set must hold, and some of them take a gigabyte.
    """
    return min(len(os.sched_getaffinity(0)) + 1, 8)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark as slow what is one of many like it, unless single tests are asked for.

    Of the cases of a test, those that are left have each value of each parameter once, as far as `CASES`
    goes; and where the test runs (engine, team, start) is one of the places that it has, another for each
    test. The suites of ``tests/engines`` have no such parameters. Of some folders, it has no more than every
    second or third test.
    """
    if any("::" in arg for arg in config.args):
        return
    tests: dict[str, list[pytest.Item]] = {}
    for item in items:
        tests.setdefault(item.nodeid.partition("[")[0], []).append(item)
    kept: list[pytest.Item] = []
    for name, cases in tests.items():
        light = [case for case in cases if not case.get_closest_marker("slow")]
        for case in set(cases).difference(sample(name, cases) if is_sampled(name) else ()):
            case.add_marker(pytest.mark.slow)
        slow = [case for case in cases if case.get_closest_marker("slow")]
        kept += part(name, slow, light)
    if PART:
        config.hook.pytest_deselected(items=list(set(items).difference(kept)))
        items[:] = kept


def pytest_collection_finish() -> None:
    """Look for cycles among what tests make only, not in all that was imported and collected."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Remember which tests failed: their tracebacks keep arrays alive, which is no leak."""
    report = yield
    if report.failed:
        item.stash[_failed] = True
    return report


def warm_up() -> None:
    """Have the default team hold all it ever will: members, their outboxes, several open maps."""
    met = shmmap.zeros(2, bool)

    def meet(i: Any) -> int:
        met[i] = True
        wait_until(met.all)
        return int(i)

    maps = [shmmap.pmap(meet, range(2), workers=2, chunksize=1, wait=False) for _ in range(4)]
    for each in maps:
        each.result()


@pytest.fixture(autouse=True, scope="module")
def _guard_of_file(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the last test of a file that leaves something behind, if its tests are guarded together."""
    with leak_guard() if starts_nothing(request.path) else contextlib.nullcontext():
        yield


@pytest.fixture(autouse=True)
def _guard(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves something behind."""
    if request.node.get_closest_marker("unguarded") or starts_nothing(request.path):
        yield
        return
    if request.node.get_closest_marker("warm"):
        warm_up()
    guard = contextlib.ExitStack()
    guard.enter_context(leak_guard())
    yield
    began = time.perf_counter()
    gc.collect()
    if time.perf_counter() - began > 0.02:
        gc.freeze()  # a large library was imported, and the guard is to look through it no more
    if request.node.stash.get(_failed, False):
        guard.pop_all()
        shmmap.shutdown()
    else:
        guard.close()


@pytest.fixture(autouse=True, scope="session")
def _no_team_left() -> Iterator[None]:
    """End the default team with the tests, and say where a hang was if that hangs."""
    yield
    faulthandler.dump_traceback_later(30, exit=True)
    shmmap.shutdown()
    faulthandler.cancel_dump_traceback_later()


@contextlib.contextmanager
def open_engine(name: str) -> Iterator[Any]:
    """Open what to pass as ``engine=`` for one of `ENGINES`."""
    if name == "team":
        # Forked, so that each test may have one; the default team is started clean.
        with shmmap.Team(workers=2, start="fork") as team:
            yield team
    elif name == "executor":
        with concurrent.futures.ThreadPoolExecutor(3) as executor:
            yield executor
    else:
        yield name


@pytest.fixture(scope="module")
def zarr_runs() -> None:
    """Start zarr's own thread, which then stays, before a test is guarded; skip where there is no zarr."""
    zarr = pytest.importorskip("zarr")
    zarr.create_array(zarr.storage.MemoryStore(), data=np.zeros(1))[:]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Run the test once per engine."""
    with open_engine(request.param) as engine:
        yield engine


@pytest.fixture(scope="module")
def engines() -> Callable[[], Any]:
    """All engines at once: a context manager that gives a dictionary of them."""

    @contextlib.contextmanager
    def open_all() -> Iterator[dict[str, Any]]:
        with contextlib.ExitStack() as stack:
            yield {name: stack.enter_context(open_engine(name)) for name in ENGINES}

    return open_all


@pytest.fixture(params=["clean", "fork", "fork engine"])
def process_engine(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Run the test with teams of both starts, and with processes forked for the call."""
    if request.param == "fork engine":
        yield "fork"
    else:
        with shmmap.Team(workers=2, start=request.param) as team:
            yield team


@pytest.fixture(params=["clean", "fork"])
def team(request: pytest.FixtureRequest) -> Iterator[shmmap.Team]:
    """A team of two workers of the test's own, with each of the starts."""
    with shmmap.Team(workers=2, start=request.param) as team:
        yield team
