"""The team below its public face: runs of maps, submitted functions, and the life of what is behind both.

Two kinds of thread meet here. A *caller's thread* opens a run, posts its call to the links and waits on
the run's completion pipe, with nothing in between. The *monitor*, one daemon thread per team, waits for
everything else: workers starting and dying, their output, segments they announce, drops, submitted
functions. It wakes a waiting run by a record on that run's pipe, so every wait of a run is also a wait for
every worker's death. All state is under one lock; nobody holds it while waiting. While it waits, the
monitor holds its team weakly: a team that nobody else has is handed to it, and ended once it is idle.

Each part of that state has one owner: `_team.workers` the processes, `_team.open_maps` the control blocks,
`_team.submissions` the submitted functions, `_team.inbox` what workers made for results. `_team.monitor`
sees to all of them, and none of them knows the team.
"""

from __future__ import annotations

import functools
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from .._errors.exceptions import WorkerDied, note_scarcity
from .._memory import expire_spare, refuse_reentry_here
from .._system.forks import make_lock
from .._system.interrupts import Uninterrupted, refuse_green_threads, refuse_reentry
from .._wire import (
    RANKS_MAX,
    Call,
    Packed,
    cannot_send,
    is_inheritable,
    name_of,
    pack,
    snapshot,
)
from .inbox import Inbox
from .monitor import Monitor, MonitorThread
from .open_maps import OpenMaps
from .registry import is_ending, refuse_at_exit, register_team, resolve_workers
from .run import Needs, Run
from .submissions import Submissions, SubmittedFuture
from .workers import Watch, Workers

_AT_THE_END = "the interpreter is shutting down, and no workers can be started; use engine='serial'"


def _pack_initializer(
    start: str, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]
) -> tuple[Packed | None, Callable[[], object] | None]:
    """An initializer as workers get it: pickled; or as it is, where only forked workers can have it."""
    if initializer is None:
        return None, None
    try:
        return pack((initializer, initargs)), None
    except Exception as exc:
        bound = functools.partial(initializer, *initargs)
        if start == "fork" and is_inheritable(bound):
            return None, bound
        raise cannot_send(f"the initializer {name_of(initializer)}", bound, exc) from None


