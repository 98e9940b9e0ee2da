"""The tasks of one `Parallel` call: given to a team, waited for, abandoned."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from .._system.forks import make_lock
from .._team import SubmittedFuture, WorkerTeam
from .._wire import Bundle, Mode

# How long an abort waits for the last callbacks: the workers are killed, so they are soon there.
SETTLE_S = 5.0


class Call:
    """A `Parallel` call as its tasks see it; the next call of the same object begins anew.

    ======================  ====================================  =======================================
    field                   written by                            read by
    ======================  ====================================  =======================================
    `_bundle`, `_id`        the thread that dispatches or aborts  the thread that dispatches
    `_open`, `_has_failed`  threads that dispatch, the monitor;   the thread that waits
                            under `_changed`
    `_held_back`            the same                              the same
    ======================  ====================================  =======================================

    What must hold: at most `_most` tasks are with the team; joblib dispatches with a lock of its own held.
    """

    def __init__(
        self, parallel: Any, team: WorkerTeam, most: int, least_nbytes: int | None, mode: Mode
    ) -> None:
        self._parallel = weakref.ref(parallel)
        self._thread = threading.get_ident()
        self._team = team
        self._most = most if most < team.workers.size else None
        """None: as many as there are workers."""
        self._new_bundle: Callable[[], Bundle] = lambda: Bundle(least_nbytes, mode)
        self._bundle = self._new_bundle()
        self._id: object = None
        self._changed = threading.Condition(make_lock())
        self._open = 0
        """Tasks that are with the team, and whose callbacks have not all been called."""
        self._has_failed = False
        self._held_back: deque[tuple[Task, Any]] = deque()

    def belong_to(self, id: object) -> None:
        """Begin anew if the next task is of another call: what was changed meanwhile is to be seen."""
        if id != self._id:
            self._bundle, self._id = self._new_bundle(), id
            self._has_failed = False

    def submit(self, task: Task, callback: Any) -> Future[Any] | None:
        """Give a task to the team, or hold it back until its turn comes."""
        with self._changed:
            if self._most is not None and self._open >= self._most:
                self._held_back.append((task, callback))
                return None
            self._open += 1
        try:
            future = self._team.submit_call(task, (), {}, self._bundle)
        except Exception as exc:
            # The program is ending, say. The call is to hear of it, and not whatever thread this is.
            future = SubmittedFuture()
            future.set_exception(exc)
        except BaseException:
            with self._changed:
                self._open -= 1
            raise
        if callback is not None:
            future.add_done_callback(callback)
        future.add_done_callback(self._note_done)  # after joblib has dispatched what comes next
        return future

    def _note_done(self, future: Future[Any]) -> None:
        with self._changed:
            self._open -= 1
            self._has_failed |= future.cancelled() or future.exception() is not None
            following = self._held_back.popleft() if self._held_back else None
            if not self._open or self._has_failed:  # else there is nothing to wake up for
                self._changed.notify_all()
        if following is not None:
            self.submit(*following)

    def wait(self) -> None:
        """Wait in the thread that has dispatched all it could, until joblib will find what it waits for.

        joblib does so by itself where it gives results away one by one, or looks at the time.
        """
        parallel: Any = self._parallel()
        if parallel is None or parallel.return_as != "list" or parallel.timeout is not None:
            return
        if self._thread != threading.get_ident():
            return
        with self._changed:
            while self._open and not (self._has_failed or getattr(parallel, "_aborting", True)):
                self._changed.wait()

    def settle(self) -> None:
        """Wait for the last callbacks of a call that was aborted, as long as joblib knows that it was.

        Once the next call of the same `Parallel` has begun, joblib takes a late failure for one of
        that call, which then gives nothing, and goes on with the tasks of the old one.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._open, SETTLE_S)

    def tidy(self) -> None:
        """Let go of copies, unless tasks may follow."""
        with self._changed:
            is_over = not (self._open or self._held_back)
        if is_over:
            self._bundle.forget_copies()

    def abandon(self) -> None:
        """End what is under way. It may be called in a finalizer."""
        self._held_back.clear()
        self._team.abandon(self._bundle)
        self._bundle = self._new_bundle()


class Task:
    """A batch of joblib's, named by its first function; what a worker gets is the batch itself."""

    def __init__(self, calls: Any) -> None:
        self._calls = calls
        items: Any = getattr(calls, "items", None)
        self.func: object = items[0][0] if items else calls

    def __call__(self) -> object:
        """Run all of it."""
        return self._calls()

    def __reduce__(self) -> Any:
        """Pickle the batch alone: workers know nothing of this module."""
        return self._calls.__reduce_ex__(5)
