"""scikit-learn through the backend gives what it gives through loky, and leaves its inputs as they are."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import shmmap

joblib = pytest.importorskip("joblib", minversion="1.5", reason="the backend is one of joblib's")
pytest.importorskip("sklearn", reason="scikit-learn is what is tested")

from joblib.externals.loky import get_reusable_executor  # noqa: E402
from sklearn.base import BaseEstimator, ClassifierMixin  # noqa: E402
from sklearn.datasets import load_digits, make_regression  # noqa: E402
from sklearn.decomposition import PCA  # noqa: E402
from sklearn.ensemble import (  # noqa: E402
    BaggingClassifier,
    ExtraTreesRegressor,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.feature_selection import RFECV  # noqa: E402
from sklearn.inspection import permutation_importance  # noqa: E402
from sklearn.linear_model import LassoCV, LogisticRegression, Ridge  # noqa: E402
from sklearn.metrics import pairwise_distances  # noqa: E402
from sklearn.model_selection import (  # noqa: E402
    GridSearchCV,
    RandomizedSearchCV,
    cross_val_predict,
    cross_val_score,
    learning_curve,
)
from sklearn.multiclass import OneVsRestClassifier  # noqa: E402
from sklearn.multioutput import MultiOutputRegressor  # noqa: E402
from sklearn.naive_bayes import GaussianNB  # noqa: E402
from sklearn.neighbors import KNeighborsClassifier  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.tree import DecisionTreeClassifier  # noqa: E402

import shmmap.joblib  # noqa: E402

pytestmark = pytest.mark.unguarded("processes stay warm until the end of the file")

digits = load_digits()
# Large enough for shared memory, with few classes so that fits are quick.
X, y = digits.data[:900], digits.target[:900] % 3
Z, target = make_regression(600, 20, random_state=0)
two_targets = np.column_stack([target, target[::-1]])


def forest(**options: Any) -> Any:
    return RandomForestClassifier(20, random_state=0, **options)


CASES: dict[str, Callable[[], Any]] = {
    "cross_val_score": lambda: cross_val_score(Ridge(), Z, target, cv=5),
    "cross_val_predict": lambda: cross_val_predict(GaussianNB(), X, y, cv=4),
    "pipeline": lambda: cross_val_score(
        make_pipeline(StandardScaler(), PCA(8), GaussianNB()), X, y
    ),
    "grid": lambda: (
        GridSearchCV(Ridge(), {"alpha": [0.1, 1.0, 10.0]}, cv=4)
        .fit(Z, target)
        .cv_results_["mean_test_score"]
    ),
    "randomized": lambda: (
        RandomizedSearchCV(
            DecisionTreeClassifier(random_state=0),
            {"max_depth": range(2, 9)},
            n_iter=4,
            random_state=0,
        )
        .fit(X, y)
        .cv_results_["mean_test_score"]
    ),
    "learning_curve": lambda: learning_curve(GaussianNB(), X, y, cv=3)[2],
    "forest": lambda: forest().fit(X, y).predict_proba(X),
    "forest_out_of_bag": lambda: forest(oob_score=True).fit(X, y).oob_decision_function_,
    "extra_trees": lambda: ExtraTreesRegressor(10, random_state=0).fit(Z, two_targets).predict(Z),
    "bagging": lambda: (
        BaggingClassifier(GaussianNB(), 8, random_state=0).fit(X, y).predict_proba(X)
    ),
    "voting": lambda: VotingClassifier([("a", GaussianNB()), ("b", forest())]).fit(X, y).predict(X),
    "stacking": lambda: (
        StackingClassifier([("a", GaussianNB()), ("b", forest())], cv=3).fit(X, y).predict(X)
    ),
    "permutation_importance": lambda: (
        permutation_importance(
            GaussianNB().fit(X, y), X, y, n_repeats=2, random_state=0
        ).importances
    ),
    "gradient_boosting": lambda: cross_val_score(
        HistGradientBoostingClassifier(max_iter=5, random_state=0), X, y, cv=3
    ),
    "pairwise": lambda: pairwise_distances(X, metric="manhattan"),
    "pairwise_callable": lambda: pairwise_distances(X[:60], metric=lambda a, b: abs(a - b).max()),
    "neighbours": lambda: KNeighborsClassifier(3, algorithm="ball_tree").fit(X, y).predict_proba(X),
    "one_vs_rest": lambda: (
        OneVsRestClassifier(LogisticRegression(max_iter=50)).fit(X, y).predict(X)
    ),
    "multioutput": lambda: MultiOutputRegressor(Ridge()).fit(Z, two_targets).predict(Z),
    "lasso": lambda: LassoCV(cv=3).fit(Z, target).alpha_,
    "rfecv": lambda: RFECV(Ridge(), cv=3, step=5).fit(Z, target).ranking_,
}


def with_jobs(case: Callable[[], Any], backend: str) -> Any:
    """The result with every estimator and function of scikit-learn set to two jobs."""
    with warnings.catch_warnings(), joblib.parallel_config(backend=backend, n_jobs=2):
        warnings.simplefilter("ignore")
        return np.asarray(case())


@pytest.fixture(scope="module", autouse=True)
def _processes() -> Iterator[None]:
    """Both keep their processes warm from test to test: they have imported scikit-learn."""
    yield
    shmmap.joblib.shutdown()
    get_reusable_executor().shutdown()


@pytest.mark.few(5)
@pytest.mark.parametrize("name", CASES)
def test_scores_are_those_of_loky(name: str) -> None:
    before = X.tobytes(), y.tobytes(), Z.tobytes()
    ours = with_jobs(CASES[name], "shmmap")
    assert (X.tobytes(), y.tobytes(), Z.tobytes()) == before
    np.testing.assert_allclose(ours, with_jobs(CASES[name], "loky"), rtol=1e-12, atol=1e-12)


class Dying(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """An estimator in whose second fit the worker dies."""

    def __init__(self, depth: int = 0) -> None:
        self.depth = depth

    def fit(self, X: Any, y: Any) -> Dying:
        if self.depth == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        self.classes_ = np.unique(y)
        return self

    def predict(self, X: Any) -> Any:
        return np.zeros(len(X), int)


def test_a_worker_that_dies_in_a_fit() -> None:
    with joblib.parallel_config(backend="shmmap", n_jobs=2):
        with pytest.raises(shmmap.WorkerDied, match="SIGKILL"):
            GridSearchCV(Dying(), {"depth": [0, 1, 2]}, cv=3).fit(X, y)
        assert GridSearchCV(Dying(), {"depth": [0, 2]}, cv=3).fit(X, y).best_score_ > 0
