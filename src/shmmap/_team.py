"""The team: owns worker processes, performs what the roster decides, and is an Executor.

Two kinds of thread meet here. A *caller's thread* opens a run, posts its call to the members and waits on
the run's completion pipe, with nothing in between. The *attendant*, one daemon thread per team, waits for
everything else: workers starting and dying, their output, segments they announce, drops, submitted
functions. It wakes a waiting run by a record on that run's pipe, so every wait of a run is also a wait for
every worker's death. All state is under one lock; nobody holds it while waiting. While it waits, the
attendant holds its team weakly: a team that nobody else has is handed to it, and ended once it is idle.
"""

from __future__ import annotations

import math
import os
import select
import signal
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import Any, NamedTuple

from . import _segment, _teams
from ._control import (
    CHUNK,
    ERROR,
    FIRST,
    KEPT,
    LAST,
    LEAVE,
    LEFT,
    RANKS_MAX,
    READ_NBYTES,
    RELAYED,
    RESULTS,
    RUNNING,
    SINCE,
    SLOT_WORDS,
    STOP,
    ClaimSlots,
    ControlBlock,
    Record,
    has_data,
    unpack_records,
)
from ._errors import WorkerDied
from ._functions import cannot_pickle, name_of
from ._interrupts import Uninterrupted
from ._launch import Forked, ForkLauncher, Launcher, Lost, Reaped, TemplateLauncher
from ._member import Member
from ._messages import (
    Attach,
    Call,
    Close,
    Drop,
    Failed,
    Packed,
    Payload,
    Ready,
    Report,
    dumps_message,
    make_payload,
    pack,
    pack_again,
    pack_plain,
    restore_exception,
    unpack,
)
from ._relay import emit, parse
from ._roster import Departure, Roster
from ._run import CallSpec, Death, Run
from ._shelf import Shelf
from ._surroundings import Surroundings, pack_surroundings, snapshot
from ._worker import Start

__all__ = ["Team"]

# Maps of one team that are open at a time; further ones wait their turn. Each costs four descriptors here
# and three in every worker.
OPEN_MAX = 16
# Submitted functions a worker holds: one it runs, and one so that it need not wait for the next.
SUBMITTED_MAX = 2
# How long a dead worker's exit status is waited for; it takes a millisecond unless the template died too.
STATUS_S = 0.25


class _Task(NamedTuple):
    future: Future[Any]
    packed: Packed
    name: str