class WorkerTeam:
    """A team of worker processes; its arguments are those of `shmmap.Team`, checked."""

    def __init__(
        self,
        workers: int | None = None,
        *,
        start: str = "clean",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        blas_threads: int = 1,
        memory_limit: int | None = None,
        preload: tuple[str, ...] = (),
        idle_timeout: float | None = 300,
    ) -> None:
        self.refuse_platform(start)
        self.blas_threads = blas_threads
        self._pid = os.getpid()
        self._lock = make_lock()
        self._runs: dict[int, Run] = {}
        """By the number of the call: those that are told of deaths."""
        self.workers = Workers(
            resolve_workers(workers),
            start,
            *_pack_initializer(start, initializer, initargs),
            blas_threads,
            memory_limit,
            preload,
        )
        self.inbox = Inbox(self._lock, self.workers)
        """Pages and segments that workers made for results."""
        self.open_maps = OpenMaps(self._lock, self.workers, self.inbox)
        self._submissions = Submissions(self.workers, self.inbox)
        self.monitor = Monitor(
            self._lock, self.workers, self.inbox, self._runs, self.open_maps, self._submissions
        )
        self._last_words: list[tuple[bytes, bytes, Any]] = []
        """What workers have printed at their end."""
        self._thread: MonitorThread | None = None
        """The monitor's; there while any worker is."""
        self._orphaned: list[WorkerTeam] = []
        """The team itself, once nobody but its monitor has it."""
        self._idle_timeout = idle_timeout
        self._idle_since = time.monotonic()
        """When the last run ended."""
        self._closed = False
        self._retires = False
        """The workers end once they are idle; others may be started then."""
        self._fate: _Fate | None = None
        """Given, all workers are to be ended at once."""
        self._finished: threading.Event | None = None
        """Set once everything submitted is done, for who waits for that."""
        register_team(self)

    @property
    def size(self) -> int:
        """Number of workers."""
        return self.workers.size

    @staticmethod
    def refuse_platform(start: str) -> None:
        """Refuse a way to start workers that this platform does not have."""
        if not hasattr(os, "posix_spawn" if start == "clean" else "fork"):
            raise NotImplementedError(
                "this platform cannot start worker processes; use engine='serial' or engine='threads'"
            )

    # ------------------------------------------------ starting

    @property
    def is_ours(self) -> bool:
        """Whether it belongs to this process, and not to one that this was forked from."""
        return self._pid == os.getpid()

    @property
    def has_workers(self) -> bool:
        """Whether workers have been started and have not been ended since."""
        return self._thread is not None and self.is_usable()

    @property
    def is_closed(self) -> bool:
        """Whether it has been shut down."""
        return self._closed

    def is_usable(self) -> bool:
        """Whether it takes work: it is this process's own, and not shut down."""
        return not self._closed and self.is_ours

    def check_open(self) -> None:
        """Refuse to have anything submitted any more, in the words of `concurrent.futures`."""
        with self._lock:
            self._check_open()

    def _check_open(self) -> None:
        refuse_at_exit()
        self._check_usable("cannot schedule new futures after shutdown")

    def _check_usable(self, closed: str = "cannot use a Team after shutdown") -> None:
        if not self.is_ours:
            raise RuntimeError(
                "this Team belongs to the process that made it; make a new one in the forked child"
            )
        if self._closed:
            raise RuntimeError(_AT_THE_END if is_ending() else closed)

    def grow(self, size: int) -> None:
        """Have at least `size` seats (for the default team, which follows ``workers=``)."""
        with self._lock:
            self.workers.size = max(self.workers.size, min(size, RANKS_MAX))

    def _follow_user(self) -> None:
        """Let workers go that belong to another user than this process does by now: others are started."""
        if self.workers.is_of_this_user() or not self.is_ours:
            return
        with self._lock:
            thread = self._thread
            if thread is None:
                return
            if not self._is_idle() or thread is threading.current_thread():
                raise RuntimeError(
                    "this process has become another user or group while its workers are at work as the "
                    "former one; wait for what they do first"
                )
            self._retires = True
            self.workers.wake()
        thread.wait()

    def warm_up(self, size: int) -> None:
        """Begin to start what is missing of the first `size` workers, if it takes work at all."""
        self.enter()
        with self._lock:
            if self.is_usable():
                self._ensure(size)

    def _ensure(self, size: int) -> None:
        """Start what is missing of the first `size` workers. The lock is held."""
        if self._thread is not None and self.workers.roster.is_filled(size):
            return
        if self._thread is None and is_ending():
            raise RuntimeError(_AT_THE_END)
        with Uninterrupted():
            self._start_missing(size)

    def _start_missing(self, size: int) -> None:
        if self._thread is None:
            refuse_green_threads()
        try:
            if self.workers.slots is None:
                self.workers.open()
            self.workers.fill(size)
        except BaseException as exc:
            note_scarcity(exc)
            if not self.workers.links and self._thread is None:
                self._stop_workers()
            raise
        if self._thread is None:
            thread = MonitorThread(self, self._orphaned)
            thread.start()
            self._thread = thread

    # ------------------------------------------------ runs (caller's threads)

    def enter(self) -> None:
        """Refuse who comes from within: see `refuse_reentry`.

        Also from within `_memory.table`: who holds the team's lock may wait for that one, and never the
        reverse.
        """
        refuse_reentry(self._lock)
        refuse_reentry_here()

    def open_run(self, run: Run, chunks: int) -> bool:
        """Register a run; False if it has to wait for `run.admitted`, too many being open."""
        self._follow_user()
        with self._lock:
            self._check_usable()
            return self.open_maps.open(run, chunks)

    def post_run(self, run: Run, call: Call, needs: Needs) -> None:
        """Send a run's call, or that of its next round, to the workers that take part.

        From then on the run is told of deaths.
        """
        workers = self.workers
        with self._lock:
            if run.seq:  # a further round
                self._runs.pop(run.seq, None)
                run.vacated.clear()  # who had left the round before takes part in this one
                self.inbox.purge(run.seq)
            run.seq = workers.next_seq()
            self._runs[run.seq] = run
            if self._closed and self._thread is None:
                self._check_usable()  # else it began before the end, which waits for it
            self._ensure(call.team)
            run.call, run.needs = call, needs
            workers.post_call(run.seq, call, needs)

    def publish_output(
        self, run: Run, ranks: Iterable[int], message: bytes, segments: frozenset[int]
    ) -> None:
        """Tell participants where results go."""
        with self._lock:
            run.output = (message, segments)
            for rank in ranks:
                link = self.workers.links.get(rank)
                if link is not None:
                    link.attach(segments)
                    link.post(message)
                    if link.clogged() >= 0:
                        self.workers.wake()

    def take_relayed(self, ranks: Iterable[int]) -> None:
        """Take everything these workers have printed, logged or warned by now."""
        for rank in ranks:
            if self.workers.has_relayed(rank):
                with self._lock:
                    self.monitor.take_relayed(rank)

    def marks_of(self, run: Run) -> bytes | None:
        """The ledger of a run, from any thread; None before it is posted, and once it is over.

        Without the lock: it may be held while a user's callback runs, which may wait for who asks here.
        """
        control = run.control
        if control is None or run.call is None:
            return None
        try:
            marks = control.marks()
        except AttributeError:  # closed
            return None
        # A control block is taken from its run before anything else becomes of it.
        return marks if run.control is control else None

    def stop_run(self, run: Run, *, abandons: bool = False) -> None:
        """Have no chunk started any more, and wake who waits; nothing if the run is over.

        `abandons`: nor is anything to be handed over.
        """
        with self._lock:
            control = run.control
            if control is not None:
                control.abandon() if abandons else control.stop(-1)
                run.ring()

    def disown(self, run: Run) -> None:
        """Nobody is to get a run's call again."""
        with self._lock:
            self.workers.roster.end(run.seq)

    def distrust(self, rank: int) -> None:
        """A worker could not load what it was sent: who knows what it has."""
        with self._lock:
            self.workers.distrust(rank)

    def kill(self, rank: int, seq: int, since: int | None = None) -> bool:
        """End the worker on a rank if it is still in call `seq`; whether it was.

        `since`: and only if it is still in that very call of the function.
        """
        with self._lock:
            return self.workers.kill(rank, seq, since)

    def end_run(self, run: Run, reusable: bool) -> None:
        """Forget a run; its control block serves another if everybody has left."""
        workers = self.workers
        with self._lock:
            self._runs.pop(run.seq, None)
            workers.end_call(run.seq)
            self.open_maps.close(run, reusable)
            self._idle_since = time.monotonic()
            self.inbox.purge(run.seq)
            if self.inbox.has_orphans:
                self._purge_orphans()
            if self._submissions.waiting:
                self._submissions.dispatch(behind_maps=True)
            if self._closed and self._is_idle():
                workers.wake()

    def _purge_orphans(self) -> None:
        lingering = (run.seq for run, *_ in self.open_maps.lingering)
        calls = self._submissions.open_calls()
        oldest = min((*self._runs, *calls, *lingering), default=math.inf)
        self.inbox.purge_orphans(self.workers.last_seq, oldest)

    # ------------------------------------------------ submitted functions, and the end

    def submit_call(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> SubmittedFuture:
        """Have some worker call a function, once."""
        self._follow_user()
        future = SubmittedFuture()
        self.enter()
        self.check_open()
        try:
            packed = pack((fn, args, kwargs))
        except Exception as exc:
            submitted = functools.partial(fn, *args, **kwargs)
            future.set_exception(cannot_send(name_of(fn), submitted, exc))
            return future
        name, surroundings = name_of(fn), snapshot()
        with Uninterrupted(), self._lock:
            self._check_open()
            try:
                self._ensure(self.size)
            except (OSError, MemoryError):
                if self._thread is None or not self.workers.links:
                    raise
                # A worker has died, and there is nothing for another one: the others go on.
            self._submissions.put(future, packed, name, surroundings)
        return future

    def end(self, wait: bool = True, cancel_waiting: bool = False) -> None:
        """End the workers once all is done; `cancel_waiting`: what has not begun is not done any more."""
        self.enter()
        with self._lock:
            was_closed, self._closed = self._closed, True
            if not self.is_ours:
                return
            if cancel_waiting:
                self._submissions.cancel_waiting()
            thread = self._thread
            if thread is None:
                if not was_closed:
                    with Uninterrupted():
                        self._stop_workers()
                return
            self.workers.wake()
        # Also the second time: a Ctrl-C may have ended the first wait.
        if wait and thread is not threading.current_thread():
            thread.wait()

    def end_workers(self, number: signal.Signals, culprit: str) -> None:
        """End all workers at once by a signal; what is under way fails, and names who has asked for it."""
        self.enter()
        with self._lock:
            thread = self._thread
            if thread is None or not self.is_ours:
                return
            self._fate = _Fate(number, culprit)
            self.workers.wake()
        if thread is not threading.current_thread():
            thread.wait()

    def __del__(self) -> None:
        """Let the monitor end a team that nobody has any more; it is idle, or has tasks submitted."""
        thread = getattr(self, "_thread", None)
        if thread is not None and self.is_ours:
            self._orphaned.append(self)
            self.workers.wake()

    # ------------------------------------------------ the monitor's round, and the end

    def watch(self) -> Watch | None:
        """What the monitor waits for; None if all workers have ended."""
        with self._lock:
            watch = self._watch()
        self._submissions.resolve()
        words, self._last_words = self._last_words, []
        self.monitor.hear(words)
        if self._finished is not None and self._submissions.is_idle():
            self._finished.set()
        return watch

    def _watch(self) -> Watch | None:
        if self._fate is not None:
            self._break_off(self._fate)
            self._fate = None
            return None
        if self._is_finished():
            self._stop_workers()
            return None
        if self.open_maps.let_go() and self.inbox.has_orphans:
            self._purge_orphans()
        self.inbox.trim()
        return self.workers.watch(self._timeout_ms())

    def _timeout_ms(self) -> int | None:
        expiry = expire_spare()
        if self.workers.has_dying:
            return 5
        if self.open_maps.lingering:
            return 20  # nobody tells when the last worker leaves a map that is over
        at = min(self.inbox.next_trim(), math.inf if expiry is None else expiry)
        if self._idle_timeout is not None:
            # Nobody wakes the monitor at the end of a run, so it looks again after this long at most.
            since = self._last_work() if self._is_idle() else time.monotonic()
            at = min(at, since + self._idle_timeout)
        if at == math.inf:
            return None
        return max(0, min(int((at - time.monotonic()) * 1000), 1 << 30)) + 1

    def _is_idle(self) -> bool:
        return not (self._runs or self.open_maps.waiting) and self._submissions.is_idle()

    def _last_work(self) -> float:
        return max(self._idle_since, self._submissions.left_at)

    def _is_finished(self) -> bool:
        if not self._is_idle():
            return False
        if self._closed or self._retires:
            return True
        return (
            self._idle_timeout is not None
            and time.monotonic() - self._last_work() >= self._idle_timeout
        )

    def end_when_idle(self) -> None:
        """Nobody has it any more but its monitor, which is to finish what was submitted."""
        # If it was in a cycle, the garbage collector has cleared all weak references into it.
        register_team(self)
        self.inbox.fetch_by(self.monitor.take_messages)
        self.workers.listen()
        self._closed = True

    def give_up(self) -> None:
        """The monitor has failed: nobody would tell of deaths any more, nor resolve a future."""
        try:
            with self._lock:
                self._closed = True
                for run in self._runs.values():
                    run.broken = _team_failed
                    run.ring()
                self._submissions.fail_all(_team_failed)
                self._thread = None
                self._stop_workers()  # which may fail by what the monitor has failed by
        finally:
            self._submissions.resolve()
            if self._finished is not None:
                self._finished.set()

    def _stop_workers(self) -> None:
        """Let all workers end and give everything back. The lock is held; the team may wake again."""
        self._last_words += self.workers.dismiss()
        self._submissions.clear()
        self.inbox.clear()
        self.open_maps.clear()
        self.workers.close()
        self._retires = False
        self._thread = None

    def finish(self) -> None:
        """At the interpreter's end: wait until everything submitted is done, and callbacks are called."""
        if not self.is_ours:
            return
        with self._lock:
            if self._thread is None:
                return
            self._finished = threading.Event()
            self.workers.wake()
        self._finished.wait()

    def end_now(self) -> None:
        """At the interpreter's exit: nobody waits for anything any more."""
        if not self.is_ours:
            return
        with self._lock:
            self._closed = True
            thread = self._thread
            if thread is None:
                return
            self._fate = _Fate(signal.SIGKILL, "")
            self.workers.wake()
        # It must not be caught by the interpreter's end in the middle of something.
        thread.wait(timeout=5)

    def _break_off(self, fate: _Fate) -> None:
        """End all workers at once, whatever they do. The lock is held."""
        submissions = self._submissions
        if fate.is_last:
            submissions.fail_waiting(lambda: WorkerDied("the interpreter is shutting down"))
        else:
            submissions.cancel_waiting()
            submissions.fail_running(fate.make_error)
            self.open_maps.refuse_waiting(fate.make_error)
        for run in self._runs.values():
            run.broken = fate.make_error
            run.ring()
        calls = {*self._runs, *submissions.running} if fate.is_last else None
        self.workers.signal_all(fate.signal, calls)
        self._stop_workers()

    def close_in_child(self) -> None:
        """In a forked child: let go of every descriptor, so that the parent's end is noticed."""
        self._closed = True
        self.workers.close_in_child()
        self.open_maps.close_in_child()
        self._runs.clear()


class _Fate(NamedTuple):
    """That all workers are to be ended, and how."""

    signal: signal.Signals
    culprit: str
    """Who has asked for it; nobody if the interpreter ends."""

    @property
    def is_last(self) -> bool:
        """Whether the interpreter ends."""
        return not self.culprit

    def make_error(self) -> Exception:
        """What becomes of maps and functions under way."""
        if self.is_last:
            # Who waits is a daemon thread, which ends with the interpreter. What it raised in the meantime
            # would be printed.
            threading.Event().wait()
        return WorkerDied(f"the workers were ended by {self.culprit}")


def _team_failed() -> Exception:
    return RuntimeError("the team failed; see the traceback of its monitor thread")
