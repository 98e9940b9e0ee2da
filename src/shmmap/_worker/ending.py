"""How a worker ends whose caller needs it no more: as a Python program does.

Threads that are no daemons are waited for, what was registered with `atexit`, with `weakref.finalize` or with
`multiprocessing` is called: so a pool of processes that a function has started ends with its worker. How long
that may take is for the caller to say.

What was registered before the worker was forked belongs to another process, and is never called here. Python
has no public names for that, so this is a place where private ones may stand.
"""

from __future__ import annotations

import atexit
import logging
import sys
import threading
import weakref
from contextlib import suppress
from typing import Any


def forget_inherited() -> None:
    """Forget what the process that this one was forked from is to do at its end."""
    modules: dict[str, Any] = sys.modules
    handlers: Any = atexit
    handlers._clear()
    kind: Any = weakref.finalize
    with suppress(AttributeError):
        for info in kind._registry.values():
            info.atexit = False  # they are still called when their object goes
        kind._registered_with_atexit = False
    # Of what is to be done before threads are waited for, only what is about executors, which have lists of
    # their own: it is registered once, by the module.
    threads: Any = threading
    with suppress(AttributeError):
        threads._threading_atexits[:] = filter(_is_of_executors, threads._threading_atexits)
    # Handlers of logging, executors of threads and of processes: those that are made from now on.
    with suppress(AttributeError):
        del modules["logging"]._handlerList[:]
    atexit.register(logging.shutdown)
    for name, table in (("thread", "_threads_queues"), ("process", "_threads_wakeups")):
        if (module := modules.get(f"concurrent.futures.{name}")) is not None:
            getattr(module, table, {}).clear()
    if (util := modules.get("multiprocessing.util")) is not None:
        # As `multiprocessing` itself does in its children.
        util._finalizer_registry.clear()
        modules["multiprocessing.process"]._children = set()
        util._run_after_forkers()
        atexit.register(util._exit_function)


def _is_of_executors(call: object) -> bool:
    # A partial of the function, or, since Python 3.13, a lambda around it.
    inside = [cell.cell_contents for cell in getattr(call, "__closure__", None) or ()]
    func = getattr(call, "func", None) or next(filter(callable, inside), call)
    return str(getattr(func, "__module__", "")).startswith(
        ("concurrent.futures.", "joblib.", "loky.", "shmmap.")
    )


def run_exit_handlers() -> None:
    """Do what the interpreter does at its end. What handlers raise is printed."""
    threads: Any = threading
    handlers: Any = atexit
    try:
        threads._shutdown()
    finally:
        handlers._run_exitfuncs()
