"""The figures: what each one measures, in which unit, and what it has to reach."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from harness import work
from harness.peers import ENTRIES
from harness.work import Work

UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "MB": 1e6}


@dataclass
class Result:
    """The samples of one figure: a mapping per round, peer to seconds (or bytes).

    Not every peer takes part in every round: a slow one sits some out, and where not all fit into
    memory at once they come in waves. The library itself takes part in all of them.
    """

    rounds: list[dict[str, float]] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    """Why a peer is missing."""
    seen: dict[str, int] = field(default_factory=dict)
    """How many workers took part, where that is checked."""
    busy: dict[str, float] = field(default_factory=dict)
    """Shares of the machine's time: ``before`` the figure, used by others; ``stolen`` during it."""

    @property
    def samples(self) -> dict[str, list[float]]:
        """The samples of each peer."""
        peers = [peer for peer in ENTRIES if any(peer in taken for taken in self.rounds)]
        return {peer: [taken[peer] for taken in self.rounds if peer in taken] for peer in peers}

    def median(self, peer: str) -> float:
        """The median over rounds."""
        return statistics.median(self.samples[peer])

    def spread(self, peer: str) -> float:
        """Half the distance between the quartiles, as a share of the median."""
        values = self.samples[peer]
        if len(values) < 2:
            return 0.0
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        return (high - low) / 2 / max(statistics.median(values), 1e-12)

    def ratio(self, peer: str, to: str) -> float:
        """The median of the ratios within a round: neighbours in time share their luck.

        Two peers of different waves are compared by way of the library.
        """
        if peer == to:
            return 1.0
        both = [taken[peer] / taken[to] for taken in self.rounds if peer in taken and to in taken]
        if both:
            return statistics.median(both)
        samples = self.samples
        if peer not in samples or to not in samples or "shmmap" in (peer, to):
            raise KeyError(peer if peer not in samples else to)
        return self.ratio(peer, "shmmap") * self.ratio("shmmap", to)

    def of_kind(self, *kinds: str) -> list[str]:
        """The peers of these kinds that were measured."""
        return [peer for peer in self.samples if ENTRIES[peer].kind in kinds]


@dataclass(frozen=True)
class Target:
    """One bound; `verdict` says what was measured and whether it holds."""

    text: str
    value: Callable[[Result], float]
    """Raises KeyError where a peer it needs was not measured."""
    bound: float
    holds: Callable[[float, float], bool] = operator.le
    shown: str = "{:.2f}x"
    peers: tuple[str, ...] = ()
    """Whom the library is compared with."""

    def verdict(self, result: Result) -> tuple[str, bool | None]:
        """What was measured, and whether that is good enough (None: not measured)."""
        try:
            value = self.value(result)
        except (KeyError, ValueError):
            return "not measured", None
        return self.shown.format(value), self.holds(value, self.bound)


@dataclass(frozen=True)
class Figure:
    """One row of the comparison."""

    name: str
    title: str
    unit: str
    work: Work | None = None
    script: str | None = None
    """The scenario of `scripts`, for figures that take a fresh interpreter per sample."""
    per: int = 0
    """Whether the time is divided by the number of calls of ``func``."""
    is_memory: bool = False
    """Whether the figure is the peak memory of the process tree, beyond input and output."""
    peers: tuple[str, ...] = ()
    """The peers that make sense here; all, if empty."""
    has_ray: bool = False
    """Whether Ray takes part: it is slow to start and to stop, and says the same in every figure."""
    targets: tuple[Target, ...] = ()


def at_most(bound: float, text: str) -> Target:
    """Bound the library's own figure, in seconds."""
    scale, unit = (1e6, "us") if bound < 1e-3 else (1e3, "ms")
    return Target(text, lambda r: r.median("shmmap") * scale, bound * scale, shown="{:.3g} " + unit)


def within(factor: float, of: str, text: str, holds: Callable[[float, float], bool] = operator.le):
    """Bound the ratio of the library to a peer."""
    return Target(text, lambda r: r.ratio("shmmap", of), factor, holds, peers=(of,))


def ahead(factor: float, of: str, text: str) -> Target:
    """Demand that the library be faster than a peer by a factor."""
    return Target(text, lambda r: r.ratio(of, "shmmap"), factor, operator.ge, peers=(of,))


