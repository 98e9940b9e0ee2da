"""The futures of which it is known what came of their functions, until they are resolved.

What must hold: each is resolved by one thread, which holds no lock then, as callbacks and classes are the
user's; until that is done, it counts as unresolved.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .submitted import SubmittedFuture


class Outcome(NamedTuple):
    """What is to become of a future."""

    resolve: Callable[[], object]
    is_plain: bool = False
    """It calls no code of the user's, and nothing is to be heard before: who waits for it may do it."""


class Resolving:
    """Those that wait for it, and those that some thread is resolving.

    `waiting` changes with the team's lock held, and is read without it; `_claimed` changes under it as one is
    added, and without it as the thread that has claimed one is done.
    """

    def __init__(self) -> None:
        self.waiting: dict[SubmittedFuture, Outcome] = {}
        """In the order in which functions ended."""
        self._claimed: dict[SubmittedFuture, Outcome] = {}

    def is_empty(self) -> bool:
        """Whether all are resolved."""
        return not (self.waiting or self._claimed)

    def numbers(self) -> list[int]:
        """Numbers of the functions of which something may still be taken."""
        return [future.number for future in (*self.waiting, *self._claimed)]

    def add(self, future: SubmittedFuture, outcome: Outcome) -> None:
        """It is known what came of a function; with the team's lock held."""
        self.waiting[future] = outcome

    def claim(self, future: SubmittedFuture) -> Outcome | None:
        """Take one to resolve it, unless another thread has done so; with the team's lock held."""
        outcome = self.waiting.get(future)
        if outcome is not None:
            self._claimed[future] = outcome  # first: it never seems to be resolved already
            del self.waiting[future]
        return outcome

    def claim_plain(self, future: SubmittedFuture) -> Outcome | None:
        """The same in the thread that waits for it, which leaves others to the monitor."""
        outcome = self.waiting.get(future)
        return self.claim(future) if outcome is not None and outcome.is_plain else None

    def finish(self, future: SubmittedFuture, outcome: Outcome) -> None:
        """Resolve one that was claimed; the team's lock must not be held."""
        try:
            outcome.resolve()
        finally:
            del self._claimed[future]
