"""SciPy: every function that takes a map as its `workers`, and sparse matrices.

Results are those of the function without workers, and what the objective refers to is not copied.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import shmmap

from .memory import copied

pytest.importorskip("scipy", "1.16")
from scipy import integrate, optimize, sparse, stats

TIMES = np.linspace(0.0, 1.0, 200)


def misfit(parameters: Any) -> float:
    slope, offset = parameters
    return float(np.sum((slope * TIMES + offset - (2.0 * TIMES + 1.0)) ** 2))


def residuals(parameters: Any) -> Any:
    return np.exp(-parameters[0] * TIMES) * parameters[1] - np.exp(-3 * TIMES) * 2


def wave(x: Any) -> Any:
    return np.sin(x * np.arange(1, 9))


def peak(x: Any) -> Any:
    return 1 / (1e-4 + np.sum((x - 0.3) ** 2, axis=-1))


BOUNDS = [(-5.0, 5.0), (-5.0, 5.0)]
ROUTES: dict[str, Callable[[Any], Any]] = {
    "differential_evolution": lambda w: (
        optimize.differential_evolution(
            misfit, BOUNDS, workers=w, updating="deferred", seed=1, maxiter=5
        ).x
    ),
    "brute": lambda w: optimize.brute(misfit, BOUNDS, Ns=6, workers=w),
    "shgo": lambda w: optimize.shgo(misfit, BOUNDS, n=32, workers=w).x,
    "least_squares": lambda w: optimize.least_squares(residuals, [1.0, 1.0], workers=w).x,
    "minimize": lambda w: (
        optimize.minimize(misfit, [0.0, 0.0], method="L-BFGS-B", options={"workers": w}).x
    ),
    "quad_vec": lambda w: integrate.quad_vec(wave, 0.0, 10.0, workers=w)[0],
    "cubature": lambda w: integrate.cubature(peak, [-1, -1], [1, 1], workers=w, rtol=1e-4).estimate,
    "multiscale_graphcorr": lambda w: (
        stats.multiscale_graphcorr(
            TIMES[:20], TIMES[:20] ** 2, reps=20, workers=w, random_state=1
        ).pvalue
    ),
}


@pytest.mark.few(8)
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The number of replications")
def test_workers(team: shmmap.Team, route: str) -> None:
    calls = 0

    def counting(func: Any, items: Any) -> Any:
        nonlocal calls
        calls += 1
        return team.map(func, items)

    expected = ROUTES[route](map)
    np.testing.assert_array_equal(ROUTES[route](counting), expected)
    assert calls


def test_what_the_objective_refers_to_is_not_copied(team: shmmap.Team) -> None:
    data = shmmap.asshared(np.random.default_rng(0).normal(size=(4, 500_000)))

    def cost(parameters: Any) -> float:
        return float(np.abs(data[0] - parameters[0]).mean())

    assert copied(cost) < 10_000
    best = optimize.differential_evolution(
        cost, [(-1, 1)], workers=team.map, updating="deferred", seed=1, maxiter=2, polish=False
    )
    again = optimize.differential_evolution(
        cost, [(-1, 1)], updating="deferred", seed=1, maxiter=2, polish=False
    )
    assert best.x == again.x


@pytest.mark.parametrize("make", ["csr_array", "csr_matrix"])
def test_sparse(make: str) -> None:
    plain = sparse.random_array((20_000, 500), density=0.02, format="csr", random_state=0)
    matrix = shmmap.share(getattr(sparse, make)(plain))
    weights = np.arange(500.0)
    assert copied(matrix) < 10_000
    products = shmmap.pmap_chunks(lambda rows: rows @ weights, matrix, out=np.ndarray, workers=2)
    np.testing.assert_array_equal(products, matrix @ weights)
    total = shmmap.preduce(
        lambda rows: (rows.T @ rows).toarray(), matrix, combine=np.add, workers=2
    )
    np.testing.assert_allclose(total, (matrix.T @ matrix).toarray())
