"""The controller: one host per peer, samples interleaved round by round.

A figure takes a bounded time whatever the peers do: slow ones take part in fewer rounds (the tables
say so), and hosts are started all at once, each once in a figure.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from harness import machine, memory, scripts
from harness.calls import Kind
from harness.figures import Figure
from harness.hosts import LIMIT_S, START_S, Host, LeftOut, environment
from harness.peers import ENTRIES
from harness.results import Result

MAIN_S, PEER_S = 6.0, 3.0
"""How long the samples of one peer may take in one figure. Who is slower sits out some rounds: `MAIN_S`
for those that the targets speak of, less for the others. More rounds say little more: see the spread."""
LEAST = 3
"""Rounds that everybody takes part in, however slow; one less where a sample takes longer than `SLOW_S`."""
SLOW_S = 4.0
MEMORY = 0.6
"""The share of the memory available that the hosts of one wave may take."""


def run(
    figure: Figure,
    peers: list[str],
    workers: int,
    rounds: int,
    smoke: bool,
    say: Callable[[str], None],
) -> Result:
    """Measure one figure: in each wave every peer once per round, in an order that turns."""
    result = Result()

    def leave_out(peer: str, reason: LeftOut) -> None:
        result.notes[peer] = str(reason)
        say(f"  {ENTRIES[peer].title}: {reason}")

    there = []
    for peer in peers:
        if ENTRIES[peer].is_installed():
            there.append(peer)
        else:
            leave_out(peer, LeftOut("not installed"))
    main = {"serial", *(peer for peer in there if ENTRIES[peer].kind in ("ours", "limit"))}
    main |= {peer for target in figure.targets for peer in target.peers}
    busy = machine.Busy()
    if figure.kind is not None:
        run_kind(figure.kind, there, workers, rounds, smoke, result)
        result.busy = busy.shares()
        return result
    sampler = (Scripts if figure.script else Hosts)(figure, workers, smoke)
    with contextlib.closing(sampler):
        for wave in sampler.waves(there):
            alive = list(sampler.open(wave, leave_out))
            spent = dict.fromkeys(alive, 0.0)
            for index in range(rounds):
                going = [peer for peer in alive if goes_on(index, spent[peer], peer in main)]
                # The library goes along for as long as there is somebody to be compared with.
                if going in ([], ["shmmap"]) and len(alive) > 1:
                    break
                if "shmmap" in alive and "shmmap" not in going:
                    going.append("shmmap")
                turn = index % max(1, len(going))
                taken: dict[str, float] = {}
                for peer in going[turn:] + going[:turn]:
                    start = time.perf_counter()
                    try:
                        taken[peer] = sampler.sample(peer)
                    except LeftOut as reason:
                        alive.remove(peer)
                        leave_out(peer, reason)
                    else:
                        spent[peer] += time.perf_counter() - start
                result.rounds.append(taken)
            sampler.shut([peer for peer in wave if peer != "shmmap"])
        result.seen = sampler.seen
    for taken in result.rounds:
        for peer in result.notes:
            taken.pop(peer, None)
    result.busy = busy.shares()
    return result


def run_kind(
    kind: Kind, peers: list[str], workers: int, rounds: int, smoke: bool, result: Result
) -> None:
    """Measure a kind of call in as many processes as there are rounds."""
    cpu: dict[str, list[float]] = {peer: [] for peer in peers}
    command = [sys.executable, "-m", "harness.call_host", kind.name, str(workers), *peers]
    for _ in range(rounds):
        done = subprocess.run(
            command + ["--smoke"] * smoke,
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
            env=environment(),
        )
        if done.returncode:
            last = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
            result.notes["shmmap"] = f"failed: {last[-1]}"
            return
        calls = len(kind.items(smoke)) if kind.per else 1
        answer = json.loads(done.stdout)
        result.rounds.append({peer: answer[peer][kind.is_cpu] / calls for peer in peers})
        for peer in peers:
            cpu[peer].append(answer[peer][1] / calls)
    result.cpu = {peer: statistics.median(values) for peer, values in cpu.items()}


def goes_on(taken: int, spent_s: float, is_main: bool) -> bool:
    """Whether a peer takes part in one more round, after so many that took it so long."""
    if taken < LEAST:
        return taken < 2 or spent_s / taken < SLOW_S
    return spent_s + spent_s / taken <= (MAIN_S if is_main else PEER_S)


class Hosts:
    """Samples of peers that stay for a wave: warm calls over data in place."""

    def __init__(self, figure: Figure, workers: int, smoke: bool) -> None:
        assert figure.work is not None
        self.figure, self.workers, self.smoke = figure, workers, smoke
        self.work = figure.work
        self.hosts: dict[str, Host] = {}
        self.seen: dict[str, int] = {}
        self.expected: dict[int, list[float]] = {}

    def waves(self, peers: list[str]) -> list[list[str]]:
        """Groups of peers that fit into memory together, the library in each of them.

        Starting a host is dear where the data are large, and so each is started once. Idle hosts do
        not disturb; one whose daemons never rest comes last, alone with the library.
        """
        work = self.work
        both = work.input_nbytes + work.result_nbytes
        # Whoever is at work may hold its results two more times: pickled, and put together.
        room = int(MEMORY * machine.available_nbytes()) - 3 * work.result_nbytes
        most = max(2, room // (both + (100 << 20)))
        first = [peer for peer in peers if peer == "shmmap"]
        others = [peer for peer in peers if peer not in first and ENTRIES[peer].resident]
        # The check of the results needs the serial host, once.
        others.sort(key=lambda peer: peer != "serial")
        size = max(1, most - len(first))
        groups = [others[i : i + size] for i in range(0, len(others), size)]
        groups += [[peer] for peer in peers if not ENTRIES[peer].resident]
        return [first + group for group in groups] or [first]

    def open(self, peers: list[str], leave_out: Callable[[str, LeftOut], None]) -> list[str]:
        """Start the hosts that do not run yet, all at once; those whose result is right are returned."""
        new = [peer for peer in peers if peer not in self.hosts]
        for peer in new:
            self.hosts[peer] = Host(self.figure, peer, self.workers, self.smoke)
        right = []
        for peer in peers:
            try:
                if peer in new:
                    self.hosts[peer].wait_ready()
            except LeftOut as reason:
                leave_out(peer, reason)
                self.shut([peer])
            else:
                right.append(peer)
        for peer in right[:]:
            try:
                if peer in new:
                    self._check(peer, self.hosts[peer])
            except LeftOut as reason:
                leave_out(peer, reason)
                self.shut([peer])
                right.remove(peer)
        return right

    def _times(self, host: Host) -> int:
        """Samples in which a peak of memory is looked for."""
        return 3 if self.figure.is_memory and host.sample_s < 0.5 else 1

    def sample(self, peer: str) -> float:
        """One sample, in seconds per call or bytes."""
        host = self.hosts[peer]
        try:
            if self.figure.is_memory:
                with memory.Peak(host.process.pid) as peak:
                    for _ in range(self._times(host)):
                        host.sample()
                return float(peak.nbytes - self.work.input_nbytes - self.work.result_nbytes)
            seconds = host.sample()
        except LeftOut:
            self.shut([peer])
            raise
        return seconds / host.n if self.figure.per else seconds

    def shut(self, peers: list[str]) -> None:
        """End these hosts, all at once."""
        hosts = [self.hosts.pop(peer) for peer in peers if peer in self.hosts]
        for host in hosts:
            host.let_go()
        for host in hosts:
            host.end()

    def close(self) -> None:
        """End every host."""
        self.shut(list(self.hosts))

    def _check(self, peer: str, host: Host) -> None:
        if self.work.verb == "touch":
            self.seen[peer] = int(host.known[0])
            if ENTRIES[peer].kind == "ours" and self.seen[peer] != self.workers:
                raise LeftOut(f"failed: only {self.seen[peer]} workers took part")
            return
        if host.n not in self.expected:
            self.expected[host.n] = self._ask_serial(host.n)
        expected = self.expected[host.n]
        if len(expected) != len(host.known) or not np.allclose(expected, host.known, rtol=1e-9):
            raise LeftOut("failed: its result differs from serial NumPy's")

    def _ask_serial(self, n: int) -> list[float]:
        """What is right: told by the serial host, which is there if it is a peer itself."""
        serial = self.hosts.get("serial")
        if serial is not None:
            return serial.known if serial.n == n else serial.expect(n)
        serial = Host(self.figure, "serial", self.workers, self.smoke)
        try:
            serial.wait_ready()
            return serial.known if serial.n == n else serial.expect(n)
        finally:
            serial.end()


class Scripts:
    """Samples that are whole programs."""

    def __init__(self, figure: Figure, workers: int, smoke: bool) -> None:
        assert figure.script is not None
        self.scenario = figure.script
        self.workers, self.smoke = workers, smoke
        self.seen: dict[str, int] = {}
        self.folder = tempfile.TemporaryDirectory()
        self.paths: dict[str, Path] = {}

    def waves(self, peers: list[str]) -> list[list[str]]:
        """All together: nothing stays."""
        return [peers]

    def open(self, peers: list[str], leave_out: Callable[[str, LeftOut], None]) -> list[str]:
        """Write the programs, and run each once to warm the file cache."""
        able = []
        for peer in peers:
            text = scripts.script(self.scenario, peer, self.workers, self.smoke)
            name = f"{peer.replace('-', '_')}_{self.scenario}.py"
            self.paths[peer] = Path(self.folder.name) / name
            try:
                if text is None:
                    raise LeftOut("has no such program")
                self.paths[peer].write_text(text)
                if self.scenario != "idle":
                    self.sample(peer)
            except LeftOut as reason:
                leave_out(peer, reason)
            else:
                able.append(peer)
        return able

    def shut(self, peers: list[str]) -> None:
        """Nothing stays."""

    def sample(self, peer: str) -> float:
        """Seconds of a whole program, or those it printed."""
        start = time.perf_counter()
        try:
            done = subprocess.run(
                [sys.executable, str(self.paths[peer])],
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=False,
                env=environment(),
            )
        except subprocess.TimeoutExpired:
            raise LeftOut(f"no answer within {LIMIT_S:.0f} s") from None
        seconds = time.perf_counter() - start
        if done.returncode:
            last = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
            raise LeftOut(f"failed: {last[-1]}")
        return seconds if self.scenario == "cold" else float(done.stdout)

    def close(self) -> None:
        """Remove the programs."""
        self.folder.cleanup()
