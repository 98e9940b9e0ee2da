"""scikit-learn: fitted models and parameter grids in maps; what it runs by itself is in tests/joblib."""

from __future__ import annotations

import numpy as np
import pytest

import shmmap

from .memory import copied

pytest.importorskip("sklearn")
from sklearn import datasets, ensemble, linear_model, model_selection, pipeline
from sklearn.preprocessing import StandardScaler

X, Y = datasets.load_digits(return_X_y=True)


def test_predictions_by_blocks_of_rows() -> None:
    model = pipeline.make_pipeline(StandardScaler(), linear_model.RidgeClassifier()).fit(X, Y)
    rows = shmmap.asshared(X)
    np.testing.assert_array_equal(
        shmmap.pmap_chunks(model.predict, rows, workers=2), model.predict(X)
    )
    forest = ensemble.RandomForestRegressor(20, random_state=0, n_jobs=1).fit(X[:500], Y[:500])
    shared = shmmap.share(forest)
    np.testing.assert_array_equal(
        shmmap.pmap_chunks(shared.predict, rows, workers=2), forest.predict(X)
    )


def test_a_parameter_grid() -> None:
    rows, target = shmmap.asshared(X), shmmap.asshared(Y)

    def score(alpha: float, fit_intercept: bool) -> float:
        model = linear_model.RidgeClassifier(alpha=alpha, fit_intercept=fit_intercept)
        return float(model_selection.cross_val_score(model, rows, target, cv=3).mean())

    grid = model_selection.ParameterGrid({"alpha": [0.1, 10.0], "fit_intercept": [True, False]})
    scores = shmmap.pmap(lambda point: score(**point), grid, workers=2)
    assert scores == [score(**point) for point in grid]
    assert copied(score) < 10_000, "the data are shared"
