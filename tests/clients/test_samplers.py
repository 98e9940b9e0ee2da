"""emcee and dynesty: a team is their pool; the chains are those of any other pool."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import shmmap

from .memory import copied


class InOrder:
    """A pool that is none: what results are compared with."""

    map = staticmethod(map)


def make_likelihood() -> Any:
    data = shmmap.asshared(np.random.default_rng(0).normal(0.5, 1.0, 300_000))

    def log_likelihood(parameters: Any) -> float:
        return float(-0.5 * np.sum((data[::100] - parameters[0]) ** 2) - np.sum(parameters**2))

    return log_likelihood


def test_emcee(team: shmmap.Team) -> None:
    emcee = pytest.importorskip("emcee")
    log_likelihood = make_likelihood()
    assert copied(log_likelihood) < 10_000
    chains = []
    for pool in (None, team):
        random = np.random.RandomState(0)
        start = emcee.State(random.randn(10, 2), random_state=random.get_state())
        sampler = emcee.EnsembleSampler(10, 2, log_likelihood, pool=pool)
        sampler.run_mcmc(start, 10)
        chains.append(sampler.get_chain())
    np.testing.assert_array_equal(*chains)


@pytest.mark.filterwarnings("ignore:The sampling was stopped")
def test_dynesty(team: shmmap.Team) -> None:
    dynesty = pytest.importorskip("dynesty")
    log_likelihood = make_likelihood()
    results = []
    for pool in (InOrder, team):
        sampler = dynesty.NestedSampler(
            log_likelihood,
            lambda unit: 10 * unit - 5,
            2,
            nlive=40,
            pool=pool,
            queue_size=2,
            rstate=np.random.default_rng(1),
        )
        sampler.run_nested(print_progress=False, maxiter=100)
        results.append(sampler.results.logz)
    np.testing.assert_array_equal(*results)
