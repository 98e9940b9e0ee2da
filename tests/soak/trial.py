"""One map of the soak, with its fault: what is drawn, what is mapped, and what must come of it.

A *trial* is drawn from a seed of its own: verb, engine, sizes, chunks, fault, and what is killed from outside
meanwhile. It is always the same but for the timing.
"""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError
from typing import Any

import numpy as np
from numpy.typing import NDArray

import shmmap

Array = NDArray[Any]
Ranges = Sequence[tuple[int, int]]

# A trial that takes longer hangs: far more than the 5 s after a fault that are allowed.
HANG_S = 60.0
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
        return f"python -m tests.soak --seed {self.seed} --trial {self.number}"

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
            return shmmap.preduce(self.func, self.x, index, combine=np.add, **options)
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
