"""Handles through every channel between processes, down, up and across: a program of its own.

    python -m tests.handles.matrix spawn Pool

It says what it has checked. `tests/handles/test_matrix.py` starts it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from typing import Any

import numpy as np

import shmmap

LARGE, SMALL = (500, 400), (7, 5)
"""One that has a segment of its own, and one that shares one with others."""


def make(shape: tuple[int, int] = LARGE) -> Any:
    """A handle of a view that only the handle keeps: 1 in it, 0 around it."""
    x = shmmap.zeros(shape)
    view = x[1:, ::-2]
    view[...] = 1
    return shmmap.handle(view)


def add(h: Any, value: float = 1.0) -> tuple[Any, ...]:
    """Write to the array of a handle, somewhere; what it looks like there."""
    a = h.array()
    assert shmmap.is_shared(a)
    a += value
    return a.shape, a.strides, float(a.sum())


def check(a: Any, expected: float) -> None:
    assert shmmap.is_shared(a)
    assert (a == expected).all(), (a, expected)


def make_into(put: Callable[[Any], object]) -> None:
    """The process ends as soon as its handles are on their way."""
    put([make(LARGE), make(SMALL)])


def add_from(get: Callable[[], Any]) -> None:
    for h in get():
        add(h)


# ---------------------------------------------------------------- channels that are pools


@contextlib.contextmanager
def open_pool(start: str, channel: str) -> Iterator[Callable[..., Any]]:
    """A function that calls another one in a process of a pool."""
    context: Any = multiprocessing.get_context(start)
    if channel == "Pool":
        with context.Pool(2) as pool:
            yield lambda func, *args: pool.apply(func, args)
            pool.close()
            pool.join()
        return
    executor: Executor = ProcessPoolExecutor(2, mp_context=context)
    if channel == "loky":
        try:
            import loky
        except ImportError:
            from joblib.externals import loky

        executor = loky.ProcessPoolExecutor(2, context=loky.backend.get_context("loky"))
    with executor:
        yield lambda func, *args: executor.submit(func, *args).result()


def through_pool(start: str, channel: str) -> None:
    with open_pool(start, channel) as call:
        for shape in (LARGE, SMALL):
            h = make(shape)
            a = h.array()
            assert call(add, h) == (a.shape, a.strides, 2.0 * a.size)
            check(a, 2)
            print("down")
            made = call(make, shape)
            check(made.array(), 1)
            made.array()[...] = 5
            print("up")
            for _ in range(4):  # back to who made it, or to the other one
                call(add, made)
            check(made.array(), 9)
            print("across")


# ---------------------------------------------------------------- channels between processes


def through_processes(start: str, channel: str) -> None:
    context: Any = multiprocessing.get_context(start)
    with contextlib.ExitStack() as stack:
        if channel == "Pipe":
            get_end, put_end = context.Pipe(duplex=False)
            get, put = get_end.recv, put_end.send
        elif channel == "Manager":
            queue = stack.enter_context(context.Manager()).Queue()
            get, put = queue.get, queue.put
        else:
            queue = context.Queue()
            get, put = queue.get, queue.put

        handles = [make(LARGE), make(SMALL)]
        put(handles)
        run(context, add_from, get)
        for h in handles:
            check(h.array(), 2)
        print("down")

        maker = context.Process(target=make_into, args=(put,))
        maker.start()
        for h in get():
            check(h.array(), 1)
        maker.join()
        print("up")

        passed_on, back = context.Pipe(duplex=False)
        maker = context.Process(target=make_into, args=(put,))
        maker.start()
        sibling = context.Process(target=pass_on, args=(get, back.send))
        sibling.start()
        maker.join()  # what it made is its sibling's now
        for h in passed_on.recv():
            check(h.array(), 2)
        sibling.join()
        print("across")


def pass_on(get: Callable[[], Any], put: Callable[[Any], object]) -> None:
    handles = get()
    for h in handles:
        add(h)
    put(handles)


def run(context: Any, func: Callable[..., object], *args: Any) -> None:
    process = context.Process(target=func, args=args)
    process.start()
    process.join()
    assert process.exitcode == 0, process.exitcode


def through_arguments(start: str) -> None:
    context: Any = multiprocessing.get_context(start)
    handles = [make(LARGE), make(SMALL)]
    arrays = [h.array() for h in handles]
    run(context, twice, handles, shmmap.handle(arrays[0][:2]))
    for a in arrays:
        check(a, 4)
    process = context.Process(target=add, args=(shmmap.handle(arrays[0]),))
    process.start()  # which drops the handle
    process.join()
    check(arrays[0], 5)
    print("down")
    run(context, hand_down, start, make())
    print("across")


def twice(handles: Any, top: Any) -> None:
    a = handles[0].array()
    assert np.shares_memory(a, top.array()), "mapped once"
    for h in handles:
        add(h)
        assert shmmap.pmap_chunks(lambda c: c + 1, h.array(), workers=1).sum() == 3 * h.array().size
        shmmap.pmap_ranges(
            lambda i, j, h=h: np.add(h.array()[i:j], 2, h.array()[i:j]), len(h.array())
        )
    shmmap.shutdown()


def hand_down(start: str, h: Any) -> None:
    """A child gives what it was given to a child of its own."""
    run(multiprocessing.get_context(start), add, h)
    check(h.array(), 2)


def main(start: str, channel: str) -> None:
    if channel == "arguments":
        through_arguments(start)
    elif channel in ("Pool", "ProcessPoolExecutor", "loky"):
        through_pool(start, channel)
    else:
        through_processes(start, channel)


if __name__ == "__main__":
    main(*sys.argv[1:])
