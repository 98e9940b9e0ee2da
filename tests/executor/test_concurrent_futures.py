"""CPython's own tests of `concurrent.futures`, with a team as the executor.

They come with the interpreter, though not with every build of it; where they are not, this is skipped. All of
them are run but for those in `LEFT_OUT`, each with its reason, and those of the thread pool and the process
pool by themselves, which look at private attributes. A team does not break when a worker dies: the others go
on, and a new one takes its place. So the error is `WorkerDied`, and stands where the tests name
`BrokenProcessPool`.
"""

from __future__ import annotations

import unittest
import unittest.mock
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import shmmap
from tests.executor.team_executor import ForkedTeamExecutor, TeamExecutor

pytest.importorskip("test.test_concurrent_futures", reason="this Python has no tests of its own")

if hasattr(__import__("test.test_concurrent_futures").test_concurrent_futures, "__path__"):
    from test.test_concurrent_futures import (  # type: ignore[import-not-found]
        executor,
        test_as_completed,
        test_deadlock,
        test_init,
        test_shutdown,
        test_wait,
        util,
    )
else:  # one module, before Python 3.12
    from test import test_concurrent_futures as _tests  # type: ignore[import-not-found]

    executor = test_as_completed = test_deadlock = test_init = test_shutdown = test_wait = util = (
        _tests
    )

pytestmark = [
    pytest.mark.slow,
    # What they leave for the garbage collector, and the warnings of what they do on purpose.
    pytest.mark.filterwarnings("default"),
]

ROOT = Path(__file__).parents[2]

LEFT_OUT = {
    # Words.
    "test_max_workers_negative": "the option is workers=, and -1 means all cores",
    # A team is no worse off: one function fails and not all of them.
    "test_exit_at_task_unpickle": "SystemExit comes out of the future as it is; its worker lives",
    "test_error_at_task_unpickle": "the UnpicklingError comes out of the future; its worker lives",
    "test_error_during_result_unpickle_in_result_handler": "the UnpicklingError comes out as it is",
    "test_exit_during_result_unpickle_in_result_handler": "the SystemExit comes out as it is",
    "test_error_at_task_pickle": "a TypeError in our words, which says what does not pickle",
    "test_error_during_result_pickle_on_worker": "a TypeError in our words",
    # What no worker has begun is cancelled, be it the first one: workers are still about to start.
    "test_cancel_futures": "expects that some were begun; tests/workers/test_team.py has it with workers",
    # Private attributes of the process pool.
    "test_shutdown_deadlock_pickle": "joins `_executor_manager_thread`",
    "test_gh105829_should_not_deadlock_if_wakeup_pipe_full": "replaces parts of the process pool",
    "test_initializer (failing)": "waits for `_broken`: a team tries again with every function",
}


@pytest.fixture(autouse=True)
def _names() -> Iterator[None]:
    """Where the tests name the process pool and its errors, they mean the team."""

    def assert_python_ok(*args: str, **env: Any) -> Any:
        *flags, source = args
        for kind in (TeamExecutor, ForkedTeamExecutor):
            name = kind.__name__
            here = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from {kind.__module__} import {name}"
            source = source.replace(f"from concurrent.futures import {name}", here)
        return run(*flags, source, **env)

    run = test_shutdown.assert_python_ok
    with (
        unittest.mock.patch.object(test_deadlock, "BrokenProcessPool", shmmap.WorkerDied),
        unittest.mock.patch.object(test_shutdown, "assert_python_ok", assert_python_ok),
    ):
        yield


class _TeamMixin(util.ExecutorMixin):  # type: ignore[misc]
    """A team is made for each test."""

    executor: Any

    def get_context(self) -> Any:
        return SimpleNamespace()


SUITES = {
    "Executor": executor.ExecutorTest,
    "Wait": test_wait.WaitTests,
    "AsCompleted": test_as_completed.AsCompletedTests,
    "Shutdown": test_shutdown.ExecutorShutdownTest,
    "Deadlock": test_deadlock.ExecutorDeadlockTest,
    "Initializer": test_init.InitializerMixin,
}


def _make(name: str, suite: type, kind: type) -> type:
    left_out = {each: None for each in LEFT_OUT if hasattr(suite, each)}
    bases = (suite, _TeamMixin, util.BaseTestCase)
    return type(name, bases, {"executor_type": kind, "__module__": __name__, **left_out})


for _name, _suite in SUITES.items():
    for _kind in (TeamExecutor, ForkedTeamExecutor):
        _full = f"Test{_name}Of{_kind.__name__}"
        globals()[_full] = _make(_full, _suite, _kind)


def test_what_is_left_out_is_there() -> None:
    """No name in the list that this version of the tests, or another, does not have."""
    suites = (*SUITES.values(), test_init.FailingInitializerMixin)
    for name in LEFT_OUT:
        assert any(hasattr(suite, name.split()[0]) for suite in suites), name
