"""Records of maps that never ran, made by a few figures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from shmmap._profile.records import BARS, Bars, Kind, Phases, ProfiledMap, ProfiledWorker, Stamps
from shmmap._profile.sums import slowest_of, times_of, work_of

Row = tuple[int, int, int, float, float]
"""Rank, first and stop of the chunks, when it began and ended, in seconds."""


def make_bars(rows: list[Row], handing: list[tuple[int, float, float]], size: int) -> Bars:
    """Rows of calls, and of handing over."""
    bars = np.zeros(len(rows) + len(handing), BARS)
    for bar, (rank, first, stop, began, ended) in zip(bars, rows, strict=False):
        bar["rank"], bar["first"], bar["stop"], bar["chunks"] = rank, first, stop, stop - first
        bar["start_index"], bar["stop_index"] = first * size, stop * size
        bar["began_ns"], bar["ended_ns"] = round(began * 1e9), round(ended * 1e9)
    for bar, (rank, began, ended) in zip(bars[len(rows) :], handing, strict=True):
        bar["rank"], bar["kind"] = rank, Kind.HANDING
        bar["began_ns"], bar["ended_ns"] = round(began * 1e9), round(ended * 1e9)
    bars["busy_ns"] = bars["ended_ns"] - bars["began_ns"]
    return bars[np.lexsort((bars["began_ns"], bars["rank"]))]


def make_map(
    rows: list[Row],
    *,
    handing: list[tuple[int, float, float]] | None = None,
    before: float = 0.001,
    after: float = 0.0005,
    binding: float = 0.0,
    placing: float = 0.0,
    placed: int = 0,
    use: dict[str, Any] | None = None,
    chunksize: int = 1,
    **fields: Any,
) -> ProfiledMap:
    """A map in which that was done; it was called `before` seconds before the first row began.

    `use` is what each worker used: by default, a core for as long as it was busy.
    """
    bars = make_bars(rows, handing or [], chunksize)
    if "n" in fields:  # the last chunk has fewer items
        bars["stop_index"] = np.minimum(bars["stop_index"], fields["n"])
    began, ended = bars["began_ns"].min(), bars["ended_ns"].max()
    at_work = float(ended - began) / 1e9
    chunks = max(stop for _, _, stop, _, _ in rows)
    workers = []
    for rank in np.unique(bars["rank"]):
        work = work_of(bars[bars["rank"] == rank])
        busy, between, waiting, handed = times_of(work, at_work)
        worker = ProfiledWorker(
            rank=int(rank),
            host="here",
            pid=1000 + int(rank),
            busy=busy,
            between=between,
            waiting=waiting,
            handing=handed,
            chunks=int(work["chunks"].sum()),
            nbytes=0,
            deaths=0,
            cpu=busy + handed,
            faults=0,
            switches=0,
            waits=0,
        )
        workers.append(replace(worker, **(use or {})))
    called = int(began) - round(before * 1e9)
    made: dict[str, Any] = {
        "number": 0,
        "verb": "pmap",
        "func": "func",
        "n": chunks * chunksize,
        "first": 0,
        "chunks": chunks,
        "chunksize": chunksize,
        "engine": "processes",
        "thread": "MainThread",
        "is_running": False,
        "stamps": Stamps(called=called, returned=int(ended) + round(after * 1e9)),
        "phases": Phases(
            wall=before + at_work + after,
            before=before,
            at_work=at_work,
            after=after,
            binding=binding,
            placing=placing,
            posting=0.0,
            placed=placed,
        ),
        "workers": tuple(workers),
        "slowest": slowest_of(bars),
        "advice": (),
        "failed": (),
        "bars": bars,
        "stacks": None,
    }
    return ProfiledMap(**{**made, **fields})


def even(workers: int = 2, chunks: int = 20, each: float = 0.01) -> list[Row]:
    """Rows of workers that take turns, each chunk as long as another."""
    return [
        (k % workers, k, k + 1, k // workers * each, (k // workers + 1) * each)
        for k in range(chunks)
    ]
