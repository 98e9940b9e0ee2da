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
    """What is called for every item; for ``given``, a program that takes a ``map``."""
    items: Callable[[bool], Sequence[Any]]
    """What it is called for; whether in tiny sizes is its argument."""
    ours: Callable[[shmmap.Team, Kind, Sequence[Any]], Task]
    """How the library does it."""
    verb: str = "map"
    """How the peers do it: ``map`` all items; ``submit`` each and wait for the results; ``given``: they
    give their ``map`` to the function."""
    chunksize: int | None = None
    """Items in one piece of a pool's ``map``; left to the pool if None."""
    per: bool = False
    """Whether the time is divided by the number of items."""
    peers: tuple[str, ...] = ("serial", "bare", "pool", "ppe", "joblib", "tpe")
    """Whom it is measured beside."""
    needs: str | None = None
    """A package that must be installed."""
    is_counted: bool = True
    """Whether its function calls are the same every time, so that they can be held to a table."""

    def is_there(self) -> bool:
        """Whether the package it needs can be imported."""
        return self.needs is None or importlib.util.find_spec(self.needs) is not None


# ------------------------------------------------------------------------------ functions


def zero(_: Any) -> float:
    """Do nothing, and return a number."""
    return 0.0


def zero_range(start: int, stop: int) -> float:
    """Do nothing with a range, and return a number."""
    return 0.0


def norm(vector: Any) -> float:
    """A log-probability of a few parameters."""
    return -0.5 * float((vector * vector).sum())


def evolve(given_map: Callable[..., Any], size: int) -> Any:
    """Fit with SciPy: two parameters, and as many generations."""
    from scipy.optimize import differential_evolution, rosen

    found = differential_evolution(
        rosen,
        [(-2, 2), (-2, 2)],
        workers=given_map,
        updating="deferred",
        maxiter=size,
        popsize=15,
        tol=0,
        polish=False,
        rng=1,
    )
    return float(found.fun)


def walk(given_map: Callable[..., Any], size: int, walkers: int) -> Any:
    """Sample with emcee: three parameters, and as many steps."""
    import emcee

    class Pool:
        """All that emcee asks of a pool."""

        map = staticmethod(given_map)

    start = np.random.default_rng(1).normal(size=(walkers, 3))
    sampler = emcee.EnsembleSampler(walkers, 3, norm, pool=Pool())
    np.random.seed(1)
    sampler.run_mcmc(start, size)
    return float(sampler.get_chain()[-1].sum())


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


PAIR = _range(2)
LISTS = (10, 75, 300, 1000)
WITH_MAP = ("serial", "pool", "ppe", "tpe")
LOOP = ("serial",)

KINDS = {
    kind.name: kind
    for kind in (
        Kind("seen", "a call seen before, shared arrays, `out=`", zero, PAIR, _seen, chunksize=1),
        Kind(
            "seen-default",
            "the same, on the default team",
            zero,
            PAIR,
            _seen_default,
            chunksize=1,
        ),
        Kind("range-out", "`pmap` of `range(2)`, `out=`", zero, PAIR, _range_out, chunksize=1),
        Kind("range-list", "`pmap` of `range(2)`, to a list", zero, PAIR, _pmap, chunksize=1),
        Kind("fresh", "shared array, fresh output", zero, PAIR, _fresh, chunksize=1),
        Kind("lambda", "the same, a lambda made anew", zero, PAIR, _lambda, chunksize=1),
        Kind("view", "the same, a view made anew", zero, PAIR, _view, chunksize=1),
        Kind("private", "small private array, made anew", zero, PAIR, _private, chunksize=1),
        Kind("ranges", "`pmap_ranges` of 2", zero, PAIR, _ranges, chunksize=1),
        Kind("map-2", "`list(team.map(f, range(2)))`", zero, PAIR, _team_map, chunksize=1),
        Kind("map-1000", "`list(team.map(f, range(1000)))`", zero, _range(1000), _team_map),
        Kind("floats-75", "`pmap` of a list of 75 floats", zero, _floats(75), _pmap),
        *(
            Kind(f"arrays-{n}", f"`pmap` of a list of {n} arrays of 3", norm, _arrays(n), _pmap)
            for n in LISTS
        ),
        *(
            Kind(f"map-arrays-{n}", f"`team.map` of {n} arrays of 3", norm, _arrays(n), _team_map)
            for n in LISTS
        ),
        Kind("submit", "`team.submit(f).result()`", zero, _range(1), _submit, verb="submit"),
        Kind(
            "submits-1000",
            "1,000 submits, then the results",
            zero,
            _range(1000),
            _submit,
            verb="submit",
            is_counted=False,
        ),
        Kind(
            "chunk-number",
            "one more chunk (`chunksize=1`, a function that returns a number)",
            zero,
            _range(20_000, 200),
            _pmap,
            chunksize=1,
            per=True,
            peers=("serial", "bare", "pool", "tpe"),
        ),
        Kind(
            "scipy",
            "`differential_evolution(workers=team.map)`",
            evolve,
            _range(30, 2),
            _given,
            verb="given",
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
                peers=LOOP,
                is_counted=n == 100 and engine == "serial",
            )
            for engine in ("serial", "threads")
            for n in (100, 100_000)
        ),
        Kind("death", "a worker dies", zero, _range(100), _death, peers=(), is_counted=False),
    )
}
"""In the order of the tables."""
