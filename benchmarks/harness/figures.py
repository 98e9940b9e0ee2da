"""The figures: what each one measures, in which unit, and what it has to reach."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from harness import work
from harness.calls import KINDS, Kind
from harness.results import (
    TARGETS,
    Target,
    ahead,
    ahead_of_processes,
    at_most,
    pool,
    within,
)
from harness.work import Work

UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "MB": 1e6, "switches": 1.0}


@dataclass(frozen=True)
class Figure:
    """One row of the comparison."""

    name: str
    title: str
    unit: str
    group: str = "maps"
    """Of figures that are measured together, ``--only`` names them all by this."""
    work: Work | None = None
    script: str | None = None
    """The scenario of `scripts`, for figures that take a fresh interpreter per sample."""
    kind: Kind | None = None
    """The kind of call, for figures that take a fresh interpreter per round, with all peers in it."""
    per: int = 0
    """Whether the time is divided by the number of calls of ``func``."""
    is_memory: bool = False
    """Whether the figure is the peak memory of the process tree, beyond input and output."""
    peers: tuple[str, ...] = ()
    """The peers that make sense here; all, if empty."""
    has_ray: bool = False
    """Whether Ray takes part: it is slow to start and to stop, and says the same in every figure."""
    targets: tuple[Target, ...] = ()


def figures(workers: int, smoke: bool = False) -> dict[str, Figure]:
    """All figures; with ``smoke`` in sizes that take seconds altogether."""

    def size(full: int, tiny: int) -> int:
        return tiny if smoke else full

    mib = 1 << 20
    rows_of_kib = size(512 << 10, 4 << 10) // 8
    tall = (rows_of_kib, 1024)
    write = size(1024 * mib, 8 * mib) // 8
    small = size(4 * mib, mib) // 8
    placed = size(512 * mib, 4 * mib) // 8
    images = size(200, 4)
    edge = size(512, 64)
    n_chunks = size(200_000, 500)
    n_items = size(1_000_000, 2_000)
    n_python = size(20_000, 200)
    n_uneven = size(4_000, 40)
    maps = size(300, 5)
    in_a_row = size(5, 1)
    pss = size(512 * mib, 8 * mib) // 8
    big = f"{'1 GB' if not smoke else '8 MB'}"

    def uneven(name: str, title: str, fill: Callable[[work.Array], None]) -> Figure:
        return Figure(
            name,
            title,
            "ms",
            work=Work("rows", work.burn, (n_uneven,), fill, ((n_uneven,), "f8")),
            targets=(
                Target(
                    "0.95 of the ideal speed-up or better",
                    lambda r: r.ratio("serial", "shmmap") / workers,
                    0.95,
                    operator.ge,
                    "{:.2f}",
                ),
                Target(
                    "0.95 of what a loop per core reaches, or better",
                    lambda r: r.ratio("loops", "shmmap"),
                    0.95,
                    operator.ge,
                    "{:.2f}",
                    peers=("loops",),
                ),
            ),
        )

    table = (
        Figure(
            "call",
            "a warm call over a tiny shared array, every worker taking part",
            "us",
            "costs",
            Work("touch", work.stamp, (64 * workers,), work.zeros),
            has_ray=True,
        ),
        Figure(
            "call-rested",
            "a warm call 5 ms after the one before: cores and workers have gone to sleep",
            "us",
            "costs",
            Work("touch", work.stamp, (64 * workers,), work.zeros, pause_s=5e-3),
        ),
        Figure(
            "chunk",
            f"one more chunk ({n_chunks:,} chunks of one item, empty function)",
            "us",
            "costs",
            Work("ranges", work.nothing_range, (n_chunks,), work.zeros),
            per=1,
            has_ray=True,
            targets=(
                at_most(1e-6, "at most 1 us"),
                ahead(14, "pool", "at least 14x below SharedMemory + Pool"),
            ),
        ),
        Figure(
            "item",
            "one item of `pmap`, automatic chunks, a function that returns a number",
            "us",
            "costs",
            Work("rows", work.half, (n_items,), work.ramp, ((n_items,), "f8")),
            per=1,
            targets=(
                within(1.5 / workers, "serial", f"at most 1.5x a plain loop / {workers} workers"),
            ),
        ),
        Figure(
            "item-none",
            "one item of `pmap`, automatic chunks, a function that returns nothing",
            "us",
            "costs",
            Work("rows", work.nothing, (n_items,), work.ramp),
            per=1,
            targets=(
                within(1.5 / workers, "serial", f"at most 1.5x a plain loop / {workers} workers"),
            ),
        ),
        Figure(
            "cold",
            "cold start: import, first map over the rows of a 64 MB array, exit",
            "ms",
            "start",
            script="cold",
            has_ray=True,
            targets=(
                pool(0.8, "ppe"),
                within(0.5, "joblib", "half of joblib"),
                Target(
                    'level with fork-based peers with engine="fork" (1.1x)',
                    lambda r: max(r.ratio("shmmap-fork", p) for p in ("pool", "mpire", "ppe")),
                    1.1,
                ),
            ),
        ),
        Figure(
            "import",
            "`import`, beyond `import numpy`",
            "ms",
            "start",
            script="import",
            peers=("shmmap", "joblib", "mpire", "dask-threads", "ray", "numba", "ppe", "pool"),
            targets=(at_most(25e-3, "at most 25 ms"),),
        ),
        Figure(
            "place",
            "placing a 512 MB array" if not smoke else "placing an array",
            "ms",
            work=Work("place", work.nothing, (placed,), work.ramp, ((placed,), "f8"), drops=False),
            peers=("shmmap", "pool", "bare", "serial"),
            targets=(ahead(1.5, "pool", "at least 1.5x faster than np.copyto into SharedMemory"),),
        ),
        Figure(
            "load",
            "loading a 512 MB `.npy` file from the page cache" if not smoke else "loading a file",
            "ms",
            work=Work("load", work.nothing, (placed,), work.ramp, ((placed,), "f8"), drops=False),
            peers=("shmmap", "pool", "serial"),
            targets=(within(1.0, "serial", "no slower than np.load"),),
        ),
        Figure(
            "memory-bound",
            f"memory-bound block map, {'512' if not smoke else '4'} MB (norms of rows)",
            "ms",
            work=Work("blocks", work.row_norms, tall, work.ramp, ((tall[0],), "f8"), fresh=False),
            has_ray=True,
            targets=(
                within(1.05, "bare", "within 1.05x of bare hands"),
                ahead_of_processes(),
            ),
        ),
        Figure(
            "write-reused",
            f"write-bound map, {big} in, {big} out, output reused",
            "ms",
            work=Work("blocks", work.polish, (write,), work.ramp, ((write,), "f8"), fresh=False),
            targets=(
                within(1.2, "bare", "at most 1.2x bare hands"),
                within(1.0, "tpe", "no slower than threads"),
            ),
        ),
        *(
            Figure(
                f"write-{what}",
                f"write-bound map, {big} in, {big} out, output reused, {title}",
                "ms",
                work=Work(
                    "blocks",
                    func,
                    (write,),
                    work.ramp,
                    ((write,), "f8"),
                    fresh=False,
                    takes_out=True,
                ),
                peers=("shmmap", "bare", "serial", "pool", "tpe"),
                targets=(within(1.1, "bare", "at most 1.1x bare hands"),),
            )
            for what, title, func in (
                ("ufunc", "a ufunc", np.sqrt),
                ("into", "a function that takes `out=`", work.polish_into),
            )
        ),
        Figure(
            "write-fresh",
            f"write-bound map, {big} in, {big} out, output fresh each time, {in_a_row} in a row",
            "ms",
            work=Work(
                "blocks", work.polish, (write,), work.ramp, ((write,), "f8"), in_a_row=in_a_row
            ),
            targets=(ahead(2.0, "pool", "at least 2x faster than SharedMemory + Pool"),),
        ),
        Figure(
            "large-results",
            f"large results ({images} FFTs of {edge}x{edge})",
            "ms",
            work=Work(
                "rows",
                work.spectrum,
                (images, edge, edge),
                work.ramp,
                ((images, edge, edge), "c16"),
            ),
            has_ray=True,
            targets=(
                within(1.05, "bare", "within 1.05x of bare hands"),
                ahead_of_processes(),
            ),
        ),
        Figure(
            "python-rows",
            f"pure-Python rows ({n_python:,} rows of 500)",
            "ms",
            work=Work("rows", work.python_row, (n_python, 500), work.ramp, ((n_python,), "f8")),
            targets=(
                within(1.05, "bare", "within 1.05x of bare hands"),
                ahead_of_processes(),
            ),
        ),
        uneven("uneven-up", "uneven costs (power law, dearest last)", work.power_law_up),
        uneven("uneven-down", "uneven costs (power law, dearest first)", work.power_law_down),
        *(
            Figure(
                f"small-maps{suffix}",
                f"{maps} small maps in a row over a {'4' if not smoke else '1'} MB array{title}",
                "ms",
                work=Work(
                    "blocks",
                    work.polish,
                    (small,),
                    work.ramp,
                    ((small,), "f8"),
                    fresh=False,
                    calls=maps,
                    view=bool(suffix),
                ),
                peers=("shmmap", "bare", "serial", "pool") if suffix else (),
                targets=(within(1.5, "bare", "at most 1.5x bare hands"),),
            )
            for suffix, title in (("", ""), ("-view", ", a view made anew for each"))
        ),
        Figure(
            "idle",
            "context switches of a warm team, caller included, that has nothing to do for 10 s",
            "switches",
            "idle",
            script="idle",
            peers=("shmmap", "pool"),
            targets=(Target("none", lambda r: r.median("shmmap"), 0, shown="{:.0f}"),),
        ),
        Figure(
            "peak-memory",
            f"peak PSS beyond input and output, {8 * pss // mib} MiB in and out",
            "MB",
            "memory",
            Work("blocks", work.polish, (pss,), work.ramp, ((pss,), "f8"), fresh=False),
            is_memory=True,
            targets=(
                Target(
                    f"at most 10 MB per worker and 40 MB in all ({10 * workers + 40} MB)",
                    lambda r: r.median("shmmap") / 1e6,
                    10 * workers + 40,
                    shown="{:.0f} MB",
                ),
            ),
        ),
    )
    kinds = {kind.name: of_kind(kind) for kind in KINDS.values() if kind.peers}
    return kinds | {figure.name: figure for figure in table}


def of_kind(kind: Kind) -> Figure:
    """The figure of a kind of call."""
    return Figure(
        kind.name,
        kind.title,
        kind.unit,
        kind.group,
        kind=kind,
        per=kind.per,
        peers=("shmmap", *kind.peers),
        targets=TARGETS.get(kind.name, ()),
    )
