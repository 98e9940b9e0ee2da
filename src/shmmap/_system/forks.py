"""What is to happen around a fork of this process, and locks that a forked child finds open.

A child has the thread that forked, and no other one. A lock that another thread held at that moment would
stay locked there for ever, so each lock of this library that outlives a call is made by `make_lock`.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

at_fork = getattr(os, "register_at_fork", lambda **functions: None)
"""`os.register_at_fork`, or nothing on a platform without it: there, no process is ever forked."""

_locks: weakref.WeakSet[Any] = weakref.WeakSet()


def make_lock() -> Any:
    """An `RLock` that is open in a forked child, unless the thread that forked holds it itself."""
    lock: object = threading.RLock()
    _locks.add(lock)
    return lock


def _open_locks() -> None:
    # In place: other objects may share the lock. By names without which `threading` itself could not fork.
    for lock in list(_locks):
        if not lock._is_owned():
            lock._at_fork_reinit()


# Children call such functions in the order of registration, so this one comes before all that take a lock.
at_fork(after_in_child=_open_locks)
