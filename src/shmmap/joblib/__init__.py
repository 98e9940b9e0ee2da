"""The joblib backend: ``Parallel`` calls, and scikit-learn's ``n_jobs``, on teams of this library.

Importing this package registers it:

>>> import joblib, shmmap.joblib
>>> with joblib.parallel_config(backend="shmmap", n_jobs=2):
...     joblib.Parallel()(joblib.delayed(pow)(i, 2) for i in range(4))
[0, 1, 4, 9]

In reading order: `backend` (what joblib calls), `calls` (the tasks of a call), `warm_teams` (where they run).
"""

try:
    from joblib.parallel import ParallelBackendBase as _Base
    from joblib.parallel import register_parallel_backend as _register

    _Base.submit  # noqa: B018, what backends are asked for from joblib 1.5 on
except (ImportError, AttributeError) as exc:
    raise ImportError(
        f"shmmap.joblib needs joblib 1.5 or newer ({exc}): pip install 'shmmap[joblib]'"
    ) from exc

from .backend import Backend
from .warm_teams import shutdown

__all__ = ["Backend", "shutdown"]

_register("shmmap", Backend)
