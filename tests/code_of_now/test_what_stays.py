"""What a change in the caller leaves alone: what workers have set or made themselves, or cannot be sent."""

from __future__ import annotations

import importlib
import os
import signal
import weakref
from typing import Any
from unittest import mock

import numpy as np
import pytest

import shmmap
from shmmap import pmap
from tests.code_of_now.conftest import CONFIG, Write

INITIALIZED = """
    model = None
    other = 1
    table = {}

    def init(value=5):
        global model
        model = value
        table["set"] = value

    def f(v):
        return (model, table.get("set"))

    def g(v):
        return (model, table.get("set"), other)
"""


@pytest.mark.parametrize("start", ["clean", "fork"])
def test_what_an_initializer_sets_stays_set(write: Write, start: Any) -> None:
    """A4: state of the caller must not undo it, also not with other changes, nor in a replaced worker."""
    m: Any = write("edges_initialized", INITIALIZED)
    with shmmap.Team(1, start=start, initializer=m.init) as team:
        assert pmap(m.f, [0], engine=team) == [(5, 5)]
        m.other = 2
        assert pmap(m.g, [0], engine=team) == [(5, 5, 2)]
        with pytest.raises(shmmap.WorkerDied):
            pmap(lambda v: os.kill(os.getpid(), signal.SIGKILL), [0], engine=team)
        m.other = 3
        assert pmap(m.g, [0], engine=team) == [(5, 5, 3)]
        m.model = "the caller's"
        assert pmap(m.f, [0], engine=team) == [("the caller's", 5)]


@pytest.mark.parametrize("start", ["clean", "fork"])
def test_an_initializer_that_sets_by_name_stays_set(write: Write, start: Any) -> None:
    """A4: no code names what it sets, and it is told of first after it was set."""
    m: Any = write("edges_initialized", INITIALIZED)

    def init() -> None:
        vars(importlib.import_module("edges_initialized")).update({"model": 7})

    with shmmap.Team(1, start=start, initializer=init) as team:
        assert team.submit(abs, 0).result() == 0
        assert pmap(m.f, [0], engine=team) == [(7, None)]
        m.other = 9
        assert pmap(m.g, [0], engine=team) == [(7, None, 9)]


def test_what_cannot_be_carried_is_refused_where_it_is_used(
    write: Write, team: shmmap.Team
) -> None:
    """A4: a mock does not pickle. A map that has nothing to do with it goes on."""
    m: Any = write("edges_config", CONFIG)
    assert pmap(lambda v: m.f(v), [1], engine=team) == [2]
    with mock.patch.object(m, "f"):
        with pytest.raises(
            TypeError, match=r"edges_config\.f is a .*MagicMock in the calling process"
        ):
            pmap(lambda v: m.f(v), [1], engine=team)
        assert pmap(lambda v: m.K if v else m.f(v), [1], engine=team) == [2]
    assert pmap(lambda v: m.f(v), [1], engine=team) == [2]


def test_locks_and_loggers_are_the_workers_own(write: Write, engine: Any) -> None:
    """A4: what an import makes and does not pickle stays what the worker's import has made."""
    m: Any = write(
        "edges_locks",
        """
        import logging, threading
        LOG = logging.getLogger(__name__)
        LOCK = threading.Lock()
        LOCAL = threading.local()
        K = 1

        def f(v):
            LOG.debug("x")
            with LOCK:
                return vars(LOCAL) == {}, v * K
        """,
    )
    assert pmap(m.f, [1], engine=engine) == [(True, 1)]
    m.K = 2
    assert pmap(m.f, [1], engine=engine) == [(True, 2)]
    importlib.reload(m)
    assert pmap(m.f, [1], engine=engine) == [(True, 1)]


def test_no_code_of_the_users_runs_when_nothing_is_to_be_sent(write: Write) -> None:
    """Looking at what a function reaches reads namespaces alone."""
    m: Any = write(
        "edges_awkward",
        """
        class Awkward:
            def __eq__(self, other):
                raise RuntimeError("compared")
            __hash__ = None
            def __getattribute__(self, name):
                raise RuntimeError(name)
            def __bool__(self):
                raise RuntimeError("asked")
            def __len__(self):
                raise RuntimeError("asked")

        A = Awkward()
        K = 1

        def f(v):
            return A is not None, K
        """,
    )
    with shmmap.Team(1) as team:
        for k in (1, 2):
            m.K = k
            assert pmap(m.f, [0], engine=team) == [(True, k)]


def test_no_array_is_kept_alive(write: Write) -> None:
    """What is looked at is held weakly if it may be large; the leak guard looks for the shared copy of it."""
    m: Any = write("edges_kept", "LARGE = None\ndef f(v):\n    return LARGE.nbytes\n")
    with shmmap.Team(1) as team:
        m.LARGE = np.zeros(1 << 20)
        assert pmap(m.f, [0], engine=team) == [8 << 20]
        gone = weakref.ref(m.LARGE)
        m.LARGE = None
        assert gone() is None
