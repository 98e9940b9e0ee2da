"""The trace is one that its readers accept, and holds all that the report does."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from shmmap._profile.records import Kind
from shmmap._profile.thin import thin_bars, thin_maps
from shmmap._profile.trace import CALLER, FIRST_WORKER, write_trace
from tests.profile.synthetic import make_map, numbered

KEYS = {"ph", "pid", "tid", "name", "args"}
"""Of every event. Those of each phase besides:"""
MORE_KEYS = {"X": {"cat", "ts", "dur"}, "M": set(), "i": {"cat", "ts", "s"}}

METADATA = {"process_name", "process_sort_index", "thread_name"}


def check_trace(text: str) -> dict[str, Any]:
    """Read a trace as strictly as its strictest reader."""
    trace: dict[str, Any] = json.loads(text, parse_constant=pytest.fail)
    assert trace.keys() == {"traceEvents", "displayTimeUnit", "otherData"}
    assert trace["displayTimeUnit"] in ("ms", "ns")
    threads: dict[tuple[int, int], list[dict[str, Any]]] = {}
    named = set()
    for event in trace["traceEvents"]:
        assert event.keys() == KEYS | MORE_KEYS[event["ph"]]
        assert isinstance(event["args"], dict)
        assert isinstance(event["name"], str)
        # Perfetto takes thread 0 for the idle one.
        assert (
            type(event["pid"]) is type(event["tid"]) is int and min(event["pid"], event["tid"]) > 0
        )
        thread = (event["pid"], event["tid"])
        if event["ph"] == "M":
            assert event["name"] in METADATA
            named.add(thread)
            continue
        assert event["ts"] >= 0
        if event["ph"] == "X":
            assert event["dur"] >= 0
            threads.setdefault(thread, []).append(event)
        else:
            assert event["s"] == "t"
    assert threads.keys() <= named
    for events in threads.values():
        check_nesting(events)
    return trace


def check_nesting(events: list[dict[str, Any]]) -> None:
    """Events of a thread are inside one another or apart, also for who calculates a little differently."""
    around: list[float] = []
    for event in sorted(events, key=lambda event: (event["ts"], -event["dur"])):
        while around and around[-1] + 0.0004 <= event["ts"]:
            around.pop()
        ended = event["ts"] + event["dur"]
        assert not around or ended + 0.0004 <= around[-1]
        around.append(ended)


def calls_of(trace: dict[str, Any], pid: int = 1) -> list[dict[str, Any]]:
    events = trace["traceEvents"]
    return [event for event in events if event.get("cat") == "call" and event["pid"] == pid]


@pytest.mark.parametrize("workers", [2, 64])
@pytest.mark.parametrize("chunks", [1, 10, 100_000])
def test_readers_accept_it(workers: int, chunks: int) -> None:
    trace = check_trace(write_trace([make_map(workers, chunks)]))
    assert sum(event["args"].get("chunks", 1) for event in calls_of(trace)) == chunks


def test_no_map_is_a_trace_too() -> None:
    assert check_trace(write_trace([]))["traceEvents"] == []


def test_each_map_is_a_process() -> None:
    maps = numbered(make_map(2, 10), make_map(3, 20, called=5_001_000_000, func="<lambda>"))
    trace = check_trace(write_trace(maps))
    names = {
        (event["pid"], event["tid"]): event["args"]["name"]
        for event in trace["traceEvents"]
        if event["name"] == "thread_name"
    }
    assert names[1, CALLER] == "caller (MainThread)"
    assert names[2, FIRST_WORKER + 2] == "worker 2 (pid 41002)"
    assert len(names) == 3 + 4
    assert len(calls_of(trace, 1)), len(calls_of(trace, 2)) == (10, 20)
    # Times count from the first call of all.
    assert [each["ts"] for each in trace["otherData"]["maps"]] == [0.0, 1000.0]
    assert min(event["ts"] for event in calls_of(trace, 2)) > 1000


def test_a_death_and_what_is_run_again() -> None:
    trace = check_trace(write_trace([make_map(2, 10, deaths=1)]))
    (death,) = (event for event in trace["traceEvents"] if event["ph"] == "i")
    (again,) = (event for event in calls_of(trace) if "attempt" in event["args"])
    assert death["tid"] == FIRST_WORKER + 1
    assert death["args"] == {"start": 5, "stop": 6, "process": 41_001}
    assert again["tid"] == FIRST_WORKER
    assert again["args"] == {"start": 5, "stop": 6, "attempt": 1}
    names = [e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"]
    assert "worker 1 (pid 41001, then 42001)" in names


def test_what_the_caller_did_is_without_a_gap() -> None:
    events = check_trace(write_trace([make_map(2, 10)]))["traceEvents"]
    mine = [event for event in events if event.get("cat") == "caller"]
    assert [event["name"] for event in mine] == [
        "checking and planning",
        "placing inputs and outputs",
        "telling workers",
        "making the output",
        "waiting for workers",
        "taking results over",
    ]
    for event, after in pairwise(mine):
        assert after["ts"] == pytest.approx(event["ts"] + event["dur"], abs=0.0011)


def test_a_map_that_still_runs() -> None:
    events = check_trace(write_trace([make_map(2, 10, is_running=True)]))["traceEvents"]
    mine = [event["name"] for event in events if event.get("cat") == "caller"]
    assert mine[-2:] == ["telling workers", "still running"]


def test_fewer_rows_have_the_same_sums() -> None:
    bars = make_map(8, 20_000, deaths=2).bars
    fewer = thin_bars(bars, 3000)
    assert 2000 < len(fewer) <= 3000
    for rank in range(8):
        mine, less = (each[each["rank"] == rank] for each in (bars, fewer))
        for kind in np.unique(bars["kind"]):
            before, after = (each[each["kind"] == kind] for each in (mine, less))
            assert before["chunks"].sum() == after["chunks"].sum()
            assert before["busy_ns"].sum() == after["busy_ns"].sum()
            assert len(before) + before["merged"].sum() == len(after) + after["merged"].sum()
        calls = less[less["kind"] == 0]
        assert (calls["began_ns"][1:] >= calls["ended_ns"][:-1]).all()
    # What took long is still by itself.
    calls = bars[bars["kind"] == 0]
    longest = calls[np.argsort(calls["began_ns"] - calls["ended_ns"])[:8]]
    assert np.isin(longest["began_ns"], fewer["began_ns"][fewer["merged"] == 0]).all()


def test_what_stands_between_is_left_out_before_rows_overlap() -> None:
    each = make_map(2, 2000)
    handing = each.bars[each.bars["kind"] == Kind.CALL][:-1].copy()
    handing["kind"], handing["chunks"] = Kind.HANDING, 0
    # In the gap after each call.
    handing["began_ns"] = handing["ended_ns"]
    handing["ended_ns"] = handing["busy_ns"] = handing["began_ns"] + 500
    bars = np.concatenate([each.bars, handing])
    fewer = replace(each, bars=thin_bars(bars, 500))
    assert 250 < len(fewer.bars) <= 500
    trace = check_trace(write_trace([fewer]))
    assert sum(event["args"].get("chunks", 1) for event in calls_of(trace)) == 2000


def test_rows_that_cannot_be_merged_stay() -> None:
    bars = make_map(4, 4).bars
    assert len(thin_bars(bars, 1)) == len(bars)
    maps = numbered(make_map(2, 100), make_map(2, 1000))
    small, large = thin_maps(maps, 200)
    assert len(small.bars) <= 20 and len(large.bars) <= 182
    assert thin_maps(maps, 10_000) is maps
