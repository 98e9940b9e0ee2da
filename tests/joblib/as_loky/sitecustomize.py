"""In programs with this folder on PYTHONPATH, joblib's backend "loky" is this library's.

So joblib's own tests, and the programs that they start, ask for it by that name. The processes of the library
itself are left as they are.
"""

import sys

if "shmmap._worker.template" not in sys.orig_argv:
    import joblib

    import shmmap.joblib

    class LokyBackend(shmmap.joblib.Backend):
        """With what tests look at to see that workers are reused, replaced, or let go."""

        @property
        def _workers(self):
            call = self._calls.get(self.parallel)
            return None if self._is_over else getattr(call, "_bundle", None)

        _is_over = True

        def configure(self, *args, **kwargs):
            n_jobs = super().configure(*args, **kwargs)
            self._is_over = False
            return n_jobs

        def terminate(self):
            super().terminate()
            self._is_over = True

    del joblib.parallel.BACKENDS["shmmap"]  # or each test would be run twice
    joblib.register_parallel_backend("loky", LokyBackend)
    # Whose class tests compare with; joblib itself has imported its own by now.
    joblib._parallel_backends.LokyBackend = LokyBackend
