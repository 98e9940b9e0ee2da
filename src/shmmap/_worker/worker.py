"""What a worker process does: attach, draw, call, record, repeat.

Runs in a process of its own, forked from the template (clean start) or from the caller (fork start). It
owns nothing that its death could lose: results lie in shared memory, the ledger says which chunks are
done, and the kernel closes what it held. It holds no lock that another process could wait for.

The main thread is parked in a read of its *wake pipe* between calls; messages of more than a record come
over the *line*. A second thread serves the *aside* socket: it unmaps what the caller has dropped, also in
the middle of a call.
"""

from __future__ import annotations

import functools
import gc
import os
import pickle
import queue
import socket
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

from .._chunks import (
    Job,
    Kernel,
    Mark,
    Watch,
    describe,
    enter_map,
    freeze_for_good,
    leave_map,
    make_kernel,
    share_of,
)
from .._code.classes import note_inherited_classes
from .._code.recipient import forget_segments, note_imports, receive_changes
from .._interop.captured_stores import lock_inherited_stores
from .._interop.stored import forget_opened, note_inherited_stores
from .._memory import (
    FileHandle,
    Segment,
    attach_segment,
    become_worker,
    count_references,
    detach_segment,
    find_block,
    get_segment,
    handle_of,
    touched,
)
from .._system.blas import ThreadLimit
from .._wire import (
    CACHED_FUNCTIONS,
    CHUNK,
    DONE_WITH,
    END_WORKER,
    EXIT_CHANGED,
    EXIT_DESCRIPTORS,
    FIRST,
    LAST,
    LEFT,
    LOST_WRITE,
    RECEIVE_NBYTES,
    RUNNING,
    SEE_LINE,
    SINCE,
    STOP,
    STOP_AT,
    WAKE_NBYTES,
    WARNING,
    Ask,
    Attach,
    Baseline,
    Call,
    ClaimSlots,
    Close,
    ControlBlock,
    Descriptors,
    Drop,
    Failed,
    Lend,
    Open,
    Ready,
    Record,
    RecordKind,
    ReleasePages,
    Sender,
    Start,
    apply,
    ask_caller,
    dumps_message,
    note_inherited_exceptions,
    pack_result,
    read_payload,
    report_exception,
    tell_forked,
    unpack,
)
from .ending import forget_inherited, run_exit_handlers
from .outbox import Outbox
from .prepare import hold_lifeline, limit_memory, move_one_up, move_up, prepare
from .reporter import Reporter
from .role import role

# A draw should take about this long. Where the function has filled the caches, all that goes with one takes
# 20 to 40 us, so 2 % at the most; what a draw holds is done again after a death.
DRAW_S = 2e-3
# A draw takes no more than this part of a worker's share of what is left. Items are many, and their costs
# differ most, often by neighbourhood.
REST, REST_OF_ITEMS = 2, 8
# Chunks that are gone through as one take about this long: all of them count as begun if the worker dies, and
# none is left out any more if the map is stopped.
JOIN_S = 5e-4
# Segments from here on keep their descriptor, so that results can be written through it.
POUR_SEGMENT_NBYTES = 1 << 24
# How long a worker waits for what it has asked of its caller: that may be in a long call of C code.
ANSWER_S = 10.0


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
        status = EXIT_DESCRIPTORS if exc.errno == 9 else 1
    finally:
        # Nothing of what was inherited is to run here: no finalizers, no flushing twice.
        os._exit(status)


class _KeptJob:
    """A job that may come again, with the kernel that binds it to the function it came with."""

    __slots__ = ("arrays", "func", "job", "kernel")

    def __init__(self, job: Job, arrays: dict[int, int]) -> None:
        self.job = job
        self.arrays = arrays
        """Number of arrays the job has in each segment; they are no views that a function kept."""
        self.func: Any = None
        self.kernel: Kernel | None = None


