"""A soak: random maps, faults and kills for as long as asked, every result checked against NumPy.

A *trial* is one map, drawn from a seed of its own: verb, engine, sizes, chunks, fault, and what is killed
from outside meanwhile. It either gives what NumPy gives, or raises one error that names exactly what is
missing; then a plain map on the same engine must work. Now and then a whole program that maps is killed
instead, and its workers have to be gone soon after. Between trials descriptors, memory, names and processes
are compared with what they were after the first ones. Stands on the public interface, as `testing` does.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import faulthandler
import gc
import os
import random
import secrets
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from typing import Any

import numpy as np
from numpy.typing import NDArray

import shmmap
from shmmap import testing

__all__ = ["Soak", "SoakError", "Trial", "Violation", "main"]

Array = NDArray[Any]
Ranges = Sequence[tuple[int, int]]

# A trial that takes longer hangs: far more than the 5 s after a fault that are allowed.
HANG_S = 60.0
# What the error after a fault may take, where every process that can run finds a core.
FAULT_S = 5.0
# Trials between two looks at what is left: fewer see a leak sooner, and start more teams.
LOOK_EVERY = 50
# One trial in so many is the killing of a whole program.
PROGRAM_EVERY = 40
# Growth that is no leak yet: fragments, caches. More: a leak is seen later.
RSS_SLACK = 24 << 20
# From so many looks on, what was held in the last third of them is compared with the first third.
LOOKS_FOR_DRIFT = 9
# Growth from the one to the other that is no leak: in an hour, a leak of 2 kB in every map is more.
DRIFT_SLACK = 6 << 20
# The machine's shared memory is not ours alone: only much more than any trial uses is taken for a leak.
MACHINE_SLACK = 1 << 30
NBYTES_MAX = 32 << 20
# Each is a call: more take longer and find no more.
CHUNKS_MAX = 5_000
TIMEOUT_S = 0.3
SENTINEL = -77
STAND_IN = -55

ENGINES = ("default", "clean", "forked team", "fork")
VERBS = ("items", "items into out", "list", "chunks", "chunks in place", "ranges", "reduce")
FAULTS = ("none", "raise", "kill", "exit", "stop", "sleep", "cancel", "outside")
FAULT_WEIGHTS = (0.4, 0.13, 0.1, 0.04, 0.03, 0.03, 0.07, 0.2)


class SoakError(Exception):
    """What a function under test raises on purpose."""


class Violation(AssertionError):
    """Something that must always hold did not."""


def require(condition: Any, text: str) -> None:
    """Raise a `Violation` unless the condition holds."""
    if not condition:
        raise Violation(text)


# ---------------------------------------------------------------- what is mapped


class Work:
    """The function under test: ``2 * value + 1``, or a fault at one index."""

    def __init__(self, fault: str, at: int, once: bool, struck: Array, pause_s: float) -> None:
        self.fault = fault
        self.at = at
        self.once = once
        self.struck = struck
        """How often it has struck; in shared memory, so that it is counted across deaths."""
        self.pause_s = pause_s
        """Slept in every call, so that kills from outside find somebody at work."""

    def meet(self, start: int, stop: int) -> None:
        """Strike if the index is among these."""
        if self.pause_s:
            time.sleep(self.pause_s)
        if not start <= self.at < stop or (self.once and self.struck[0]):
            return
        self.struck[0] += 1
        if self.fault == "raise":
            raise SoakError(f"at {self.at}")
        if self.fault in ("kill", "stop"):
            os.kill(os.getpid(), signal.SIGKILL if self.fault == "kill" else signal.SIGSTOP)
        elif self.fault == "exit":
            os._exit(3)
        elif self.fault == "sleep":
            time.sleep(HANG_S)


class PerItem(Work):
    """For `pmap`: an item and its index."""

    def __call__(self, item: Any, index: Any) -> Any:
        self.meet(int(index), int(index) + 1)
        return 2 * item + 1


class PerChunk(Work):
    """For `pmap_chunks` and `preduce`: a chunk and its indices."""

    def __call__(self, chunk: Array, indices: Array) -> Any:
        self.meet(int(indices[0]), int(indices[-1]) + 1)
        return 2 * chunk + 1


class PerChunkSum(PerChunk):
    """The sum over a chunk, along its first axis."""

    def __call__(self, chunk: Array, indices: Array) -> Any:
        return super().__call__(chunk, indices).sum(axis=0)


class PerRange(Work):
    """For `pmap_ranges`: reads one captured shared array, and writes the other."""

    def __init__(self, source: Array, target: Array, *args: Any) -> None:
        super().__init__(*args)
        self.source = source
        self.target = target

    def __call__(self, start: int, stop: int) -> None:
        self.meet(start, stop)
        self.target[start:stop] = 2 * self.source[start:stop] + 1


# ---------------------------------------------------------------- one map


@dataclasses.dataclass(frozen=True)
class Trial:
    """One map with its fault: everything but the timing is decided here."""

    seed: int
    number: int
    verb: str
    engine: str
    n: int
    item_shape: tuple[int, ...]
    dtype: str
    chunksize: int | str
    schedule: str
    workers: int
    fault: str
    at: int
    once: bool
    on_error: str
    retries: int
    shared: bool
    by_value: bool
    kills: int
    when_s: float

    @classmethod
    def draw(cls, seed: int, number: int) -> Trial:
        """Trial `number` of a seed; always the same."""
        rng = random.Random(f"{seed}-{number}")
        verb = rng.choice(VERBS)
        fault = rng.choices(FAULTS, FAULT_WEIGHTS)[0]
        dtype = rng.choice(("i8", "f8", "f4", "i4"))
        item_shape = rng.choice(((), (), (3,), (40, 5), (1000,)))
        item_nbytes = int(np.prod(item_shape, dtype=int)) * np.dtype(dtype).itemsize
        # Per item each is a call. Vectorised: up to what fits.
        most = min(CHUNKS_MAX, NBYTES_MAX // item_nbytes)
        if verb in ("chunks", "chunks in place", "ranges", "reduce"):
            most = NBYTES_MAX // item_nbytes
        n = int(most ** rng.random())
        on_error = rng.choice(("raise", "raise", "continue", "call"))
        retries = 0 if verb == "chunks in place" else rng.choice((0, 0, 0, 1, 2))
        return cls(
            seed,
            number,
            verb,
            rng.choice(ENGINES),
            n,
            item_shape,
            dtype,
            rng.choice(("auto", "auto", "64KiB", max(1, n // CHUNKS_MAX, int(n ** rng.random())))),
            rng.choice(("dynamic", "dynamic", "static")),
            rng.choice((1, 2, 2, 3)),
            fault,
            rng.randrange(n),
            rng.random() < 0.5,
            on_error,
            retries,
            rng.random() < 0.7,
            rng.random() < 0.4,
            rng.randrange(1, 4),
            rng.random() ** 2 * 0.15,
        )

    @property
    def reproduction(self) -> str:
        """A command that draws this trial again; kills from outside fall at other moments."""
        return f"python -m shmmap.testing soak --seed {self.seed} --trial {self.number}"

    @property
    def is_safe(self) -> bool:
        """Whether a chunk lost with its worker is run again without being asked to."""
        return self.verb not in ("chunks in place", "ranges")

    @property
    def is_per_item(self) -> bool:
        """Whether the function is called for one index at a time."""
        return self.verb in ("items", "items into out", "list")

    @property
    def must_succeed(self) -> bool:
        """Whether nothing may come of the fault."""
        if self.fault == "none":
            return True
        if self.fault in ("raise", "stop", "sleep"):
            return self.once and self.retries > 0
        if self.fault in ("kill", "exit"):
            return self.once and (self.is_safe or self.retries > 0)
        return False

    @property
    def may_succeed(self) -> bool:
        """Whether the fault may be without consequence."""
        return self.must_succeed or self.fault in ("cancel", "outside")

    @property
    def expected_error(self) -> type[BaseException]:
        """The error the fault ends in, if it ends in one."""
        errors: dict[str, type[BaseException]] = {
            "raise": SoakError,
            "stop": TimeoutError,
            "sleep": TimeoutError,
            "cancel": CancelledError,
        }
        return errors.get(self.fault, shmmap.WorkerDied)


class Map:
    """A trial's arrays and its call."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        rng = np.random.default_rng([trial.seed, trial.number])
        shape = (trial.n, *trial.item_shape)
        values = rng.integers(0, 1000, shape).astype(trial.dtype)
        self.expected: Array = 2 * values + 1
        if trial.verb == "reduce":
            # Whole numbers, so the sum is exact in whatever order, if it fits.
            values = values.astype("i8")
            self.expected = (2 * values + 1).sum(axis=0)
        shared = trial.shared or trial.verb in ("chunks in place", "ranges")
        self.x = shmmap.asshared(values) if shared else values
        self.out: Array | None = None
        if trial.verb in ("items into out", "ranges"):
            self.out = shmmap.full(shape, SENTINEL, trial.dtype)
        elif trial.verb == "chunks in place":
            self.out = self.x
        busy = trial.fault in ("outside", "cancel")
        pause_s = min(0.01, 1.0 / trial.n) if busy else 0.0
        args = (trial.fault, trial.at, trial.once, shmmap.zeros(1, int), pause_s)
        if trial.verb == "ranges":
            assert self.out is not None
            func: Any = PerRange(self.x, self.out, *args)
        elif trial.verb == "reduce":
            func = PerChunkSum(*args)
        else:
            func = (PerItem if trial.is_per_item else PerChunk)(*args)
        self.func: Any = func
        if trial.by_value:
            self.func = lambda *args: func(*args)

    def start(self, engine: Any) -> Any:
        """Begin the map; its future is returned."""
        trial = self.trial
        options: dict[str, Any] = {
            "engine": engine,
            "workers": trial.workers,
            "chunksize": trial.chunksize,
            "schedule": trial.schedule,
            "retries": trial.retries,
            "on_error": trial.on_error if trial.on_error != "call" else self.stand_in,
            "wait": False,
        }
        if trial.fault in ("stop", "sleep"):
            options["timeout"] = TIMEOUT_S
        index = range(trial.n) if trial.verb == "list" else np.arange(trial.n)
        if trial.verb == "ranges":
            return shmmap.pmap_ranges(self.func, trial.n, **options)
        if trial.verb == "reduce":
            return shmmap.preduce(self.func, self.x, index, **options)
        if trial.is_per_item:
            out = list if trial.verb == "list" else self.out
            return shmmap.pmap(self.func, self.x, index, out=out, **options)
        return shmmap.pmap_chunks(self.func, self.x, index, out=self.out, **options)

    def stand_in(self, exc: Exception, start: int, stop: int) -> Any:
        """What is put in place of what failed."""
        kinds = (shmmap.WorkerDied, self.trial.expected_error)
        require(isinstance(exc, kinds), f"on_error got {exc!r}")
        if self.trial.verb == "reduce":
            return (2 * np.asarray(self.x[start:stop], "i8") + 1).sum(axis=0)
        return STAND_IN

    # ------------------------------------------------ checks

    def check_value(self, result: Any, error: BaseException | None = None) -> None:
        """Check a result: NumPy's, but where a call stood in."""
        trial = self.trial
        failed = np.zeros(trial.n, bool)
        if trial.on_error == "call" and not trial.must_succeed and trial.verb != "reduce":
            failed = self._stood_in(result)
        require(
            trial.may_succeed or failed.any() or (trial.on_error == "call"),
            f"no error came of {trial.fault!r}",
        )
        if trial.verb == "ranges":
            require(result is None or failed.any(), f"a result of type {type(result)}")
            if trial.on_error != "call":
                self._compare(self.out, failed)
        elif trial.verb == "reduce":
            require(np.array_equal(result, self.expected), "the reduction is not NumPy's")
        else:
            if self.out is not None:
                require(result is self.out, "out was not returned")
            self._compare(result, failed)

    def _stood_in(self, result: Any) -> Any:
        """Which indices hold the stand-in."""
        trial = self.trial
        if trial.verb == "ranges":
            return np.array([STAND_IN in (result or ())])
        failed = np.zeros(trial.n, bool)
        for i in range(trial.n) if trial.verb == "list" else ():
            failed[i] = np.all(np.asarray(result[i]) == STAND_IN)
        if trial.verb != "list":
            failed = (np.asarray(result) == STAND_IN).reshape(trial.n, -1).all(axis=1)
        if trial.fault != "outside" and trial.expected_error is not CancelledError:
            require(not failed.any() or failed[trial.at], "a stand-in where nothing failed")
        if trial.fault == "raise" and trial.is_per_item:
            require(failed.sum() == 1, f"{failed.sum()} stand-ins for one failed item")
        return failed

    def check_error(self, error: BaseException) -> None:
        """Check an error: the right kind, the ranges exact, and everything else in place."""
        trial = self.trial
        require(not trial.must_succeed, f"an error came of {trial.fault!r}: {error!r}")
        kinds = (trial.expected_error, shmmap.MapError)
        require(isinstance(error, kinds), f"{trial.fault!r} ended in {error!r}")
        if isinstance(error, shmmap.MapError):
            require(trial.on_error == "continue", "a MapError without being asked for")
            for each in error.exceptions:
                require(isinstance(each, kinds), f"{trial.fault!r} ended in {each!r}")
        elif trial.fault == "raise":
            notes = "\n".join(getattr(error, "__notes__", ()))
            named = f"index {trial.at} " if trial.is_per_item else "for indices ["
            require(named in notes, f"the index {trial.at} is not named: {notes}")
            require("pid" in notes, f"no pid is named: {notes}")
        if not isinstance(error, shmmap.MapError | shmmap.WorkerDied):
            return
        failed = self._failed(error.failed, str(error))
        if trial.fault in ("kill", "exit", "raise", "sleep", "stop"):
            require(failed[trial.at], f"index {trial.at} is not among {error.failed}")
        if isinstance(error, shmmap.MapError) and trial.fault != "outside":
            self._check_extent(error.failed)
        if self.out is not None:
            self._compare(self.out, failed)
        elif error.result is not None and trial.verb != "reduce":
            self._compare(error.result, failed)
            if isinstance(error, shmmap.MapError) and trial.verb != "list":
                blank = np.asarray(error.result)[failed]
                require((np.isnan(blank) if blank.dtype.kind == "f" else blank == 0).all(), "blank")

    def _failed(self, ranges: Ranges, text: str) -> Any:
        """Ranges as a mask; they must be in order and disjoint."""
        failed = np.zeros(self.trial.n, bool)
        at = 0
        for start, stop in ranges:
            require(at <= start < stop <= self.trial.n, f"odd ranges {ranges}")
            failed[start:stop] = True
            at = stop
        require(failed.any(), f"no range is named: {text}")
        return failed

    def _check_extent(self, ranges: Ranges) -> None:
        """One fault at one index costs one item, or one chunk."""
        trial = self.trial
        require(len(ranges) == 1, f"one fault, and {ranges} failed")
        start, stop = ranges[0]
        if trial.fault == "raise" and trial.is_per_item:
            require(stop - start == 1, f"one item raised, and {ranges} failed")
        elif isinstance(trial.chunksize, int):
            first = trial.at // trial.chunksize * trial.chunksize
            chunk = (first, min(first + trial.chunksize, trial.n))
            require((start, stop) == chunk, f"chunk {chunk} failed, and {ranges} is named")

    def _compare(self, result: Any, failed: Any) -> None:
        """Compare with NumPy's result where nothing failed."""
        if self.trial.verb == "list":
            left = np.flatnonzero(~failed).tolist()
            wrong = [i for i in left if not self._is_item(result[i], i)]
        elif failed.all() and self.out is None:
            # Nothing but stand-ins: they tell the form.
            require(len(result) == self.trial.n, f"shape {result.shape}")
            wrong = []
        else:
            require(result.shape == self.expected.shape, f"shape {result.shape}")
            require(result.dtype == self.expected.dtype, f"dtype {result.dtype}")
            same = (result == self.expected).reshape(self.trial.n, -1).all(axis=1)
            wrong = np.flatnonzero(~same & ~failed).tolist()
        require(not wrong, f"{len(wrong)} wrong items, from index {wrong[:1]}")

    def _is_item(self, item: Any, i: int) -> bool:
        return bool(np.array_equal(item, self.expected[i]))


