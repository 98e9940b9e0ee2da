"""The leak guard: what a block of code has taken and not given back."""

from __future__ import annotations

import contextlib
import gc
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker

import shmmap

from .._errors.arguments import as_seconds, describe
from .._system.witness import mark_children
from .census import Census, waiting_per_core

GRACE_S = 5.0
"""How long a leak may take to go: longer hides slow clean-up, shorter fails on busy machines."""


class Leak(AssertionError):
    """Something that was not there before the block is still there after it."""


@contextlib.contextmanager
def leak_guard() -> Iterator[None]:
    """Check that the block leaves nothing behind.

    New names in ``/dev/shm`` or the temporary folder, new processes (also those whose parent has
    died), new open descriptors and new shared memory are leaks. What is still there when the block
    ends gets a chance: cycles are collected, then `shmmap.shutdown` ends the default team, which is
    allowed to stay warm; whatever remains some seconds later is reported. A block that raises is
    not checked, as its traceback keeps arrays alive.

    Only what belongs to this process counts, so several programs may guard themselves at once:
    processes that descend from it or were started below it, their memory, and the names that they
    made, also those that have died since. Processes that import shmmap report the names they make.
    Of a name that no process reported, it counts which processes have it open; if none has, it is a
    leak only if the block started a program that does not import shmmap, which may have made it.

    Raises
    ------
    Leak
        With one line for each thing that was left behind.

    Examples
    --------
    >>> with leak_guard():
    ...     held = shmmap.zeros(3)
    ...     del held
    """
    token = mark_children()
    # What stays for as long as the program lives must not first appear inside the block: the
    # tracker of `multiprocessing`, and the shared memory that is kept for the next small array.
    resource_tracker.ensure_running()
    shmmap.zeros(1)
    before = Census(token)
    yield
    gc.collect()
    if leases := sys.modules.get("shmmap._memory.leases"):
        # Arrays that are kept for a while in case one pickle of a handle is opened twice.
        leases.leases.end_arrived()
    left = before.new_things()
    if left:
        shmmap.shutdown()
        with contextlib.suppress(TimeoutError):
            grace_s = GRACE_S * waiting_per_core()
            wait_until(lambda: not before.new_things(), grace_s, interval_s=0.01)
        left = before.new_things()
    if left:
        raise Leak("left behind:\n" + "\n".join(f"  {text}" for text in sorted(left.values())))


def wait_until(
    condition: Callable[[], object], timeout_s: float = 5.0, *, interval_s: float = 0.001
) -> None:
    """Wait until a condition holds.

    Parameters
    ----------
    condition : callable
        Called without arguments until it returns something true.
    timeout_s : float
        Seconds after which to give up.
    interval_s : float
        Seconds between two calls.

    Raises
    ------
    TimeoutError
        When the condition does not hold in time.
    """
    if not callable(condition):
        raise TypeError(f"condition must be callable, not {describe(condition)}")
    deadline = time.monotonic() + as_seconds(timeout_s, "timeout_s", is_limit=False)
    interval_s = max(0.0, as_seconds(interval_s, "interval_s", is_limit=False))
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"still waiting for {condition} after {timeout_s} s")
        time.sleep(interval_s)
