"""What is mapped: the functions, the data, and the `Work` that puts the two together.

The functions are importable and know nothing of any peer. Data are seeded, and written in place
into memory that the peer provides, so that no peer starts with a second copy of its input.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Work:
    """One piece of work, said once; each peer does it by its own means.

    ``verb`` names the method of the peer that does it:

    ``touch``   every worker stamps its part of a tiny array with its thread's id
    ``ranges``  ``func(start, stop)`` for every single index
    ``rows``    ``func(x[i])`` for every index, results stacked (or dropped, if there are none)
    ``blocks``  ``func(x[start:stop])`` for blocks, results concatenated
    ``place``   an array that is already there, copied to where workers reach it
    ``load``    a ``.npy`` file, read to where workers reach it
    """

    verb: str
    func: Callable[..., Any]
    shape: tuple[int, ...]
    fill: Callable[[Array], None]
    result: tuple[tuple[int, ...], str] | None = None
    """Shape and dtype of what comes back; None if nothing does."""
    fresh: bool = True
    """Whether every call allocates its output; else one output is written again and again."""
    calls: int = 1
    """Maps in a row that make one sample."""
    in_a_row: int = 1
    """Calls at the least that make one sample, which is their median: for what a loop is to show."""
    drops: bool = True
    """Whether letting the result go belongs to the time."""
    takes_out: bool = False
    """Whether ``func`` takes ``out=``; who can, hands it the place where its result belongs."""
    view: bool = False
    """Whether every map is over a view of the input that was just made."""
    pause_s: float = 0.0
    """For how long everybody rests before each call; not part of the time."""

    @property
    def input_nbytes(self) -> int:
        """Bytes of the input."""
        return 8 * int(np.prod(self.shape))

    @property
    def result_nbytes(self) -> int:
        """Bytes of the result."""
        if self.result is None:
            return 0
        shape, dtype = self.result
        return int(np.prod(shape)) * np.dtype(dtype).itemsize


# ------------------------------------------------------------------------------ functions


def stamp(chunk: Array) -> None:
    """Leave the id of the thread that was here."""
    chunk[...] = threading.get_native_id()


def nothing_range(start: int, stop: int) -> None:
    """Do nothing with a range."""


def nothing(value: float) -> None:
    """Do nothing with an item."""


def half(value: float) -> float:
    """Do next to nothing with an item."""
    return value * 0.5


def row_norms(chunk: Array) -> Array:
    """Read much, write little: bound by memory bandwidth."""
    return np.einsum("ij,ij->i", chunk, chunk)


def polish(chunk: Array) -> Array:
    """Write as much as is read, with a little arithmetic in between."""
    return np.sqrt(chunk) * 2 + 1


def polish_into(chunk: Array, out: Array | None = None) -> Array:
    """The same by a careful author: no temporary, and written where the caller says."""
    y = np.sqrt(chunk, out=out)
    np.multiply(y, 2, out=y)
    return np.add(y, 1, out=y)


def spectrum(image: Array) -> Array:
    """A result twice as large as its input."""
    return np.fft.fft2(image)


def python_row(row: Array) -> float:
    """A loop that holds the GIL."""
    total = 0.0
    for value in row.tolist():
        if value > 0.5:
            total += value * value
        else:
            total -= value
    return total


def burn(steps: float) -> float:
    """Cost in proportion to the item's value."""
    total = 0.0
    for step in range(int(steps)):
        total += step * 0.5
    return total


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
    sampler.random_state = np.random.RandomState(1).get_state()
    sampler.run_mcmc(start, size)
    return float(sampler.get_chain()[-1].sum())


# ----------------------------------------------------------------------------------- data


def ramp(x: Array) -> None:
    """Cheap, deterministic, nowhere constant, between 0 and 1; written block by block."""
    flat = x.reshape(-1)
    size = 1 << 16
    block = np.random.default_rng(2024).random(size)
    for start in range(0, len(flat), size):
        stop = min(start + size, len(flat))
        np.multiply(block[: stop - start], 1 - start / (2 * len(flat)), out=flat[start:stop])


def zeros(x: Array) -> None:
    """Nothing yet."""
    x[...] = 0


def power_law_up(x: Array) -> None:
    """Costs of `burn` by a power law, the dearest last."""
    rank = np.arange(len(x), 0, -1)
    cost = rank**-0.7
    x[...] = np.round(cost / cost.sum() * STEPS_PER_ITEM * len(x))


def power_law_down(x: Array) -> None:
    """Costs of `burn` by a power law, the dearest first."""
    power_law_up(x[::-1])


STEPS_PER_ITEM = 6000
"""Mean steps of `burn` per item: about 0.2 ms."""


# ---------------------------------------------------------------------------- comparing


def fingerprint(work: Work, result: Any) -> list[float]:
    """Say in a thousand numbers what came back, to compare peers before timing them."""
    if result is None:
        return []
    if work.verb == "touch":
        return [float(len(np.unique(result)))]
    flat = np.asarray(result).reshape(-1)
    some = np.ascontiguousarray(flat[:: max(1, len(flat) // 997)])
    if some.dtype.kind == "c":
        some = some.view(some.real.dtype)
    return [float(len(flat)), *map(float, some)]
