"""Faults 7 and 17: a worker is stopped, or holds the GIL; what takes too long is ended."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap._team.workers import Workers
from shmmap.testing import (
    HoldGil,
    KillSelf,
    StopSelf,
    wait_until,
)
from tests.helpers import (
    Terminal,
    assert_next_map_works,
    assert_same,
    in_time,
    is_alive,
    process_tree,
    write_script,
)

N = 16


@pytest.fixture
def engine(process_engine: Any) -> Any:
    """Wherever processes do the work."""
    return process_engine


class Test7Stopped:
    """SIGSTOP: ``timeout=`` fires, names the index and the worker; the stopped worker is replaced."""

    def test_timeout_names_the_index(self, engine: Any) -> None:
        pids = shmmap.zeros(N, int)
        stop = StopSelf(at=5)

        def func(i: Any) -> Any:
            pids[i] = os.getpid()
            return stop(i)

        with in_time(), pytest.raises(TimeoutError, match=r"longer than 0\.5 s") as caught:
            shmmap.pmap(func, np.arange(N), engine=engine, workers=2, chunksize=4, timeout=0.5)
        notes = "\n".join(caught.value.__notes__)
        assert "index 5 " in notes
        assert f"pid {pids[5]}" in notes
        assert_next_map_works(engine)

    @pytest.mark.slow
    @pytest.mark.parametrize("verb", ["pmap_chunks", "pmap_ranges", "preduce"])
    def test_timeout_names_the_range(self, engine: Any, verb: str) -> None:
        data = N if verb == "pmap_ranges" else np.arange(N)
        options: dict[str, Any] = {"workers": 2, "chunksize": 4, "timeout": 0.5}
        if verb == "preduce":
            options["combine"] = np.add
        with in_time(), pytest.raises(TimeoutError) as caught:
            getattr(shmmap, verb)(StopSelf(at=5), data, engine=engine, **options)
        assert "[4, 8)" in "\n".join(caught.value.__notes__)
        assert_next_map_works(engine)

    @pytest.mark.slow
    def test_others_go_on(self, engine: Any) -> None:
        with in_time(), pytest.raises(shmmap.MapError) as caught:
            shmmap.pmap(
                StopSelf(at=5),
                np.arange(N),
                engine=engine,
                workers=2,
                chunksize=1,
                timeout=0.5,
                on_error="continue",
            )
        assert caught.value.failed == ((5, 6),)
        assert [type(each) for each in caught.value.exceptions] == [TimeoutError]
        expected = np.arange(N)
        expected[5] = 0
        assert_same(np.array(caught.value.result), expected)
        assert_next_map_works(engine)

    @pytest.mark.slow
    def test_retries_start_afresh(self, engine: Any) -> None:
        """Stuck once, right the second time."""
        tries = shmmap.zeros(1, int)
        stop = StopSelf()

        def func(i: Any) -> Any:
            if i == 5:
                tries[0] += 1
                if tries[0] == 1:
                    stop(i)
            return i

        with in_time():
            result = shmmap.pmap(
                func, np.arange(N), engine=engine, workers=2, chunksize=2, timeout=0.5, retries=1
            )
        assert_same(result, np.arange(N))
        assert tries[0] == 2

    @pytest.mark.parametrize("start", ["clean", "fork"])
    def test_replaced_slowly(self, start: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """What a dead worker's slot still says is not taken for its successor being late."""
        real = Workers._spawn

        def spawn(workers: Workers, rank: int) -> None:
            time.sleep(0.2)  # while the waiting thread looks at the slot several times
            real(workers, rank)

        monkeypatch.setattr(Workers, "_spawn", spawn)
        options: dict[str, Any] = {"timeout": 0.3, "retries": 2, "on_error": "continue"}
        with shmmap.Team(workers=1, start=start) as team, in_time():
            with pytest.raises(shmmap.MapError) as caught:
                shmmap.pmap(StopSelf(at=3), np.arange(6), engine=team, chunksize=1, **options)
        assert caught.value.failed == ((3, 4),)

    @pytest.mark.slow
    def test_slow_but_in_time(self, engine: Any) -> None:
        """The limit is for each call of the function, not for the chunk or the map."""

        def func(i: Any) -> Any:
            time.sleep(0.1)
            return i

        result = shmmap.pmap(func, np.arange(20), engine=engine, chunksize=10, timeout=1.0)
        assert_same(result, np.arange(20))

    @pytest.mark.slow
    def test_calls_that_end_as_they_are_ended(self, engine: Any) -> None:
        """Each is either done and right, or named as one that took too long."""
        n = 24

        def func(i: Any) -> Any:
            time.sleep(0.08 + 0.004 * i)  # its limit is looked at every 0.05 s
            return 2 * i + 1

        late: tuple[tuple[int, int], ...] = ()
        with in_time():
            try:
                result = shmmap.pmap(
                    func,
                    np.arange(n),
                    engine=engine,
                    workers=2,
                    chunksize=1,
                    timeout=0.1,
                    on_error="continue",
                )
            except shmmap.MapError as error:
                result, late = error.result, error.failed
                assert {type(each) for each in error.exceptions} == {TimeoutError}
        expected = np.arange(n) * 2 + 1
        for start, stop in late:
            expected[start:stop] = 0
        assert_same(np.array(result), expected)
        assert_next_map_works(engine)


