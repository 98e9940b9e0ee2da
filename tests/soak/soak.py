"""A soak: random maps, faults and kills for as long as asked, every result checked against NumPy.

A trial, see `trial`, gives what NumPy gives, or raises one error that names exactly what is missing; then a
plain map on the same engine must work. Now and then a whole program that maps is killed
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

import shmmap
from shmmap._system.kernel_files import read_kernel_file
from shmmap.testing import wait_until
from shmmap.testing.census import memory_of, waiting_per_core
from tests.soak.trial import HANG_S, Map, Trial, Violation, require

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


# ---------------------------------------------------------------- killing


def descendants(pid: int) -> list[int]:
    """All processes that this one has started, directly or not."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                found += map(int, file.read().split())
    for child in list(found):
        found += descendants(child)
    return found


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return read_kernel_file(f"/proc/{pid}/cmdline")
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
    with contextlib.suppress(OSError):
        return read_kernel_file(f"/proc/{pid}/stat").rpartition(")")[2].split()[0] not in "ZX"
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
        memory = {entry[:2]: entry[2] for pid in ours for entry in memory_of(str(pid))}
        fields: dict[str, str] = {}
        for path in ("/proc/self/status", "/proc/meminfo"):
            for line in read_kernel_file(path).splitlines():
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
                FAULT_S * (1 + trial.retries + (trial.on_error != "raise")) * waiting_per_core()
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
            [sys.executable, "-c", f"from tests.soak.soak import be_victim; be_victim({number})"],
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
            wait_until(lambda: not _carriers(mark), FAULT_S, interval_s=0.01)
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
            wait_until(lambda: self._is_flat(Usage.measure()), FAULT_S, interval_s=0.05)
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
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
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
