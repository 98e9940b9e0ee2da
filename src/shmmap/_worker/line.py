"""What a worker is told by its caller, and what it tells it besides records.

The *wake pipe* carries records of one size: a whole call, or that a message lies on the *line*, a socket
for all that is longer or has descriptors with it. The *aside* socket is served by a thread of its own, also
in the middle of a call: segments that the caller has dropped, and answers to what the worker has asked for.

The worker's main thread reads the wake pipe and the line, and nothing else does. While it waits for one
message, others stay in `Line.pending` in the order in which they came.
"""

from __future__ import annotations

import os
import pickle
import queue
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Collection
from typing import Any

from .._memory import FileHandle, Segment, attach_segment, find_block, hand_over_segment, handle_of
from .._wire import (
    AT_PIPE,
    DONE_WITH,
    END_WORKER,
    FUNCTION_NBYTES,
    LOOK,
    POSTED,
    RECEIVE_NBYTES,
    RETURNS,
    SEE_LINE,
    TAKEN,
    WAKE_NBYTES,
    Ask,
    Attach,
    Call,
    Close,
    ControlBlock,
    Drop,
    Lend,
    Open,
    ReleasePages,
    Start,
    Submitted,
    dumps_message,
    has_data,
    unpack,
)
from .outbox import Outbox
from .prepare import move_one_up
from .role import role

# Segments from here on keep their descriptor, so that results can be written through it.
POUR_SEGMENT_NBYTES = 1 << 24
# How long a worker waits for what it has asked of its caller: that may be in a long call of C code.
ANSWER_S = 10.0
# How long who is expected to read a result is given for it, before the monitor is rung instead: it may have
# been kept from running by this very process. Sooner: two threads of the caller are woken for one result;
# later: callbacks are called later, when a program begins to use them.
LATER_S = 1e-3


class Line:
    """The wake pipe and the line, from the worker's end.

    ============ ============================ ============ ==========================================
    field        written by                   read by      what must hold
    ============ ============================ ============ ==========================================
    pending      main thread                  main thread  in the order in which the messages came
    controls     main thread                  main thread  as many as the caller has open
    outbox       main thread                  main thread
    is_dismissed main thread                  main thread  True only after the last message
    token        main thread, before others   any thread   set once, by the first message
    ============ ============================ ============ ==========================================
    """

    def __init__(self, wake: int, line: int, functions: tuple[int, int]) -> None:
        self._wake = wake
        self._functions, self._give_back = functions
        self._parked = _watch(wake, self._functions)
        self._received = 0
        """Messages received on the line."""
        self._slot: memoryview | None = None
        self._later: Callable[[], object] | None = None
        self._socket = socket.socket(fileno=line)
        # `recvmsg` would allocate it anew each time.
        self._buffer = memoryview(bytearray(RECEIVE_NBYTES))
        self._token = b""
        self.pending: deque[object] = deque()
        """Messages received while another was waited for."""
        self.controls: dict[int, ControlBlock] = {}
        """The control blocks of maps that are open."""
        self.outbox = Outbox(self.announce)
        self.is_dismissed = False
        """The caller needs this worker no more. Else it is the caller that has ended."""

    def receive_start(self) -> Start:
        start: Start = self.receive()
        self._token = start.token
        return start

    def take_functions(self, slot: memoryview) -> None:
        """From now on take submitted functions, too; what is taken is noted in this slot."""
        self._slot = slot

    def next(self) -> object:
        """The next message that is not about attaching, or submitted function; None if there will be none."""
        while not self.pending:
            ready = self._parked.poll(None if self._later is None else LATER_S)
            self._call_now()
            fds = [fd for fd, _ in ready]
            if self._wake in fds:
                message = self._receive_one()
                if message is None:
                    return None
                if message is not DONE_WITH:
                    self.pending.append(message)
            if self._functions in fds:  # it may be the one worker that was woken for it
                self._take_function()
        self._call_now()
        return self.pending.popleft()

    def _call_now(self) -> None:
        later, self._later = self._later, None
        if later is not None:
            later()

    def call_later(self, later: Callable[[], object]) -> None:
        """Have something called when nothing has come for a moment, or before what comes is dealt with."""
        self._later = later

    def _take_function(self) -> None:
        """Take a function, unless another worker was quicker. By what is noted see `_team.whereabouts`."""
        slot = self._slot
        assert slot is not None
        slot[TAKEN] = AT_PIPE
        try:
            record = os.read(self._functions, FUNCTION_NBYTES)
        except BlockingIOError:
            record = b""
        else:
            if not record:  # the caller is ending
                self._parked.unregister(self._functions)
        if not record:
            slot[TAKEN] = 0
            return
        submitted = Submitted.unpack(record)
        slot[TAKEN] = submitted.number
        # What it needs, and maybe calls.
        while slot[POSTED] > self._received or has_data(self._wake):
            self.keep_next()
        if any(isinstance(each, Call) and each.seq < submitted.number for each in self.pending):
            slot[RETURNS] += 1
            slot[TAKEN] = AT_PIPE
            try:
                os.write(self._give_back, record)  # another worker may be free for it
            except BlockingIOError:
                slot[TAKEN] = submitted.number
            else:
                slot[TAKEN] = 0
            slot[RETURNS] += 1
            if not slot[TAKEN]:
                return
        self.pending.insert(place_of(submitted, self.pending), submitted)

    def receive(self) -> Any:
        """The next message that is not about attaching; None if there will be none."""
        while (message := self._receive_one()) is DONE_WITH:
            pass
        return message

    def wait(self, patience_s: float) -> None:
        """Wait until a message comes, and deal with it or keep it; no longer than so many seconds.

        A message that was left in the pipe would end every later wait at once.
        """
        if has_data(self._wake, patience_s):
            self.keep_next()

    def keep_next(self) -> None:
        """Wait for a message, and deal with it or keep it. Does not return if there will be none."""
        message = self._receive_one()
        if message is None:
            os._exit(0)
        if message is not DONE_WITH:
            self.pending.append(message)

    def _receive_one(self) -> object:
        """Wait for one message; DONE_WITH if it was about attaching, or the like."""
        record = os.read(self._wake, WAKE_NBYTES)
        if record == END_WORKER:
            self.is_dismissed = True
            return None
        if record == LOOK:
            return DONE_WITH
        if record != SEE_LINE:
            return Call.from_wake_record(record) if record else None
        nbytes, ancillary, _, _ = self._socket.recvmsg_into([self._buffer], 4 * 256)
        self._received += 1
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
            control = ControlBlock(*message, fds=tuple(map(move_one_up, fds)))
            known = self.controls.get(message.control)
            self.controls[message.control] = control
            if known is not None:  # sent twice, as the caller was interrupted
                known.close()
        elif isinstance(message, Close):
            self.controls.pop(message.control).close()
        elif isinstance(message, ReleasePages):
            self.tell(Drop(self.outbox.release(message.pages, message.lost)))
        else:
            return message
        return DONE_WITH

    def announce(self, segment: Segment, seq: int = 0) -> None:
        """Hand the caller a segment that was made here, as part of the result of call `seq`."""
        message = dumps_message(Attach(((segment.id, segment.nbytes),), seq))
        socket.send_fds(self._socket, [self._token + message], [segment.fd])

    def share(self, a: Any, seq: int) -> Any:
        """Handle of a result of call `seq` that lies in shared memory; None if it has to be copied."""
        handle = handle_of(a)
        if handle is None or isinstance(handle, FileHandle):
            return handle
        block = find_block(a.__array_interface__["data"][0])
        if block is None:
            return handle  # the caller's own
        if block.slab is not None:
            return None  # part of it will be used for other arrays here
        hand_over_segment(block.segment)  # first: it may be dropped as soon as it is announced
        self.announce(block.segment, seq)
        return handle

    def tell(self, message: tuple[object, ...]) -> None:
        """Send the caller a message, from any thread."""
        self._socket.send(self._token + dumps_message(message))


