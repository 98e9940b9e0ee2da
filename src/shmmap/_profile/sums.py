"""What the rows of a map add up to: how long workers were busy, where the caller's time went, what took long.

Pure functions of rows and stamps.
"""

from __future__ import annotations

import numpy as np

from .._wire import RowKind
from .records import Bars, Phases, SlowRow, Stamps

SLOWEST = 10
"""So many of the longest rows are told."""


def calls_of(bars: Bars) -> Bars:
    """The rows of calls of the function."""
    calls: Bars = bars[bars["kind"] == RowKind.CALL]
    return calls


def work_of(bars: Bars) -> Bars:
    """The rows of work: calls, handing over, and what was begun by workers that died of it."""
    work: Bars = bars[bars["kind"] != RowKind.SPAN]
    return work


def phases_of(bars: Bars, stamps: Stamps, now: int, placed: int) -> Phases:
    """Where the time went as the caller saw it; `now` if the map still runs."""
    work = work_of(bars)
    end = stamps.returned or now
    began = int(work["began_ns"].min()) if len(work) else end
    ended = int(work["ended_ns"].max()) if len(work) and stamps.returned else end
    ended = max(began, min(ended, end))
    began = max(stamps.called, min(began, ended))
    bound = stamps.bound or end
    handed = stamps.placed or bound
    return Phases(
        wall=(end - stamps.called) / 1e9,
        before=(began - stamps.called) / 1e9,
        at_work=(ended - began) / 1e9,
        after=(end - ended) / 1e9,
        binding=(bound - stamps.called) / 1e9,
        placing=(handed - bound) / 1e9,
        posting=((stamps.posted or handed) - handed) / 1e9,
        placed=placed,
    )


def times_of(work: Bars, at_work: float) -> tuple[float, float, float, float]:
    """Seconds that one worker was busy, between, waiting and handing over; the first three are `at_work`."""
    if not len(work):
        return 0.0, 0.0, at_work, 0.0
    is_call = work["kind"] == RowKind.CALL
    busy = float(work["busy_ns"][is_call].sum()) / 1e9
    handing = float(work["busy_ns"][work["kind"] == RowKind.HANDING].sum()) / 1e9
    here = float(work["ended_ns"].max() - work["began_ns"].min()) / 1e9
    return busy, max(0.0, here - busy), max(0.0, at_work - here), handing


def slowest_of(bars: Bars) -> tuple[SlowRow, ...]:
    """The longest rows, the longest first."""
    calls = calls_of(bars)
    longest = calls[np.argsort(-calls["busy_ns"], kind="stable")[:SLOWEST]]
    return tuple(
        SlowRow(
            start=int(row["start_index"]),
            stop=int(row["stop_index"]),
            chunks=int(row["chunks"]),
            rank=int(row["rank"]),
            seconds=float(row["busy_ns"]) / 1e9,
        )
        for row in longest
    )


def median_chunk(bars: Bars) -> float:
    """Seconds that half of the chunks take no longer than; those of one row are taken as alike. 0 without."""
    calls = calls_of(bars)
    calls = calls[calls["chunks"] > 0]
    if not len(calls):
        return 0.0
    each = calls["busy_ns"] / calls["chunks"]
    order = np.argsort(each)
    reached = np.cumsum(calls["chunks"][order])
    return float(each[order][np.searchsorted(reached, reached[-1] / 2)]) / 1e9


def imbalance_of(busy: list[float]) -> float:
    """How many times as long as the mean the busiest worker was busy; 1 if all are alike, or none was."""
    total = sum(busy)
    return max(busy) * len(busy) / total if total > 0 else 1.0
