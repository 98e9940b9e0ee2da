"""What a worker process does: attach, draw, call, record, repeat.

It owns nothing that its death could lose, and holds no lock that another process could wait for
(docs/design/worker-death.md). What is kept from call to call is in `cache`, the part in a map in `part`, what
is reported in `reporter`, and what it is told in `line`. What it waits for is in docs/design/waiting.md.
"""

from __future__ import annotations

import errno
import functools
import gc
import os
import socket
import sys
import time
from collections.abc import Callable

from .._chunks import Recorder, enter_map, leave_map
from .._code.classes import note_inherited_classes
from .._code.recipient import note_imports, receive_changes
from .._interop.captured_stores import lock_inherited_stores
from .._interop.stored import forget_opened, note_inherited_stores
from .._memory import become_worker
from .._system.blas import ThreadLimit
from .._wire import (
    CHUNK,
    CLAIM,
    CLAIM_END,
    CONTROL,
    ENTERED,
    EXIT_CHANGED,
    EXIT_DESCRIPTORS,
    LAST_CHUNK,
    LEFT,
    LOST_WRITE,
    PID,
    RELAYED,
    RUNNING,
    SINCE,
    Call,
    ClaimSlots,
    ControlBlock,
    Descriptors,
    Failed,
    News,
    Payload,
    Ready,
    Relay,
    Settings,
    Submitted,
    apply,
    ask_caller,
    note_inherited_exceptions,
    pack_result,
    read_payload,
    report_exception,
    tell_forked,
    unpack,
)
from .baseline import Baseline
from .cache import Cache
from .ending import forget_inherited, run_exit_handlers
from .line import Aside, Line
from .part import WorkerPart
from .prepare import hold_lifeline, limit_memory, move_up, prepare
from .reporter import Reporter
from .role import role
from .submitted import SubmittedFunctions


def run_worker(
    fds: Descriptors, clean: bool, initializer: Callable[[], object] | None = None
) -> None:
    """Be a worker until the caller closes the line. Never returns.

    `initializer` is one that a forked worker has without anything being sent.
    """
    status = 1
    try:
        worker = Worker(fds, clean, initializer)
        status = worker.run()
        if status == 0:
            worker.end_calmly()
    except OSError as exc:
        status = EXIT_DESCRIPTORS if exc.errno == errno.EBADF else 1
    finally:
        # Nothing of what was inherited is to run here: no finalizers, no flushing twice.
        os._exit(status)


