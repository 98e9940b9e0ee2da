"""What this process is to a team: a caller, a worker, or a child that user code forked from a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._system.forks import at_fork

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._chunks import Job


class Role:
    """The one record of it, written by the worker as it begins, and by its children."""

    def __init__(self) -> None:
        self.is_worker = False
        """A map started here runs serially."""
        self.is_stray = False
        """A child that user code forked from a worker: it must never draw, mark or answer."""
        self.inherited: dict[bytes, tuple[Callable[..., object], Job, list[object]]] = {}
        """What workers forked from the caller have without anything being sent: function, job, and the
        private arrays that are to be read-only there."""

    def become_worker(self) -> None:
        """From now on this process is a worker, and its children are strays."""
        self.is_worker = True
        at_fork(after_in_child=self._become_stray)

    def _become_stray(self) -> None:
        self.is_stray = True


role = Role()
