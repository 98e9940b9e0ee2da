"""A plugin of pytest: of joblib's tests, those that have to do with the backend "loky", or with any."""

import joblib.parallel
import joblib.testing

call_program = joblib.testing.check_subprocess_call
# On a busy machine programs take longer than the seconds that the tests give them.
joblib.testing.check_subprocess_call = lambda *args, timeout=5, **what: call_program(
    *args, timeout=100, **what
)

OTHERS = {"threading", "multiprocessing", "sequential", "spawn"}


def is_of_another(value):
    if isinstance(value, joblib.parallel.ParallelBackendBase):
        return not isinstance(value, joblib.parallel.BACKENDS["loky"])
    return value in OTHERS if isinstance(value, str) else hasattr(value, "get_start_method")


def pytest_collection_modifyitems(config, items):
    def concerns(item):
        params = getattr(item, "callspec", None)
        values = [v for n, v in params.params.items() if "backend" in n] if params else []
        return not values or not all(map(is_of_another, values))

    left_out = [item for item in items if not concerns(item)]
    items[:] = [item for item in items if concerns(item)]
    config.hook.pytest_deselected(items=left_out)
