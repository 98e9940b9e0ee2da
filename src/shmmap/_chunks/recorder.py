"""What one worker or thread notes of its part in a profiled map: rows, and where in its code the function is.

A `Part` notes here what it has run: a row for each chunk where chunks take long enough, else for each draw.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from types import FrameType

from .._system.limits import resource
from .._wire import Profiled, RowKind, RowLog

# Chunks that take longer than this have rows of their own. A row takes 0.5 us.
FINE_S = 2e-5
# What is handed over in less time is not worth a row.
HANDING_NS = 50_000
# How often it is looked where the function is. Less: more detail; a look takes 60 us.
_LOOK_S = 0.02
# Beyond these, frames and stacks are not told apart.
_FRAMES_MOST, _STACKS_MOST = 100, 10_000
# As plain numbers, which are quicker.
_CALL, _HANDING, _SPAN = map(int, (RowKind.CALL, RowKind.HANDING, RowKind.SPAN))
# In which of these files frames lead to the function.
_BEGINS = ("part.py", "sent_chunks.py")
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep

Stacks = dict[tuple[str, ...], int]
"""How often each stack was seen; frames from the outermost to the innermost."""


def _usage(is_alone: bool) -> tuple[float, int, int, int]:
    """Seconds of a core that this process or thread has had, its page faults, and how often it left a core.

    It left of its own, or had to.
    """
    if resource is None:  # not a POSIX system
        return time.process_time() if is_alone else time.thread_time(), 0, 0, 0
    # Where the system counts no threads, there is at least something.
    who = "RUSAGE_SELF" if is_alone or not hasattr(resource, "RUSAGE_THREAD") else "RUSAGE_THREAD"
    use = resource.getrusage(getattr(resource, who))
    return use.ru_utime + use.ru_stime, use.ru_minflt, use.ru_nvcsw, use.ru_nivcsw


class Recorder:
    """Rows of one part in a map. Used by the thread that takes part, from its beginning to its end.

    `is_alone`: the process does nothing else, so that all its threads count for the processor time.
    """

    def __init__(self, rows: RowLog, profiled: Profiled, *, is_alone: bool) -> None:
        self._note = rows.note
        self._is_alone = is_alone
        self._looker = Looker() if profiled == 2 else None
        self._use = _usage(is_alone)
        self.ended = self._began = time.perf_counter_ns()
        """When the last row ended, and when the part began."""

    def note_calls(
        self, first: int, stop: int, chunks: int, began: int, aside_s: float, attempt: int
    ) -> None:
        """Chunks in a range were run just now; `aside_s` of the time went to something else."""
        self.ended = now = time.perf_counter_ns()
        busy = now - began
        if aside_s:
            busy = max(0, busy - int(aside_s * 1e9))
        self._note(_CALL, first, stop, chunks, began, now, busy, attempt)

    def note_handing(self) -> None:
        """What was run is handed over."""
        now = time.perf_counter_ns()
        took = now - self.ended
        if took >= HANDING_NS:
            self._note(_HANDING, 0, 0, 0, self.ended, now, took)
        self.ended = now

    def close(self) -> Stacks:
        """The part is over: note it as a whole, and tell where the function was."""
        used = zip(_usage(self._is_alone), self._use, strict=True)
        cpu_s, faults, yielded, switches = [after - before for after, before in used]
        self._note(
            _SPAN,
            0,
            int(yielded),
            int(faults),
            self._began,
            time.perf_counter_ns(),
            int(cpu_s * 1e9),
            switches=int(switches),
        )
        return {} if self._looker is None else self._looker.stop()


class Looker:
    """A thread that looks now and then where the thread that made it is."""

    def __init__(self) -> None:
        self._watched = threading.get_ident()
        self._stacks: Stacks = {}
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="shmmap-looker", daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._is_over.wait(_LOOK_S):
            stack = stack_of(sys._current_frames().get(self._watched))
            if len(self._stacks) >= _STACKS_MOST and stack not in self._stacks:
                stack = ("(other stacks)",)
            self._stacks[stack] = self._stacks.get(stack, 0) + 1

    def stop(self) -> Stacks:
        """Look no more; what was seen."""
        self._is_over.set()
        self._thread.join()
        return self._stacks


def stack_of(frame: FrameType | None) -> tuple[str, ...]:
    """The frames of the function and of what it calls; what leads to them is left out.

    While the function itself has no frame, as it is written in C, or is not running: the library's own.
    """
    frames: list[tuple[str, str]] = []
    start = 0
    while frame is not None:
        code = frame.f_code
        if code.co_filename.endswith(_BEGINS) and code.co_filename.startswith(_OURS):
            start = len(frames)
        name = f"{code.co_qualname} ({os.path.basename(code.co_filename)}:{frame.f_lineno})"
        frames.append((code.co_filename, name))
        frame = frame.f_back
    inside = frames[:start] or frames[:1]
    while len(inside) > 1 and inside[-1][0].startswith(_OURS):
        inside.pop()
    return tuple([name for _, name in reversed(inside[:_FRAMES_MOST])])
