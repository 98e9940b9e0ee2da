"""Maps as Chrome trace events, which ui.perfetto.dev and speedscope open, and the page of a report shows.

What each program wants of the format is stricter than its description (`Trace Event Format`_), so:

- Each map is a process of the trace, as maps may overlap in time: the caller is its thread 1, and the worker
  of rank r its thread r + 2. (Perfetto takes thread 0 and process 0 for the idle ones.)
- Events of a thread are nested or apart, as `BARS` are, by half a nanosecond at least. Times are microseconds
  since the first map was called, with nanoseconds as decimals.
- A death is an instant event: speedscope leaves it out.
- What is no event is under ``otherData``, where readers of traces look for nothing.

.. _Trace Event Format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Literal, NotRequired, TypedDict

from .records import Bars, Kind, ProfiledMap, Stack

CALLER = 1
"""The caller's thread in a trace."""

FIRST_WORKER = 2
"""The thread of rank 0."""

STAMPS = {
    "bound": "checking and planning",
    "placed": "placing inputs and outputs",
    "posted": "telling workers",
    "output": "making the output",
    "heard": "waiting for workers",
    "returned": "taking results over",
}
"""What the caller did until each stamp."""


class Event(TypedDict):
    """A trace event; what else it holds depends on `ph`."""

    ph: Literal["X", "M", "i"]
    """Complete, metadata, or instant."""
    pid: int
    tid: int
    name: str
    cat: NotRequired[str]
    ts: NotRequired[float]
    dur: NotRequired[float]
    s: NotRequired[Literal["t"]]
    """An instant event is drawn on its thread."""
    args: dict[str, object]


class StackTable(TypedDict):
    """Stacks with each frame written once."""

    frames: list[str]
    stacks: list[tuple[list[int], int]]
    """Positions in `frames` from the outermost, and how often it was seen."""


class Trace(TypedDict):
    """What is written as JSON."""

    traceEvents: list[Event]
    displayTimeUnit: Literal["ms"]
    otherData: dict[str, object]


def make_trace(maps: Sequence[ProfiledMap]) -> Trace:
    """Everything that is known of maps, as a trace."""
    zero = min((each.stamps.called for each in maps), default=0)
    return {
        "traceEvents": [event for each in maps for event in events_of(each, zero)],
        "displayTimeUnit": "ms",
        "otherData": {"maps": [facts_of(each, zero) for each in maps]},
    }


def write_trace(maps: Sequence[ProfiledMap]) -> str:
    """The same as text."""
    return json.dumps(make_trace(maps), separators=(",", ":"))


def events_of(each: ProfiledMap, zero: int) -> Iterable[Event]:
    """All events of a map: names first, then the caller's, then its workers'."""
    pid = each.number + 1
    yield name_event("process_name", pid, CALLER, f"{each.verb} of {each.func}")
    yield {
        "ph": "M",
        "pid": pid,
        "tid": CALLER,
        "name": "process_sort_index",
        "args": {"sort_index": pid},
    }
    yield name_event("thread_name", pid, CALLER, f"caller ({each.thread})")
    hosts = {worker.host for worker in each.workers}
    for worker in each.workers:
        mine = each.bars[each.bars["rank"] == worker.rank]
        pids = ", then ".join(map(str, dict.fromkeys([*mine["pid"].tolist(), worker.pid])))
        place = f" on {worker.host}" if len(hosts) > 1 else ""
        name = f"worker {worker.rank} (pid {pids}{place})"
        yield name_event("thread_name", pid, FIRST_WORKER + worker.rank, name)
    yield from caller_events(each, pid, zero)
    yield from bar_events(each.bars, pid, zero)


def name_event(what: str, pid: int, tid: int, name: str) -> Event:
    return {"ph": "M", "pid": pid, "tid": tid, "name": what, "args": {"name": name}}


