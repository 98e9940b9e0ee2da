"""A model of who reads results of submitted functions: every interleaving is explored.

Workers tell results on a pipe, and ring the monitor unless a thread of the caller reads by itself, or it was
rung already. That thread waits for one result, and gives up at any moment. As in `pipe_model`, a step is what
nothing can cut in two. What must hold: everything is read in the end, and who waits is woken when its result
is there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from enum import Enum, auto
from typing import NamedTuple


class Shortcut(Enum):
    """A part of the rule that is left out."""

    LOOKS_NO_MORE = auto()
    """The thread does not look again after it has said that it reads no longer."""
    CLEARS_LAST = auto()
    """The caller clears RUNG after it has read."""
    RINGS_FIRST = auto()
    """A worker rings before it says that it has rung."""
    LOOKS_FIRST = auto()
    """A worker looks whether to ring before it tells."""
    RINGS_BY_THE_PIPE = auto()
    """The monitor wakes the thread by a record among the results."""


class State(NamedTuple):
    """Everything there is. The thread waits for result 1."""

    workers: tuple[str, ...]
    """What each is about to do; worker k tells result k."""
    results: tuple[int, ...] = ()
    """In the pipe; 0 is a record that says nothing."""
    taken: frozenset[int] = frozenset()
    resolved: bool = False
    """The future that the thread waits for has its result."""
    reading: bool = False
    rung: bool = False
    bell: bool = False
    """There is something in the monitor's pipe."""
    woken: bool = False
    """There is something in the pipe that wakes the thread."""
    monitor: str = "waits"
    thread: str = "begins"


class Fault(Exception):
    """The model does what it must never do."""


def _worker_steps(state: State, at: int, shortcut: Shortcut | None) -> Iterator[State]:
    def to(step: str, **changes: object) -> State:
        workers = (*state.workers[:at], step, *state.workers[at + 1 :])
        return state._replace(workers=workers, **changes)  # type: ignore[arg-type]

    step, number = state.workers[at], at + 1
    told = (*state.results, number)
    must_ring = not (state.reading or state.rung)
    if step == "tells" and shortcut is Shortcut.LOOKS_FIRST:
        yield to("tells, rings" if must_ring else "tells, ends")
    elif step == "tells":
        yield to("looks", results=told)
    elif step.startswith("tells, "):
        yield to(step.removeprefix("tells, "), results=told)
    elif step == "looks":
        yield to("rings" if must_ring else "ends")
    elif step == "rings":
        if shortcut is Shortcut.RINGS_FIRST:
            yield to("says", bell=True)
        else:
            yield to("has said", rung=True)
    elif step == "says":
        yield to("ends", rung=True)
    elif step == "has said":
        yield to("ends", bell=True)


def _read(state: State) -> State:
    return state._replace(results=(), taken=state.taken | {*state.results} - {0})


def _monitor_steps(state: State, shortcut: Shortcut | None) -> Iterator[State]:
    if state.monitor == "waits" and state.bell:
        yield state._replace(bell=False, monitor="woken")
    elif state.monitor == "woken" and shortcut is Shortcut.CLEARS_LAST:
        yield _read(state)._replace(monitor="clears")
    elif state.monitor == "woken":
        yield state._replace(rung=False, monitor="reads")
    elif state.monitor == "reads":
        yield _read(state)._replace(monitor="resolves")
    elif state.monitor == "clears":
        yield state._replace(rung=False, monitor="resolves")
    elif state.monitor == "resolves":
        is_new = 1 in state.taken and not state.resolved
        resolved = state.resolved or is_new
        yield state._replace(resolved=resolved, monitor="wakes" if is_new else "waits")
    elif state.monitor == "wakes":
        again = state._replace(monitor="waits")
        if state.thread not in ("waits", "looks"):
            yield again
        elif shortcut is Shortcut.RINGS_BY_THE_PIPE:
            yield again._replace(results=(*state.results, 0))
        else:
            yield again._replace(woken=True)


def _thread_steps(state: State, shortcut: Shortcut | None) -> Iterator[State]:
    if state.thread == "begins":
        yield state._replace(thread="looks", reading=True)
    elif state.thread == "looks":  # whether it is there already
        yield state._replace(thread="ends" if state.resolved else "waits")
    elif state.thread == "waits":
        if state.results or state.woken:
            read = _read(state._replace(rung=False, woken=False))
            yield read._replace(thread="ends" if 1 in read.taken else "looks")
        yield state._replace(thread="ends")  # its time is over
    elif state.thread == "ends":
        yield state._replace(reading=False, thread="looks again")
    elif state.thread == "looks again":
        if shortcut is not Shortcut.LOOKS_NO_MORE:
            state = _read(state._replace(rung=False))
        yield state._replace(thread="over", bell=state.bell or bool(state.taken))


def steps(state: State, shortcut: Shortcut | None = None) -> Iterator[State]:
    """All states that one step leads to."""
    for at in range(len(state.workers)):
        yield from _worker_steps(state, at, shortcut)
    yield from _monitor_steps(state, shortcut)
    yield from _thread_steps(state, shortcut)


def explore(workers: int, shortcut: Shortcut | None = None) -> int:
    """Visit all states; how many there are. Raises Fault where something stays unread, or nobody is woken."""
    first = State(("tells",) * workers)
    seen, waiting = {first}, deque([first])
    while waiting:
        state = waiting.popleft()
        following = set(steps(state, shortcut))
        is_stuck = following <= {state._replace(thread="ends")}  # nothing but that its time is over
        if is_stuck and state.thread == "waits" and (state.resolved or 1 in state.taken):
            raise Fault("the thread waits for what is there")
        if not following and len(state.taken) < workers:
            raise Fault("nobody reads what was told")
        waiting.extend(following - seen)
        seen |= following
    return len(seen)
