"""The life of a team: when its workers are started and ended, and what its monitor does in each round.

All of a team's state is under one lock, and no thread holds it while it waits. What must always hold: while a
worker runs, the monitor's thread runs; every map and every submitted function that workers still have at the
end is told of it. Who owns which part of the state is in docs/design/waiting.md, under "The monitor".
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Never

from .._errors.exceptions import WorkerDied, note_scarcity
from .._memory import expire_spare, table_lock
from .._system.forks import make_lock
from .._system.interrupts import Uninterrupted, refuse_green_threads, refuse_reentry
from .._system.user_code import guarded
from .inbox import Inbox
from .monitor import Monitor, MonitorThread, Watched
from .open_maps import OpenMaps
from .registry import is_ending, refuse_at_exit, register_team
from .submissions import Submissions
from .workers import PollSet, Workers

# How long the interpreter's exit waits for the monitor, which it must not cut off in the middle of something.
EXIT_S = 5.0
# How often it is looked whether the last worker has passed by a map that is over: they do not tell.
LINGER_MS = 20

CLOSED = "cannot schedule new futures after shutdown"
_AT_THE_END = "the interpreter is shutting down, and no workers can be started; use engine='serial'"

Sentence = tuple[signal.Signals, Callable[[], Exception] | None]


class Life:
    """What a team consists of, from its first worker to its last one, and again.

    Under the lock, unless said otherwise:

    ================  ==========================================  =====================================
    field             written by                                  read by
    ================  ==========================================  =====================================
    `_thread`         callers' threads (start), monitor (end)     all; without the lock by `has_workers`
    `is_closed`      any thread, never set back                  all; without the lock by `is_usable`
    `_retires`        a caller's thread; set back by the monitor  monitor
    `_sentence`       any caller's thread; taken by the monitor   monitor
    `_last_run`       the thread that ends a run                  monitor
    `_last_words`     the thread that stops the workers           monitor, as it prints them
    `_finished`       the main thread, at the program's end       monitor
    `_handed_over`    `__del__`, in any thread, without the lock  monitor's thread
    `_calls`          any thread at any moment, without the lock  monitor, which calls them with the lock
    ================  ==========================================  =====================================

    What must hold: `_thread` is None exactly if no worker runs; `_last_words` are printed after the workers
    have ended, and never with the lock held.
    """

    def __init__(self, workers: Workers, idle_timeout: float | None) -> None:
        self._pid = os.getpid()
        self._lock = make_lock()
        self.workers = workers
        self.inbox = Inbox(self._lock, workers)
        """Pages and segments that workers made for results."""
        self.open_maps = OpenMaps(self._lock, workers, self.inbox)
        self._submissions = Submissions(
            self._lock, workers, self.inbox, self.open_maps.distrust_pipes
        )
        self.monitor = Monitor(self._lock, workers, self.inbox, self.open_maps, self._submissions)
        self._thread: MonitorThread | None = None
        """The monitor's; there while any worker is."""
        self._handed_over: SimpleQueue[Watched] = SimpleQueue()
        self._calls: deque[Callable[[], object]] = deque()
        self._idle_timeout = idle_timeout
        self._last_run = time.monotonic()
        """When the last run ended."""
        self.is_closed = False
        """It has been shut down."""
        self._retires = False
        """The workers end once they are idle; others may be started then."""
        self._sentence: Sentence | None = None
        """All workers are to be ended at once by this signal; what is under way fails by such an exception.
        Without one, the interpreter exits."""
        self._last_words: list[tuple[bytes, bytes, object]] = []
        """What workers have printed at their end."""
        self._finished: threading.Event | None = None
        """Set once everything submitted is done, for the thread that waits for that."""
        register_team(self)

    # ------------------------------------------------ whether it takes work

    @property
    def is_ours(self) -> bool:
        """Whether it belongs to this process, and not to one that this was forked from."""
        return self._pid == os.getpid()

    @property
    def has_workers(self) -> bool:
        """Whether workers have been started and have not been ended since."""
        return self._thread is not None and self.is_usable()

    def is_usable(self) -> bool:
        """Whether it takes work: it is this process's own, and not shut down."""
        return not self.is_closed and self.is_ours

    def enter(self) -> None:
        """Refuse a call from within the library's own sections: see `refuse_reentry`.

        From within `_memory.table`, too: a thread that holds the team's lock may wait for that one, and never
        the reverse.
        """
        refuse_reentry(self._lock, table_lock)

    def check_open(self) -> None:
        """Refuse to have anything submitted any more, in the words of `concurrent.futures`."""
        with self._lock:
            refuse_at_exit()
            self._check_usable(CLOSED)

    def _check_usable(self, closed: str = "cannot use a Team after shutdown") -> None:
        if self._pid != os.getpid():
            raise RuntimeError(
                "this Team belongs to the process that made it; make a new one in the forked child"
            )
        if self.is_closed:
            raise RuntimeError(_AT_THE_END if is_ending() else closed)

    # ------------------------------------------------ starting

    def _follow_user(self) -> None:
        """Let workers go that belong to another user than this process does by now: others are started."""
        user = self.workers.channels.user
        if user is None or user == (os.geteuid(), os.getegid()) or not self.is_ours:
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
            self._submissions.tell_when_idle()
            self.workers.wake()
        thread.wait()

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
            if self.workers.channels.slots is None:
                self.workers.channels.open()
            self.workers.fill(size)
        except BaseException as exc:
            note_scarcity(exc)
            if not self.workers.links and self._thread is None:
                self._stop_workers()
            raise
        if self._thread is None:
            thread = MonitorThread(self, self._handed_over)
            thread.start()
            self._thread = thread

    def __del__(self) -> None:
        """Let the monitor end a team that nothing refers to any more; it may have submitted functions."""
        if getattr(self, "_thread", None) is not None and self.is_ours:
            self._handed_over.put(self)
            self.workers.wake()

    def call_soon(self, call: Callable[[], object]) -> None:
        """Have the monitor call something, with the lock held. From any thread, also in a finalizer."""
        self._calls.append(call)
        self.workers.wake()

    # ------------------------------------------------ the monitor's round

    def watch(self) -> PollSet | None:
        """What the monitor waits for; None if all workers have ended."""
        with self._lock:
            watch = self._watch()
            futures = self._submissions.to_resolve()
        self._submissions.resolve(futures)
        words, self._last_words = self._last_words, []
        self.monitor.hear(words)
        while self._calls:
            with self._lock:
                guarded(self._calls.popleft())
        if self._finished is not None and self._submissions.is_idle():
            self._finished.set()
        return watch

    def _watch(self) -> PollSet | None:
        if self._sentence is not None:
            self._break_off(*self._sentence)
            self._sentence = None
            return None
        if self._is_finished():
            self._stop_workers()
            return None
        if self.open_maps.let_go():
            self._purge_orphans()
        self.inbox.trim(time.monotonic())
        return self.workers.watch(self._timeout_ms())

    def _purge_orphans(self) -> None:
        """Let go of pages of dead workers from which nothing will be taken any more."""
        if self.inbox.has_orphans:
            oldest = min(
                (*self.open_maps.open_calls(), *self._submissions.open_calls()), default=math.inf
            )
            self.inbox.purge_orphans(self.workers.last_seq, oldest)

    def _timeout_ms(self) -> int | None:
        expiry = expire_spare()
        if self.open_maps.lingering or self._submissions.is_in_doubt:
            return LINGER_MS
        at = min(self.inbox.next_trim(), math.inf if expiry is None else expiry)
        if self._idle_timeout is not None:
            # Nothing wakes the monitor at the end of a run, so it looks again after this long at most.
            since = self._last_work() if self._is_idle() else time.monotonic()
            at = min(at, since + self._idle_timeout)
        if at == math.inf:
            return None
        return max(0, min(int((at - time.monotonic()) * 1000), 1 << 30)) + 1

    def _is_idle(self) -> bool:
        return self.open_maps.is_empty() and self._submissions.is_idle()

    def _last_work(self) -> float:
        return max(self._last_run, self._submissions.left_at)

    def _is_finished(self) -> bool:
        if not self._is_idle():
            return False
        if self.is_closed or self._retires:
            return True
        return (
            self._idle_timeout is not None
            and time.monotonic() - self._last_work() >= self._idle_timeout
        )

    def _note_end_of_run(self) -> None:
        """A map is over, and some workers may be idle now."""
        self._last_run = time.monotonic()
        if self.inbox.has_orphans:
            with Uninterrupted():
                self._purge_orphans()
        if self.is_closed and self._is_idle():
            self.workers.wake()

    def end_when_idle(self) -> None:
        """Only the monitor's thread has it now, which is to finish what was submitted."""
        # If it was in a cycle, the garbage collector has cleared all weak references into it.
        register_team(self)
        self.is_closed = True
        self._submissions.tell_when_idle()

    def give_up(self) -> None:
        """The monitor has failed: nothing would tell of deaths any more, nor resolve a future."""
        try:
            with self._lock:
                self.is_closed = True
                self._fail_runs(_team_failed)
                self._submissions.fail_all(_team_failed)
                self._thread = None
                self._stop_workers()  # which may fail by what the monitor has failed by
        finally:
            self._submissions.resolve(self._submissions.to_resolve())
            if self._finished is not None:
                self._finished.set()

    def _fail_runs(self, make_error: Callable[[], BaseException]) -> None:
        for run in self.open_maps.runs.values():
            run.fail(make_error)

    # ------------------------------------------------ ending

    def end(self, wait: bool = True, cancel_waiting: bool = False) -> None:
        """End the workers once all is done; `cancel_waiting`: what has not begun is not done any more."""
        self.enter()
        with self._lock:
            was_closed, self.is_closed = self.is_closed, True
            if not self.is_ours:
                return
            self._submissions.tell_when_idle()
            if cancel_waiting:
                self._submissions.cancel_waiting()
            self.open_maps.attend()
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
        if self.is_ours:
            self._end_at_once((number, lambda: WorkerDied(f"the workers were ended by {culprit}")))

    def _end_at_once(self, sentence: Sentence, patience_s: float | None = None) -> None:
        """Have the monitor end all workers by a signal, and wait for that."""
        with self._lock:
            thread = self._thread
            if thread is None:
                return
            self._sentence = sentence
            self.workers.wake()
        if thread is not threading.current_thread():
            thread.wait(patience_s)

    def _stop_workers(self) -> None:
        """Let all workers end and give everything back. The lock is held; the team may wake again."""
        self._last_words += self.workers.end_all()
        self._submissions.clear()
        self.inbox.clear()
        self.open_maps.clear()
        self.workers.channels.close()
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
            self._submissions.tell_when_idle()
            self.workers.wake()
        self._finished.wait()

    def end_now(self) -> None:
        """At the interpreter's exit: end all workers, whatever they do."""
        if self.is_ours:
            self.is_closed = True
            self._end_at_once((signal.SIGKILL, None), EXIT_S)

    def _break_off(
        self, number: signal.Signals, make_error: Callable[[], Exception] | None
    ) -> None:
        """End all workers at once, whatever they do."""
        submissions, calls = self._submissions, None
        if make_error is None:
            submissions.fail_waiting(lambda: WorkerDied("the interpreter is shutting down"))
            calls = {*self.open_maps.runs, *submissions.given}
        else:
            submissions.cancel_waiting()
            submissions.fail_running(make_error)
            self.open_maps.refuse_waiting(make_error)
        self._fail_runs(make_error or _wait_for_the_exit)
        self.workers.signal_all(number, calls)
        self._stop_workers()

    def close_in_child(self) -> None:
        """In a forked child: let go of every descriptor, so that the parent's end is noticed."""
        self.is_closed = True
        self.workers.close_in_child()
        self.open_maps.close_in_child()


def _wait_for_the_exit() -> Never:
    """Keep a thread that waits for a map until the interpreter has exited.

    It is a daemon thread, and what it raised in the meantime would be printed.
    """
    threading.Event().wait()
    raise AssertionError


def _team_failed() -> Exception:
    return RuntimeError("the team failed; see the traceback of its monitor thread")