def caller_events(each: ProfiledMap, pid: int, zero: int) -> Iterable[Event]:
    """What the caller did from each stamp to the next."""
    stamps = {name: at for name, at in asdict(each.stamps).items() if at is not None}
    after = stamps.pop("called")
    for name, at in sorted(stamps.items(), key=lambda stamp: stamp[1]):
        if at > after:
            yield span_event(pid, CALLER, STAMPS[name], "caller", after - zero, at - zero, {})
            after = at
    now = each.stamps.called + round(each.phases.wall * 1e9)
    if each.is_running and now > after:
        yield span_event(pid, CALLER, "still running", "caller", after - zero, now - zero, {})


def span_event(
    pid: int, tid: int, name: str, cat: str, began: int, ended: int, args: dict[str, object]
) -> Event:
    """A complete event. Times are in nanoseconds since the first map was called."""
    # A nanosecond less, but for what is around others: readers compute with floating point numbers, and what
    # ends when the next begins would seem to end inside it.
    length = ended - began if cat == "span" else max(0, ended - began - 1)
    ts, dur = began / 1e3, length / 1e3
    return {
        "ph": "X",
        "pid": pid,
        "tid": tid,
        "name": name,
        "cat": cat,
        "ts": ts,
        "dur": dur,
        "args": args,
    }


def bar_events(bars: Bars, pid: int, zero: int) -> Iterable[Event]:
    """An event for each row, in their order. What is as in most rows is left out."""
    fields = "rank", "pid", "kind", "attempt", "start_index", "stop_index", "chunks"
    rest = "began_ns", "ended_ns", "busy_ns", "merged"
    # Lists by field: an element of a structured array costs ten times as much.
    for rank, process, kind, attempt, start, stop, chunks, began, ended, busy, merged in zip(
        *(bars[field].tolist() for field in fields + rest), strict=True
    ):
        tid = FIRST_WORKER + rank
        args: dict[str, object] = {"start": start, "stop": stop} if stop > start else {}
        if merged:
            args |= {"merged": merged, "busy": busy / 1e3}
        if kind == Kind.CALL:
            if chunks != 1:
                args["chunks"] = chunks
            if attempt:
                args["attempt"] = attempt
            yield span_event(
                pid, tid, f"[{start}, {stop})", "call", began - zero, ended - zero, args
            )
        elif kind == Kind.HANDING:
            yield span_event(pid, tid, "handing over", "handing", began - zero, ended - zero, args)
        elif kind == Kind.SPAN:
            yield span_event(pid, tid, "at work", "span", began - zero, ended - zero, {})
        else:
            args["process"] = process
            yield death_event(pid, tid, ended - zero, args)


def death_event(pid: int, tid: int, at: int, args: dict[str, object]) -> Event:
    return {
        "ph": "i",
        "pid": pid,
        "tid": tid,
        "name": "died",
        "cat": "death",
        "ts": at / 1e3,
        "s": "t",
        "args": args,
    }


def facts_of(each: ProfiledMap, zero: int) -> dict[str, object]:
    """What is known of a map beside its events."""
    return {
        "pid": each.number + 1,
        "verb": each.verb,
        "func": each.func,
        "n": each.n,
        "chunks": each.chunks,
        "chunksize": each.chunksize,
        "engine": each.engine,
        "running": each.is_running,
        "ts": (each.stamps.called - zero) / 1e3,
        "dur": each.phases.wall * 1e6,
        "advice": [advice.text for advice in each.advice],
        "failed": [asdict(failure) for failure in each.failed],
        "slowest": [asdict(row) for row in each.slowest],
        "stacks": None if each.stacks is None else table_of(each.stacks),
    }


def table_of(stacks: dict[Stack, int]) -> StackTable:
    numbers: dict[str, int] = {}
    rows = [
        ([numbers.setdefault(frame, len(numbers)) for frame in stack], count)
        for stack, count in stacks.items()
    ]
    return {"frames": list(numbers), "stacks": rows}
