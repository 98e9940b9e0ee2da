"""The kinds of call: what is called, and how the library is asked for it.

One table for two readers: `against.py` times every kind beside the peers, `call_counts.py` counts the
functions that the caller goes through. The functions that are mapped do next to nothing, so that what is
measured is the call. What other libraries do for the same work is in `call_peers`.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.work import burn, evolve, norm, walk, zero, zero_range

if TYPE_CHECKING:
    import shmmap

Task = Callable[[], Any]
"""A call, ready to be made."""


@dataclass(frozen=True)
class Kind:
    """One kind of call."""

    name: str
    title: str
    func: Callable[..., Any]
    """What is called for every item; for ``given``, a program that takes a ``map``. Importable."""
    items: Callable[[bool], Sequence[Any]]
    """What it is called for; whether in tiny sizes is its argument."""
    ours: Callable[[shmmap.Team, Kind, Sequence[Any]], Task]
    """How the library does it."""
    verb: str = "map"
    """How the peers do it: ``map`` all items; ``submit`` each and wait for the results; ``given``: they
    give their ``map`` to the function."""
    chunksize: int | None = None
    """Items in one piece of a pool's ``map``; left to the pool if None."""
    group: str = "calls"
    unit: str = "us"
    per: bool = False
    """Whether the time is divided by the number of items."""
    is_cpu: bool = False
    """Whether the figure is the caller's processor time."""
    peers: tuple[str, ...] = ("bare", "pool", "ppe", "joblib", "tpe")
    """Whom it is measured beside; a plain loop only where the function does something."""
    needs: str | None = None
    """A package that must be installed."""
    is_counted: bool = True
    """Whether its function calls are the same every time, so that they can be held to a table."""

    def is_there(self) -> bool:
        """Whether the package it needs can be imported."""
        return self.needs is None or importlib.util.find_spec(self.needs) is not None


# ------------------------------------------------------------------------------ the table


def _pmap(team: shmmap.Team, kind: Kind, items: Any, **options: Any) -> Task:
    """`pmap` of the items as they are."""
    import shmmap

    return functools.partial(
        shmmap.pmap, kind.func, items, engine=team, chunksize=kind.chunksize or "auto", **options
    )


def _team_map(team: shmmap.Team, kind: Kind, items: Any) -> Task:
    return lambda: list(team.map(kind.func, items))


def _seen(team: shmmap.Team, kind: Kind, items: Any) -> Task:
    import shmmap

    return _pmap(team, kind, shmmap.zeros(len(items)), out=shmmap.empty(len(items)))


def _seen_default(team: shmmap.Team, kind: Kind, items: Any) -> Task:
    import shmmap

    x, out = shmmap.zeros(len(items)), shmmap.empty(len(items))
    return lambda: shmmap.pmap(kind.func, x, out=out, chunksize=1, workers=2)


def _range_out(team: shmmap.Team, kind: Kind, items: Any) -> Task:
    import shmmap

    return _pmap(team, kind, items, out=shmmap.empty(len(items)))


def _fresh(team: shmmap.Team, kind: Kind, items: Any) -> Task:
    import shmmap

    return _pmap(team, kind, shmmap.zeros(len(items)))


def _lambda(team: shmmap.Team, kind: Kind, items: Any) -> Task:
    import shmmap

    x = shmmap.zeros(len(items))
    return lambda: shmmap.pmap(lambda value: 0.0, x, chunksize=1, engine=team)


def _view(team: shmmap.Team, kind: Kind, items: Any) -> Task:
    import shmmap

    x = shmmap.zeros(len(items))
    return lambda: shmmap.pmap_chunks(np.sqrt, x[:], chunksize=1, engine=team)


def _private(team: shmmap.Team, kind: Kind, items: Any) -> Task:
    import shmmap

    n = len(items)
    return lambda: shmmap.pmap_chunks(np.sqrt, np.zeros(n), chunksize=1, engine=team)


def _ranges(team: shmmap.Team, kind: Kind, items: Any) -> Task:
    import shmmap

    n = len(items)
    return lambda: shmmap.pmap_ranges(zero_range, n, chunksize=1, engine=team)


def _submit(team: shmmap.Team, kind: Kind, items: Any) -> Task:
    def submit() -> Any:
        futures = [team.submit(kind.func, item) for item in items]
        return [future.result() for future in futures]

    return submit


def _given(team: shmmap.Team, kind: Kind, items: Any) -> Task:
    return lambda: kind.func(team.map, len(items))


def _local(engine: str) -> Callable[..., Task]:
    """The engines that work in this process; their plain loop is the serial peer."""

    def ours(team: shmmap.Team, kind: Kind, items: Any) -> Task:
        import shmmap

        return functools.partial(shmmap.pmap, kind.func, items, engine=engine)

    return ours


def _death(team: shmmap.Team, kind: Kind, items: Any) -> Task:
    """A worker dies once in every call, and its items are done by another."""
    import shmmap

    def call() -> Any:
        is_dead = shmmap.zeros(1, bool)

        def die_once(i: int) -> float:
            if i == 5 and not is_dead[0]:
                is_dead[0] = True
                os.kill(os.getpid(), signal.SIGKILL)
            return kind.func(i)

        return shmmap.pmap(die_once, items, engine=team, retries=1)

    return call


def _range(full: int, tiny: int | None = None) -> Callable[[bool], Sequence[Any]]:
    return lambda smoke: range(tiny if smoke and tiny is not None else full)


def _floats(n: int) -> Callable[[bool], Sequence[Any]]:
    return lambda smoke: [0.5 * i for i in range(n)]


