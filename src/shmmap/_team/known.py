"""What a worker is known to have, so that it is not sent again. Pure: no process, no socket.

`_team.link` asks here before it sends segments and control blocks, `_team.sending` before it sends a call.

What must always hold: what is noted here the worker has, once it has read all that was sent to it. Functions
and jobs it keeps by the same rules as here, see `_worker.cache`: what is thrown out, and in which order.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

from .._wire import CACHED_FUNCTIONS, Surroundings

# Jobs a worker keeps for calls to come: those of an inner loop, and of the loop around it.
JOBS_MAX = 16


class Known:
    """What one worker has. All of it is read and written with the team's lock held."""

    def __init__(self) -> None:
        self.segments: set[int] = set()
        self.controls: set[int] = set()
        self.surroundings: Surroundings | None = None
        self.settings: set[int] = set()
        """Numbers of the surroundings that it was told for submitted functions."""
        self.modules = 0
        """Version of the user's modules that it was told last."""
        self.key: tuple[object, ...] | None = None
        """`Posting.key` of its last call: if the next one has the same, it lacks segments, or its control
        block, at most."""
        self._functions: dict[bytes, None] = {}
        """Digests of functions pickled by reference, oldest first."""
        self._last_function = b""
        """Digest of the function pickled by value that it loaded last."""
        self._jobs: dict[int, None] = {}
        """Oldest first."""

    def lacks(self, segments: Iterable[int]) -> list[int]:
        """Those of these segments that it does not have."""
        return [id for id in segments if id not in self.segments]

    def has_segments(self, segments: Iterable[int]) -> None:
        """It has these segments from now on, by being sent them or by having made them."""
        self.segments.update(segments)

    def loses(self, segments: Iterable[int]) -> tuple[int, ...]:
        """It is to unmap these segments, or has done so; those that it had."""
        had = tuple(self.segments.intersection(segments))
        if had:
            self.segments.difference_update(had)
        return had

    def has_control(self, id: int) -> None:
        """It has a control block from now on."""
        self.controls.add(id)

    def loses_control(self, id: int) -> bool:
        """It is to let go of a control block; whether it had it."""
        if id not in self.controls:
            return False
        self.controls.discard(id)
        return True

    def gets_function(self, digest: bytes, by_value: bool) -> bool:
        """Whether it has this function, which it has from now on."""
        if not digest:
            self._last_function = b"" if by_value else self._last_function
            return False
        if by_value:
            known = self._last_function == digest
            self._last_function = digest
            return known
        if digest in self._functions:
            return True
        self._functions[digest] = None
        while len(self._functions) > CACHED_FUNCTIONS:
            del self._functions[next(iter(self._functions))]
        return False

    def gets_job(self, job_id: int) -> tuple[bool, tuple[int, ...]]:
        """Whether it has this job, which it has from now on; and which ones it is to forget."""
        if not job_id:
            return False, ()
        if job_id in self._jobs:
            return True, ()
        forget = tuple(self._jobs)[: max(0, len(self._jobs) + 1 - JOBS_MAX)]
        for each in forget:
            del self._jobs[each]
        self._jobs[job_id] = None
        return False, forget

    def gets_surroundings(self, now: Surroundings) -> None:
        """It is told of the caller's surroundings."""
        self.surroundings = now

    def gets_settings(self, number: int, kept: Container[int]) -> tuple[int, ...]:
        """It is told of surroundings by their number; those that it is to forget, as they are not kept."""
        forget = tuple(each for each in self.settings if each not in kept)
        self.settings.difference_update(forget)
        self.settings.add(number)
        return forget

    def gets_modules(self, version: int) -> None:
        """It is told of the user's modules up to a version: what it has loaded may refer to older ones."""
        self.modules = version
        self._forget_loaded()

    def gets_call(self, key: tuple[object, ...] | None, writes_main: bool) -> None:
        """It is sent a call; `writes_main`: by which a function kept from before may be outdated."""
        self.key = key
        if writes_main:
            self._last_function = b""

    def is_unsure(self) -> None:
        """It may have missed something: it is sent everything again, but for segments and control blocks."""
        self._forget_loaded()
        self.surroundings = self.key = None
        self.modules = 0

    def _forget_loaded(self) -> None:
        self._functions.clear()
        self._last_function = b""
        self._jobs.clear()
