"""A team below its public face: what the threads of callers ask of it. They take the lock here.

How callers' threads and the monitor share a team is in docs/design/waiting.md; `_team.life` has the rest. The
public `Team` of `_verbs.team` has a `WorkerTeam`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from contextvars import ContextVar

from .._errors.exceptions import name_of
from .._interop.numpy_types import Int
from .._system.interrupts import refuse_green_threads
from .._wire import FUNCTION_INLINE, LOOK, Bundle, Submitted, cannot_send, fit, snapshot
from .life import CLOSED, Life
from .registry import refuse_at_exit, resolve_workers
from .roster import EMPTY
from .run import Posting, Run
from .sending import Equipment, Initializer, pack_call
from .submitted import Submission, SubmittedFuture
from .workers import Workers

entered: ContextVar[WorkerTeam | None] = ContextVar("shmmap-team", default=None)
"""The team whose ``with`` block this is, which may have ended meanwhile."""


def entered_team() -> WorkerTeam | None:
    """The team whose ``with`` block this is."""
    team = entered.get()
    return team if team is not None and team.is_usable() else None


class WorkerTeam(Life):
    """A team of worker processes; its arguments are those of `shmmap.Team`, checked."""

    def __init__(
        self,
        workers: Int | None = None,
        *,
        start: str = "clean",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[object, ...] = (),
        blas_threads: int = 1,
        memory_limit: int | None = None,
        preload: tuple[str, ...] = (),
        idle_timeout: float | None = 300,
    ) -> None:
        self.refuse_platform(start)
        refuse_green_threads()  # here already: they have taken away what channels are made of
        self.blas_threads = blas_threads
        processes = Workers(
            size=resolve_workers(workers),
            start=start,
            initializer=Initializer(start, initializer, initargs),
            blas_threads=blas_threads,
            memory_limit=memory_limit,
            preload=preload,
        )
        super().__init__(processes, idle_timeout)

    @staticmethod
    def refuse_platform(start: str) -> None:
        """Refuse a way to start workers that this platform does not have."""
        if not hasattr(os, "posix_spawn" if start == "clean" else "fork"):
            raise NotImplementedError(
                "this platform cannot start worker processes; use engine='serial' or engine='threads'"
            )

    def grow(self, size: int) -> None:
        """Have at least `size` seats (for the default team, which follows ``workers=``)."""
        with self._lock:
            self.workers.grow(size)

    def warm_up(self, size: int) -> None:
        """Begin to start what is missing of the first `size` workers, if it takes work at all."""
        self.enter()
        with self._lock:
            if self.is_usable():
                self._ensure(size)

    def has_started(self, size: int) -> bool:
        """Whether the first `size` workers are there, and none of them has yet to start."""
        return self.workers.roster.has_started(size)

    # ------------------------------------------------ runs

    def open_run(self, run: Run, chunks: int) -> bool:
        """Register a run; False if it has to wait for `run.admitted`, too many being open."""
        self._follow_user()
        with self._lock:
            self._check_usable()
            return self.open_maps.open(run, chunks)

    def post_run(self, run: Run, posting: Posting) -> None:
        """Send a run's call, or that of its next round, to the workers that take part.

        From then on the run is told of deaths.
        """
        with self._lock:
            if self.is_closed and self._thread is None:
                self._check_usable()  # else it began before the end, which waits for it
            self._ensure(posting.team)
            seq = self.workers.next_seq()
            self.open_maps.begin(run, seq, posting)
            assert run.control is not None
            self.workers.post_call(seq, posting, run.control, range(posting.first))

    def invite(self, run: Run) -> bool:
        """Have all workers take part that may, and do not yet; False if they cannot be started."""
        posting, control = run.posting, run.control
        assert posting is not None and control is not None
        with self._lock:
            try:
                self._ensure(posting.team)
            except (OSError, MemoryError, RuntimeError):
                return False
            others = range(posting.first, posting.team)
            posting.invite()
            control.expect(posting.team)
            self.workers.post_call(run.seq, posting, control, others)
        return True

    def tell_output(
        self, run: Run, ranks: Iterable[int], told: bytes, segments: frozenset[int]
    ) -> None:
        """Tell participants where results go; those that take their places find it told."""
        with self._lock:
            assert run.posting is not None
            run.posting.needs(segments)  # as do those that take the places of others
            links = [self.workers.links[rank] for rank in ranks if rank in self.workers.links]
            for link in links:
                link.attach(segments)
            assert run.control is not None
            run.control.tell_output(told)
            for link in links:
                if not link.wake(LOOK):
                    self.workers.wake()

    def take_relayed(self, ranks: Iterable[int]) -> None:
        """Take everything these workers have printed, logged or warned by now."""
        for rank in ranks:
            if self.workers.has_relayed(rank):
                with self._lock:
                    self.monitor.take_relayed(rank)

    def marks_of(self, run: Run) -> bytes | None:
        """The ledger of a run, from any thread; None before it is posted, and once it is over.

        Without the lock: it may be held while a user's callback runs, which may wait for the asking thread.
        """
        control = run.control
        if control is None or run.posting is None:
            return None
        try:
            marks = control.marks()
        except AttributeError:  # closed
            return None
        # A control block is taken from its run before anything else becomes of it.
        return marks if run.control is control else None

    def stop_run(self, run: Run, *, abandons: bool = False) -> None:
        """Have no chunk started any more, and wake the thread that waits; nothing if the run is over.

        `abandons`: nor is anything to be handed over.
        """
        with self._lock:
            control = run.control
            if control is not None:
                control.abandon() if abandons else control.stop(-1)
            run.ring()

    def cut_run(self, run: Run, choose: Callable[[int], int | None]) -> int | None:
        """Have no chunk started above one that `choose` says by how many are drawn.

        How many were drawn before that was in force, which may have begun all the same; None: nothing was
        cut.
        """
        with self._lock:
            control = run.control
            if control is None or run.posting is None:
                return None
            last = choose(control.drawn())
            if last is None:
                return None
            control.cut(last)
            return control.drawn()  # in this order

    def disown(self, run: Run) -> None:
        """No worker is to get a run's call again."""
        with self._lock:
            self.workers.roster.end(run.seq)

    def distrust(self, rank: int) -> None:
        """A worker could not load what it was sent: it is sent everything again."""
        with self._lock:
            self.workers.distrust(rank)

    def kill(self, rank: int, seq: int, since: int | None = None) -> bool:
        """End the worker on a rank if it is still in call `seq`; whether it was.

        `since`: and only if it is still in that very call of the function.
        """
        with self._lock:
            return self.workers.kill(rank, seq, since)

    def end_run(self, run: Run, reusable: bool) -> None:
        """Forget a run; its control block serves another if everybody has left. See `OpenMaps.close`."""
        with self._lock:
            self.workers.end_call(run.seq)
            self.open_maps.close(run, reusable)
            self._note_end_of_run()

    # ------------------------------------------------ submitted functions

    def submit_call(
        self,
        fn: Callable[..., object],
        args: tuple[object, ...],
        kwargs: dict[str, object],
        bundle: Bundle | None = None,
    ) -> SubmittedFuture:
        """Have some worker call a function, once. `bundle`: those that it belongs to."""
        self._follow_user()
        self.enter()
        if self.is_closed:
            self.check_open()
        try:
            call = pack_call(fn, args, kwargs, bundle)
            data, segments, root = call.data, call.segments, None
            if len(data) > FUNCTION_INLINE:
                data, its_segments, root = fit(data, FUNCTION_INLINE)
                segments |= its_segments
        except Exception as exc:
            failed = SubmittedFuture()
            bound = functools.partial(fn, *args, **kwargs)
            failed.set_exception(cannot_send(name_of(fn), bound, exc))
            return failed
        surroundings, submissions = snapshot(), self._submissions
        with self._lock:
            refuse_at_exit()
            self._check_usable(CLOSED)
            try:
                self._ensure(self.workers.size)
            except (OSError, MemoryError):
                if self._thread is None or not self.workers.links:
                    raise
                # A worker has died, and there is nothing for another one: the others go on.
            number = self.workers.next_seq()
            future = SubmittedFuture(number, submissions)
            settings = self.workers.sender.settings(surroundings, submissions.settings_in_use)
            equipment = Equipment(segments, call.modules, settings, call.writes_main)
            submitted = Submitted(number, settings, call.split, call.keeps, data)
            keep = root, call.keep
            submissions.put(Submission(future, submitted, fn, equipment, keep, bundle))
        return future

    def abandon(self, bundle: Bundle) -> None:
        """Cancel the functions of a bundle, and end the workers that have any; others take their places.

        At once, but not before this returns: it may be called in a finalizer.
        """
        if self.is_ours:
            self.call_soon(functools.partial(self._submissions.abandon, bundle))

    def validate(self) -> None:
        """Check, for tests, what must hold between the parts whenever the lock is free."""
        with self._lock:
            workers, maps = self.workers, self.open_maps
            taken = {rank for rank, seat in workers.roster.seats.items() if seat.state != EMPTY}
            assert taken == workers.links.keys(), "a rank has a link exactly if its seat is taken"
            assert self._thread is not None or not taken, "workers run without a monitor"
            assert bool(taken) <= (workers.channels.slots is not None), (
                "workers without claim slots"
            )
            for seq, run in maps.runs.items():
                assert seq == run.seq <= workers.last_seq, "a run goes by the number of its call"
                assert run.control is not None, "a run that is told of deaths has a control block"
            maps.validate()
            self._submissions.validate()