def ahead_of_processes(text: str = "ahead of every process-based peer") -> Target:
    """Demand that no process-based peer be faster."""
    return Target(
        text,
        lambda r: min(r.ratio(peer, "shmmap") for peer in r.of_kind("processes")),
        1.0,
        operator.ge,
    )


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
            Work("rows", work.burn, (n_uneven,), fill, ((n_uneven,), "f8")),
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
            Work("touch", work.stamp, (64 * workers,), work.zeros),
            has_ray=True,
            targets=(
                at_most(40e-6, "at most 40 us"),
                ahead(7, "pool", "at least 7x below Pool"),
            ),
        ),
        Figure(
            "call-rested",
            "the same call, 5 ms after the one before: cores and workers have gone to sleep",
            "us",
            Work("touch", work.stamp, (64 * workers,), work.zeros, pause_s=5e-3),
        ),
        Figure(
            "chunk",
            f"one more chunk ({n_chunks:,} chunks of one item, empty function)",
            "us",
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
            script="cold",
            has_ray=True,
            targets=(
                Target(
                    "below ProcessPoolExecutor",
                    lambda r: r.ratio("shmmap", "ppe"),
                    1.0,
                    operator.lt,
                ),
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
            script="import",
            peers=("shmmap", "joblib", "mpire", "dask-threads", "ray", "numba", "ppe", "pool"),
            targets=(at_most(25e-3, "at most 25 ms"),),
        ),
        Figure(
            "place",
            "placing a 512 MB array" if not smoke else "placing an array",
            "ms",
            Work("place", work.nothing, (placed,), work.ramp, ((placed,), "f8"), drops=False),
            peers=("shmmap", "pool", "bare", "serial"),
            targets=(ahead(1.5, "pool", "at least 1.5x faster than np.copyto into SharedMemory"),),
        ),
        Figure(
            "load",
            "loading a 512 MB `.npy` file from the page cache" if not smoke else "loading a file",
            "ms",
            Work("load", work.nothing, (placed,), work.ramp, ((placed,), "f8"), drops=False),
            peers=("shmmap", "pool", "serial"),
            targets=(within(1.0, "serial", "no slower than np.load"),),
        ),
        Figure(
            "memory-bound",
            f"memory-bound block map, {'512' if not smoke else '4'} MB (norms of rows)",
            "ms",
            Work("blocks", work.row_norms, tall, work.ramp, ((tall[0],), "f8"), fresh=False),
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
            Work("blocks", work.polish, (write,), work.ramp, ((write,), "f8"), fresh=False),
            targets=(
                within(1.1, "bare", "within 1.1x of bare hands"),
                within(1.0, "tpe", "no slower than threads"),
            ),
        ),
        Figure(
            "write-fresh",
            f"write-bound map, {big} in, {big} out, output fresh each time, {in_a_row} in a row",
            "ms",
            Work("blocks", work.polish, (write,), work.ramp, ((write,), "f8"), in_a_row=in_a_row),
            targets=(ahead(2.0, "pool", "at least 2x faster than SharedMemory + Pool"),),
        ),
        Figure(
            "large-results",
            f"large results ({images} FFTs of {edge}x{edge})",
            "ms",
            Work(
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
            Work("rows", work.python_row, (n_python, 500), work.ramp, ((n_python,), "f8")),
            targets=(
                within(1.05, "bare", "within 1.05x of bare hands"),
                ahead_of_processes(),
            ),
        ),
        uneven("uneven-up", "uneven costs (power law, dearest last)", work.power_law_up),
        uneven("uneven-down", "uneven costs (power law, dearest first)", work.power_law_down),
        Figure(
            "small-maps",
            f"{maps} small maps in a row over a {'4' if not smoke else '1'} MB array",
            "ms",
            Work(
                "blocks",
                work.polish,
                (small,),
                work.ramp,
                ((small,), "f8"),
                fresh=False,
                calls=maps,
            ),
            targets=(
                within(1.0, "serial", "no slower than serial NumPy, unblocked"),
                ahead(3, "pool", "at least 3x ahead of SharedMemory + Pool"),
            ),
        ),
        Figure(
            "peak-memory",
            f"peak PSS beyond input and output, {8 * pss // mib} MiB in and out",
            "MB",
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
    return {figure.name: figure for figure in table}
