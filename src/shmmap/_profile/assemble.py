"""From what was noted of a map to its record."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from .._wire import RowKind, Rows, unpack_rows
from .advice import advise
from .answers import HOST
from .log import Death, MapLog
from .records import BARS, Bars, Failure, ProfiledMap, ProfiledWorker, Stamps
from .sums import phases_of, slowest_of, times_of, work_of


def assemble(log: MapLog, number: int) -> ProfiledMap:
    """The record of a map, as far as it is known now."""
    returned, now = (
        log.returned,
        time.perf_counter_ns(),
    )  # first: what it is made of is complete then
    rows = {rank: unpack_rows(data) for rank, data in log.rows().items()}
    stamps = Stamps(
        called=log.called,
        bound=log.bound,
        placed=log.placed or None,
        posted=log.posted or None,
        output=log.output or None,
        heard=log.heard or None,
        returned=returned or None,
    )
    bars = make_bars(log, rows)
    phases = phases_of(bars, stamps, now, log.placed_nbytes)
    made = ProfiledMap(
        number=number,
        verb=log.verb,
        func=log.func,
        n=log.n,
        first=log.first,
        chunks=log.chunks,
        chunksize=log.chunksize,
        engine=log.engine,
        thread=log.thread,
        kept=log.kept,
        is_auto=log.is_auto,
        is_static=log.schedule == "static",
        is_cold=log.is_cold,
        out_nbytes=log.out_nbytes,
        is_running=not returned,
        stamps=stamps,
        phases=phases,
        workers=make_workers(log, rows, bars, phases.at_work),
        slowest=slowest_of(bars),
        advice=(),
        failed=tuple(
            Failure(start=log.first + start, stop=log.first + stop, error=error)
            for start, stop, error in log.failed
        ),
        bars=bars,
        stacks=dict(log.stacks) if log.profiled == 2 else None,
    )
    return replace(made, advice=advise(made))


def make_bars(log: MapLog, rows: dict[int, Rows]) -> Bars:
    """All rows as `BARS`, those of deaths among them."""
    parts = [bars_of_rank(log, rank, rows[rank]) for rank in sorted(rows)]
    deaths = list(log.deaths)
    if deaths:
        parts.append(bars_of_deaths(log, deaths, rows))
    bars: Bars = np.concatenate(parts) if parts else np.zeros(0, BARS)
    if deaths:
        mark_again(bars, log.chunks)
    # Of two that begin at the same time, the longer one contains the other.
    return bars[np.lexsort((-bars["ended_ns"], bars["began_ns"], bars["rank"]))]


def mark_again(bars: Bars, chunks: int) -> None:
    """Mark what was run although it had been run before, by a worker that died before it could hand it over.

    Workers are told only how often a chunk was begun in vain, as far as its caller knows.
    """
    seen = np.zeros(chunks, bool)
    calls = np.flatnonzero((bars["kind"] == RowKind.CALL) & (bars["merged"] == 0))
    for at in calls[np.argsort(bars["began_ns"][calls], kind="stable")]:
        run = seen[bars["first"][at] : bars["stop"][at]]
        if run.any():
            bars["attempt"][at] = max(1, bars["attempt"][at])
        run[:] = True


def bars_of_rank(log: MapLog, rank: int, rows: Rows) -> Bars:
    """The rows of one rank as `BARS`."""
    bars = np.zeros(len(rows), BARS)
    for name in ("pid", "kind", "attempt", "merged"):
        bars[name] = rows[name]
    bars["rank"] = rank
    bars["began_ns"], bars["ended_ns"], bars["busy_ns"] = rows["began"], rows["ended"], rows["busy"]
    is_call = rows["kind"] == RowKind.CALL
    for name in ("first", "stop", "chunks"):
        bars[name] = np.where(is_call, rows[name], 0)
    is_span = rows["kind"] == RowKind.SPAN
    bars["busy_ns"][is_span] = (rows["ended"] - rows["began"])[is_span]
    note_indices(log, bars, is_call)
    return bars


def bars_of_deaths(log: MapLog, deaths: list[Death], rows: dict[int, Rows]) -> Bars:
    """A row for each death: from when the worker was last known to be alive."""
    bars = np.zeros(len(deaths), BARS)
    for bar, death in zip(bars, deaths, strict=True):
        ended = max(log.posted or log.bound, death.drew_ns if death.chunks else 0)
        if death.rank in rows:
            mine = rows[death.rank]
            before = mine["ended"][
                (mine["kind"] <= RowKind.HANDING) & (mine["ended"] <= death.at_ns)
            ]
            ended = max(ended, int(before.max(initial=0)))
        bar["rank"], bar["pid"], bar["kind"] = death.rank, death.pid, RowKind.DEATH
        bar["first"], bar["stop"] = death.chunks.start, death.chunks.stop
        bar["began_ns"], bar["ended_ns"] = min(ended, death.at_ns), death.at_ns
        bar["busy_ns"] = bar["ended_ns"] - bar["began_ns"]
    note_indices(log, bars, bars["stop"] > bars["first"])
    return bars


def note_indices(log: MapLog, bars: Bars, has_chunks: Bars) -> None:
    """The indices of chunks, as the user counts them."""
    size = log.chunksize
    bars["start_index"] = np.where(has_chunks, log.first + bars["first"] * size, 0)
    stops = log.first + np.minimum(bars["stop"] * size, log.n)
    bars["stop_index"] = np.where(has_chunks, stops, 0)


def make_workers(
    log: MapLog, rows: dict[int, Rows], bars: Bars, at_work: float
) -> tuple[ProfiledWorker, ...]:
    """What each rank did that took part."""
    work = work_of(bars)
    nbytes = log.nbytes + log.out_nbytes
    hosts = {} if log.answers is None else log.answers.hosts
    deaths = [death.rank for death in list(log.deaths)]
    workers = []
    for rank in sorted({*rows, *deaths}):
        mine = work[work["rank"] == rank]
        busy, between, waiting, handing = times_of(mine, at_work)
        chunks = int(mine["chunks"].sum())
        pids = bars["pid"][bars["rank"] == rank]
        # Of a worker that died, it is not known.
        use = None if rank in deaths else use_of(rows[rank])
        workers.append(
            ProfiledWorker(
                rank=rank,
                host=hosts.get(rank, HOST),
                pid=int(pids[-1]),
                busy=busy,
                between=between,
                waiting=waiting,
                handing=handing,
                chunks=chunks,
                nbytes=round(nbytes * chunks / log.chunks),
                deaths=deaths.count(rank),
                cpu=None if use is None else use.cpu,
                faults=None if use is None else use.faults,
                switches=None if use is None else use.switches,
                waits=None if use is None else use.waits,
            )
        )
    return tuple(workers)


class Use(NamedTuple):
    """What a worker used of its machine."""

    cpu: float
    faults: int
    switches: int
    waits: int


def use_of(rows: Rows) -> Use | None:
    """What rows of kind `SPAN` say; None if there is none, as the worker is not through yet."""
    spans = rows[rows["kind"] == RowKind.SPAN]
    if not len(spans):
        return None
    return Use(
        cpu=float(spans["busy"].sum()) / 1e9,
        faults=int(spans["chunks"].sum()),
        switches=int(spans["switches"].sum()),
        waits=int(spans["stop"].sum()),
    )