# ---------------------------------------------------------------- killing


def descendants(pid: int) -> list[int]:
    """All processes that this one has started, directly or not."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                found += map(int, file.read().split())
    for child in list(found):
        found += descendants(child)
    return found


def _command(pid: int) -> str:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline") as file:
        return file.read()
    return ""


def kill_one(rng: random.Random) -> bool:
    """Kill one worker, or the process that forks them, but never the tracker of multiprocessing."""
    victims = [pid for pid in descendants(os.getpid()) if "resource_tracker" not in _command(pid)]
    if not victims:
        return False
    with contextlib.suppress(OSError):
        pidfd = os.pidfd_open(rng.choice(victims))
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)
        return True
    return False


def be_victim(seed: int) -> None:
    """Map without end: what a program does that is going to be killed."""
    rng = random.Random(seed)
    print("mapping", flush=True)
    while True:
        x = shmmap.asshared(np.arange(int(2 ** rng.uniform(4, 21))))
        start = rng.choice(("clean", "fork"))
        with shmmap.Team(rng.randint(1, 3), start=start) as team:
            for _ in range(rng.randint(1, 4)):
                shmmap.pmap_chunks(np.negative, x, engine=team)
                shmmap.pmap(str, range(50))


def _carriers(mark: str) -> list[int]:
    """Processes in whose environment a word stands."""
    found = []
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
            if mark.encode() in file.read() and _is_running(pid):
                found.append(pid)
    return found


def _is_running(pid: int) -> bool:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] not in "ZX"
    return False


# ---------------------------------------------------------------- the soak


@dataclasses.dataclass(frozen=True)
class Usage:
    """What this process and its children hold, at rest."""

    descriptors: int
    processes: int
    rss: int
    shared: int
    """Shared memory of ours, in bytes."""
    machine: int
    """Shared memory in use on the whole machine, other programs' included."""
    names: int

    @classmethod
    def measure(cls) -> Usage:
        """Look now."""
        with contextlib.suppress(AttributeError):
            ctypes.CDLL(None).malloc_trim(
                0
            )  # what glibc keeps for later is no leak; see `keep_one_arena`
        ours = [os.getpid(), *descendants(os.getpid())]
        memory = {entry[:2]: entry[2] for pid in ours for entry in testing._memory(str(pid))}
        fields: dict[str, str] = {}
        for path in ("/proc/self/status", "/proc/meminfo"):
            with open(path) as file:
                for line in file:
                    name, _, value = line.partition(":")
                    fields[name] = value
        return cls(
            len(os.listdir("/proc/self/fd")),
            len(ours) - 1,
            int(fields["VmRSS"].split()[0]) << 10,
            sum(memory.values()),
            int(fields["Shmem"].split()[0]) << 10,
            sum(name.startswith(f"shmmap-{os.getpid()}-") for name in os.listdir("/dev/shm")),
        )


