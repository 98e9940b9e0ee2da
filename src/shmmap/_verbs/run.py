"""The way of a call below the verbs: recalled or bound, handed over, given to an engine, waited for.

Called by the verbs alone. A call like one before (`templates`) is neither checked nor planned again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .._chunks import Job, make_key
from .._engines import (
    Engine,
    Route,
    Task,
    Tick,
    Work,
    hand_over_inputs,
    hand_over_outputs,
    resolve_engine,
)
from .._memory import empty
from .._profile import log as profiling
from .._results import MISSING, Collector, Folding, Outcome
from .._system.imports import late_import
from .._team import refuse_at_exit
from .bind import bind
from .future import MapFuture, Over, StreamFuture
from .options import EngineOption, Options
from .profiled import begin_log, log_end
from .progress import Progress
from .request import Request
from .templates import look_at, recall, remember
from .windows import Stream, check_ends, is_stream

if TYPE_CHECKING:
    from .kept import Kept


def run(request: Request, options: Options, engine: EngineOption) -> Any:
    """Do what was asked for: the result, or a future of it."""
    if not callable(request.func):
        raise _no_function(request)
    if options.buffersize is not None and request.verb != "items":
        raise ValueError(
            "buffersize= bounds how far pmap reads an iterator ahead; use it with pmap"
        )
    if not options.wait:
        refuse_at_exit()
    called = time.perf_counter_ns() if profiling.books else 0
    job = _plan(request, options)
    if job is None:
        return _run_stream(request, options, engine)
    if job.plan.n == 0:
        return _finish_empty(request, job, options)
    route = resolve_engine(engine, options.workers)
    if options.wait and not _has_surroundings(options):
        # Most calls: nothing is to be undone afterwards.
        return _start(request, job, options, route, None, called, is_awaited=True)[0].wait()
    work, collector, ending = _start_shown(request, job, options, route, called)

    def wait() -> Any:
        with ending:
            return work.wait()

    if options.wait:
        return wait()
    return MapFuture(work, wait, collector, job.gather and request.fold is None)


def start(
    request: Request, options: Options, engine: EngineOption
) -> tuple[Work, Collector, ExitStack | None] | None:
    """Start a map over sequences, and what is to be closed at its end; None if they are empty."""
    if not callable(request.func):
        raise _no_function(request)
    refuse_at_exit()
    called = time.perf_counter_ns() if profiling.books else 0
    job = _plan(request, options)
    if job is None or job.plan.n == 0:
        return None
    route = resolve_engine(engine, options.workers)
    if not _has_surroundings(options):
        return *_start(request, job, options, route, None, called), None
    return _start_shown(request, job, options, route, called)


def _plan(request: Request, options: Options) -> Job | None:
    """The job, as it was for a call alike, or planned now; None for an iterator, whose length is unknown."""
    # A checkpoint tells inputs and outputs from others by what they are, and not by how they are laid out.
    given = look_at(request, options) if options.checkpoint is None else None
    job = None if given is None else recall(request, given)
    if job is None:
        if is_stream(request):
            if options.checkpoint is not None:
                raise ValueError(
                    "checkpoint= needs inputs that are there the next time, and an iterator is used up: "
                    "give a list"
                )
            return None
        job = bind(request, options)
        if given is not None:
            job = remember(request, given, job)
    return job


def _no_function(request: Request) -> TypeError:
    with late_import:
        from .._errors.words import explain_no_function

    return TypeError(explain_no_function(request.func, request.inputs, request.name))


def _has_surroundings(options: Options) -> bool:
    """Whether there is more to do for a map than to run it."""
    return (
        options.progress is not False or options.rng is not None or options.checkpoint is not None
    )


def _start_shown(
    request: Request, job: Job, options: Options, route: Route, called: int
) -> tuple[Work, Collector, ExitStack]:
    """Start a map that may show its progress, or be kept, and what is to be closed at its end."""
    with ExitStack() as stack:
        if options.rng is not None:
            job = job._replace(seed=_make_seed(request, options))
        kept = None
        if options.checkpoint is not None:
            with late_import:
                from .kept import Kept

            kept = stack.enter_context(Kept(request, job, options.checkpoint))
            if kept.is_complete:
                route, options = resolve_engine("serial", None), replace(options, timeout=None)
        tick = None
        if options.progress is not False:
            tick = Progress(options.progress, job.plan.n)
            stack.callback(tick.close)
        work, collector = _start(request, job, options, route, tick, called, kept)
        if kept is not None:
            kept.begin(work.marks, options.wait)
        return work, collector, stack.pop_all()


def _run_stream(request: Request, options: Options, engine: EngineOption) -> Any:
    """A map over an iterator: windows of its items, each a map of its own."""
    if options.wait:
        check_ends(request)
    seed = _make_seed(request, options)
    route = resolve_engine(engine, options.workers)
    ending = ExitStack()
    progress: Progress | None = None

    def begin(window: Request, first: int, chunksize: Any) -> Work:
        def show(count: Callable[[], int]) -> None:
            assert progress is not None
            progress(lambda: first + count())

        called = time.perf_counter_ns() if profiling.books else 0
        job = _plan(window, replace(options, chunksize=chunksize))
        assert job is not None
        may_join = options.chunksize == "auto"
        job = job._replace(seed=seed, first=first, may_join=may_join)
        route = resolve_engine(engine, options.workers)
        tick = None if progress is None else show
        return _start(window, job, options, route, tick, called)[0]

    stream = Stream(request, begin, options.buffersize, options.chunksize)
    # Now: when the first window is read, the interpreter may be about to end, and start nothing any more.
    route[0].warm_up(route[1])
    if options.progress is not False:
        progress = Progress(options.progress, None)
        ending.callback(progress.close)

    def wait() -> list[Any]:
        with ending:
            return stream.wait()

    return wait() if options.wait else StreamFuture(stream, wait)


def _start(
    request: Request,
    job: Job,
    options: Options,
    route: Route,
    tick: Tick | None,
    called: int,
    kept: Kept | None = None,
    *,
    is_awaited: bool = False,
) -> tuple[Work, Collector]:
    """Hand over, and give to the engine. `called`: when, if the map is profiled; else 0."""
    engine, workers, blas_threads = route
    if options.timeout is not None or not engine.shares_memory:
        _refuse_on(engine, job, options)
    given: tuple[Any, ...] = ()
    if engine.sees_caller:
        given = tuple([e.data for e in job.inputs if e.kind in ("sequence", "whole", "rows")])
    columns = job.out
    private: Sequence[tuple[Any, Any]] = ()
    log = None
    if called:
        log = begin_log(request, job, options, engine.name, called)
    try:
        if job.template is None or not job.template.packed:  # else they are there
            engine.warm_up(min(workers, job.plan.chunks))
        bound, job = job, hand_over_inputs(job, engine)
        if job.template is None:  # else outputs are in shared memory
            job, columns, private = hand_over_outputs(job, engine)
        if log is not None:
            log.note_placed(bound, job, copies=not engine.sees_caller)

        if request.fold is None:
            collector = Collector(job, columns, request.out, private)
        else:
            request.fold.are_new = engine.shares_memory and not engine.in_process
            collector = Folding(job, request.fold)
        if kept is not None:
            kept.attach(collector, columns)
        outcome = Outcome(
            job, collector, request.func, on_error=options.on_error, axis=request.axis
        )
        task = Task(
            job=job,
            func=request.func,
            workers=workers,
            blas_threads=blas_threads,
            collector=collector,
            outcome=outcome,
            tick=tick,
            given=given,
            log=log,
            begun=None if kept is None else kept.marks,
            is_awaited=is_awaited,
        )
        work = engine.start(task)
    except BaseException as exc:
        if log is not None:
            log.end(exc, ())
        raise
    return work if log is None else log_end(work, task, log), collector


def _refuse_on(engine: Engine, job: Job, options: Options) -> None:
    """Refuse what this engine cannot do."""
    if options.timeout is not None and not engine.can_replace_workers:
        raise ValueError("timeout= needs workers that can be ended: use an engine with processes")
    if not engine.shares_memory and (job.verb == "ranges" or job.in_place):
        what = "pmap_ranges" if job.verb == "ranges" else "an out that is an input"
        raise ValueError(
            f"{what} needs shared memory, which workers of {engine.name} do not have: use an engine of this "
            "machine; or pmap_chunks, which puts in place what the function returns, with another out"
        )


def _make_seed(request: Request, options: Options) -> tuple[int, int] | None:
    """The key of the random streams, for a function that takes them."""
    if options.rng is None:
        return None
    with late_import:
        from .._errors.words import explain_rng

    reason = explain_rng(request.func)
    if reason is not None:
        raise TypeError(reason)
    return make_key(options.rng)


def _finish_empty(request: Request, job: Job, options: Options) -> Any:
    """A map over nothing: the function is not called."""
    result: Any
    dtypes = job.dtypes
    if job.out is not None:
        result = request.out
    elif request.fold is not None:
        result = request.fold.initial
        if result is MISSING:
            raise ValueError("an empty input has no reduction; give initial=")
    elif job.gather:
        result = None if job.verb == "ranges" else []
    elif dtypes is not None and len(dtypes) > 1:
        result = tuple(empty(0, dtype) for dtype in dtypes)
    else:
        result = empty(0, dtypes[0] if dtypes else np.float64)
    if options.wait:
        return result
    return MapFuture(Over(b"", 0), lambda: result, Collector(job))
