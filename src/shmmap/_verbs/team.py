"""`Team`: a `WorkerTeam` with the methods of an `Executor`, and a ``with`` block.

Arguments are checked here, and refused in the words of `concurrent.futures`; `_team.team` does the rest.
"""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextvars import Token
from dataclasses import replace
from itertools import islice
from types import TracebackType
from typing import Any, Literal, Never, ParamSpec, Self, TypeVar, TypeVarTuple

from .._errors.arguments import as_int, as_nbytes, as_seconds, check_word, describe
from .._interop.numpy_types import Int, Seconds
from .._system.imports import late_import
from .._system.interrupts import CleanUp
from .._team import WorkerTeam, entered
from .in_order import Pending, Results
from .options import Options, check_buffersize, make_options
from .request import Request
from .run import start
from .sequences import watched
from .signatures import show_options
from .windows import WINDOWS

P = ParamSpec("P")
T = TypeVar("T")
InitargsT = TypeVarTuple("InitargsT")


class Team(Executor):
    """A team of worker processes.

    Parameters
    ----------
    workers : int, optional
        How many; by default all usable cores (the affinity mask and the cgroup's quota count).
    start : {'clean', 'fork'}, default 'clean'
        ``"clean"``: workers are forked from a small clean process, which imports nothing of yours.
        ``"fork"``: from the calling process; they see its objects as they were then.
    initializer : callable, optional
        Called in each worker as it starts.
    initargs : tuple, default ()
        Arguments for `initializer`.
    blas_threads : int, default 1
        Threads BLAS and OpenMP may use in each worker.
    memory_limit : int or str, optional
        Bytes of private memory, as a number or a size such as ``"500MiB"``, that
        each worker may take; beyond, its allocations raise MemoryError.
    preload : sequence of str, default ()
        Modules, by name, that the clean process imports before it forks the workers, which then share
        their memory: ``preload=["pandas"]`` saves about 50 MB in each worker that uses it. They must not
        start threads as they are imported.
    idle_timeout : float, optional
        Seconds without work after which the workers are let go; the next call starts new ones. None
        keeps them. Default 300.

    Notes
    -----
    A team is a :class:`concurrent.futures.Executor`: `submit`, `map` and `shutdown` are as there, and it
    serves wherever one is taken.

    Examples
    --------
    >>> import numpy as np, shmmap
    >>> with shmmap.Team(workers=2) as team:
    ...     future = team.submit(pow, 2, 10)
    ...     squares = list(team.map(lambda v: v * v, range(4)))
    ...     roots = shmmap.pmap(np.sqrt, shmmap.asshared([1.0, 4.0]))
    >>> future.result(), squares, roots
    (1024, [0, 1, 4, 9], array([1., 2.]))
    """

    __module__ = "shmmap"

    def __init__(
        self,
        workers: Int | None = None,
        *,
        start: Literal["clean", "fork"] = "clean",
        initializer: Callable[[*InitargsT], object] | None = None,
        initargs: tuple[*InitargsT] = (),  # type: ignore[assignment]
        blas_threads: Int = 1,
        memory_limit: Int | str | None = None,
        preload: Sequence[str] = (),
        idle_timeout: Seconds | None = 300,
        **unknown: Never,
    ) -> None:
        if unknown:
            raise TypeError(_explain_unknown(*next(iter(unknown.items()))))
        check_word(start, "start", ("clean", "fork"))
        WorkerTeam.refuse_platform(start)
        blas_threads = as_int(blas_threads, "blas_threads", 1)
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be callable, not {describe(initializer)}")
        if not isinstance(initargs, (tuple, list)):
            raise TypeError(f"initargs must be a tuple of arguments, not {describe(initargs)}")
        if memory_limit is not None:
            memory_limit = as_nbytes(memory_limit, "memory_limit")
        if idle_timeout is not None:
            idle_timeout = as_seconds(idle_timeout, "idle_timeout")
        is_sequence = isinstance(preload, Sequence) and not isinstance(preload, (str, bytes))
        if not is_sequence or not all(isinstance(name, str) for name in preload):
            raise TypeError(f"preload must be a sequence of module names, not {describe(preload)}")
        if preload and start == "fork":
            raise ValueError("preload= is for start='clean'; forked workers have what you imported")
        self._team = WorkerTeam(
            workers,
            start=start,
            initializer=initializer,
            initargs=tuple(initargs),
            blas_threads=blas_threads,
            memory_limit=memory_limit,
            preload=tuple(preload),
            idle_timeout=idle_timeout,
        )
        self._tokens: list[Token[WorkerTeam | None]] = []

    @property
    def size(self) -> int:
        """Number of workers."""
        return self._team.workers.size

    def __repr__(self) -> str:
        team = self._team
        state = "shut down" if team.is_closed else f"{len(team.workers.links)} running"
        return f"<shmmap.Team of {self.size} workers, {state}>"

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run ``fn(*args, **kwargs)`` in a worker; see :meth:`concurrent.futures.Executor.submit`.

        Parameters
        ----------
        fn : callable
            Any function, lambdas and closures included.
        *args, **kwargs
            Its arguments; shared arrays among them are not copied.

        Returns
        -------
        concurrent.futures.Future
            With the result, or the function's own exception, or `WorkerDied`.
        """
        if not callable(fn):
            raise TypeError(f"submit takes a function first, and {describe(fn)} is not callable")
        return self._team.submit_call(fn, args, kwargs)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: Seconds | None = None,
        chunksize: Int | None = None,
        buffersize: Int | None = None,
    ) -> Iterator[T]:
        """Map over iterables in the workers; see :meth:`concurrent.futures.Executor.map`.

        Parameters
        ----------
        fn : callable
            Any function, lambdas and closures included.
        *iterables : iterable
            The shortest one ends the map.
        timeout : float, optional
            Seconds to wait for the results.
        chunksize : int, optional
            Items per chunk; by default as :func:`shmmap.pmap` chooses it.
        buffersize : int, optional
            Items taken from the iterables whose results were not given out yet, at most. By default they
            are taken whole.

        Returns
        -------
        iterator
            The results, in order, of which it keeps none that it has given out; a failure is raised where
            the iterator reaches it or before.
        """
        self._team.check_open()
        if not iterables:
            raise TypeError("map needs at least one iterable")
        if timeout is not None:
            timeout = as_seconds(timeout, "timeout", is_limit=False)
        deadline = None if timeout is None else time.monotonic() + timeout
        size = check_buffersize(buffersize)
        options, _ = make_options({"chunksize": "auto" if chunksize is None else chunksize})
        maps: deque[Pending] = deque()

        def begin(columns: tuple[Any, ...], options: Options) -> None:
            request = Request("items", fn, columns, axis=0, out=list)
            started = start(request, options, self._team)
            if started is not None:
                maps.append(Pending(self._team, *started))
                if deadline is not None:
                    maps[-1].attend()

        if size is None:
            if len(iterables) == 1:
                (only,) = iterables
                begin((only if type(only) is range else list(watched(only)),), options)
            else:
                # Row by row: the shortest one ends the map, and another one may be endless.
                rows = zip(*map(watched, iterables), strict=False)
                begin(tuple(map(list, zip(*rows, strict=True))) or ([],), options)
            return Results(maps, lambda: None, deadline)
        rows = zip(*map(watched, iterables), strict=False)
        width = max(1, size // WINDOWS)
        if chunksize is None:
            options = replace(options, chunksize=max(1, width // 32))

        def begin_next() -> None:
            """Begin with the items that take the places of those that were given out."""
            self._team.check_open()
            if window := list(islice(rows, width)):
                begin(tuple(map(list, zip(*window, strict=True))), options)

        for _ in range(min(size, WINDOWS)):
            begin_next()
        return Results(maps, begin_next, deadline)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the team; see :meth:`concurrent.futures.Executor.shutdown`.

        Parameters
        ----------
        wait : bool, default True
            Return only when everything submitted is done and every worker has ended. Otherwise the
            workers end in the background when they are done.
        cancel_futures : bool, default False
            Cancel what was submitted and has not begun.
        """
        self._team.end(wait, cancel_futures)

    def kill_workers(self) -> None:
        """End all workers at once, by SIGKILL, whatever they do; the team may be used again afterwards.

        Futures of functions that workers have, and maps under way, fail with `WorkerDied`; what has not
        begun is cancelled. See :meth:`concurrent.futures.ProcessPoolExecutor.kill_workers` (Python 3.14).
        """
        self._team.end_workers(signal.SIGKILL, "Team.kill_workers()")

    def terminate_workers(self) -> None:
        """The same by SIGTERM, for which functions may have handlers; workers that are late are killed.

        See :meth:`concurrent.futures.ProcessPoolExecutor.terminate_workers` (Python 3.14).
        """
        self._team.end_workers(signal.SIGTERM, "Team.terminate_workers()")

    def __enter__(self) -> Self:
        """Make this team the engine of every map in the block that names none."""
        self._tokens.append(entered.set(self._team))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._tokens:
            entered.reset(self._tokens.pop())
        interruption = None if isinstance(exc, Exception) else exc
        try:
            if interruption is None:
                self.shutdown(wait=True, cancel_futures=exc is not None)
        except BaseException as while_waiting:
            interruption = while_waiting
            raise
        finally:
            # A Ctrl-C does not wait for functions that take their time.
            if interruption is not None:
                with CleanUp(interruption):
                    self.kill_workers()
                    self.shutdown(wait=True, cancel_futures=True)
            del interruption  # it refers to this frame


show_options()(
    vars(Team)["__init__"]
)  # by no decorator, behind which editors would not find the parameters


def workers_of(team: Team) -> WorkerTeam:
    """A team below its public face, for doors of this package other than the verbs."""
    return team._team


def _explain_unknown(name: str, value: object) -> str:
    import inspect

    with late_import:
        from .._errors.words import explain_keyword

    return explain_keyword(name, value, list(inspect.signature(Team).parameters), "Team")
