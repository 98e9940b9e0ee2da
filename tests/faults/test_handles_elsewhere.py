"""Handles whose sender dies, before they have arrived and after."""

from __future__ import annotations

import gc
import os
import pickle
import signal
from pathlib import Path

import pytest

import shmmap
from shmmap._memory import leases
from shmmap.testing import wait_until
from tests.handles import reader
from tests.handles.reader import Reader
from tests.helpers import run_script


def test_48_what_has_arrived_outlives_its_sender(tmp_path: Path) -> None:
    with Reader() as first, Reader() as second:
        at = first(reader.keep, shmmap.handle(shmmap.full(1 << 18, 4.0))) - 1
        sent = first(reader.send_back, at)
        second(reader.keep, sent)
        del sent
        first.process.kill()
        first.process.wait()
        leases.leases.end_arrived()
        gc.collect()
        back = second(reader.send_back).array()
        assert (back == 4).all()
        second(reader.fill, shmmap.handle(back), 5.0)
        assert (back == 5).all()


def test_48_a_child_ends_only_when_what_it_has_sent_has_arrived(tmp_path: Path) -> None:
    """Its last act is to put a handle into a queue, and who reads there takes his time."""
    done = run_script(
        tmp_path,
        """
        import multiprocessing, os, sys, time
        import shmmap

        def make(queue):
            queue.put(shmmap.handle(shmmap.ones(200_000)))

        if __name__ == "__main__":
            queue = multiprocessing.get_context("fork").Queue()
            process = multiprocessing.get_context("fork").Process(target=make, args=(queue,))
            process.start()
            while not queue._reader.poll(0.01):
                pass
            time.sleep(0.7)
            print(queue.get().array().sum())
            process.join()
            print(process.exitcode)
        """,
    )
    assert (done.stdout, done.stderr) == ("200000.0\n0\n", "")


def test_48_a_killed_sender_is_named(tmp_path: Path) -> None:
    with Reader() as there:
        pid = there.process.pid
        there(reader.keep, shmmap.handle(shmmap.full(1 << 18, 4.0)))
        there.process.stdin.write(pickle.dumps(("send_back", ())))  # type: ignore[union-attr]
        there.process.stdin.flush()  # type: ignore[union-attr]
        assert there.process.stdout is not None
        wait_until(lambda: bool(there.process.stdout.peek(1)))  # type: ignore[union-attr]
        os.kill(pid, signal.SIGKILL)
        leases.leases.end_arrived()
        there.process.wait()
        handle = pickle.load(there.process.stdout)
    with pytest.raises(shmmap.SharedMemoryError, match=f"process {pid}, which has ended"):
        handle.array()


def test_48_killed_while_handles_are_exchanged(tmp_path: Path) -> None:
    """Whatever was received reads right, and the next handle of a dead process is refused."""
    x = shmmap.full(1 << 18, 1.0)
    for _ in range(5):
        with Reader() as there:
            received = []
            there(reader.keep, shmmap.handle(x))
            there(reader.keep, shmmap.handle(shmmap.full(1000, 2.0)))
            for at in (0, 1, 0, 1):
                received.append(there(reader.send_back, at).array())
            there.process.kill()
            there.process.wait()
        assert [float(a[0]) for a in received] == [1, 2, 1, 2]
        x[0] = 1
        del received
    leases.leases.end_arrived()
