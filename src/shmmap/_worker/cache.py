"""What a worker keeps from one call to the next: functions, and jobs with the kernels that were made of them.

What is kept, and when it is thrown out, the caller works out by the same rules (`_team.known`), so that it
knows what it need not send again. Besides, it is found out here which segments a function has kept views
of: arrays of jobs that are kept do not count as such.
"""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from .._chunks import Job, Kernel, Reporter, Watch, freeze_for_good, make_kernel
from .._code.recipient import forget_segments
from .._memory import Segment, count_references, detach_segment, get_segment, touched
from .._wire import CACHED_FUNCTIONS, Call, read_payload, unpack
from .role import role

Function = Callable[..., Any]


class CachedJob:
    """A job that may come again, with the kernel that binds it to the function it came with."""

    __slots__ = ("_func", "_kernel", "arrays", "job")

    def __init__(self, job: Job, arrays: dict[int, int]) -> None:
        self.job = job
        self.arrays = arrays
        """Number of arrays the job has in each segment; they are no views that a function kept."""
        self._func: Function | None = None
        self._kernel: Kernel | None = None

    def kernel(self, func: Function, reporter: Reporter, clock: memoryview | None) -> Kernel:
        """The kernel for this job and a function: as it was, or a new one, which is kept."""
        if self._kernel is not None and self._func is func:
            self._kernel.reset()
            return self._kernel
        segments = {id: get_segment(id) for id in self.arrays}
        # What an earlier kernel had is counted down as what this one has is counted up.
        before = {id: count_references(segment) for id, segment in segments.items()}
        self._func = self._kernel = None
        self._kernel = make_kernel(self.job, func, reporter, clock)
        self._func = func
        for id, segment in segments.items():
            self.arrays[id] += count_references(segment) - before[id]
        return self._kernel


class Cache:
    """Functions and jobs of earlier calls.

    ======= ============================================ =========== ===================================
    field   written by                                   read by     what must hold
    ======= ============================================ =========== ===================================
    _jobs   main thread; the aside thread removes those  both        in one step: the GIL is enough
            that refer to what it unmaps
    others  main thread                                  main thread
    ======= ============================================ =========== ===================================
    """

    def __init__(self) -> None:
        self._functions: OrderedDict[bytes, Function] = OrderedDict()
        self._last: tuple[bytes, Any, Watch | None] = (b"", None, None)
        """The function that came by value last: it has written its globals into ``__main__``."""
        self._jobs: dict[int, CachedJob] = {}
        self._viewed: set[int] = set()
        """Segments of which some function kept a view."""

    def function(self, call: Call) -> tuple[Function, Watch | None]:
        """The function of a call, and what watches over what it captures, if that is a copy."""
        if call.func is None:
            if call.digest in role.inherited:
                func, _, arrays = role.inherited[call.digest]
                freeze_for_good(arrays)
                return func, Watch(func)
            if call.by_value:
                assert self._last[0] == call.digest
                return self._last[1:]
            return self._functions[call.digest], None
        func = unpack(read_payload(call.func))
        if call.by_value:
            # It has just written its globals into __main__: older ones may no longer be used.
            watch = Watch(func)
            self._last = (call.digest, func, watch) if call.digest else (b"", None, None)
            return func, watch
        if call.digest:
            self._functions[call.digest] = func
            self._functions.move_to_end(call.digest)  # for the caller it is the youngest
            while len(self._functions) > CACHED_FUNCTIONS:
                self._functions.popitem(last=False)
        return func, None

    def job(self, call: Call) -> CachedJob:
        """The job of a call, its arrays over this process's mappings."""
        for id in call.forget:
            self._jobs.pop(id, None)
        if call.job is None:
            cached = self._jobs[call.job_id]
            for id in cached.arrays:
                touched.setdefault(id, 0)
            return cached
        if call.digest in role.inherited:
            return CachedJob(role.inherited[call.digest][1], {})
        before = dict(touched)
        job = Job.from_plain(unpack(read_payload(call.job)))
        made = {id: count - before.get(id, 0) for id, count in touched.items()}
        cached = CachedJob(job, {id: count for id, count in made.items() if count})
        if call.job_id:
            self._jobs[call.job_id] = cached
        return cached

    def drop(self, dropped: set[int]) -> None:
        """Unmap segments, and forget the jobs that refer to them. Called by the aside thread."""
        forget_segments(dropped)
        for job_id in [id for id, each in list(self._jobs.items()) if dropped & each.arrays.keys()]:
            self._jobs.pop(job_id, None)
        for id in dropped:
            detach_segment(id)

    def newly_viewed(self) -> Iterator[int]:
        """Segments of which the call just ended has kept views: their slices are not to be used again."""
        collected = False
        for id in touched:
            try:
                segment = get_segment(id)
            except KeyError:
                continue  # dropped during the call
            if id in self._viewed or not self._is_viewed(segment):
                continue
            if not collected:
                collected = True
                gc.collect()
                if not self._is_viewed(segment):
                    continue
            self._viewed.add(id)
            yield id
        touched.clear()

    def _is_viewed(self, segment: Segment) -> bool:
        """Whether anything but the jobs kept here still refers to a segment's bytes."""
        id = segment.id
        expected = sum(each.arrays.get(id, 0) for each in list(self._jobs.values()))
        return count_references(segment) > expected
