"""OUTs are made all together or not at all, whenever a signal comes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shmmap._cli.errors import Refused, Stopped
from shmmap._cli.output import STOP_SIGNALS, NpyFile, Outputs

pytestmark = pytest.mark.usefixtures("zarr_runs")


class Interrupting:
    """An OUT in the middle of which Ctrl-C is pressed."""

    name = "interrupting"

    def __init__(self, when: str) -> None:
        self._when = when

    def _at(self, when: str) -> None:
        if when == self._when:
            signal.raise_signal(signal.SIGINT)

    def open(self) -> None:
        self._at("open")

    def allocate(self, shape: Any, dtype: Any, along: int, rows: int) -> Any:
        return None

    def flush(self) -> None:
        self._at("flush")

    def commit(self) -> None:
        self._at("commit")

    def discard(self, is_refused: bool = True) -> None:
        pass

    drop = discard


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {signum: signal.getsignal(signum) for signum in STOP_SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def make(folder: Path, when: str) -> list[Any]:
    zarr_array: list[Any] = []
    try:
        import zarr  # noqa: F401
    except ImportError:
        pass
    else:
        from shmmap._cli.stored_outputs import ZarrArray

        zarr_array = [ZarrArray(str(folder / "out.zarr"), "in.npy")]
    return [NpyFile(str(folder / "a.npy"), "in.npy"), *zarr_array, Interrupting(when)]


@pytest.mark.parametrize("when", ["open", "flush"])
def test_before_they_have_their_names_nothing_is_left(tmp_path: Path, when: str) -> None:
    outputs = make(tmp_path, when)
    with pytest.raises(Stopped), Outputs(outputs) as writing:
        for each in outputs:
            each.allocate((3,), np.dtype(float), 0, 1)
        writing.commit()
    assert os.listdir(tmp_path) == []


def test_while_they_get_their_names_a_signal_waits(tmp_path: Path) -> None:
    """Else one would have its new content and another its old one, or a zarr array neither."""
    outputs = make(tmp_path, "commit")
    expected = sorted(os.path.basename(each.name) for each in outputs[:-1])
    with pytest.raises(Stopped), Outputs(outputs[::-1]) as writing:
        for each in outputs:
            each.allocate((3,), np.dtype(float), 0, 1)
        writing.commit()
    assert sorted(os.listdir(tmp_path)) == expected


def test_one_that_cannot_be_made_takes_the_others_along(tmp_path: Path) -> None:
    outputs = [NpyFile(str(tmp_path / "a.npy"), "in.npy"), NpyFile("/proc/b.npy", "in.npy")]
    with pytest.raises(Refused), Outputs(outputs):
        pass
    assert os.listdir(tmp_path) == []