def place_of(submitted: Submitted, pending: Collection[Any]) -> int:
    """Where a submitted function goes among what is pending: after what it needs, before newer calls."""
    for at, each in enumerate(pending):
        if isinstance(each, Call) and each.seq > submitted.number:
            return at
    return len(pending)


def _watch(wake: int, functions: int) -> Any:
    """What waits for either of two descriptors; of those that wait for a function, one is woken for each."""
    if not hasattr(select, "epoll"):
        poll = select.poll()
        for fd in (wake, functions):
            poll.register(fd, select.POLLIN)
        return poll  # its times are in milliseconds: the moment is none
    made = select.epoll()
    epoll = select.epoll.fromfd(move_one_up(os.dup(made.fileno())))
    made.close()
    epoll.register(wake, select.EPOLLIN)
    try:
        epoll.register(functions, select.EPOLLIN | select.EPOLLEXCLUSIVE)
    except OSError:  # a kernel that only resembles Linux: all are woken
        epoll.register(functions, select.EPOLLIN)
    return epoll


class Aside:
    """The aside socket, and what the worker asks of its caller. `drop` is called in a thread of its own."""

    def __init__(self, fd: int, line: Line, drop: Callable[[set[int]], None]) -> None:
        self._socket = socket.socket(fileno=fd)
        self._line = line
        self._drop = drop
        self._lent: queue.SimpleQueue[tuple[bytes, int]] = queue.SimpleQueue()
        """Answers of the caller."""

    def start(self) -> None:
        """Serve the socket from now on."""
        threading.Thread(target=self._serve, name="shmmap-aside", daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self._socket, RECEIVE_NBYTES, 1)
            except OSError:
                data, fds = b"", []
            if not data:
                os._exit(0)
            message = unpack(data)
            if isinstance(message, Lend):
                self._lent.put((message.data, move_one_up(fds[0]) if fds else -1))
            else:
                self._drop(set(message.segments))

    def ask(self, what: str) -> tuple[bytes, int] | None:
        """Ask the caller for something, from any thread; None if it does not answer."""
        if role.is_stray:
            return None  # it is not this process that would be answered
        try:
            self._line.tell(Ask(what))
            return self._lent.get(timeout=ANSWER_S)
        except (OSError, queue.Empty):
            return None


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds: list[int] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.extend(memoryview(data[: len(data) // 4 * 4]).cast("i"))
    return fds