class Worker:
    """What a worker has, from its start to its end. Used by its main thread."""

    def __init__(
        self, fds: Descriptors, clean: bool, initializer: Callable[[], object] | None
    ) -> None:
        role.become_worker()
        fds = move_up(fds)
        hold_lifeline(fds.lifeline)
        become_worker()
        prepare(clean)
        forget_inherited()
        self._initializer = initializer
        pipes = (fds.wake, fds.functions, fds.give_back, fds.results, fds.bell)
        self._pipes = [(fd, os.fstat(fd).st_ino) for fd in pipes]
        self._line = Line(fds.wake, fds.line, (fds.functions, fds.give_back))
        if not clean:
            _note_inherited()
        self._cache = Cache()
        self._aside = Aside(fds.aside, self._line, self._cache.drop)
        ask_caller(self._aside.ask)
        self._start = start = self._line.receive_start()
        self._rank = start.rank
        slots = ClaimSlots(fds.slots)
        self._slot = slots.slot(start.rank)
        self._slot[PID] = os.getpid()
        self._relay = Relay(socket.socket(fileno=fds.relay), self._slot, start.token)
        self._relay.install()
        self._reporter = Reporter(self._line, start.rank, self._restore_limits)
        self._functions = SubmittedFunctions(
            fds, slots, start.rank, self._line, self._relay, self._reporter, self._cache
        )
        self._base = self._surroundings = b""
        """The surroundings for maps, and those in force: they may differ after a submitted function."""
        self._settings: dict[int, bytes] = {}
        """Surroundings for submitted functions, by their numbers."""
        # The template has seen to what it has imported, by the environment.
        is_limited = clean and start.blas_threads == 1
        modules = len(sys.modules) if is_limited else 0
        self._thread_limit = ThreadLimit(start.blas_threads, modules, clean)

    def run(self) -> int:
        """Serve calls until the caller hangs up; the exit status is returned."""
        start = self._start
        self._aside.start()
        if start.memory_limit is not None:
            limit_memory(start.memory_limit)
        self._surroundings = self._base = bytes(read_payload(start.surroundings))
        apply(unpack(self._base))
        if start.modules is not None:
            receive_changes(read_payload(start.modules))
        self._thread_limit.keep()
        try:
            self._initialize()
        except BaseException as exc:
            report = report_exception(exc, -1, 0, 0, self._rank, os.getpid())
            self._line.tell(Failed(pack_result(report)))
            return 1
        self._baseline = Baseline()
        self._line.tell(Ready(os.getpid()))
        self._line.take_functions(self._slot)
        while (message := self._line.next()) is not None:
            if isinstance(message, Call):
                self._serve_call(message)
                self._restore()
            elif isinstance(message, Submitted):
                prepare = functools.partial(self._apply_settings, message.settings)
                self._functions.serve(message, prepare)
                self._restore()
            elif isinstance(message, News):
                self._receive_changes(message.modules)
            elif isinstance(message, Settings):
                self._settings[message.number] = bytes(read_payload(message.payload))
                for each in message.forget:
                    del self._settings[each]
        return 0

    def _restore(self) -> None:
        """Put back what a function has changed."""
        if not self._baseline.restore():
            os._exit(EXIT_CHANGED)  # another one takes the seat
        # Nothing would come any more on those that the function has closed, or put others in the place of.
        for fd, inode in self._pipes:
            if os.fstat(fd).st_ino != inode:
                os._exit(EXIT_DESCRIPTORS)

    def _apply_settings(self, number: int) -> None:
        self._surround(self._settings[number])

    def _surround(self, surroundings: bytes) -> None:
        """Put surroundings in force, unless they are."""
        if surroundings != self._surroundings:
            self._surroundings = b""  # first: it may fail
            apply(unpack(surroundings))
            self._baseline.note()
            self._surroundings = surroundings
        self._thread_limit.keep()

    def _receive_changes(self, modules: Payload) -> None:
        """What has changed in the user's modules."""
        self._functions.forget()
        receive_changes(read_payload(modules))

    def _initialize(self) -> None:
        initializer = self._initializer
        if self._start.initializer is not None:
            func, args = unpack(read_payload(self._start.initializer))
            initializer = functools.partial(func, *args)
        if initializer is not None:
            initializer()
            self._relay.flush()

    def end_calmly(self) -> None:
        """What functions have registered for the end is done, unless it is the caller that has ended."""
        if self._line.is_dismissed and not role.is_stray:
            run_exit_handlers()
            self._relay.flush()

    # ------------------------------------------------ one call

    def _serve_call(self, call: Call) -> None:
        slot, reporter = self._slot, self._reporter
        slot[CONTROL], slot[ENTERED] = call.control, time.perf_counter_ns()
        slot[RUNNING] = call.seq
        relayed = slot[RELAYED]
        control = self._line.controls[call.control]
        reporter.begin(call, control)
        recorder = None
        banks = control.row_banks
        if banks is not None and (rows := banks.log(self._rank)) is not None:
            recorder = Recorder(rows, control.profiled, is_alone=True)
        try:
            if call.surroundings is not None:
                self._base = bytes(read_payload(call.surroundings))
            self._surround(self._base)
            if call.modules is not None:
                self._receive_changes(call.modules)
            self._run_map(call, control, recorder)
        except BaseException as exc:  # before the first chunk: it did not unpickle, say
            if not control.is_intact():
                os._exit(EXIT_DESCRIPTORS)  # at once: the claim tells what it was at
            reporter.error(exc, -1, -1, 0, 0)
            del exc
        self._relay.flush()
        if role.is_stray:
            os._exit(0)
        leave_map()
        forget_opened()
        slot[CLAIM_END] = slot[CLAIM] = 0
        slot[CHUNK] = slot[LAST_CHUNK] = slot[SINCE] = 0
        if not control.is_intact():
            if not reporter.has_tail():
                slot[LEFT] = call.seq  # all it did is in place
            os._exit(EXIT_DESCRIPTORS)  # what waits in the tail does not count as done
        if recorder is not None:
            reporter.tell_stacks(recorder.close())
        reporter.end(self._cache.viewed())
        if slot[RELAYED] != relayed:
            control.note_relayed()
        slot[RUNNING] = 0
        slot[LEFT] = call.seq
        if control.leave():
            reporter.leave()

    def _restore_limits(self) -> bool:
        """Put back the limits of this process; whether a function had lowered any."""
        try:
            return self._baseline.restore_limits()
        except (OSError, ValueError):
            os._exit(EXIT_CHANGED)  # nothing can be told any more

    def _run_map(self, call: Call, control: ControlBlock, recorder: Recorder | None) -> None:
        slot, reporter = self._slot, self._reporter
        func, watch = self._cache.function(call)
        kernel = self._cache.kernel(call, func, control, reporter, slot)
        chunks = None
        if call.chunks is not None:
            attempts = unpack(read_payload(call.chunks))
            kernel.note_attempts(attempts)
            chunks = list(attempts)
        enter_map(kernel.where, self._rank)
        part = WorkerPart(call, kernel, control, slot, self._rank, reporter, chunks, recorder)
        if call.redo is not None:
            part.redo(unpack(read_payload(call.redo)))
        part.run()
        part.finish()
        control.shelves.note_work(self._rank, part.work_ns)
        if watch and (names := watch.changed()):
            self._relay.send_object(LOST_WRITE, names)
        kernel.reset()  # nothing of the output stays here: the caller may drop it


def _note_inherited() -> None:
    """In a worker that was forked from the caller: what it has of the caller's is noted, and left alone."""
    lock_inherited_stores()
    # Objects of the caller's are not this process's to collect, and a collection that looks at them would
    # give each worker a copy of all their pages. Only now: what is frozen is not found any more.
    gc.freeze()
    note_inherited_classes()
    note_inherited_exceptions()
    tell_forked()
    if not role.inherited:  # and not for one map only
        note_inherited_stores()
        note_imports()