def keep_one_arena() -> None:
    """Have all threads of this process allocate from the one arena that glibc can give back whole.

    A thread's own arena keeps what lies free at its end, up to 64 MiB, and ``malloc_trim`` does not look
    there. A map that waits in a thread of its own draws one of them by chance, so that memory seemed to grow,
    in steps, for hours, while what was allocated stayed the same.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(-8, 1)  # M_ARENA_MAX


class Soak:
    """Runs trials and counts; the first violation ends it."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.counts: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.slowest_s = 0.0
        self.first: Usage | None = None
        self.last: Usage | None = None
        self.rss: list[int] = []
        """At every look."""
        self._current = ""
        self._raised_elsewhere: list[str] = []

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Note exceptions nobody gets: in threads, and in what the garbage collector calls."""
        before = threading.excepthook, sys.unraisablehook

        def in_thread(args: Any) -> None:
            self._raised_elsewhere.append(f"thread {args.thread}: {args.exc_value!r}")
            before[0](args)

        def unraisable(args: Any) -> None:
            self._raised_elsewhere.append(f"{args.err_msg} {args.object!r}: {args.exc_value!r}")
            before[1](args)

        threading.excepthook, sys.unraisablehook = in_thread, unraisable
        try:
            yield
        finally:
            threading.excepthook, sys.unraisablehook = before

    def run(self, minutes: float) -> None:
        """Run trials until the time is over."""
        stop = time.monotonic() + 60 * minutes
        number = 0
        while time.monotonic() < stop:
            if number % PROGRAM_EVERY == PROGRAM_EVERY - 1:
                self.kill_program(number)
            else:
                self.run_trial(Trial.draw(self.seed, number))
            number += 1
            if number % LOOK_EVERY == 0:
                self.look()
        self.look()

    def run_trial(self, trial: Trial) -> None:
        """Run one trial, and a plain map after it."""
        self._current = f"{trial}\n  {trial.reproduction}"
        # The timer tells which trial hangs; where even that cannot run, the other one ends it all.
        faulthandler.dump_traceback_later(HANG_S + 5, exit=True)
        timer = threading.Timer(HANG_S, self._tell_hang)
        timer.daemon = True
        timer.start()
        with self._guard(trial), contextlib.ExitStack() as stack:
            engine: Any = {"default": None, "fork": "fork"}.get(trial.engine)
            if trial.engine in ("clean", "forked team"):
                start = "clean" if trial.engine == "clean" else "fork"
                engine = stack.enter_context(shmmap.Team(trial.workers, start=start))
            self._run_map(Map(trial), engine)
            x = np.arange(20)
            again = shmmap.pmap(np.negative, x, engine=engine, workers=trial.workers, chunksize=1)
            require(np.array_equal(again, -x), "the next map is wrong")
        timer.cancel()
        faulthandler.cancel_dump_traceback_later()
        require(not self._raised_elsewhere, "; ".join(self._raised_elsewhere))

    def _tell_hang(self) -> None:
        print(f"hang: in {self._current}", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def _guard(self, trial: Trial) -> Iterator[None]:
        """Turn an error where none is allowed into a violation."""
        try:
            yield
        except Violation:
            raise
        except Exception as exc:
            raise Violation(f"unexpected {exc!r}") from exc

    def _run_map(self, map: Map, engine: Any) -> None:
        trial = map.trial
        rng = random.Random()  # moments are never the same anyway
        started = time.monotonic()
        future = map.start(engine)
        fault_at = started
        if trial.fault == "outside":
            for _ in range(trial.kills):
                time.sleep(trial.when_s / trial.kills)
                self.counts["kills"] += kill_one(rng)
            fault_at = time.monotonic()
        elif trial.fault == "cancel":
            time.sleep(trial.when_s)
            future.cancel()
            fault_at = time.monotonic()
        self.counts["maps"] += 1
        try:
            result = future.result(timeout=HANG_S)
        except (Exception, CancelledError) as exc:
            took_s = time.monotonic() - fault_at
            map.check_error(exc)
            self.errors[type(exc).__name__] += 1
            # The same fault strikes once more for every retry; with "continue" and a callable the rest of the
            # map comes first.
            limit_s = (
                FAULT_S
                * (1 + trial.retries + (trial.on_error != "raise"))
                * testing._waiting_per_core()
            )
            require(took_s < limit_s, f"the error came {took_s:.1f} s after the fault")
            self.slowest_s = max(self.slowest_s, took_s)
        else:
            map.check_value(result)
        if trial.fault in ("kill", "exit") and map.func is not None:
            self.counts["kills"] += 1

    def kill_program(self, number: int) -> None:
        """Kill a program that maps, or its whole process group; nothing of it may be left."""
        rng = random.Random(f"{self.seed}-{number}")
        mark = secrets.token_hex(16)
        self._current = f"program {number} of seed {self.seed}"
        program = subprocess.Popen(
            [sys.executable, "-c", f"from shmmap._soak import be_victim; be_victim({number})"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"SHMMAP_SOAK": mark, "PYTHONPATH": os.pathsep.join(sys.path)},
            process_group=0,
        )
        assert program.stdout is not None
        program.stdout.readline()
        time.sleep(rng.random() ** 2 * 0.8)
        if rng.random() < 0.5:
            os.killpg(program.pid, signal.SIGKILL)
        else:
            program.kill()
        program.wait()
        program.stdout.close()
        self.counts["programs killed"] += 1
        try:
            testing.wait_until(lambda: not _carriers(mark), FAULT_S, interval_s=0.01)
        except TimeoutError:
            left = _carriers(mark)
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            raise Violation(f"{len(left)} processes outlived their caller") from None
        # A name may stay if the kill fell between two system calls; then it is empty, and is swept.
        for name in os.listdir("/dev/shm"):
            if name.startswith(f"shmmap-{program.pid}-"):
                require(os.stat(f"/dev/shm/{name}").st_blocks == 0, f"{name} holds memory")

    def look(self) -> None:
        """Compare what is held at rest with what was held at the first look."""
        self._current = f"the look after {self.counts['maps']} maps of seed {self.seed}"
        for _ in range(2):
            # Arrays in cycles first, or the last of them would leave an empty slab for the next small array;
            # then those in what the team was part of.
            gc.collect()
            shmmap.shutdown()
        with contextlib.suppress(TimeoutError):
            testing.wait_until(lambda: self._is_flat(Usage.measure()), FAULT_S, interval_s=0.05)
        now = Usage.measure()
        self.last = now
        if self.first is None:
            self.first = now
            return
        require(self._is_flat(now), f"not flat: first {self.first}, now {now}")
        self.rss.append(now.rss)
        drift = self.rss_drift
        require(
            drift < DRIFT_SLACK, f"memory grows: {drift >> 10} kiB from the first third to the last"
        )

    def _is_flat(self, now: Usage) -> bool:
        first = self.first
        if first is None:
            return now.processes == 0 or not any(
                "shmmap" in _command(pid) for pid in descendants(os.getpid())
            )
        return (
            now.descriptors <= first.descriptors
            and now.processes <= first.processes
            and now.shared <= first.shared
            and now.names == 0
            and now.rss <= first.rss + RSS_SLACK
            and now.machine <= first.machine + MACHINE_SLACK
        )

    @property
    def rss_drift(self) -> int:
        """Bytes by which memory grew from the first third of all looks to the last: their medians."""
        third = len(self.rss) // 3
        if len(self.rss) < LOOKS_FOR_DRIFT:
            return 0
        return int(statistics.median(self.rss[-third:]) - statistics.median(self.rss[:third]))

    @property
    def summary(self) -> str:
        """What was done, in a line."""
        drift = "unknown"
        if self.first is not None and self.last is not None:
            changes = [
                (now - then, name, unit)
                for name, unit in (
                    ("descriptors", 1),
                    ("processes", 1),
                    ("rss", 1 << 20),
                    ("shared", 1 << 20),
                    ("machine", 1 << 20),
                )
                for then, now in [(getattr(self.first, name), getattr(self.last, name))]
            ]
            drift = ", ".join(
                f"{name} {change / unit:+.0f}{' MiB' if unit > 1 else ''}"
                for change, name, unit in changes
            )
        errors = ", ".join(f"{count} {name}" for name, count in sorted(self.errors.items()))
        return (
            f"{self.counts['maps']} maps, {self.counts['kills']} kills of workers, "
            f"{self.counts['programs killed']} programs killed; errors as expected: "
            f"{errors or 'none'} (slowest {self.slowest_s:.1f} s); drift: {drift}, "
            f"rss from first to last third {self.rss_drift / (1 << 20):+.1f} MiB; seed {self.seed}"
        )

    def describe(self, violation: Violation) -> str:
        """Where a violation happened, and how to have it again."""
        return f"violation: {violation}\n  in {self._current}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a soak from the command line; the exit status is 1 after a violation."""
    parser = argparse.ArgumentParser(prog="python -m shmmap.testing soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long (default 1)")
    parser.add_argument("--seed", type=int, default=None, help="of the trials; random by default")
    parser.add_argument("--trial", type=int, default=None, help="run this trial of the seed alone")
    parser.add_argument(
        "--times", type=int, default=20, help="how often, with --trial (default 20)"
    )
    options = parser.parse_args(arguments)
    seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    keep_one_arena()
    soak = Soak(seed)
    status = 0
    with soak.watch():
        try:
            if options.trial is None:
                soak.run(options.minutes)
            else:
                for _ in range(options.times):
                    soak.run_trial(Trial.draw(seed, options.trial))
                soak.look()
        except Violation as violation:
            print(soak.describe(violation), file=sys.stderr, flush=True)
            if violation.__cause__ is not None:
                import traceback

                traceback.print_exception(violation.__cause__)
            status = 1
        finally:
            shmmap.shutdown()
    print(("VIOLATED after " if status else "") + soak.summary, flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
