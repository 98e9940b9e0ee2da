"""Nodes that are lost, schedulers that go, cuts and cancels: what was done counts, and nothing stays."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap._nodes import NodesEngine
from shmmap.testing import wait_until
from tests.helpers import assert_same

from .conftest import Cluster

pytest.importorskip("distributed")
from shmmap._nodes.client import ClientNodes

pytestmark = pytest.mark.unguarded("the client has threads and sockets of its own")


def waiting(v: Any) -> Any:
    time.sleep(0.01)
    return v * 2


def children_of(pid: int) -> set[int]:
    """All processes in the session of a program, but itself."""
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != pid:
            try:
                if os.getsid(int(name)) == pid:
                    found.add(int(name))
            except OSError:
                pass
    return found


def test_a_cancelled_map_leaves_its_nodes(client: Any) -> None:
    begun = time.monotonic()
    future = shmmap.pmap(lambda v: time.sleep(0.05), np.arange(2000), engine=client, wait=False)
    wait_until(lambda: time.monotonic() - begun > 0.3)
    assert future.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(timeout=5)
    # The nodes are free at once: the rest of that map would take 25 s.
    begun = time.monotonic()
    assert_same(shmmap.pmap(abs, np.arange(50), engine=client), np.arange(50))
    assert time.monotonic() - begun < 10


def test_what_a_slow_node_has_is_cut(cluster: Cluster, client: Any) -> None:
    """One node takes ten times as long: the other one gets a part of what it has."""
    slow = min(client.scheduler_info()["workers"])
    pid = client.run(os.getpid, workers=[slow])[slow]

    def uneven(v: Any) -> Any:
        mine = os.getppid() == pid or os.getpgid(0) == pid or os.getsid(0) == pid
        time.sleep(0.05 if mine else 0.005)
        return v

    begun = time.monotonic()
    got = shmmap.pmap(uneven, np.arange(1200), engine=client, chunksize=1, out=list)
    assert got == list(range(1200))
    assert time.monotonic() - begun < 15


def test_a_range_ends_by_itself_in_time(client: Any) -> None:
    """Nothing was known of how long chunks take, and the first ranges were given too much."""

    class Hasty(ClientNodes):
        """Gives ranges 50 ms."""

        def connect(self, spec: Any, placed: Any, tell: Any) -> Any:
            connection = super().connect(spec, placed, tell)
            send = connection.send
            connection.send = lambda node, order: (  # type: ignore[method-assign]
                sent.append(order) or send(node, order._replace(seconds=0.05))
            )
            return connection

    sent: list[Any] = []
    engine = shmmap.Nodes.__new__(shmmap.Nodes)
    engine._engine = NodesEngine(Hasty(client))
    got = shmmap.pmap(waiting, np.arange(300), engine=engine, chunksize=1)
    assert_same(got, np.arange(300) * 2)
    assert len(sent) > 15


@pytest.mark.slow
def test_a_node_that_is_lost_is_made_up_for(ours: Cluster) -> None:
    nodes = [ours.start_node(name) for name in ("one", "two", "three")]
    with ours.connect() as client:
        client.wait_for_workers(3, timeout=60)
        x = np.arange(900.0)
        future = shmmap.pmap(waiting, x, engine=client, chunksize=3, wait=False)
        wait_until(lambda: future.progress()[0] > 50, timeout_s=20)
        os.killpg(nodes[1].pid, signal.SIGKILL)
        ours.start_node("four")
        assert_same(future.result(timeout=60), x * 2)
        partials = shmmap.preduce(np.sum, x * 0.1, engine=client, chunksize=7)
        assert_same(partials, shmmap.preduce(np.sum, x * 0.1, engine="serial", chunksize=7))


@pytest.mark.slow
def test_a_function_that_may_have_written_is_not_run_again(ours: Cluster) -> None:
    nodes = [ours.start_node(name) for name in ("one", "two")]
    with ours.connect() as client:
        client.wait_for_workers(2, timeout=60)

        def write(v: Any) -> None:
            time.sleep(0.02)

        x = np.arange(2000)
        future = shmmap.pmap(write, x, engine=client, chunksize=2, wait=False)
        wait_until(lambda: future.progress()[0] > 50, timeout_s=20)
        os.killpg(nodes[0].pid, signal.SIGKILL)
        with pytest.raises(shmmap.WorkerDied, match="node one was lost") as caught:
            future.result(timeout=60)
        assert caught.value.failed


@pytest.mark.slow
def test_a_scheduler_that_goes_is_an_error(ours: Cluster) -> None:
    ours.start_node("one")
    client = ours.connect()
    client.wait_for_workers(1, timeout=60)
    future = shmmap.pmap(waiting, np.arange(4000.0), engine=client, chunksize=2, wait=False)
    wait_until(lambda: future.progress()[0] > 20, timeout_s=20)
    ours.scheduler.kill()
    begun = time.monotonic()
    with pytest.raises(shmmap.WorkerDied, match="scheduler"):
        future.result(timeout=60)
    assert time.monotonic() - begun < 35
    client.close(timeout=1)


@pytest.mark.slow
def test_nothing_stays_when_the_client_goes(ours: Cluster) -> None:
    node = ours.start_node("one")
    with ours.connect() as client:
        client.wait_for_workers(1, timeout=60)
        assert_same(shmmap.pmap(np.sum, np.ones((5000, 40)), engine=client), np.full(5000, 40.0))
        assert len(children_of(node.pid)) >= 2
    wait_until(lambda: not children_of(node.pid), timeout_s=20)


@pytest.mark.slow
def test_a_node_that_is_killed_takes_its_team_along(ours: Cluster) -> None:
    node = ours.start_node("one")
    with ours.connect() as client:
        client.wait_for_workers(1, timeout=60)
        shmmap.pmap(np.sum, np.ones((50, 40)), engine=client)
        assert children_of(node.pid)
        node.kill()
        node.wait()
        wait_until(lambda: not children_of(node.pid), timeout_s=20)


@pytest.mark.slow
def test_random_cuts_lose_nothing_and_run_nothing_twice(client: Any, tmp_path: Path) -> None:
    """Ranges are cut again and again while they run."""
    log = str(tmp_path / "runs")

    def note(v: Any) -> Any:
        with open(log, "ab") as file:
            file.write(b"%06d\n" % v)
        time.sleep(0.001)
        return float(v)

    cuts = 0
    rng = np.random.default_rng(5)
    stop = threading.Event()
    sent: dict[tuple[str, int], Any] = {}

    class Cutting(ClientNodes):
        """Cuts whatever is sent, at random times."""

        def connect(self, spec: Any, placed: Any, tell: Any) -> Any:
            connection = super().connect(spec, placed, tell)
            send = connection.send

            def and_note(where: Any, order: Any) -> None:
                sent[order.map_id, order.number] = connection, where, order
                send(where, order)

            connection.send = and_note  # type: ignore[method-assign]
            return connection

    def cut_on() -> None:
        nonlocal cuts
        while not stop.wait(0.005):
            if sent:
                connection, where, order = list(sent.values())[int(rng.integers(len(sent)))]
                try:
                    connection.cut(where, order, float(rng.random()))
                    cuts += 1
                except RuntimeError:
                    pass  # that map is over

    engine = shmmap.Nodes.__new__(shmmap.Nodes)
    engine._engine = NodesEngine(Cutting(client))
    thread = threading.Thread(target=cut_on)
    thread.start()
    try:
        x = np.arange(600)
        for _ in range(5):
            Path(log).write_bytes(b"")
            sent.clear()
            assert_same(shmmap.pmap(note, x, engine=engine, chunksize=1), x.astype(float))
            runs = Path(log).read_bytes().split()
            assert sorted(map(int, runs)) == list(range(600))
            got = shmmap.preduce(np.sum, x * 0.1, engine=engine, chunksize=1)
            assert_same(got, shmmap.preduce(np.sum, x * 0.1, engine="serial", chunksize=1))
    finally:
        stop.set()
        thread.join()
    assert cuts > 200
