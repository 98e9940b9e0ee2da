"""The controller: one host per peer, samples interleaved round by round."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from harness import memory, scripts
from harness.figures import Figure, Result
from harness.peers import ENTRIES

LIMIT_S = 180.0
"""A host that says nothing for this long is ended, and left out with a line."""

BENCHMARKS = Path(__file__).resolve().parent.parent


class LeftOut(Exception):
    """Why a peer is missing from a figure."""


class Host:
    """One peer in an interpreter of its own."""

    def __init__(
        self, figure: Figure, peer: str, workers: int, smoke: bool, items: int | None = None
    ) -> None:
        self._stderr: IO[bytes] = tempfile.TemporaryFile()
        command = [sys.executable, "-m", "harness.host", figure.name, peer, str(workers)]
        command += ["--smoke"] if smoke else []
        command += [f"--items={items}"] if items else []
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=environment(),
            start_new_session=True,
        )
        try:
            said = self._answer()
        except LeftOut:
            self.end()
            raise
        if "left_out" in said:
            self.end()
            raise LeftOut(said["left_out"])
        self.known: list[float] = said["ready"]
        self.n: int = said["n"]

    def sample(self) -> float:
        """Seconds of one sample."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `_answer` says why.
            self.process.stdin.write(b"sample\n")
            self.process.stdin.flush()
        return float(self._answer()["seconds"])

    def end(self) -> None:
        """Let it close by itself, for a while; then end its whole session."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._stderr.close()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], LIMIT_S)
        if not ready:
            raise LeftOut(f"no answer within {LIMIT_S:.0f} s")
        line = self.process.stdout.readline()
        if not line:
            self._stderr.seek(0)
            last = self._stderr.read().decode(errors="replace").strip().splitlines() or ["died"]
            raise LeftOut(f"failed: {last[-1]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def environment() -> dict[str, str]:
    """The environment of a host: it finds this package wherever it is started from."""
    environ = dict(os.environ)
    path = environ.get("PYTHONPATH")
    environ["PYTHONPATH"] = os.pathsep.join([str(BENCHMARKS), *([path] if path else [])])
    # As when installed: importing does not compile, whatever the surroundings say.
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    environ["PYTHONPYCACHEPREFIX"] = str(
        Path(tempfile.gettempdir()) / "benchmarks-of-shmmap-pycache"
    )
    return environ


def run(
    figure: Figure,
    peers: list[str],
    workers: int,
    rounds: int,
    smoke: bool,
    say: Callable[[str], None],
) -> Result:
    """Measure one figure: every peer once per round, in an order that turns with the round."""
    result = Result({})
    sampler = (Scripts if figure.script else Hosts)(figure, workers, smoke)
    with contextlib.closing(sampler):
        alive = []
        for peer in peers:
            try:
                if not ENTRIES[peer].is_installed():
                    raise LeftOut("not installed")
                sampler.prepare(peer)
            except LeftOut as reason:
                result.notes[peer] = str(reason)
                say(f"  {ENTRIES[peer].title}: {reason}")
            else:
                alive.append(peer)
                result.samples[peer] = []
        for index in range(rounds):
            turn = index % max(1, len(alive))
            for peer in alive[turn:] + alive[:turn]:
                try:
                    result.samples[peer].append(sampler.sample(peer))
                except LeftOut as reason:
                    alive.remove(peer)
                    del result.samples[peer]
                    result.notes[peer] = str(reason)
                    say(f"  {ENTRIES[peer].title}: {reason}")
        result.seen = sampler.seen
    return result


class Hosts:
    """Samples of peers that stay: warm calls over data in place."""

    def __init__(self, figure: Figure, workers: int, smoke: bool) -> None:
        self.figure, self.workers, self.smoke = figure, workers, smoke
        self.resident: dict[str, Host] = {}
        self.seen: dict[str, int] = {}
        self.expected: dict[int, list[float]] = {}

    def _start(self, peer: str) -> Host:
        host = Host(self.figure, peer, self.workers, self.smoke)
        try:
            self._check(peer, host)
        except LeftOut:
            host.end()
            raise
        return host

    def prepare(self, peer: str) -> None:
        """Start the host, if it is one that stays."""
        if not self.figure.heavy and ENTRIES[peer].resident:
            self.resident[peer] = self._start(peer)

    def sample(self, peer: str) -> float:
        """One sample, in seconds per call or bytes."""
        host = self.resident.get(peer) or self._start(peer)
        try:
            if self.figure.is_memory:
                assert self.figure.work is not None
                with memory.Peak(host.process.pid) as peak:
                    for _ in range(3):
                        host.sample()
                both = self.figure.work.input_nbytes + self.figure.work.result_nbytes
                return float(peak.nbytes - both)
            seconds = host.sample()
            return seconds / host.n if self.figure.per else seconds
        finally:
            if peer not in self.resident:
                host.end()

    def close(self) -> None:
        """End every host."""
        for host in self.resident.values():
            host.end()

    def _check(self, peer: str, host: Host) -> None:
        work = self.figure.work
        assert work is not None
        if work.verb == "touch":
            self.seen[peer] = int(host.known[0])
            if ENTRIES[peer].kind == "ours" and self.seen[peer] != self.workers:
                raise LeftOut(f"failed: only {self.seen[peer]} workers took part")
            return
        if host.n not in self.expected:
            serial = Host(self.figure, "serial", self.workers, self.smoke, host.n)
            self.expected[host.n] = serial.known
            serial.end()
        expected = self.expected[host.n]
        if len(expected) != len(host.known) or not np.allclose(expected, host.known, rtol=1e-9):
            raise LeftOut("failed: its result differs from serial NumPy's")


class Scripts:
    """Samples that are whole programs."""

    def __init__(self, figure: Figure, workers: int, smoke: bool) -> None:
        assert figure.script is not None
        self.scenario = figure.script
        self.workers, self.smoke = workers, smoke
        self.seen: dict[str, int] = {}
        self.folder = tempfile.TemporaryDirectory()
        self.paths: dict[str, Path] = {}

    def prepare(self, peer: str) -> None:
        """Write the program, and run it once to warm the file cache."""
        text = scripts.script(self.scenario, peer, self.workers, self.smoke)
        if text is None:
            raise LeftOut("has no such program")
        self.paths[peer] = Path(self.folder.name) / f"{peer.replace('-', '_')}_{self.scenario}.py"
        self.paths[peer].write_text(text)
        self.sample(peer)

    def sample(self, peer: str) -> float:
        """Seconds of a whole program, or those it printed."""
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, str(self.paths[peer])],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
            env=environment(),
        )
        seconds = time.perf_counter() - start
        if done.returncode:
            last = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
            raise LeftOut(f"failed: {last[-1]}")
        return float(done.stdout) if self.scenario == "import" else seconds

    def close(self) -> None:
        """Remove the programs."""
        self.folder.cleanup()