class Team(Executor):
    """A team of worker processes.

    Parameters
    ----------
    workers : int, optional
        How many; by default all usable cores (the affinity mask and the cgroup's quota count).
    start : {'clean', 'fork'}, default 'clean'
        ``"clean"``: workers are forked from a small clean process, which imports nothing of yours.
        ``"fork"``: from the calling process; they see its objects as they were then.
    initializer : callable, optional
        Called in each worker as it starts.
    initargs : tuple, default ()
        Arguments for `initializer`.
    blas_threads : int, default 1
        Threads BLAS and OpenMP may use in each worker.
    memory_limit : int, optional
        Bytes of private memory each worker may take; beyond, its allocations raise MemoryError.
    preload : sequence of str, default ()
        Modules, by name, that the clean process imports before it forks the workers, which then share
        their memory: ``preload=["pandas"]`` saves about 50 MB in each worker that uses it. They must not
        start threads as they are imported.
    idle_timeout : float, optional
        Seconds without work after which the workers are let go; the next call starts new ones. None
        keeps them. Default 300.

    Notes
    -----
    A team is a :class:`concurrent.futures.Executor`: `submit`, `map` and `shutdown` are as there, and it
    serves wherever one is taken.

    Examples
    --------
    >>> import numpy as np, shmmap
    >>> with shmmap.Team(workers=2) as team:
    ...     future = team.submit(pow, 2, 10)
    ...     squares = list(team.map(lambda v: v * v, range(4)))
    ...     roots = shmmap.pmap(np.sqrt, shmmap.asshared([1.0, 4.0]))
    >>> future.result(), squares, roots
    (1024, [0, 1, 4, 9], array([1., 2.]))
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        start: str = "clean",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        blas_threads: int = 1,
        memory_limit: int | None = None,
        preload: Sequence[str] = (),
        idle_timeout: float | None = 300,
    ) -> None:
        if start not in ("clean", "fork"):
            raise ValueError(f"start must be 'clean' or 'fork', not {start!r}")
        if start == "clean" and not hasattr(os, "posix_spawn"):
            raise NotImplementedError(
                "this platform cannot start worker processes; use engine='serial' or 'threads'"
            )
        if blas_threads < 1:
            raise ValueError("blas_threads must be at least 1")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be callable")
        if memory_limit is not None and memory_limit < 1:
            raise ValueError("memory_limit must be positive")
        self._size = _teams.resolve_workers(workers)
        self._start = start
        self._initializer = pack((initializer, tuple(initargs))) if initializer else None
        self._initializer_payload: Payload | None = None
        self._initializer_root: Any = None
        if self._initializer is not None:
            payload, root = make_payload(self._initializer.data)
            self._initializer_payload, self._initializer_root = payload, root
        self.blas_threads = blas_threads
        self._memory_limit = memory_limit
        if isinstance(preload, str) or not all(isinstance(name, str) for name in preload):
            raise TypeError("preload must be a sequence of module names")
        if preload and start == "fork":
            raise ValueError("preload= is for start='clean'; forked workers have what you imported")
        self._preload = tuple(preload)
        self._idle_timeout = idle_timeout
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._roster = Roster()
        self._members: dict[int, Member] = {}
        self._dying: dict[int, float] = {}
        self._launcher: Launcher | None = None
        self._slots: ClaimSlots | None = None
        self._submit_pipe = (-1, -1)
        self._wake_pipe = (-1, -1)
        self._listener: Callable[[int], None] = lambda segment: None
        self._attendant: threading.Thread | None = None
        self._orphaned: list[Team] = []
        """The team itself, once nobody but its attendant has it."""
        self._seq = 0
        self._runs: dict[int, Run] = {}
        self._controls: list[ControlBlock] = []
        self._open: set[Run] = set()
        """Runs that have a control block, or are about to."""
        self._next_control = 0
        self._waiting: deque[tuple[Run, int]] = deque()
        self._lingering: list[tuple[Run, ControlBlock, list[Member]]] = []
        """Abandoned maps, and the workers that may still touch what they refer to, or say something."""
        self._dropped: deque[int] = deque()
        self._tasks: deque[_Task] = deque()
        self._submitted: dict[int, tuple[_Task, int, tuple[Any, ...]]] = {}
        self._leaving: dict[int, tuple[int, Packed, tuple[Any, ...]]] = {}
        """What finished functions were given, until their workers have said whether they kept it."""
        # Weakly: a team that nobody has any more is to go at once, not with the garbage collector.
        fetch, wake = weakref.WeakMethod(self._take_messages), weakref.WeakMethod(self._wake)
        self.shelf = Shelf(self._lock, self._members, fetch, wake)
        """Pages and segments that workers made for results."""
        self._strays: deque[tuple[bytes, bytes, Any]] = deque()
        self._surroundings: tuple[Surroundings, Payload, Any] | None = None
        self._relay_arrived = threading.Condition(self._lock)
        self._idle_since = time.monotonic()
        self._closed = False
        self._ending = False
        self._tokens: list[Any] = []
        _teams.register(self)

    @property
    def size(self) -> int:
        """Number of workers."""
        return self._size

    def __repr__(self) -> str:
        state = "shut down" if self._closed else f"{len(self._members)} running"
        return f"<shmmap.Team of {self._size} workers, {state}>"

    # ------------------------------------------------ starting

    def is_usable(self) -> bool:
        """Whether it takes work: it is this process's own, and not shut down."""
        return not self._closed and self._pid == os.getpid()

    def _check_usable(self) -> None:
        if self._pid != os.getpid():
            raise RuntimeError(
                "this Team belongs to the process that made it; make a new one in the forked child"
            )
        if self._closed:
            raise RuntimeError("cannot use a Team after shutdown")

    def grow(self, size: int) -> None:
        """Have at least `size` seats (for the default team, which follows ``workers=``)."""
        with self._lock:
            self._size = max(self._size, min(size, RANKS_MAX))

    def _ensure(self, size: int) -> None:
        """Start what is missing of the first `size` workers. The lock is held."""
        if self._attendant is not None and self._roster.is_filled(size):
            return
        with Uninterrupted():
            self._start_missing(size)

    def _start_missing(self, size: int) -> None:
        if self._slots is None:
            self._open_pipes()
        ranks = self._roster.fill(size)
        try:
            for rank in ranks:
                self._spawn(rank)
        except BaseException:
            for rank in ranks:
                if rank not in self._members:
                    self._roster.seats.pop(rank)
            if not self._members and self._attendant is None:
                self._go_home()
            raise
        if self._attendant is None:
            self._attendant = threading.Thread(
                target=_attend,
                args=(weakref.ref(self), self._orphaned),
                name="shmmap-attendant",
                daemon=True,
            )
            self._attendant.start()

    def _open_pipes(self) -> None:
        """Acquire what the team needs before its first worker, all of it or nothing."""
        slots = ClaimSlots()
        pipes: list[int] = []
        try:
            pipes += os.pipe2(os.O_CLOEXEC)
            pipes += os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            os.set_blocking(pipes[0], False)
        except BaseException:
            slots.close()
            for fd in pipes:
                os.close(fd)
            raise
        self._slots = slots
        self._submit_pipe = (pipes[0], pipes[1])
        self._wake_pipe = (pipes[2], pipes[3])
        self._listener = _make_listener(weakref.ref(self))
        _segment.on_drop(self._listener)

    def _spawn(self, rank: int) -> None:
        assert self._slots is not None
        if self._launcher is None:
            self._launcher = (
                ForkLauncher()
                if self._start == "fork"
                else TemplateLauncher(self.blas_threads, self._preload)
            )
        slot = self._slots.slot(rank)
        for word in range(SLOT_WORDS):
            slot[word] = 0
        # In the table before it is forked: the child closes what it finds there, or it would hold its own
        # lifeline.
        member = self._members[rank] = Member(rank)
        try:
            self._start_member(member)
        except BaseException:
            del self._members[rank]
            member.close()
            raise
        self._wake()

    def _start_member(self, member: Member) -> None:
        assert self._slots is not None and self._launcher is not None
        initializer = self._initializer_payload
        if self._initializer is not None and initializer is not None:
            member.attach(self._initializer.segments | initializer.segments())
        surroundings = self._tell_surroundings(member, snapshot())
        start = Start(
            member.rank,
            initializer,
            self.blas_threads,
            self._memory_limit,
            surroundings,
            member.token,
        )
        member.post(dumps_message(start))
        # Copies, none of them in the tables here: a forked child closes what is in those.
        fds = member.hand_over(self._slots.fd, self._submit_pipe[1])
        try:
            self._launcher.spawn(member.rank, fds)
        finally:
            for fd in fds:
                os.close(fd)

    def _tell_surroundings(self, member: Member, now: Surroundings) -> Payload:
        """The caller's surroundings, for a message to a worker, which has what they need from now on."""
        if self._surroundings is None or self._surroundings[0] != now:
            self._surroundings = (now, *make_payload(pack(pack_surroundings(now)).data))
        _, payload, root = self._surroundings
        member.attach(payload.segments())
        member.surroundings = now
        member.roots.append(root)
        return payload

    # ------------------------------------------------ runs (caller's threads)

    def open_run(self, run: Run, chunks: int) -> bool:
        """Register a run; False if it has to wait for `run.admitted`, too many being open."""
        with self._lock:
            self._check_usable()
            if len(self._open) >= OPEN_MAX:
                run.admitted = threading.Event()
                self._waiting.append((run, chunks))
                return False
            self._admit(run, chunks)
            return True

    def _admit(self, run: Run, chunks: int) -> None:
        # A Ctrl-C may come between any two of these lines: `end_run` undoes whatever was done.
        self._open.add(run)
        for control in self._controls:
            if control.capacity >= chunks:
                run.control = control
                self._controls.remove(control)
                break
        else:
            with Uninterrupted():
                self._next_control += 1
                capacity = 1 << max(12, (chunks - 1).bit_length())
                run.control = ControlBlock(self._next_control, capacity)
        run.doorbell = run.control.doorbell
        if run.admitted is not None:
            run.admitted.set()

    def post_run(self, run: Run, spec: CallSpec, workers: int) -> None:
        """Send a run's call, or that of its next round, to the first `workers` members.

        From then on the run is told of deaths.
        """
        with self._lock:
            self._runs.pop(run.seq, None)
            run.vacated.clear()  # who had left the round before takes part in this one
            self.shelf.purge(run.seq)
            self._seq += 1
            run.seq = self._seq
            self._runs[run.seq] = run
            if self._closed and self._attendant is None:
                self._check_usable()  # else it began before the end, which waits for it
            self._ensure(workers)
            run.spec = spec
            for rank in range(workers):
                self._roster.assign(rank, run.seq, again=True)
            for rank in range(workers):
                member = self._members.get(rank)
                if member is not None:
                    try:
                        self._send_call(member, run.seq, spec)
                    except BaseException:  # a Ctrl-C, say: who knows what was sent
                        member.distrust()
                        raise

    def _send_call(
        self, member: Member, seq: int, spec: CallSpec, redo: tuple[Payload, Any] | None = None
    ) -> None:
        share = None if spec.shares is None else spec.shares.get(member.rank, (0, 0))
        control_id = 0 if spec.control is None else spec.control.id
        if spec.needs is not None and redo is None and member.settled == spec.needs:
            member.wake(
                pack_again(
                    seq,
                    control_id,
                    spec.job_id,
                    spec.digest,
                    spec.by_value,
                    share,
                    spec.team,
                )
            )
            if member.clogged() >= 0:
                self._wake()
            return
        member.attach(spec.segments if redo is None else spec.segments | redo[0].segments())
        if spec.control is not None:
            member.open(spec.control)
        func = spec.func
        if func is not None and member.remember(spec.digest, spec.by_value):
            func = None
        surroundings = None
        if member.surroundings != spec.surroundings:
            surroundings = self._tell_surroundings(member, spec.surroundings)
        knows_job, forget = member.remember_job(spec.job_id)
        call = Call(
            seq,
            control_id,
            spec.job_id,
            None if knows_job else spec.job,
            func,
            spec.digest,
            spec.by_value,
            spec.chunks,
            None if redo is None else redo[0],
            share,
            spec.team,
            surroundings,
            forget,
        )
        member.post(dumps_message(call))
        member.settled = spec.needs
        if spec.writes_main:
            member.last_function = b""
        if member.clogged() >= 0:
            self._wake()

    def publish_output(
        self, run: Run, ranks: Iterable[int], message: bytes, segments: frozenset[int]
    ) -> None:
        """Tell participants where results go."""
        with self._lock:
            run.output = (message, segments)
            for rank in ranks:
                member = self._members.get(rank)
                if member is not None:
                    member.attach(segments)
                    member.post(message)
                    if member.clogged() >= 0:
                        self._wake()

    def wait_relayed(self, ranks: Iterable[int], timeout: float = 1.0) -> None:
        """Wait until everything these workers have printed, logged or warned has arrived here."""
        slots = self._slots
        if slots is None:
            return
        words = slots.words
        deadline = 0.0
        for rank in ranks:
            member = self._members.get(rank)
            at = rank * SLOT_WORDS + RELAYED
            if member is None or member.relayed >= words[at]:
                continue
            with self._lock:
                deadline = deadline or time.monotonic() + timeout
                while not member.gone and member.relayed < words[at]:
                    if not self._relay_arrived.wait(max(0.0, deadline - time.monotonic())):
                        break

    def disown(self, run: Run) -> None:
        """Nobody is to get a run's call again."""
        with self._lock:
            self._roster.end(run.seq)

    def kill(self, rank: int, seq: int, since: int | None = None) -> bool:
        """End the worker on a rank if it is still in call `seq`; whether it was.

        `since`: and only if it is still in that very call of the function.
        """
        with self._lock:
            member = self._members.get(rank)
            if self._slots is None or member is None or member.gone:
                return False  # what the slot says is a dead worker's
            slot = self._slots.slot(rank)
            if slot[RUNNING] != seq or (since is not None and slot[SINCE] != since):
                return False
            try:
                if member.pidfd >= 0:
                    signal.pidfd_send_signal(member.pidfd, signal.SIGKILL)
                elif member.pid:
                    os.kill(member.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it has just died, and its death is about to be noticed
            return True

    def end_run(self, run: Run, reusable: bool) -> None:
        """Forget a run; its control block serves another if everybody has left."""
        with self._lock:
            self._runs.pop(run.seq, None)
            self._open.discard(run)
            self._roster.end(run.seq)
            run.doorbell = -1
            control = run.control
            if control is not None and not reusable:
                # Some worker may still come to it, or be in it: what it refers to has to stay.
                inside = [m for m in self._members.values() if not self._has_left(m, run.seq)]
                self._lingering.append((run, control, inside))
                self._wake()
                run.control = None
            elif control is not None and control not in self._controls:
                run.control = None
                self._controls.append(control)
                run.keep.clear()
            elif self._waiting:
                self._waiting = deque(item for item in self._waiting if item[0] is not run)
            if self._slots is not None:
                for rank in self._roster.waiting():
                    self._roster.left(rank, self._slots.words[rank * SLOT_WORDS + LEFT])
            while self._waiting and len(self._open) < OPEN_MAX:
                self._admit(*self._waiting.popleft())
            if self._lingering:
                self._let_go()
            while (
                self._controls and self._slots is None
            ):  # it failed, and went home before its maps
                self._controls.pop().close()
            self._idle_since = time.monotonic()
            self.shelf.purge(run.seq)
            self._purge_orphans()
            if self._tasks:
                self._dispatch()
            if self._closed and self._is_idle():
                self._wake()

    def _let_go(self) -> None:
        """Release what abandoned maps refer to, once the last worker has left them."""
        for item in list(self._lingering):
            run, control, inside = item
            has_ended = all(self._has_left(member, run.seq) for member in inside)
            # Nobody waits for what they say; unread, the pages it lies in would never be free again.
            for record in control.drain():
                self.note_late(record)
            if has_ended:
                self._lingering.remove(item)
                run.keep.clear()
                self._discard(control)  # somebody may be about to count as the last one to leave
                self._purge_orphans()

    def note_late(self, record: Record) -> None:
        """Take note of what a worker says about a call that nobody waits for any more."""
        if record.kind == KEPT:
            _segment.mark_kept(record.first)
            return
        if record.kind == ERROR and record.first < 0:
            self.distrust(record.rank)
        self.shelf.skip(record)

    def distrust(self, rank: int) -> None:
        """A worker could not load what it was sent: who knows what it has."""
        with self._lock:
            member = self._members.get(rank)
            if member is not None:
                member.distrust()

    def _purge_orphans(self) -> None:
        if self.shelf.has_orphans:
            lingering = (run.seq for run, *_ in self._lingering)
            oldest = min((*self._runs, *self._submitted, *lingering), default=math.inf)
            self.shelf.purge_orphans(self._seq, oldest)

    def _discard(self, control: ControlBlock) -> None:
        message = dumps_message(Close(control.id))
        for member in self._members.values():
            if control.id in member.opened:
                member.opened.discard(control.id)
                member.settled = None
                member.post(message)
        control.close()

    def _has_left(self, member: Member, seq: int) -> bool:
        """Whether a worker will not touch anything of call `seq` any more."""
        slots = self._slots
        if slots is None or member.gone or self._members.get(member.rank) is not member:
            return True
        return bool(slots.words[member.rank * SLOT_WORDS + LEFT] >= seq)

    # ------------------------------------------------ the Executor

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run ``fn(*args, **kwargs)`` in a worker; see :meth:`concurrent.futures.Executor.submit`.

        Parameters
        ----------
        fn : callable
            Any function, lambdas and closures included.
        *args, **kwargs
            Its arguments; shared arrays among them are not copied.

        Returns
        -------
        concurrent.futures.Future
            With the result, or the function's own exception, or `WorkerDied`.
        """
        future: Future[Any] = Future()
        with self._lock:
            self._check_usable()
        try:
            packed = pack((fn, args, kwargs))
        except Exception as exc:
            future.set_exception(cannot_pickle(fn, exc))
            return future
        with Uninterrupted(), self._lock:
            self._check_usable()
            self._ensure(self._size)
            self._tasks.append(_Task(future, packed, name_of(fn)))
            self._dispatch()
        return future

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        """Map over iterables in the workers; see :meth:`concurrent.futures.Executor.map`.

        Parameters
        ----------
        fn : callable
            Any function, lambdas and closures included.
        *iterables : iterable
            The shortest one ends the map.
        timeout : float, optional
            Seconds to wait for the results.
        chunksize : int, optional
            Items per chunk; by default as :func:`shmmap.pmap` chooses it.
        buffersize : int, optional
            Items taken from the iterables and not yet done, at most. By default they are taken whole.

        Returns
        -------
        iterator
            The results, in order; a failure is raised where the iterator reaches it or before.
        """
        from ._map import map_iterables

        with self._lock:
            self._check_usable()
        return map_iterables(self, fn, iterables, timeout, chunksize, buffersize)

    def _dispatch(self) -> None:
        """Give submitted functions to members that have room. The lock is held."""
        while self._tasks:
            free = [
                member
                for member in self._members.values()
                if member.submitted < SUBMITTED_MAX and not member.gone
            ]
            if not free:
                return
            member = min(free, key=lambda m: (m.submitted, self._roster.busy(m.rank)))
            task = self._tasks.popleft()
            if not task.future.set_running_or_notify_cancel():
                continue
            self._seq += 1
            payload, root = make_payload(task.packed.data)
            segments = task.packed.segments | payload.segments()
            spec = CallSpec(
                None,
                0,
                payload,
                None,
                b"",
                True,
                None,
                None,
                1,
                segments,
                snapshot(),
                None,
                True,
            )
            self._submitted[self._seq] = (task, member.rank, (root,))
            member.submitted += 1
            self._roster.assign(member.rank, self._seq, again=False)
            self._send_call(member, self._seq, spec)

    def _resolve(self, seq: int, record: Record | None, error: BaseException | None) -> None:
        task, rank, roots = self._submitted.pop(seq)
        self._leaving[seq] = rank, task.packed, roots
        if error is not None:
            self.shelf.purge(seq)
            task.future.set_exception(error)
            return
        assert record is not None
        try:
            value = self.shelf.take(record)
            if record.kind == ERROR:
                task.future.set_exception(
                    restore_exception(Report(*value), task.name, "as a submitted function")
                )
            else:
                task.future.set_result(value)
        except Exception as exc:  # it does not unpickle here
            task.future.set_exception(exc)
        self.shelf.purge(seq)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the team; see :meth:`concurrent.futures.Executor.shutdown`.

        Parameters
        ----------
        wait : bool, default True
            Return only when everything submitted is done and every worker has ended. Otherwise the
            workers end in the background when they are done.
        cancel_futures : bool, default False
            Cancel what was submitted and has not begun.
        """
        with self._lock:
            if self._pid != os.getpid() or self._closed:
                self._closed = True
                return
            if cancel_futures:
                for task in self._tasks:
                    task.future.cancel()
                self._tasks.clear()
            self._closed = True
            attendant = self._attendant
            if attendant is None:
                with Uninterrupted():
                    self._go_home()
                return
            self._wake()
        if wait and attendant is not threading.current_thread():
            attendant.join()

    def __enter__(self) -> Team:
        """Make this team the engine of every map in the block that names none."""
        self._tokens.append(_teams.entered.set(self))
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._tokens:
            _teams.entered.reset(self._tokens.pop())
        self.shutdown(wait=True, cancel_futures=exc_info[0] is not None)

    def __del__(self) -> None:
        """Let the attendant end a team that nobody has any more; it is idle, or has tasks submitted."""
        attendant = getattr(self, "_attendant", None)
        if attendant is not None and self._pid == os.getpid() and attendant.is_alive():
            self._orphaned.append(self)
            self._wake()

    # ------------------------------------------------ the attendant

    def _wake(self) -> None:
        try:
            os.write(self._wake_pipe[1], b"w")
        except BlockingIOError:
            pass  # it is awake
        except OSError:
            pass  # the team is going home

    def _note_drop(self, segment: int) -> None:
        # May be called by the garbage collector at any moment: no lock here.
        self._dropped.append(segment)
        self._wake()

    def _give_up(self) -> None:
        """The attendant has failed: nobody would tell of deaths any more, nor resolve a future."""
        with self._lock:
            self._closed = True
            for run in self._runs.values():
                run.broken = True
                run.ring()
            self._fail_tasks(_team_failed)
            while self._submitted:
                _, (task, *_) = self._submitted.popitem()
                task.future.set_exception(_team_failed())
            self._go_home()

    def _watch(self) -> _Watch | None:
        """What the attendant waits for; None if all have gone home."""
        poll = select.poll()
        with self._lock:
            if self._ending:
                self._break_off()
            if self._ending or self._is_finished():
                self._go_home()
                return None
            self._let_go()
            self.shelf.trim()
            poll.register(self._wake_pipe[0], select.POLLIN)
            poll.register(self._submit_pipe[0], select.POLLIN)
            launcher = self._launcher
            if launcher is not None and launcher.fileno() >= 0:
                poll.register(launcher.fileno(), select.POLLIN)
            watched: dict[int, Member] = {}
            for member in self._members.values():
                if member.gone:
                    continue
                if member.pidfd >= 0:
                    watched[member.pidfd] = member
                    poll.register(member.pidfd, select.POLLIN)
                clogged = member.clogged()
                if member.line.fileno() >= 0:
                    watched[member.line.fileno()] = member
                    events = select.POLLOUT if clogged == member.line.fileno() else 0
                    poll.register(member.line.fileno(), select.POLLIN | events)
                if clogged >= 0 and clogged not in watched:
                    watched[clogged] = member
                    poll.register(clogged, select.POLLOUT)
                watched[member.relay.fileno()] = member
                poll.register(member.relay.fileno(), select.POLLIN)
            return _Watch(poll, watched, launcher, self._timeout_ms())

    def _attend_to(self, ready: list[tuple[int, int]], watched: dict[int, Member]) -> None:
        """Deal with what the attendant has waited for."""
        strays: list[tuple[bytes, bytes, Any]] = []
        with self._lock:
            self._handle(ready, watched)
            while self._strays:
                strays.append(self._strays.popleft())
        for stray in strays:
            emit(*stray)

    def _timeout_ms(self) -> int | None:
        expiry = _segment.expire_spare()
        if self._dying:
            return 5
        if self._lingering:
            return 20  # nobody tells when the last worker leaves a map that is over
        at = min(self.shelf.next_trim(), math.inf if expiry is None else expiry)
        if self._idle_timeout is not None:
            # Nobody wakes the attendant at the end of a run, so it looks again after this long at most.
            since = self._idle_since if self._is_idle() else time.monotonic()
            at = min(at, since + self._idle_timeout)
        if at == math.inf:
            return None
        return max(0, min(int((at - time.monotonic()) * 1000), 1 << 30)) + 1

    def _is_idle(self) -> bool:
        return not (self._runs or self._waiting or self._tasks or self._submitted)

    def _is_finished(self) -> bool:
        if not self._is_idle():
            return False
        if self._closed:
            return True
        return (
            self._idle_timeout is not None
            and time.monotonic() - self._idle_since >= self._idle_timeout
        )

    def _handle(self, ready: list[tuple[int, int]], watched: dict[int, Member]) -> None:
        """Deal with what the poll has found. The lock is held."""
        fds = {fd for fd, _ in ready}
        if self._wake_pipe[0] in fds:
            try:
                os.read(self._wake_pipe[0], 4096)
            except BlockingIOError:
                pass
        touched = {id(watched[fd]): watched[fd] for fd in fds if fd in watched}
        for member in touched.values():
            if member.gone or self._members.get(member.rank) is not member:
                continue
            member.flush()
            self._take_messages(member)
            self._take_relayed(member)
        if self._launcher is not None:
            for event in self._launcher.events():
                self._handle_launch(event)
        for member in list(self._members.values()):
            if not member.gone and member.pidfd >= 0 and member.pidfd in fds:
                self._note_end(member)
            elif not member.gone and member.pidfd < 0 and member.pid and self._has_hung_up(member):
                self._note_end(member)
        if self._submit_pipe[0] in fds:
            self._take_submitted()
        if self._dropped:
            dropped = []
            while self._dropped:
                dropped.append(self._dropped.popleft())
            for member in self._members.values():
                member.drop(dropped)
        self._bury()
        self._dispatch()

    @staticmethod
    def _has_hung_up(member: Member) -> bool:
        """Without pidfds: whether the other end of the relay socket has closed."""
        poll = select.poll()
        poll.register(member.relay.fileno(), select.POLLHUP)
        return bool(poll.poll(0))

    def _take_messages(self, member: Member) -> None:
        for message in member.receive():
            if isinstance(message, Ready):
                self._roster.ready(member.rank)
            elif isinstance(message, Failed):
                member.failed = True
                report = Report(*unpack(message.error))
                for seq in list(self._roster.seats[member.rank].calls):
                    if seq in self._runs:
                        self._runs[seq].failed_start = report
                    elif seq in self._submitted:
                        error = restore_exception(report, "the initializer", "as a worker started")
                        self._resolve(seq, None, error)
                self._fail_tasks(_StartError(report))
            elif isinstance(message, Attach):  # `receive` has attached them
                if message.seq:
                    is_open = message.seq in self._runs or message.seq in self._submitted
                    self.shelf.announce((id for id, _ in message.segments), message.seq, is_open)
                else:
                    self.shelf.add(id for id, _ in message.segments)
            elif isinstance(message, Drop):
                for id in message.segments:
                    self.shelf.forget(id)
                    member.attached.discard(id)

    def distrust_pipes(self) -> None:
        """Strays were found: they may also lie in pipes that wait here for the next map."""
        with self._lock:
            while self._controls:
                self._discard(self._controls.pop())

    def _fail_tasks(self, make_error: Callable[[], BaseException]) -> None:
        while self._tasks:
            task = self._tasks.popleft()
            if task.future.set_running_or_notify_cancel():
                task.future.set_exception(make_error())

    def _take_relayed(self, member: Member) -> None:
        frames = member.receive_relay()
        if not frames:
            return
        for frame in frames:
            kind, seq, payload = parse(frame)
            run = self._runs.get(seq)
            if run is not None:
                run.relayed.append((kind, payload, member.decoders))
                run.ring()
            else:
                self._strays.append((kind, payload, member.decoders))
        # Only now: `wait_relayed` looks at the count without the lock, and goes by it.
        member.relayed += len(frames)
        self._relay_arrived.notify_all()

    def _take_submitted(self) -> None:
        while True:
            try:
                data = os.read(self._submit_pipe[0], READ_NBYTES)
            except BlockingIOError:
                return
            try:
                records = list(unpack_records(data))
            except RuntimeError as exc:
                self.distrust_pipes()
                for seq in list(self._submitted):
                    self._resolve(seq, None, exc)
                for each in self._members.values():
                    each.submitted = 0  # who has left was among the records lost
                return
            for record in records:
                member = self._members.get(record.rank)
                if record.kind in (RESULTS, ERROR):
                    if record.seq in self._submitted:
                        self._resolve(record.seq, record, None)
                    else:
                        self.shelf.skip(record)
                elif record.kind == KEPT:
                    _segment.mark_kept(record.first)
                elif record.kind == LEAVE and member is not None and record.seq:
                    member.submitted = max(0, member.submitted - 1)
                    self._leaving.pop(record.seq, None)
                    self._roster.left(record.rank, record.seq)
                    self._idle_since = time.monotonic()

    def _handle_launch(self, event: Forked | Reaped | Lost) -> None:
        if isinstance(event, Forked):
            member = self._members.get(event.rank)
            if member is None or member.pid or member.gone:
                if event.pidfd >= 0:
                    os.close(event.pidfd)
                return
            member.pid, member.pidfd = event.pid, event.pidfd
        elif isinstance(event, Reaped):
            for member in self._members.values():
                if member.pid == event.pid:
                    member.status = event.status
                    if not member.gone:
                        self._note_end(member)
        else:
            self._launcher = None
            for member in list(self._members.values()):
                if not member.pid and not member.gone:
                    member.status = event.status
                    self._note_end(member)
            for rank in self._dying:
                self._dying[rank] = 0.0  # no status will come

    def _note_end(self, member: Member) -> None:
        """A worker's process has ended; what it was doing is dealt with once its status is known."""
        self._take_messages(member)
        self._take_relayed(member)
        self._take_submitted()
        member.gone = True
        self._relay_arrived.notify_all()
        self._dying[member.rank] = time.monotonic() + STATUS_S

    def _bury(self) -> None:
        for rank, deadline in list(self._dying.items()):
            member = self._members[rank]
            if member.status is None and time.monotonic() < deadline:
                continue
            del self._dying[rank]
            del self._members[rank]
            member.close()  # first: whoever takes the seat may need the descriptors
            self._replace(member)

    def _replace(self, member: Member) -> None:
        """Do what the roster decides about a dead worker's seat."""
        assert self._slots is not None
        rank = member.rank
        slot = self._slots.slot(rank)
        # Not of the seat, where calls that were left are forgotten.
        over = [
            run
            for seq, run in self._runs.items()
            if run.spec is not None and rank < run.spec.team and seq <= slot[LEFT]
        ]
        for run in over:  # it had left, but may not have counted as one that has
            run.vacated.append(rank)
            run.deaths += 1
        self._roster.left(rank, slot[LEFT])
        for seq in [seq for seq, (its, *_) in self._leaving.items() if its == rank]:
            del self._leaving[seq]
        running, claim = slot[RUNNING], (slot[FIRST], slot[STOP])
        chunks = range(slot[CHUNK] - 1, max(slot[CHUNK], slot[LAST])) if slot[CHUNK] else range(0)
        self.shelf.has_orphans = True
        departure: Departure = self._roster.died(rank, member.failed)
        if departure.replace and not self._respawn(rank):
            departure = self._roster.unfilled(rank, departure)
        redo: dict[int, tuple[Payload, Any]] = {}
        concerned = over
        for seq in (*departure.again, *departure.lost):
            death = Death(
                rank,
                member.pid,
                member.status,
                running,
                claim if running == seq else (0, 0),
                chunks if running == seq else range(0),
                departure.is_broken_start,
                seq in departure.again,
            )
            if seq in self._runs:
                run = self._runs[seq]
                concerned.append(run)
                again = run.note_death(death)
                run.deaths += 1
                if not death.replaced:
                    run.vacated.append(rank)
                elif again:
                    redo[seq] = make_payload(pack_plain(again).data)
                    run.keep.append(redo[seq][1])
            elif seq in self._submitted:
                task, _, _ = self._submitted[seq]
                if running == seq or departure.is_broken_start:
                    self._resolve(
                        seq,
                        None,
                        WorkerDied(f"{death.cause()}, running {task.name}"),
                    )
                else:  # it never began: somebody else takes it
                    self._submitted.pop(seq)
                    retry: Future[Any] = Future()
                    _chain(retry, task.future)
                    self._tasks.appendleft(_Task(retry, task.packed, task.name))
        if departure.replace:
            successor = self._members[rank]
            for seq in departure.again:
                its_run = self._runs.get(seq)
                if its_run is None or its_run.spec is None:
                    continue
                self._send_call(successor, seq, its_run.spec, redo.get(seq))
                if its_run.output is not None:
                    successor.attach(its_run.output[1])
                    successor.post(its_run.output[0])
        elif self._tasks and not departure.is_broken_start:
            for each in self._roster.fill(self._size):
                if not self._respawn(each):
                    self._roster.seats.pop(each)
        if self._tasks and not self._members:
            self._fail_tasks(lambda: WorkerDied("the workers died, and no others could be started"))
        for run in concerned:
            run.ring()

    def _respawn(self, rank: int) -> bool:
        """Start a worker in the place of one that died; False if this process cannot."""
        try:
            self._spawn(rank)
        except OSError:  # no descriptors, no memory, no more processes: the others go on
            return False
        return True

    def _go_home(self) -> None:
        """Let all workers end and give everything back. The lock is held; the team may wake again."""
        for member in self._members.values():
            member.hang_up()
        deadline = time.monotonic() + 1.0
        for member in self._members.values():
            # Parked workers end by themselves, at once; the lifeline's end kills the others.
            while not member.gone and member.pidfd >= 0:
                left = max(0.0, deadline - time.monotonic())
                if has_data(member.pidfd, left) or left == 0.0:
                    break
            member.close()
        if self._launcher is not None:
            self._launcher.close()
            self._launcher = None
        self._members.clear()
        self._dying.clear()
        self._leaving.clear()
        self._roster.vacate()
        for control in self._controls:
            control.close()
        self._controls.clear()
        self.shelf.clear()
        for run, control, _ in self._lingering:
            run.keep.clear()
            control.close()
        self._lingering.clear()
        if self._slots is not None:
            _segment.off_drop(self._listener)
            self._slots.close()
            self._slots = None
            for fd in (*self._submit_pipe, *self._wake_pipe):
                os.close(fd)
            self._submit_pipe = self._wake_pipe = (-1, -1)
        self._dropped.clear()
        self._attendant = None

    def end_now(self) -> None:
        """At the interpreter's exit: nobody waits for anything any more."""
        if self._pid != os.getpid():
            return
        with self._lock:
            self._closed = self._ending = True
            attendant = self._attendant
            if attendant is None:
                return
            self._wake()
        # It must not be caught by the interpreter's end in the middle of something.
        attendant.join(timeout=5)

    def _break_off(self) -> None:
        """End all workers at once, whatever they do. The lock is held."""
        self._fail_tasks(lambda: WorkerDied("the interpreter is shutting down"))
        for member in self._members.values():
            if member.lifeline >= 0:
                os.close(member.lifeline)
                member.lifeline = -1
        for run in self._runs.values():
            run.broken = True
            run.ring()

    def close_in_child(self) -> None:
        """In a forked child: let go of every descriptor, so that the parent's end is noticed."""
        self._closed = True
        for member in self._members.values():
            member.close()
        if isinstance(self._launcher, (TemplateLauncher, ForkLauncher)):
            self._launcher.close_in_child()
        for fd in (*self._submit_pipe, *self._wake_pipe):
            if fd >= 0:
                os.close(fd)
        self._submit_pipe = self._wake_pipe = (-1, -1)
        open_controls = [run.control for run in self._runs.values() if run.control is not None]
        open_controls += [control for _, control, _ in self._lingering]
        for control in (*self._controls, *open_controls):
            control.close_in_child()
        if self._slots is not None:
            os.close(self._slots.fd)
        self._controls, self._runs, self._lingering, self._slots = [], {}, [], None
        self._members.clear()
        self._launcher = None


class _Watch(NamedTuple):
    """What an attendant waits for.

    It holds all sockets: the garbage collector would close those of a dropped team before its attendant.
    """

    poll: select.poll
    watched: dict[int, Member]
    """By descriptor."""
    launcher: Launcher | None
    timeout_ms: int | None


def _attend(ref: weakref.ref[Team], orphaned: list[Team]) -> None:
    """The attendant's thread. While it waits it holds the team weakly, or no team could be dropped."""
    heir: Team | None = None
    while True:
        if orphaned:
            heir = orphaned.pop()
            _teams.register(heir)
            heir._closed = True
        team = heir or ref()
        if team is None:
            time.sleep(0.001)  # the garbage collector is about to hand it over
            continue
        try:
            watch = team._watch()
            if watch is None:
                return
            team = None
            ready = watch.poll.poll(watch.timeout_ms)
            team = heir or ref()
            if team is not None:
                team._attend_to(ready, watch.watched)
        except BaseException:
            if team is not None:
                team._give_up()
            raise
        del team, watch


def _make_listener(ref: weakref.ref[Team]) -> Callable[[int], None]:
    """Tell a team, if it is still there, of segments that are dropped."""

    def note_drop(segment: int) -> None:
        team = ref()
        if team is not None:
            team._note_drop(segment)

    return note_drop


class _StartError:
    """Makes the exception of an initializer anew for each function it concerns."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def __call__(self) -> Exception:
        return restore_exception(self._report, "the initializer", "as a worker started")


def _team_failed() -> Exception:
    return RuntimeError("the team failed; see the traceback of its attendant thread")


def _chain(retry: Future[Any], future: Future[Any]) -> None:
    def done(retry: Future[Any]) -> None:
        error = retry.exception()
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(retry.result())

    retry.add_done_callback(done)


if sys.platform == "win32":  # pragma: no cover
    raise ImportError("shmmap needs a POSIX system")
