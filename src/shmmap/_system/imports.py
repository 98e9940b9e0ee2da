"""Modules that are imported when they are first needed, so that no fork cuts the import in two.

A thread that imports a module holds the lock of that module. If another thread forks the process meanwhile,
the child has the lock, held by a thread that it does not have, and a module of which only a part has been
executed: its own import would wait for ever. So a fork waits until what this library imports late has been
imported.

`LoaderProxy` is for the finders of this library, which have something done as a module is imported.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import ModuleType

from .forks import at_fork, make_lock

# How long a fork waits. It would be for ever where a module forks as it is imported by one thread, while
# another thread imports here and waits for that module.
PATIENCE_S = 5.0


class _LateImport:
    """The context in which the library imports what it has not imported at its own import."""

    def __init__(self) -> None:
        self._lock = make_lock()
        self._holders: set[int] = set()
        """The threads that have got the lock for their fork, of all that fork at the moment."""
        self._is_watching = False

    def __enter__(self) -> None:
        self._lock.acquire()
        if not self._is_watching and threading.active_count() > 1:
            self._is_watching = True
            sys.addaudithook(self._wait_before_fork)

    def __exit__(self, *exc_info: object) -> None:
        self._lock.release()

    def _wait_before_fork(self, event: str, args: tuple[object, ...]) -> None:
        # The modules that are being imported may ask for functions to be called around each fork, as
        # `logging` does, and such functions come in pairs. So they must not be asked for when the first
        # ones have been called already, which is where `before_fork` waits.
        if event == "os.fork" or event == "os.forkpty":
            self.before_fork()
            self.after_fork()

    def before_fork(self) -> None:
        if self._lock.acquire(timeout=PATIENCE_S):
            self._holders.add(threading.get_ident())

    def after_fork(self) -> None:
        if (me := threading.get_ident()) in self._holders:
            self._holders.discard(me)
            self._lock.release()

    def after_fork_in_child(self) -> None:
        self._holders &= {threading.get_ident()}
        self.after_fork()


late_import = _LateImport()

at_fork(
    before=late_import.before_fork,
    after_in_parent=late_import.after_fork,
    after_in_child=late_import.after_fork_in_child,
)


class LoaderProxy:
    """A module's loader, but for the module's code, which is run by `load(loader, module)`."""

    def __init__(self, loader: object, load: Callable[[object, ModuleType], None]) -> None:
        self._loader = loader
        self._load = load

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)

    def create_module(self, spec: object) -> object:
        """See `importlib.abc.Loader`."""
        create = getattr(self._loader, "create_module", None)
        return None if create is None else create(spec)

    def exec_module(self, module: ModuleType) -> None:
        """See `importlib.abc.Loader`."""
        self._load(self._loader, module)
