"""What joblib calls: the backend, its options, and what an ``n_jobs`` means."""

from __future__ import annotations

import os
import pickle
import queue
import weakref
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any

from joblib import cpu_count
from joblib.parallel import (
    AutoBatchingMixin,
    FallbackToBackend,
    ParallelBackendBase,
    SequentialBackend,
)

from .._errors.arguments import describe
from .._system.blas import BLAS_VARIABLES
from .._verbs import Team, workers_of
from .._wire import Mode
from .._worker.role import role
from .calls import Call, Task
from .warm_teams import Kind, warm_team

# Private arrays from here on go through shared memory, unless `max_nbytes` says otherwise.
_LEAST_NBYTES = 1 << 16
# What joblib passes if nothing was said: it cannot be told from an explicit "1M".
_MAX_NBYTES_UNSET = 1 << 20
_MODES: dict[object, Mode] = {"r": "r", "c": "c", "r+": "r+", "w+": "r+"}

# What `Parallel` passes of its own accord; the first two mean something here.
_FROM_JOBLIB = frozenset("max_nbytes mmap_mode verbose temp_folder prefer require context".split())
_OPTIONS = ("team", "initializer", "initargs", "idle_worker_timeout")


class Backend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """A joblib backend on a team of worker processes.

    ``parallel_config(backend="shmmap")`` makes one; make one yourself to say on which team.

    Parameters
    ----------
    team : Team, optional
        The team to work on. By default a warm one is used, of ``n_jobs`` workers.
    initializer : callable, optional
        Called in each worker as it starts.
    initargs : tuple, default ()
        Arguments for `initializer`.
    idle_worker_timeout : float, default 300
        Seconds without work after which the workers of a warm team are let go.
    nesting_level, inner_max_num_threads
        As in joblib; the latter bounds the threads of BLAS and OpenMP in each worker.

    Raises
    ------
    TypeError, ValueError
        For an argument that there is not, or that says nothing where there is a `team`.

    Examples
    --------
    >>> import joblib, shmmap, shmmap.joblib
    >>> with shmmap.Team(workers=2) as team:
    ...     with joblib.parallel_config(backend=shmmap.joblib.Backend(team=team)):
    ...         joblib.Parallel(n_jobs=-1)(joblib.delayed(abs)(-i) for i in range(3))
    [0, 1, 2]
    """

    __module__ = "shmmap.joblib"

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    supports_sharedmem = False
    uses_threads = False

    def __init__(
        self,
        team: Team | None = None,
        *,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        **options: Any,
    ) -> None:
        _check_options(options)
        if team is not None:
            if not isinstance(team, Team):
                raise TypeError(f"team must be a shmmap.Team, not {describe(team)}")
            _refuse_beside_team(options, inner_max_num_threads)
            options["team"] = team
        super().__init__(
            nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads, **options
        )
        self.parallel: Any = None
        self._calls: weakref.WeakKeyDictionary[Any, Call] = weakref.WeakKeyDictionary()
        """By the `Parallel` object that makes them: several may have one backend at the same time."""

    # ------------------------------------------------ how many

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many workers an ``n_jobs`` means."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None or role.is_worker:
            return 1
        team: Team | None = self.backend_kwargs.get("team")
        most: int = cpu_count() if team is None else team.size
        if n_jobs < 0:
            return max(most + 1 + n_jobs, 1)
        return n_jobs if team is None else min(n_jobs, most)

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        prefer: object = None,
        require: object = None,
        **kwargs: Any,
    ) -> int:
        """Make ready for calls of a `Parallel`; how many workers it gets."""
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        given = {name: value for name, value in kwargs.items() if name not in _FROM_JOBLIB}
        _check_options(given)
        options = {**self.backend_kwargs, **given}
        team: Team | None = options.get("team")
        if team is not None:
            _refuse_beside_team(given, self.inner_max_num_threads)
            workers = workers_of(team)
            workers.check_open()
        else:
            variables = self._prepare_worker_env(n_jobs)
            workers = warm_team(Kind.of(n_jobs, _blas_threads(variables), variables, options))
        self.parallel = parallel
        _forget_leftovers(parallel)
        self._calls[parallel] = Call(parallel, workers, n_jobs, *_how_arrays_go(kwargs))
        return n_jobs

    # ------------------------------------------------ a call

    def start_call(self) -> None:
        """A call begins: nothing here, as each of its tasks names it."""

    def submit(self, func: Any, callback: Any = None) -> Future[Any] | None:
        """Have a batch of tasks run; `callback` is called with its future."""
        parallel = getattr(callback, "parallel", self.parallel)
        call = self._calls[parallel]
        call.belong_to(getattr(callback, "parallel_call_id", None))
        return call.submit(Task(func), callback)

    def retrieve_result_callback(self, out: Any) -> Any:
        """What a batch has returned; or what it has raised is raised."""
        try:
            return out.result()
        except TypeError as exc:
            if out.number:
                raise
            raise pickle.PicklingError(
                f"Could not pickle the task to send it to the workers: {exc}"
            ) from exc

    @contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """Wait for all results of a list: joblib by itself looks for them every 10 ms."""
        call = self._calls.get(self.parallel)
        if call is not None:
            call.wait()
        yield

    def stop_call(self) -> None:
        """A call is over: let go of what its tasks have shared."""
        for call in list(self._calls.values()):
            call.tidy()

    def terminate(self) -> None:
        """The calls are over. The workers stay, for others."""
        self.stop_call()
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """End the workers that are in tasks of a call that is aborted; others take their places."""
        for parallel, call in list(self._calls.items()):
            if getattr(parallel, "_aborting", True):
                call.abandon()
                call.settle()
                _forget_leftovers(parallel)


