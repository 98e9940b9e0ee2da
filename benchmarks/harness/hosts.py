"""One peer in an interpreter of its own, from the side of who measures: see `host` for the other."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

from harness.figures import Figure

LIMIT_S = 60.0
"""A host that says nothing for this long is ended, and left out with a line."""
START_S = 150.0
"""The same while it starts, which others do beside it."""
BENCHMARKS = Path(__file__).resolve().parent.parent


class LeftOut(Exception):
    """Why a peer is missing from a figure."""


class Host:
    """One peer in an interpreter of its own."""

    known: list[float]
    """Fingerprint of its result, for its own number of items."""
    n: int
    """Items it does; fewer than others where an item is dear to it."""
    sample_s: float
    """About how long a sample takes."""

    def __init__(self, figure: Figure, peer: str, workers: int, smoke: bool) -> None:
        self._stderr: IO[bytes] = tempfile.TemporaryFile()
        command = [sys.executable, "-m", "harness.host", figure.name, peer, str(workers)]
        command += ["--smoke"] if smoke else []
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=environment(),
            start_new_session=True,
        )

    def wait_ready(self) -> None:
        """Wait until the work was done once and is warm."""
        said = self._answer(START_S)
        if "left_out" in said:
            raise LeftOut(said["left_out"])
        self.known, self.n, self.sample_s = said["ready"], said["n"], said["sample_s"]
        self.where = said["where"]

    def sample(self) -> float:
        """Seconds of one sample."""
        return float(self._ask("sample")["seconds"])

    def expect(self, n: int) -> list[float]:
        """The fingerprint for the first `n` items alone."""
        known: list[float] = self._ask(f"expect {n}")["known"]
        return known

    def _ask(self, what: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `_answer` says why.
            self.process.stdin.write(what.encode() + b"\n")
            self.process.stdin.flush()
        return self._answer()

    def let_go(self) -> None:
        """Let it close by itself, while others do."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def end(self) -> None:
        """Let it close by itself, for a while; then end its whole session."""
        self.let_go()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._stderr.close()

    def _answer(self, limit_s: float = LIMIT_S) -> dict[str, Any]:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], limit_s)
        if not ready:
            raise LeftOut(f"no answer within {limit_s:.0f} s")
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
