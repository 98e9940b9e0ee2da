"""What was measured, and what it has to reach."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from harness.peers import ENTRIES


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
    cpu: dict[str, float] = field(default_factory=dict)
    """Seconds of the caller's processor time for a call, where that is measured: medians."""
    busy: dict[str, float] = field(default_factory=dict)
    """Shares of the cores' time meanwhile: used by ``others``, ``stolen`` by the machine below."""

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
        both = [taken[peer] / taken[to] for taken in self.rounds if peer in taken and taken.get(to)]
        if both:
            return statistics.median(both)
        samples = self.samples
        if (
            peer not in samples
            or to not in samples
            or "shmmap" in (peer, to)
            or "shmmap" not in samples
        ):
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


def pool(factor: float, of: str = "pool") -> Target:
    """Bound the ratio to a pool, or to an executor."""
    return within(factor, of, f"at most {factor:g}x {ENTRIES[of].title.rpartition(' ')[2]}")


TARGETS = {
    "seen": (
        pool(0.4),
        Target(
            "at most 40 us of the caller's CPU",
            lambda r: 1e6 * r.cpu["shmmap"],
            40,
            shown="{:.0f} us",
        ),
    ),
    "range-out": (pool(0.45),),
    "range-list": (pool(0.5),),
    "fresh": (pool(0.6),),
    "lambda": (pool(0.6),),
    "view": (pool(0.6),),
    "private": (pool(0.7),),
    "map-2": (pool(0.5),),
    "map-1000": (pool(0.9),),
    **{
        f"{verb}arrays-{n}": (pool(most),)
        for verb in ("", "map-")
        for n, most in ((10, 0.9), (75, 0.5), (300, 0.4), (1000, 0.4))
    },
    "submit": (pool(0.5, "ppe"),),
    "submits-1000": (pool(0.3, "ppe"),),
    "chunk-number": (within(0.5, "bare", "at most 0.5x bare hands"),),
    "scipy": (pool(0.8),),
    "emcee-10": (pool(0.9),),
    "emcee-100": (pool(0.6),),
    **{
        f"{engine}-100": (
            Target(
                "a plain loop and 40 us",
                lambda r: 1e6 * (r.median("shmmap") - r.median("serial")),
                40,
                shown="{:.0f} us more",
            ),
        )
        for engine in ("serial", "threads")
    },
    **{
        f"{engine}-100000": (within(1.15, "serial", "at most 1.15x a plain loop"),)
        for engine in ("serial", "threads")
    },
    **{
        f"many-{call}": (
            Target(
                "at most twice that of 2 workers", lambda r: r.ratio("shmmap-many", "shmmap"), 2
            ),
        )
        for call in ("seen", "range")
    },
}
"""What the kinds of call have to reach, on a machine with nothing else to do."""

MOST_CALLS = {
    "seen": 100,
    "range-out": 140,
    "range-list": 140,
    "fresh": 160,
    "lambda": 160,
    "view": 160,
    "private": 250,
    "floats-75": 300,
    "arrays-75": 500,
    "map-arrays-75": 500,
}
"""How many function calls the caller may take for some of them: `call_counts.py` counts them."""