def _arrays(n: int) -> Callable[[bool], Sequence[Any]]:
    return lambda smoke: [np.random.default_rng(i).normal(size=3) for i in range(n)]


def _rows(n: int) -> Callable[[bool], Sequence[Any]]:
    return lambda smoke: np.random.default_rng(0).normal(size=(n // 10 if smoke else n, 3))


def _costs(steps: int, smoke: bool) -> Sequence[Any]:
    return [min(steps, 1_000) if smoke else steps] * 100


PAIR = _range(2)
COSTS = (1, 10, 100, 300, 1_000, 3_000, 10_000, 100_000)
"""Steps of an item, some 20 ns each."""
LISTS = (10, 75, 300, 1000)
WITH_MAP = ("serial", "pool", "ppe", "tpe")
LOOP = ("serial",)
ONE_BY_ONE = ("bare", "pool", "ppe", "tpe")
EVERYBODY = ("serial", "bare", "pool", "ppe", "joblib", "tpe")
MANY = ("shmmap-many", "pool", "pool-many")

KINDS = {
    kind.name: kind
    for kind in (
        Kind("seen", "a call seen before, shared arrays, `out=`", zero, PAIR, _seen, chunksize=1),
        Kind(
            "seen-default",
            "a call seen before, on the default team",
            zero,
            PAIR,
            _seen_default,
            chunksize=1,
        ),
        Kind("range-out", "`pmap` of `range(2)`, `out=`", zero, PAIR, _range_out, chunksize=1),
        Kind("range-list", "`pmap` of `range(2)`, to a list", zero, PAIR, _pmap, chunksize=1),
        Kind("fresh", "a shared array, a fresh output", zero, PAIR, _fresh, chunksize=1),
        Kind("lambda", "a lambda made anew for each call", zero, PAIR, _lambda, chunksize=1),
        Kind("view", "a view made anew for each call", zero, PAIR, _view, chunksize=1),
        Kind(
            "private",
            "a small private array made anew for each call",
            zero,
            PAIR,
            _private,
            chunksize=1,
        ),
        Kind("ranges", "`pmap_ranges` of 2", zero, PAIR, _ranges, chunksize=1),
        Kind("map-2", "`list(team.map(f, range(2)))`", zero, PAIR, _team_map, chunksize=1),
        Kind("map-1000", "`list(team.map(f, range(1000)))`", zero, _range(1000), _team_map),
        Kind("floats-75", "`pmap` of a list of 75 floats", zero, _floats(75), _pmap, group="lists"),
        *(
            Kind(
                f"{verb}arrays-{n}",
                f"`{title}` of {n:,} arrays of 3 numbers",
                norm,
                _arrays(n),
                ours,
                group="lists",
                peers=EVERYBODY,
            )
            for verb, title, ours in (("", "pmap", _pmap), ("map-", "team.map", _team_map))
            for n in LISTS
        ),
        Kind(
            "submit",
            "`team.submit(f).result()`",
            zero,
            _range(1),
            _submit,
            verb="submit",
            group="submit",
            peers=ONE_BY_ONE,
        ),
        Kind(
            "submits-1000",
            "1,000 submits, then the results",
            zero,
            _range(1000),
            _submit,
            verb="submit",
            group="submit",
            unit="ms",
            peers=ONE_BY_ONE,
            is_counted=False,
        ),
        Kind(
            "chunk-number",
            "one more chunk (`chunksize=1`, input a `range`, a function that returns a number)",
            zero,
            _range(20_000, 200),
            _pmap,
            chunksize=1,
            per=True,
            peers=("bare", "pool", "tpe"),
        ),
        Kind(
            "scipy",
            "`differential_evolution(workers=team.map)`",
            evolve,
            _range(30, 2),
            _given,
            verb="given",
            group="programs",
            unit="ms",
            peers=WITH_MAP,
            needs="scipy",
            is_counted=False,
        ),
        *(
            Kind(
                f"emcee-{n}",
                f"emcee with {n} walkers, `team.map` as its pool",
                functools.partial(walk, walkers=n),
                _range(50, 2),
                _given,
                verb="given",
                group="programs",
                unit="ms",
                peers=WITH_MAP,
                needs="emcee",
                is_counted=False,
            )
            for n in (10, 100)
        ),
        *(
            Kind(
                f"{engine}-{n}",
                f'{n:,} rows of 3, `engine="{engine}"`',
                zero,
                _rows(n),
                _local(engine),
                group="local",
                unit="us" if n == 100 else "ms",
                peers=LOOP,
                is_counted=n == 100 and engine == "serial",
            )
            for engine in ("serial", "threads")
            for n in (100, 100_000)
        ),
        Kind(
            "many-seen",
            "the caller's processor time with 64 workers, a call seen before",
            zero,
            _range(64),
            _seen,
            chunksize=1,
            group="many",
            is_cpu=True,
            peers=MANY,
            is_counted=False,
        ),
        Kind(
            "many-range",
            "the caller's processor time with 64 workers, `range` to a list",
            zero,
            _range(64),
            _pmap,
            chunksize=1,
            group="many",
            is_cpu=True,
            peers=MANY,
            is_counted=False,
        ),
        *(
            Kind(
                f"cost-{steps}",
                f"100 items of {steps:,} steps of pure Python",
                burn,
                functools.partial(_costs, steps),
                _pmap,
                group="cost",
                peers=EVERYBODY,
                is_counted=False,
            )
            for steps in COSTS
        ),
        Kind("death", "a worker dies", zero, _range(100), _death, peers=(), is_counted=False),
    )
}
"""In the order of the tables."""
