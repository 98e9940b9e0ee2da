"""The engines whose workers are processes: the default team, a team of one's own, forks."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap.testing import wait_until
from tests import functions
from tests.helpers import assert_same, process_tree, run_script

from .suite import RangesSuite


class ProcessSuite(RangesSuite):
    """What holds where workers are processes."""

    is_elsewhere = True

    def test_runs_in_other_processes(self, pmap: Any) -> None:
        pids = shmmap.zeros(2, int)

        def func(i: Any) -> None:
            pids[i] = os.getpid()
            wait_until(pids.all)  # so that no worker can take both

        assert pmap(func, np.arange(2), chunksize=1) is None
        assert len({os.getpid(), *pids.tolist()}) == 3

    @pytest.mark.parametrize("out", [None, list])
    def test_a_child_that_the_function_forks_goes_no_further(self, pmap: Any, out: Any) -> None:
        """Than the end of its chunk."""
        calls = shmmap.zeros(40, int)

        def func(i: Any) -> float:
            calls[i] += 1
            if i % 10 == 5:
                child = os.fork()
                if not child:
                    return -1.0
                os.waitpid(child, 0)
            return float(i)

        result = pmap(func, np.arange(40), out=out, chunksize=1)
        assert list(result) == list(range(40))
        assert calls.tolist() == [1] * 40

    def test_random_numbers_differ_between_workers(self, pmap: Any) -> None:
        both = shmmap.zeros(2, bool)

        def func(i: Any) -> Any:
            import random

            both[i] = True
            wait_until(both.all)
            return np.random.random(), random.random()

        for numbers in pmap(func, np.arange(2), chunksize=1):
            assert numbers[0] != numbers[1]

    def test_subclasses_of_the_script_are_inputs(self, tmp_path: Any) -> None:
        engine = "fork" if self.name == "fork" else "processes"
        done = run_script(
            tmp_path,
            f"""
            import numpy as np, shmmap

            class Sub(np.ndarray):
                pass

            for a in (np.ones((2, 2)), shmmap.ones((2, 2))):
                for _ in range(2):
                    names = shmmap.pmap(
                        lambda row: type(row).__name__, a.view(Sub), engine={engine!r}
                    )
                    print(*names)
            """,
        )
        assert (done.stderr, done.stdout) == ("", "Sub Sub\n" * 4)

    def test_blas_is_limited(self, pmap: Any) -> None:
        def threads(i: Any) -> int:
            import threadpoolctl

            return max((pool["num_threads"] for pool in threadpoolctl.threadpool_info()), default=1)

        assert pmap(threads, range(4)) == [1] * 4

    def test_settings_of_the_caller_hold(
        self, pmap: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def settings(i: Any) -> Any:
            return os.getcwd(), os.environ.get("SHMMAP_TEST_SETTING"), np.geterr()["over"]

        assert pmap(settings, [0])[0][1] is None
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("SHMMAP_TEST_SETTING", "on")
        monkeypatch.syspath_prepend(tmp_path)
        (tmp_path / "made_just_now.py").write_text("def func(i):\n    return i + 40\n")
        import made_just_now  # type: ignore[import-not-found]

        with np.errstate(over="ignore"):
            assert pmap(settings, [0]) == [(str(tmp_path), "on", "ignore")]
        assert pmap(made_just_now.func, [2]) == [42]


@pytest.mark.warm
class TestDefaultTeam(ProcessSuite):
    """The default team of processes."""

    name = "processes"
    pickles = True

    def test_team_stays_warm(self) -> None:
        first = {*shmmap.pmap(functions.pid, range(50), workers=2, chunksize=1)}
        second = {*shmmap.pmap(functions.pid, range(50), workers=2, chunksize=1)}
        # A single worker may have taken all the chunks of a map; but both belong to one team.
        assert len(first | second) <= 2
        assert os.getpid() not in first | second

    def test_default_engine_is_the_default_team(self) -> None:
        assert os.getpid() not in shmmap.pmap(functions.pid, range(4))

    def test_shutdown_ends_it_and_the_next_map_starts_another(self) -> None:
        first = {*shmmap.pmap(functions.pid, range(4))}
        shmmap.shutdown()
        shmmap.shutdown()
        second = {*shmmap.pmap(functions.pid, range(4))}
        assert not first & second

    def test_private_arrays_are_not_changed_by_a_map(self) -> None:
        a = np.arange(10)
        assert_same(shmmap.pmap(functions.double, a), a * 2)
        assert a.flags.writeable


@pytest.mark.slow  # the same as the default team, but for who starts it
class TestTeam(ProcessSuite):
    """A team of one's own."""

    name = "team"
    pickles = True

    def test_team_is_the_engine_inside_its_block(self) -> None:
        before = process_tree(os.getpid())  # the default team may be there
        with shmmap.Team(workers=2) as team:
            shmmap.pmap(functions.nothing, range(4), engine=team)
            members = process_tree(os.getpid()) - before
            assert {*shmmap.pmap(functions.pid, range(50), chunksize=1)} <= members
            # What names its engine is not concerned.
            other = {*shmmap.pmap(functions.pid, range(50), chunksize=1, engine="processes")}
            assert not other & members


@pytest.mark.slow
class TestFork(ProcessSuite):
    """Processes forked for the call."""

    name = "fork"

    def test_private_arrays_cross_without_a_copy(self, pmap: Any) -> None:
        a = np.arange(1000.0)
        address = a.__array_interface__["data"][0]
        result = pmap(lambda i: a.__array_interface__["data"][0], range(4))
        assert result == [address] * 4
