"""Handles go through every channel that there is between processes, from any to any."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tests.helpers import run_python

STARTS = ("fork", "spawn", "forkserver")
CHANNELS = {
    "arguments": ["down", "across"],
    "Pool": ["down", "up", "across"] * 2,
    "ProcessPoolExecutor": ["down", "up", "across"] * 2,
    "Queue": ["down", "up", "across"],
    "Pipe": ["down", "up", "across"],
    "Manager": ["down", "up", "across"],
}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("channel", CHANNELS)
def test_channel(start: str, channel: str) -> None:
    done = run_python("-m", "tests.handles.matrix", start, channel)
    assert (done.stderr, done.stdout.split()) == ("", CHANNELS[channel])


@pytest.mark.skipif(not (find_spec("loky") or find_spec("joblib")), reason="no loky")
def test_loky() -> None:
    done = run_python("-m", "tests.handles.matrix", "spawn", "loky")
    assert (done.stderr, done.stdout.split()) == ("", ["down", "up", "across"] * 2)