class Test7Cancelled:
    """It stops, deaf to everything."""

    def test_cancel_ends_the_map(self, team: Any) -> None:
        entered = shmmap.zeros(N, bool)
        stop = StopSelf(at=3)

        def func(i: Any) -> Any:
            entered[i] = True
            return stop(i)

        future = shmmap.pmap(func, np.arange(N), engine=team, chunksize=1, wait=False)
        wait_until(lambda: entered[3])
        with in_time():
            assert future.cancel()
            assert_next_map_works(team)


class Test17HeldGil:
    """It holds the GIL for long."""

    def test_death_of_another_worker_is_noticed(self, team: Any) -> None:
        held = shmmap.zeros(2, bool)
        hold, kill = HoldGil(8), KillSelf()

        def func(i: Any) -> None:
            held[i] = True
            wait_until(held.all)
            (hold if i == 0 else kill)(i)

        with in_time(), pytest.raises(shmmap.WorkerDied, match="SIGKILL"):
            shmmap.pmap(func, np.arange(2), engine=team, chunksize=1)
        assert_next_map_works(team)

    def test_team_can_end(self) -> None:
        entered = shmmap.zeros(1, bool)

        def func(i: Any) -> None:
            entered[0] = True
            HoldGil(20)(i)

        with in_time(8), shmmap.Team(workers=1) as team:
            future = shmmap.pmap(func, [0], engine=team, wait=False)
            wait_until(lambda: entered[0])
            future.cancel()


@pytest.mark.slow
def test_16_it_stops_the_signal_that_ends_it(team: Any) -> None:
    """SIGTERM ignored, or blocked: the end of the team does not depend on it."""

    def func(i: Any) -> Any:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        return os.getpid()

    pids = set(shmmap.pmap(func, range(8), engine=team, chunksize=1))
    assert_next_map_works(team)
    team.shutdown()
    wait_until(lambda: not any(map(is_alive, pids)), 2)


@pytest.mark.slow
def test_17_ctrl_c_while_a_worker_holds_the_gil(tmp_path: Path) -> None:
    """Ctrl-C still ends the call within 5 s: one traceback, nobody left."""
    script = write_script(
        tmp_path,
        """
        import numpy as np, shmmap
        from shmmap.testing import HoldGil
        held = shmmap.zeros(2, bool)
        hold = HoldGil(20)
        def func(i):
            if i == 0:
                print("running", flush=True)
            hold(i)
        shmmap.pmap(func, np.arange(2), workers=2, chunksize=1)
        """,
    )
    with Terminal(script) as terminal:
        terminal.read_until("running\n")
        tree = process_tree(terminal.process.pid)
        with in_time():
            terminal.write("\x03")
            text = terminal.read_to_end()
        assert text.count("Traceback (most recent call last)") == 1, text
        assert text.rstrip().endswith("KeyboardInterrupt")
        wait_until(lambda: not any(map(is_alive, tree)), 2)
