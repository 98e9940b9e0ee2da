"""Maps that never ran, of any size: what pages and plots are tried with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from shmmap._profile.records import (
    BARS,
    Advice,
    Bars,
    Failure,
    Kind,
    Phases,
    ProfiledMap,
    ProfiledWorker,
    SlowRow,
    Stamps,
)

ROWS_OF_A_WORKER = 4096


def make_map(
    workers: int = 2,
    chunks: int = 10,
    *,
    number: int = 0,
    func: str = "fit_line",
    called: int = 5_000_000_000,
    deaths: int = 0,
    with_stacks: bool = False,
    is_running: bool = False,
    chunksize: int = 1,
    mean_us: float = 2_000.0,
) -> ProfiledMap:
    """A map whose chunks take uneven times, the longest ten times the mean, as its report would hold it."""
    random = np.random.default_rng([workers, chunks, number])
    began_work = called + 1_400_000
    rows = [
        worker_rows(random, rank, np.arange(rank, chunks, workers), began_work, mean_us, chunksize)
        for rank in range(min(workers, chunks))
    ]
    for rank in range(len(rows) - deaths, len(rows)):
        rows[0], rows[rank] = die(rows[rank], rows[0])
    bars = np.concatenate(rows)
    bars = np.concatenate([bars, spans_of(bars)])
    bars = bars[np.lexsort((bars["kind"] != Kind.SPAN, bars["began_ns"], bars["rank"]))]
    calls = bars[bars["kind"] == Kind.CALL]
    ended = int(bars["ended_ns"].max())
    wall = (ended + 700_000 - called) / 1e9
    slow = calls[np.argsort(calls["began_ns"] - calls["ended_ns"])][:10]
    stamps = Stamps(
        called=called,
        bound=called + 150_000,
        placed=called + 900_000,
        posted=called + 1_100_000,
        output=None if is_running else called + 2_500_000,
        heard=None if is_running else ended + 100_000,
        returned=None if is_running else ended + 700_000,
    )
    at_work = (ended - began_work) / 1e9
    return ProfiledMap(
        number=number,
        verb="pmap",
        func=func,
        n=chunks * chunksize,
        first=0,
        chunks=chunks,
        chunksize=chunksize,
        engine="processes",
        thread="MainThread",
        is_running=is_running,
        stamps=stamps,
        phases=Phases(
            wall=wall,
            before=0.0014,
            at_work=at_work,
            after=0.0007,
            binding=0.00015,
            placing=0.00075,
            posting=0.0002,
            placed=8_000_000,
        ),
        workers=tuple(worker_of(calls, rank, at_work) for rank in np.unique(calls["rank"])),
        slowest=tuple(
            SlowRow(
                start=int(row["start_index"]),
                stop=int(row["stop_index"]),
                chunks=int(row["chunks"]),
                rank=int(row["rank"]),
                seconds=float(row["ended_ns"] - row["began_ns"]) / 1e9,
            )
            for row in slow
        ),
        advice=(
            Advice(
                rule="uneven",
                text="workers waited 30 % of the time for index 4, which took 128.3 ms: put it first",
            ),
        ),
        failed=(Failure(start=3, stop=4, error="ValueError: <b>3</b> & more"),) if deaths else (),
        bars=bars,
        stacks=STACKS if with_stacks else None,
    )


STACKS = {
    ("fit_line (fits.py:12)", "polyfit (polynomial.py:650)", "lstsq (_linalg.py:2500)"): 120,
    ("fit_line (fits.py:12)", "polyfit (polynomial.py:650)", "vander (twodim_base.py:571)"): 40,
    ("fit_line (fits.py:14)", "<lambda> (fits.py:9)"): 25,
    ("fit_line (fits.py:14)",): 7,
    ("idle </script> & co (x.py:1)",): 3,
}


def worker_rows(
    random: np.random.Generator,
    rank: int,
    chunks: np.ndarray,
    began: int,
    mean_us: float,
    size: int,
) -> Bars:
    """Calls of one worker, one after the other; merged as a worker would if there are too many."""
    took = (random.lognormal(0, 0.5, len(chunks)) * mean_us * 880).astype(np.int64)
    took[random.integers(len(chunks))] = int(mean_us * 10_000)
    gaps = random.integers(1_000, int(mean_us * 60) + 2_000, len(chunks))
    rows = np.zeros(len(chunks), BARS)
    rows["rank"], rows["pid"] = rank, 41_000 + rank
    rows["first"], rows["stop"], rows["chunks"] = chunks, chunks + 1, 1
    rows["start_index"], rows["stop_index"] = chunks * size, (chunks + 1) * size
    rows["ended_ns"] = began + 90_000 * rank + np.cumsum(took + gaps)
    rows["began_ns"], rows["busy_ns"] = rows["ended_ns"] - took, took
    if len(rows) <= ROWS_OF_A_WORKER:
        return rows
    heads = np.unique(np.linspace(0, len(rows), ROWS_OF_A_WORKER, endpoint=False).astype(int))
    tails = np.append(heads[1:], len(rows)) - 1
    merged = rows[heads]
    for field in ("stop", "stop_index", "ended_ns"):
        merged[field] = rows[field][tails]
    for field in ("chunks", "busy_ns"):
        merged[field] = np.add.reduceat(rows[field], heads)
    merged["merged"] = tails - heads
    return merged


def die(rows: Bars, heir: Bars) -> tuple[Bars, Bars]:
    """Have a worker die in the middle of a chunk, which another one runs again at its own end."""
    at = len(rows) // 2
    again = rows[at : at + 1].copy()
    took = int(again["ended_ns"][0] - again["began_ns"][0])
    again["rank"], again["pid"], again["attempt"] = heir["rank"][0], heir["pid"][0], 1
    again["began_ns"] = heir["ended_ns"].max() + 40_000
    again["ended_ns"] = again["began_ns"] + took
    rows = rows.copy()
    rows["pid"][at + 1 :] += 1_000
    rows["kind"][at], rows["chunks"][at], rows["busy_ns"][at] = Kind.DEATH, 0, 0
    return np.concatenate([heir, again]), rows


def spans_of(bars: Bars) -> Bars:
    ranks = np.unique(bars["rank"])
    spans = np.zeros(len(ranks), BARS)
    for span, rank in zip(spans, ranks, strict=True):
        mine = bars[bars["rank"] == rank]
        span["rank"], span["pid"], span["kind"] = rank, mine["pid"][0], Kind.SPAN
        span["began_ns"], span["ended_ns"] = (
            mine["began_ns"].min() - 50_000,
            mine["ended_ns"].max() + 30_000,
        )
        span["busy_ns"] = span["ended_ns"] - span["began_ns"]
    return spans


def worker_of(calls: Bars, rank: int, at_work: float) -> ProfiledWorker:
    mine = calls[calls["rank"] == rank]
    busy = float(mine["busy_ns"].sum()) / 1e9
    span = float(mine["ended_ns"].max() - mine["began_ns"].min()) / 1e9
    return ProfiledWorker(
        rank=int(rank),
        host="here",
        pid=int(mine["pid"][-1]),
        busy=busy,
        between=span - busy,
        waiting=at_work - span,
        handing=0.0,
        chunks=int(mine["chunks"].sum()),
        nbytes=0,
        deaths=0,
        cpu=busy,
        faults=0,
        switches=0,
    )


def numbered(*maps: ProfiledMap) -> tuple[ProfiledMap, ...]:
    return tuple(replace(each, number=number) for number, each in enumerate(maps))
