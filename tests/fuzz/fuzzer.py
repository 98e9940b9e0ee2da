"""Run drawn cases on every engine for a while, and say by which seed a finding is had again."""

from __future__ import annotations

import contextlib
import random
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import shmmap

from .cases import draw_case, seeds


@contextlib.contextmanager
def open_engines() -> Iterator[dict[str, Any]]:
    """All engines there are, by name; those that hold processes are kept for the whole run."""
    with contextlib.ExitStack() as stack:
        pool = ProcessPoolExecutor(2)
        stack.enter_context(pool)
        yield {
            "serial": "serial",
            "threads": "threads",
            "processes": "processes",
            "fork": "fork",
            "clean team": stack.enter_context(shmmap.Team(2)),
            "forked team": stack.enter_context(shmmap.Team(2, start="fork")),
            "thread executor": stack.enter_context(ThreadPoolExecutor(2)),
            "process executor": pool,
        }


def run_case(seed: int, engines: dict[str, Any], folder: str) -> str | None:
    """Run the case of a seed on one engine, drawn by the seed as well; what it found, if anything."""
    name = random.Random(~seed).choice(sorted(engines))
    text = "drawing"
    try:
        case = draw_case(seed, folder)
        text = case.text
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case.run(engines[name])
    except BaseException as exc:
        if isinstance(exc, KeyboardInterrupt):
            raise
        return f"seed {seed} on {name}: {text}\n{traceback.format_exc()}"
    return None


def fuzz(first: int, seconds: float, cases: int | None = None) -> tuple[int, list[str]]:
    """Run cases for so many seconds, or so many of them; how many ran, and what they found."""
    findings: list[str] = []
    count = 0
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder, open_engines() as engines:
        for seed in seeds(first):
            if time.monotonic() > end or (cases is not None and count >= cases):
                break
            found = run_case(seed, engines, folder)
            count += 1
            if found is not None:
                findings.append(found)
                if len(findings) >= 10:
                    break
    return count, findings