class Worker:
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
        self.wake = fds.wake
        self._line = socket.socket(fileno=fds.line)
        self._aside = socket.socket(fileno=fds.aside)
        self._submitted = fds.submitted
        self._lifeline = fds.lifeline
        if not clean:  # forked
            # Objects of the caller's are not this process's to collect, and a collection that looks at them
            # would give each worker a copy of all their pages.
            gc.freeze()
            note_inherited_classes()
            note_inherited_exceptions()
            tell_forked()
            lock_inherited_stores()
            if not role.inherited:  # and not for one map only
                note_inherited_stores()
                note_imports()
        self._buffer = memoryview(
            bytearray(RECEIVE_NBYTES)
        )  # recvmsg would allocate it anew each time
        self.pending: deque[Any] = deque()
        """Messages received while another was waited for."""
        self._controls: dict[int, ControlBlock] = {}
        self._functions: OrderedDict[bytes, Callable[..., Any]] = OrderedDict()
        self._last: tuple[bytes, Any, Watch | None] = (b"", None, None)
        self._jobs: dict[int, _KeptJob] = {}
        """The aside thread removes those that refer to what it unmaps."""
        self._kept: set[int] = set()
        """Segments of which some function kept a view."""
        self._is_dismissed = False
        self._lent: queue.SimpleQueue[tuple[bytes, int]] = queue.SimpleQueue()
        """Answers of the caller that the aside thread has got."""
        ask_caller(self._ask)
        start: Start = self.receive()
        self.rank = start.rank
        self.slot = ClaimSlots(fds.slots).slot(start.rank)
        self._relay = Sender(socket.socket(fileno=fds.relay), self.slot, start.token)
        self._relay.install()
        self.outbox = Outbox(self._announce)
        self._port = Reporter(self)
        # The template has seen to what it has imported, by the environment.
        is_bound = clean and start.blas_threads == 1
        self._bound = ThreadLimit(start.blas_threads, len(sys.modules) if is_bound else 0, clean)
        self._start = start

    # ------------------------------------------------ messages

    def receive(self) -> Any:
        """The next message that is not about attaching; None if there will be none."""
        while (message := self.receive_one()) is DONE_WITH:
            pass
        return message

    def receive_one(self) -> Any:
        """Wait for one message; DONE_WITH if it was about attaching, or the like."""
        record = os.read(self.wake, WAKE_NBYTES)
        if record == END_WORKER:
            self._is_dismissed = True
            return None
        if record != SEE_LINE:
            return Call.from_wake_record(record) if record else None
        nbytes, ancillary, _, _ = self._line.recvmsg_into([self._buffer], 4 * 256)
        if not nbytes:
            return None
        message = pickle.loads(self._buffer[:nbytes])
        if isinstance(message, Attach):
            fds = _descriptors(ancillary)
            for (id, nbytes), fd in zip(message.segments, fds, strict=True):
                pour = nbytes >= POUR_SEGMENT_NBYTES
                attach_segment(id, move_one_up(fd) if pour else fd, nbytes, pour=pour)
        elif isinstance(message, Open):
            fds = _descriptors(ancillary)
            control = ControlBlock(message.control, message.capacity, tuple(map(move_one_up, fds)))
            known = self._controls.get(message.control)
            self._controls[message.control] = control
            if known is not None:  # sent twice, as the caller was interrupted
                known.close()
        elif isinstance(message, Close):
            self._controls.pop(message.control).close()
        elif isinstance(message, ReleasePages):
            self._tell(Drop(self.outbox.trim(message.pages, message.lost)))
        else:
            return message
        return DONE_WITH

    def _announce(self, segment: Segment, seq: int = 0) -> None:
        """Hand the caller a segment that was made here, as part of the result of call `seq`."""
        message = dumps_message(Attach(((segment.id, segment.nbytes),), seq))
        socket.send_fds(self._line, [self._start.token + message], [segment.fd])

    def _tell(self, message: tuple[Any, ...]) -> None:
        """Send the caller a message."""
        self._line.send(self._start.token + dumps_message(message))

    def _serve_aside(self) -> None:
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self._aside, RECEIVE_NBYTES, 1)
            except OSError:
                data, fds = b"", []
            if not data:
                os._exit(0)
            message = unpack(data)
            if isinstance(message, Lend):
                self._lent.put((message.data, move_one_up(fds[0]) if fds else -1))
            else:
                self._drop(message)

    def _ask(self, what: str) -> tuple[bytes, int] | None:
        """Ask the caller for something, from any thread; None if it does not answer."""
        if role.is_stray:
            return None  # it is not this process that would be answered
        try:
            self._tell(Ask(what))
            return self._lent.get(timeout=ANSWER_S)
        except (OSError, queue.Empty):
            return None

    def _drop(self, message: Drop) -> None:
        """Unmap segments, and forget the jobs that refer to them."""
        dropped = set(message.segments)
        forget_segments(dropped)
        for job_id in [id for id, kept in list(self._jobs.items()) if dropped & kept.arrays.keys()]:
            self._jobs.pop(job_id, None)
        for id in dropped:
            detach_segment(id)

    # ------------------------------------------------ main loop

    def run(self) -> int:
        """Serve calls until the caller hangs up; the exit status is returned."""
        thread = threading.Thread(target=self._serve_aside, name="shmmap-aside", daemon=True)
        thread.start()
        if self._start.memory_limit is not None:
            limit_memory(self._start.memory_limit)
        apply(unpack(read_payload(self._start.surroundings)))
        if self._start.modules is not None:
            receive_changes(read_payload(self._start.modules))
        self._bound.keep()
        initializer = self._initializer
        if initializer is not None or self._start.initializer is not None:
            try:
                if self._start.initializer is not None:
                    func, args = unpack(read_payload(self._start.initializer))
                    initializer = functools.partial(func, *args)
                assert initializer is not None
                initializer()
                self._relay.flush()
            except BaseException as exc:
                report = report_exception(exc, -1, 0, 0, self.rank, os.getpid())
                self._tell(Failed(pack_result(report)))
                return 1
        self._baseline = Baseline()
        self._tell(Ready(os.getpid()))
        while True:
            message = self.pending.popleft() if self.pending else self.receive()
            if message is None:
                return 0
            if isinstance(message, Call):
                self._serve_call(message)

    def end_calmly(self) -> None:
        """What functions have registered for the end is done, unless it is the caller that has ended."""
        if self._is_dismissed and not role.is_stray:
            run_exit_handlers()
            self._relay.flush()

    def _serve_call(self, call: Call) -> None:
        slot = self.slot
        slot[RUNNING] = call.seq
        control = self._controls.get(call.control)
        port = self._port
        port.begin(call, control, self._submitted if control is None else control.pipe_write)
        try:
            if call.surroundings is not None:
                apply(unpack(read_payload(call.surroundings)))
                self._baseline.note()
            if call.modules is not None:
                receive_changes(read_payload(call.modules))
            self._bound.keep()
            if control is None:
                self._run_submitted(call, port)
            else:
                self._run_map(call, control, port)
        except BaseException as exc:  # before the first chunk: it did not unpickle, say
            if control is not None and not control.is_intact():
                os._exit(EXIT_DESCRIPTORS)  # at once: the claim tells what it was at
            port.error(exc, -1, -1, 0, 0)
            del exc
        self._relay.flush()
        if role.is_stray:
            os._exit(0)
        leave_map()
        forget_opened()
        slot[STOP] = slot[FIRST] = 0
        slot[CHUNK] = slot[LAST] = slot[SINCE] = 0
        if control is not None and not control.is_intact():
            if not port.tail:
                slot[LEFT] = call.seq  # all it did is in place
            os._exit(EXIT_DESCRIPTORS)  # what waits in the tail does not count as done
        port.tail += self._kept_records(call.seq)
        port.write_tail()
        slot[RUNNING] = 0
        slot[LEFT] = call.seq
        if control is None or control.leave() >= call.team:
            port.write(Record(call.seq, self.rank, RecordKind.LEAVE).pack())
        if not self._baseline.restore():
            os._exit(EXIT_CHANGED)  # another one takes the seat

    def _function(self, call: Call) -> tuple[Any, Watch | None]:
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

    def _job(self, call: Call) -> _KeptJob:
        """The job of a call, its arrays over this process's mappings."""
        for id in call.forget:
            self._jobs.pop(id, None)
        if call.job is None:
            kept = self._jobs[call.job_id]
            for id in kept.arrays:
                touched.setdefault(id, 0)
            return kept
        if call.digest in role.inherited:
            return _KeptJob(role.inherited[call.digest][1], {})
        before = dict(touched)
        job = Job.from_plain(unpack(read_payload(call.job)))
        made = {id: count - before.get(id, 0) for id, count in touched.items()}
        kept = _KeptJob(job, {id: count for id, count in made.items() if count})
        if call.job_id:
            self._jobs[call.job_id] = kept
        return kept

    @staticmethod
    def _kernel(kept: _KeptJob, func: Any, port: Reporter, clock: Any, keeps: bool) -> Kernel:
        """The kernel for a job and a function: as it was, or a new one; kept for the next call or not."""
        if not keeps:
            return make_kernel(kept.job, func, port, clock)
        if kept.kernel is not None and kept.func is func:
            kept.kernel.reset()
            return kept.kernel
        segments = {id: get_segment(id) for id in kept.arrays}
        # What an earlier kernel had is counted down as what this one has is counted up.
        before = {id: count_references(segment) for id, segment in segments.items()}
        kept.func = kept.kernel = None
        kept.kernel = make_kernel(kept.job, func, port, clock)
        kept.func = func
        for id, segment in segments.items():
            kept.arrays[id] += count_references(segment) - before[id]
        return kept.kernel

    def _run_submitted(self, call: Call, port: Reporter) -> None:
        assert call.job is not None
        func, args, kwargs = unpack(read_payload(call.job))
        watch = Watch(func)
        try:
            result = func(*args, **kwargs)
        except BaseException as exc:
            if role.is_stray:
                os._exit(0)
            self._relay.flush()
            port.error(exc, -1, 0, 0, 1)
            return
        if role.is_stray:
            os._exit(0)
        if names := watch.changed():
            code = getattr(func, "__code__", None)
            where = ("<submitted>", 1) if code is None else (code.co_filename, code.co_firstlineno)
            warning = RuntimeWarning(describe(func, names))
            self._relay.send_object(WARNING, (warning, RuntimeWarning, *where))
        data = pack_result(result, self.share)
        self._relay.flush()  # what it has printed is there before its result
        port.send(RecordKind.RESULTS, 0, 1, data)

    def _run_map(self, call: Call, control: ControlBlock, port: Reporter) -> None:
        func, watch = self._function(call)
        kept = self._job(call)
        job = kept.job
        again = {} if call.chunks is None else unpack(read_payload(call.chunks))
        chunks = None if call.chunks is None else list(again)
        clock = self.slot if job.timeout is not None else None
        # Not a function that refers to arrays: it is loaded anew each time, and they are to go with it.
        kernel = self._kernel(kept, func, port, clock, bool(call.job_id and call.digest))
        kernel.attempts = again
        enter_map(kernel.where, self.rank)
        tickets = -(-job.n // job.chunksize) if chunks is None else len(chunks)
        words, ledger, slot = control.words, control.ledger, self.slot
        now = time.perf_counter
        k, speed = 1, 0.0
        share = share_of(tickets, self.rank, call.team) if call.is_static else None
        rest = REST_OF_ITEMS if job.verb == "items" else REST
        joins = kernel.joins and chunks is None and share is None

        def fail(exc: BaseException) -> None:
            if role.is_stray:
                os._exit(0)
            # Not the one asked for, if a kept result failed.
            chunk, index, start, stop = kernel.where_failed()
            if not job.keep_going:
                control.stop(tickets, chunk)
            # Only now: the caller is woken by this, and sees then that the others have a second left.
            port.error(exc, chunk, index, start, stop)
            if index >= 0:  # else that has marked it
                port.mark_failed(chunk)

        if call.redo is not None:
            self._redo(unpack(read_payload(call.redo)), control, kernel, fail)
        while True:
            if share is None:
                first = control.draw(k)
                if first >= tickets:
                    break
                stop = min(first + k, tickets)
            else:
                first, stop = share[0], min(share[0] + k, share[1])
                if first >= share[1] or words[STOP_AT] < first:
                    break
                share = (stop, share[1])
            slot[FIRST] = first  # in this order: half a claim is an empty one
            slot[STOP] = stop
            port.release_spec()
            began = now()
            step = max(1, int(speed * JOIN_S)) if joins else 1
            for ticket in range(first, stop, step):
                chunk = ticket if chunks is None else chunks[ticket]
                if chunk > words[STOP_AT]:
                    break
                if share is not None and ledger[chunk] != Mark.PENDING:
                    continue  # a predecessor on this seat has done or begun it
                last = chunk + 1
                slot[CHUNK] = (
                    last  # in this order: what is told in between is true of the first one
                )
                if step > 1:
                    last = slot[LAST] = min(chunk + step, stop)
                try:
                    kernel.run(chunk, last)
                except BaseException as exc:
                    fail(exc)
                    del exc
                if role.is_stray:
                    os._exit(0)
            try:
                kernel.flush()
            except BaseException as exc:
                fail(exc)
                del exc
            slot[CHUNK] = slot[LAST] = 0
            took = now() - began
            # More tickets at once the cheaper they are, but never so many that nobody could balance it if
            # those that come turn out to be dear.
            speed = (stop - first) / max(took, 1e-9)
            k = int(min(4 * k, speed * DRAW_S, (tickets - stop) // (rest * call.team), 1 << 16))
            k = max(k, 1)
        port.close()
        try:
            kernel.finish()
        except BaseException as exc:
            fail(exc)
            del exc
        if watch and (names := watch.changed()):
            self._relay.send_object(LOST_WRITE, names)
        kernel.reset()  # nothing of the output stays here: the caller may drop it

    def _redo(
        self,
        chunks: dict[int, int],
        control: ControlBlock,
        kernel: Kernel,
        fail: Callable[[BaseException], None],
    ) -> None:
        """Do what a predecessor left undone; no claim, as the caller knows the list."""
        kernel.attempts |= chunks
        for chunk in chunks:
            if chunk > control.words[STOP_AT]:
                return
            self.slot[CHUNK] = chunk + 1
            try:
                kernel.run(chunk, chunk + 1)
                kernel.flush()
            except BaseException as exc:
                fail(exc)
                del exc
            if role.is_stray:
                os._exit(0)
            self.slot[CHUNK] = 0

    # ------------------------------------------------ what results refer to

    def put(self, payload: bytes) -> tuple[int, int, int]:
        """Put a payload where the caller finds it, see `Outbox.put`."""
        try:
            return self.outbox.put(payload)
        except (OSError, MemoryError):
            if not self._restore_limits():
                raise
            return self.outbox.put(payload)

    def _restore_limits(self) -> bool:
        """Put back the limits of this process, if a function has lowered any."""
        try:
            return self._baseline.restore_limits()
        except (OSError, ValueError):
            os._exit(EXIT_CHANGED)  # nothing can be told any more

    def share(self, a: Any) -> Any:
        """Handle of a result that lies in shared memory; None if it has to be copied."""
        handle = handle_of(a)
        if handle is None or isinstance(handle, FileHandle):
            return handle
        address = a.__array_interface__["data"][0]
        block = find_block(address)
        if block is None:
            return handle  # the caller's own
        if block.slab is not None:
            return None  # part of it will be used for other arrays here
        self._announce(block.segment, self.slot[RUNNING])
        return handle

    def _kept_records(self, seq: int) -> bytes:
        """Tell which segments the function kept views of: their slices are not to be used again."""
        records = b""
        collected = False
        for id in touched:
            try:
                segment = get_segment(id)
            except KeyError:
                continue  # dropped during the call
            if id in self._kept or not self._is_kept(segment):
                continue
            if not collected:
                collected = True
                gc.collect()
                if not self._is_kept(segment):
                    continue
            self._kept.add(id)
            records += Record(seq, self.rank, RecordKind.KEPT, id).pack()
        touched.clear()
        return records

    def _is_kept(self, segment: Segment) -> bool:
        """Whether anything but the jobs kept here still refers to a segment's bytes."""
        expected, id = 0, segment.id
        for kept in list(self._jobs.values()):
            expected += kept.arrays.get(id, 0)
        return count_references(segment) > expected


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds: list[int] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.extend(memoryview(data[: len(data) // 4 * 4]).cast("i"))
    return fds