def _blas_threads(variables: dict[str, str]) -> int:
    """How many threads BLAS and OpenMP may have, by variables as joblib sets them: the user's come first."""
    names = sorted(BLAS_VARIABLES, key=lambda name: name not in os.environ)
    said = (variables.get(name, "") for name in names)
    return next((int(number) for number in said if number.isdecimal() and int(number)), 1)


def _forget_leftovers(parallel: Any) -> None:
    """Forget tasks that were made ready in a call that was aborted.

    joblib would run them in the next call of the same object, and put their results first.
    """
    ready: Any = getattr(parallel, "_ready_batches", None)
    with suppress(queue.Empty):
        while ready is not None:
            ready.get_nowait()


def _how_arrays_go(kwargs: dict[str, Any]) -> tuple[int | None, Mode]:
    """From how many bytes on private arrays are shared, and what tasks may do with them."""
    least, mode = kwargs.get("max_nbytes", _MAX_NBYTES_UNSET), kwargs.get("mmap_mode", "r")
    if least is None or mode is None:
        return None, "r"
    return _LEAST_NBYTES if least == _MAX_NBYTES_UNSET else int(least), _MODES.get(mode, "r")


def _check_options(options: dict[str, Any]) -> None:
    for name in options:
        if name == "timeout":  # as loky says it
            raise ValueError(
                "The 'timeout' parameter is not supported by this backend. Please use the "
                "`idle_worker_timeout` parameter instead."
            )
        if name not in _OPTIONS:
            raise TypeError(
                f"the shmmap backend has no option {name!r}; it has {', '.join(_OPTIONS)}. For all others "
                f"make a team: Backend(team=shmmap.Team(...))"
            )


def _refuse_beside_team(options: dict[str, Any], inner_max_num_threads: int | None) -> None:
    said = {name for name, value in options.items() if value is not None and name != "team"}
    if inner_max_num_threads is not None:
        said.add("inner_max_num_threads")
    if said:
        raise ValueError(
            f"{', '.join(sorted(said))}: a team that is given has its own; say it as you make the team "
            "(initializer=, initargs=, idle_timeout=, blas_threads=)"
        )
