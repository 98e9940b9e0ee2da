"""Reports of maps that ran, as files and plots."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from tests.profile.test_page import trace_in
from tests.profile.test_trace import calls_of, check_trace


def square(i: Any) -> Any:
    return i * i


def fail_at_7(i: Any) -> Any:
    return 1 // (i - 7)


def test_the_trace_of_every_engine(engine: Any, tmp_path: Path) -> None:
    with shmmap.profile(stacks=True) as report:
        shmmap.pmap(square, np.arange(500), chunksize=1, engine=engine, workers=2)
        shmmap.pmap(square, range(500), chunksize=1, engine=engine, workers=2)
        with pytest.raises(ZeroDivisionError):
            shmmap.pmap(fail_at_7, range(100), chunksize=1, engine=engine, workers=2)
        shmmap.preduce(np.sum, np.ones((100, 10)), chunksize=10, engine=engine, workers=2)
    report.save(tmp_path / "run.json")
    trace = check_trace((tmp_path / "run.json").read_text("utf-8"))
    for pid, record in enumerate(report.maps, 1):
        ran = sum(event["args"].get("chunks", 1) for event in calls_of(trace, pid))
        assert ran == sum(worker.chunks for worker in record.workers)
    facts = trace["otherData"]["maps"]
    assert [each["func"] for each in facts] == ["square", "square", "fail_at_7", "sum"]
    (failed,) = facts[2]["failed"]
    assert failed["start"] <= 7 < failed["stop"]
    assert "ZeroDivisionError" in failed["error"]
    report.save(tmp_path / "run.html")
    assert trace_in((tmp_path / "run.html").read_text("utf-8")) == (
        tmp_path / "run.json"
    ).read_text("utf-8")


def test_a_death_is_in_the_trace(team: shmmap.Team, tmp_path: Path) -> None:
    def die_once(i: Any) -> Any:
        if i == 30 and shmmap.current().attempt == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return i

    with shmmap.profile() as report:
        shmmap.pmap(die_once, np.arange(60), chunksize=1, engine=team, retries=1)
    report.save(tmp_path / "run.json")
    trace = check_trace((tmp_path / "run.json").read_text("utf-8"))
    (death,) = (event for event in trace["traceEvents"] if event["name"] == "died")
    assert death["args"]["start"] <= 30 < death["args"]["stop"]
    assert any(
        event["args"]["start"] <= 30 < event["args"]["stop"]
        for event in calls_of(trace)
        if "attempt" in event["args"]
    )


def test_what_a_report_offers(tmp_path: Path) -> None:
    with shmmap.profile() as report:
        pass
    report.save(str(tmp_path / "run.html"))
    assert "No map ran" in (tmp_path / "run.html").read_text("utf-8")
    with pytest.raises(ValueError, match=r"\.html .* \.json"):
        report.save(tmp_path / "run.txt")
    with shmmap.profile() as report:
        shmmap.pmap(square, range(10), engine="serial")
        # While maps may still begin, too.
        assert report._repr_html_().startswith("<iframe ")
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    assert report.plot(axes) is axes
    assert axes.get_title() == "pmap of square"
