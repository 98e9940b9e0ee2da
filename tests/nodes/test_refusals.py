"""What cannot work over nodes is refused, with the way out; and what looks as if it could not does."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from shmmap.testing import wait_until
from tests.helpers import assert_same

from . import scaled
from .conftest import ROOT, Cluster

distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.unguarded("the client has threads and sockets of its own")


def test_settings_of_now_reach_the_nodes(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for scale in (1, 7, 3):
        monkeypatch.setattr(scaled, "SCALE", scale)
        assert shmmap.pmap(scaled.scaled, range(40), engine=client) == [
            v * scale for v in range(40)
        ]


def test_a_module_that_nodes_do_not_have_is_named(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text("def double(v):\n    return v * 2\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    only_here = importlib.import_module("only_here")
    try:
        got = shmmap.pmap(only_here.double, range(5), engine=client)
    except ModuleNotFoundError as exc:
        assert "only_here" in str(exc)
        assert "upload_file" in "\n".join(exc.__notes__)
    else:
        assert got == [0, 2, 4, 6, 8]


def test_clients_that_cannot_serve_are_refused(cluster: Cluster) -> None:
    client = cluster.connect()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        shmmap.pmap(abs, range(3), engine=client)
    with pytest.raises(TypeError, match=r"placed takes a client"):
        shmmap.placed(None, [1.0])


@pytest.mark.slow
def test_versions_that_differ_are_refused(ours: Cluster, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import shmmap\nshmmap.__version__ = '0.0.1'\n")
    ours.start_node("old", PYTHONPATH=f"{tmp_path}:{ROOT}")
    with ours.connect() as client:
        client.wait_for_workers(1, timeout=60)
        with pytest.raises(
            RuntimeError, match=r"versions differ.*shmmap 0\.0\.1 on .* and "
        ) as caught:
            shmmap.pmap(abs, range(30), engine=client)
        assert shmmap.__version__ in str(caught.value)


@pytest.mark.slow
def test_a_cluster_without_nodes_is_an_error(ours: Cluster) -> None:
    import dask

    with ours.connect() as client, dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        with pytest.raises(RuntimeError, match=r"no worker.* tcp://"):
            shmmap.pmap(abs, range(30), engine=client)


@pytest.mark.slow
def test_nodes_that_join_get_work(ours: Cluster) -> None:
    ours.start_node("one")
    with ours.connect() as client:
        client.wait_for_workers(1, timeout=60)

        def who(v: Any) -> Any:
            time.sleep(0.01)
            return os.getsid(0)

        future = shmmap.pmap(who, range(1500), engine=client, chunksize=2, wait=False)
        wait_until(lambda: future.progress()[0] > 20, timeout_s=20)
        ours.start_node("two")
        assert len(set(future.result(timeout=60))) == 2


@pytest.mark.slow
def test_ctrl_c_ends_the_map_and_frees_the_nodes(ours: Cluster, tmp_path: Path) -> None:
    """In a plain script, without a guard."""
    ours.start_node("one")
    script = tmp_path / "script.py"
    script.write_text(
        "import time, sys, shmmap\nfrom distributed import Client\n"
        f"client = Client(scheduler_file={str(tmp_path / 'scheduler.json')!r})\n"
        "client.wait_for_workers(1)\n"
        "assert shmmap.pmap(lambda v: v + 1, range(5), engine=client) == [1, 2, 3, 4, 5]\n"
        "print('runs', flush=True)\n"
        "shmmap.pmap(lambda v: time.sleep(0.1), range(5000), engine=client)\n"
    )
    program = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "runs\n"
    time.sleep(0.5)
    program.send_signal(signal.SIGINT)
    _, errors = program.communicate(timeout=20)
    assert "KeyboardInterrupt" in errors and errors.count("Traceback") == 1, errors
    with ours.connect() as client:
        begun = time.monotonic()
        assert_same(shmmap.pmap(abs, np.arange(50), engine=client), np.arange(50))
        assert time.monotonic() - begun < 10
