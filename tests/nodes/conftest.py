"""A cluster of programs of its own: a scheduler, and workers that are nodes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


class Cluster:
    """A scheduler and nodes, each a program started by hand, as on machines of their own."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "scheduler.json"
        self._folder = folder
        self.programs: list[subprocess.Popen[bytes]] = []
        self.scheduler = self._start(
            "scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(self._file)
        )
        while not self._file.exists():
            assert self.scheduler.poll() is None, "the scheduler does not start"
            time.sleep(0.02)

    def _start(self, *command: str, **variables: str) -> subprocess.Popen[bytes]:
        log = (self._folder / "log.txt").open("ab")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
        program = subprocess.Popen(
            [sys.executable, "-m", "dask", *command],
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
        log.close()
        self.programs.append(program)
        return program

    def start_node(self, name: str, threads: int = 2, **variables: str) -> subprocess.Popen[bytes]:
        """A node: a worker of dask, for as many processes as it has threads."""
        return self._start(
            *("worker", "--scheduler-file", str(self._file), "--nworkers", "1", "--name", name),
            *("--nthreads", str(threads), "--no-nanny", "--no-dashboard"),
            *("--local-directory", str(self._folder)),
            **variables,
        )

    def connect(self) -> Any:
        import distributed

        for _ in range(5):
            try:
                return distributed.Client(scheduler_file=str(self._file))
            except AssertionError:  # dask's own, if the scheduler has two things to say at once
                time.sleep(0.1)
        raise RuntimeError("no client connects to the scheduler")

    def close(self) -> None:
        for program in reversed(self.programs):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
        for program in self.programs:
            program.wait()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes of two, for all tests that do not kill any."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start_node("first")
        cluster.start_node("second")
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of one's own, to kill what is in it."""
    cluster = Cluster(tmp_path)
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="session")
def client(cluster: Cluster) -> Iterator[Any]:
    with cluster.connect() as client:
        client.wait_for_workers(2, timeout=60)
        yield client
