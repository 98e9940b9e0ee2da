"""What a worker keeps from one call to the next: functions, and jobs with the kernels that were made of them.

What is kept, and when it is thrown out, the caller works out by the same rules (`_team.known`), so that it
knows what it need not send again. Besides, it is found out here which segments a function has kept views
of, or made other processes see: arrays of jobs that are kept do not count as such.
"""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from .._chunks import Job, Kernel, Reporter, Watch, freeze_for_good, make_kernel, put_together
from .._code.recipient import forget_segments
from .._memory import (
    Segment,
    count_references,
    detach_segment,
    get_segment,
    take_exported,
    touched,
)
from .._system.forks import make_lock
from .._wire import CACHED_FUNCTIONS, Call, ControlBlock, read_fitted, read_payload, unpack
from .role import role

Function = Callable[..., object]

_lock = make_lock()
"""Held while a kernel lets go of arguments, or is bound to others: by this thread or the aside thread."""


class CachedJob:
    """A job without its arguments, and the kernel that binds it to a function, with those it had last."""

    __slots__ = ("_arguments", "_func", "_kernel", "arrays", "template")

    def __init__(self, template: Job) -> None:
        self.template = template
        self.arrays: dict[int, int] = {}
        """Number of arrays the kernel has in each segment; they are no views that a function kept."""
        self._func: Function | None = None
        self._kernel: Kernel | None = None
        self._arguments: bytes | None = None
        """What the kernel is bound to, packed; None if that is nothing, or nothing that bytes tell."""

    def kernel(
        self, func: Function, arguments: bytes, reporter: Reporter, slot: memoryview
    ) -> Kernel:
        """The kernel for a function and packed arguments: as it was if both are the same."""
        if self._kernel is not None and self._func is func and self._arguments == arguments:
            for id in self.arrays:
                touched.setdefault(id, 0)
            self._kernel.reset()
            return self._kernel
        with _lock:
            self.unbind()
        before = dict(touched)
        data = read_fitted(arguments)
        job = put_together(self.template, data)
        made = {id: count - before.get(id, 0) for id, count in touched.items()}
        segments = {id: get_segment(id) for id, count in made.items() if count}
        counts = {id: count_references(segment) for id, segment in segments.items()}
        with _lock:
            if self._kernel is None or self._func is not func:
                clock = None if job.timeout is None else slot
                self._func, self._kernel = func, make_kernel(job, func, reporter, clock)
            else:
                self._kernel.reset()
                self._kernel.bind(job)
            # Those that lie elsewhere are told by a place, where the next ones may lie as well.
            self._arguments = arguments if data is arguments else None
            self.arrays = {
                id: made[id] + count_references(segment) - counts[id]
                for id, segment in segments.items()
            }
        return self._kernel

    def unbind(self) -> None:
        """Let go of the arguments; the lock is held."""
        if self._kernel is not None:
            self._arguments = None
            self._kernel.unbind()
        self.arrays = {}


class Cache:
    """Functions and jobs of earlier calls.

    ======= ============================================ =========== ===================================
    field   written by                                   read by     what must hold
    ======= ============================================ =========== ===================================
    _jobs   main thread; what a kernel is bound to,      both        those of a call under way refer to
            also the aside thread, under the lock                    nothing that is being unmapped
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

    def kernel(
        self,
        call: Call,
        func: Function,
        control: ControlBlock,
        reporter: Reporter,
        slot: memoryview,
    ) -> Kernel:
        """The kernel of a call, its arrays over this process's mappings."""
        if call.digest in role.inherited:
            job = role.inherited[call.digest][1]
            return make_kernel(job, func, reporter, None if job.timeout is None else slot)
        cached = self.job(call)
        if not call.digest:
            # A function that refers to arrays is loaded anew each time, and they are to go with it.
            cached = CachedJob(cached.template)
        return cached.kernel(func, control.arguments(), reporter, slot)

    def job(self, call: Call) -> CachedJob:
        """The job of a call, without its arguments."""
        for id in call.forget:
            self._jobs.pop(id, None)
        if call.job is None:
            return self._jobs[call.job_id]
        cached = CachedJob(Job.from_plain(unpack(read_payload(call.job))))
        if call.job_id:
            self._jobs[call.job_id] = cached
        return cached

    def drop(self, dropped: set[int]) -> None:
        """Unmap segments, and what kernels have of them. Called by the aside thread."""
        forget_segments(dropped)
        for each in list(self._jobs.values()):
            with _lock:
                if dropped & each.arrays.keys():
                    each.unbind()
        for id in dropped:
            detach_segment(id)

    def viewed(self) -> Iterator[int]:
        """Segments the call just ended was about that views are kept of: slices there now are not used again.

        Said after each such call: whether the views are of its slices or of older ones is not known.
        """
        collected = False
        for id in touched:
            try:
                segment = get_segment(id)
            except KeyError:
                continue  # dropped during the call
            if take_exported(segment):
                yield id
                continue
            if not self._is_viewed(segment):
                continue
            if id not in self._viewed:  # else it is certain already, but for this call's slices
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
        id, expected = segment.id, 0
        for each in [*self._jobs.values()]:
            arrays = each.arrays  # the aside thread may put another one in its place
            if id in arrays:
                expected += arrays[id]
        return count_references(segment) > expected
