"""What a traceback shows of a function's exception: the user's own frames, and none of the library's."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmmap
from tests.helpers import run_python

LIBRARY = str(Path(shmmap.__file__).parent)
ITEMS = np.array([1, 0, 2])


def inner(v: Any) -> Any:
    return 1 // int(np.min(v))


def outer(v: Any, stop: Any = None) -> Any:
    return inner(v)


CALLS: dict[str, Callable[[Any], Any]] = {
    "pmap": lambda engine: shmmap.pmap(outer, ITEMS, engine=engine),
    "pmap of a list": lambda engine: shmmap.pmap(outer, [1, 0, 2], engine=engine),
    "pmap of an iterator": lambda engine: shmmap.pmap(outer, iter([1, 0, 2]), engine=engine),
    "pmap_chunks": lambda engine: shmmap.pmap_chunks(outer, ITEMS[1:2], engine=engine),
    "pmap_ranges": lambda engine: shmmap.pmap_ranges(outer, 3, engine=engine),
    "preduce": lambda engine: shmmap.preduce(outer, ITEMS, combine=np.add, engine=engine),
    "a future": lambda engine: shmmap.pmap(outer, ITEMS, engine=engine, wait=False).result(),
}


def names_of(error: BaseException) -> list[str]:
    """The functions in a traceback, but those of the standard library; the library's are told by file."""
    return [
        f"{frame.filename}:{frame.name}" if frame.filename.startswith(LIBRARY) else frame.name
        for frame in traceback.extract_tb(error.__traceback__)
        if "/concurrent/futures/" not in frame.filename
    ]


@pytest.mark.few(7)
@pytest.mark.parametrize("call", CALLS)
def test_the_frames_are_the_users(call: str, engine: Any) -> None:
    if call == "pmap_ranges" and not isinstance(engine, (str, shmmap.Team)):
        pytest.skip("it needs workers that see the caller's memory")
    with pytest.raises(ZeroDivisionError) as caught:
        CALLS[call](engine)
    names = names_of(caught.value)
    if call == "a future":  # whose `result` is a method of the library's
        names = [name for name in names if not name.endswith(":result")]
    in_process = engine in ("serial", "threads") or not isinstance(engine, (str, shmmap.Team))
    here = ["test_the_frames_are_the_users", "<lambda>"]
    assert names in ([*here, "outer", "inner"], here) if in_process else names == here
    text = "".join(traceback.format_exception(caught.value))
    assert "in outer" in text and "in inner" in text, "there, or in the note of a worker's"
    assert "raised by outer" in text


def test_submitted_functions_and_map(team: shmmap.Team) -> None:
    for call in (lambda: team.submit(outer, 0).result(), lambda: list(team.map(outer, [0]))):
        with pytest.raises(ZeroDivisionError) as caught:
            call()
        assert len(names_of(caught.value)) <= 4
        assert "in inner" in "".join(traceback.format_exception(caught.value))


def test_what_the_library_raises_shows_where(engine: Any) -> None:
    with pytest.raises(ValueError, match="chunksize") as caught:
        shmmap.pmap(outer, ITEMS, chunksize=0, engine=engine)
    assert any(name.startswith(LIBRARY) for name in names_of(caught.value))


def test_the_context_of_an_exception_stays(engine: Any) -> None:
    def fail(v: Any) -> Any:
        try:
            return inner(v)
        except ZeroDivisionError as exc:
            raise KeyError("wrapped") from exc

    with pytest.raises(KeyError) as caught:
        shmmap.pmap(fail, ITEMS, engine=engine)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    try:
        raise LookupError("before")
    except LookupError:
        with pytest.raises(ZeroDivisionError) as caught:
            shmmap.pmap(outer, ITEMS, engine=engine)
    assert isinstance(caught.value.__context__, LookupError)


@pytest.mark.few(2)
@pytest.mark.parametrize("engine", ["processes", "serial"])
def test_in_pytest(tmp_path: Path, engine: str) -> None:
    """The report of a failed test ends at the function, or at the line that called the map."""
    (tmp_path / "test_it.py").write_text(
        "import numpy as np, shmmap\n\n"
        "def invert(v):\n    return 1 // int(v)\n\n"
        "def test_it():\n"
        f"    shmmap.pmap(invert, np.array([1, 0, 2]), workers=2, engine={engine!r})\n"
    )
    env = {**os.environ}
    env.pop("CI", None)  # pytest says all twice there
    done = run_python("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=tmp_path, env=env)
    assert LIBRARY not in done.stdout
    assert done.stdout.count("return 1 // int(v)") == 1
    assert "raised by invert for index 1" in done.stdout
