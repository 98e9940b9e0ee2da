"""A model of the pipe from which all idle workers read submitted functions: every interleaving is explored.

Workers and the caller are machines whose steps are what nothing can cut in two: a system call, or a word
written or read in shared memory. `explore` visits every state that any order of these steps leads to, with
workers killed between any two of them. What the caller concludes it takes from the function that the product
uses, `after_death`. `Shortcut`s leave out a part of the rule: the model has to find what that breaks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from enum import Enum, auto
from typing import NamedTuple

from shmmap._team.whereabouts import after_death
from shmmap._wire import AT_PIPE


class Shortcut(Enum):
    """A part of the rule that is left out."""

    NO_NOTE_AT_PIPE = auto()
    """A worker does not note that it is about to read."""
    RESULTS_FIRST = auto()
    """The caller looks for results before it looks at the words of workers."""
    PIPE_LAST = auto()
    """The caller looks into the pipe after it has looked at the words of workers."""
    NO_DOUBT = auto()
    """What nobody seems to have is put again although some worker is just reading."""
    CLEARS_FIRST = auto()
    """A worker forgets its function before it tells the result."""
    RETURNS_UNTOLD = auto()
    """A worker puts a function back and does not say so."""
    CANCELS_UNREAD = auto()
    """The caller cancels without having the record back in its hands."""


class Worker(NamedTuple):
    """A worker: where it is in its loop, its three words, and what it holds unnoted."""

    at: str = "parked"
    taken: int = 0
    running: int = 0
    hand: int = 0
    returned: int = 0


class State(NamedTuple):
    """Everything there is."""

    workers: tuple[Worker, ...]
    pipe: tuple[int, ...] = ()
    results: tuple[int, ...] = ()
    unfinished: frozenset[int] = frozenset()
    """As the caller knows."""
    begun: tuple[int, ...] = ()
    """How often each function was begun, in truth."""
    ends: tuple[str, ...] = ()
    """What its future came to: "" for nothing yet."""
    kills: int = 0
    """How many more workers may be killed."""
    cancels: int = 0
    """How many more functions may be cancelled."""
    returns: int = 0
    """How many more functions may be put back by a worker that has something else to do."""
    doubt: bool = False
    caller: str = "free"
    dead: int = -1
    """The rank of the dead worker that the caller is dealing with; -1: it only looks again."""
    seen_unread: tuple[int, ...] = ()
    seen_taken: tuple[int, ...] = ()
    seen_returned: tuple[int, ...] = ()


class Fault(Exception):
    """The model does what it must never do."""


def _put_worker(workers: tuple[Worker, ...], rank: int, worker: Worker) -> tuple[Worker, ...]:
    return (*workers[:rank], worker, *workers[rank + 1 :])


def _worker_steps(state: State, rank: int, shortcut: Shortcut | None) -> Iterator[State]:
    def moved(worker: Worker, **changes: object) -> State:
        workers = _put_worker(state.workers, rank, worker)
        return state._replace(workers=workers, **changes)  # type: ignore[arg-type]

    me = state.workers[rank]
    if me.at == "parked" and state.pipe:  # it is woken only then
        word = 0 if shortcut is Shortcut.NO_NOTE_AT_PIPE else AT_PIPE
        yield moved(me._replace(at="reads", taken=word))
    elif me.at == "reads" and not state.pipe:  # another one was quicker
        yield moved(Worker(returned=me.returned))
    elif me.at == "reads":
        yield moved(me._replace(at="has", hand=state.pipe[0]), pipe=state.pipe[1:])
    elif me.at == "has":
        yield moved(me._replace(at="noted", taken=me.hand))
    elif me.at == "noted" and state.returns:
        step = 0 if shortcut is Shortcut.RETURNS_UNTOLD else 1
        mine = me._replace(at="returns", returned=me.returned + step)
        yield moved(mine, returns=state.returns - 1)
    elif me.at == "returns":
        yield moved(me._replace(at="puts back", taken=AT_PIPE))
    elif me.at == "puts back":
        yield moved(me._replace(at="has put back"), pipe=(*state.pipe, me.hand))
    elif me.at == "has put back":
        yield moved(me._replace(at="returned", taken=0))
    elif me.at == "returned":
        step = 0 if shortcut is Shortcut.RETURNS_UNTOLD else 1
        yield moved(Worker(returned=me.returned + step))
    if me.at == "noted":
        yield moved(me._replace(at="begins", running=me.hand))
    elif me.at == "begins":
        n = me.hand
        if state.begun[n - 1]:
            raise Fault(f"{n} is run twice")
        if state.ends[n - 1]:
            raise Fault(f"{n} begins after its future was {state.ends[n - 1]}")
        yield moved(me._replace(at="ends"), begun=(*state.begun[: n - 1], 1, *state.begun[n:]))
    elif me.at == "ends":
        if shortcut is Shortcut.CLEARS_FIRST:
            yield moved(me._replace(at="told", taken=0, running=0))
        else:
            yield moved(me._replace(at="told"), results=(*state.results, me.hand))
    elif me.at == "told":
        if shortcut is Shortcut.CLEARS_FIRST and me.running == 0 == me.taken:
            yield moved(Worker(returned=me.returned), results=(*state.results, me.hand))
        else:
            yield moved(Worker(returned=me.returned))


def _end(state: State, n: int, how: str) -> State:
    if state.ends[n - 1]:
        raise Fault(f"the future of {n} is settled twice")
    ends = (*state.ends[: n - 1], how, *state.ends[n:])
    return state._replace(unfinished=state.unfinished - {n}, ends=ends)


def _take_results(state: State) -> State:
    results, state = state.results, state._replace(results=())
    for n in results:
        if n in state.unfinished:
            state = _end(state, n, "done")
    return state


def _caller_steps(state: State, shortcut: Shortcut | None) -> Iterator[State]:
    if state.caller == "free":
        if len(state.ends) < len(state.begun):  # the next function is submitted
            n = len(state.ends) + 1
            yield state._replace(
                pipe=(*state.pipe, n), unfinished=state.unfinished | {n}, ends=(*state.ends, "")
            )
        if state.results:
            yield _take_results(state)
        if state.cancels and state.unfinished:
            if shortcut is Shortcut.CANCELS_UNREAD:
                cancelled = _end(state, min(state.unfinished), "cancelled")
                yield cancelled._replace(cancels=state.cancels - 1)
            elif state.pipe:
                taken = state._replace(cancels=state.cancels - 1, pipe=(), seen_unread=state.pipe)
                yield taken._replace(caller="cancels")
        for rank, worker in enumerate(state.workers):
            if worker.at == "dead":
                yield _begin_to_look(state._replace(dead=rank), shortcut)
        if state.doubt:
            yield _begin_to_look(state, shortcut)
    elif state.caller == "cancels":
        first, *rest = state.seen_unread
        yield _end(state, first, "cancelled")._replace(
            caller="free", pipe=(*rest, *state.pipe), seen_unread=()
        )
    elif state.caller == "looks at words":
        rank = len(state.seen_taken)
        if rank < len(state.workers):
            word = 0 if rank == state.dead else state.workers[rank].taken
            yield state._replace(seen_taken=(*state.seen_taken, word))
        elif shortcut is Shortcut.PIPE_LAST:
            yield state._replace(caller="looks for results", pipe=(), seen_unread=state.pipe)
        else:
            yield state._replace(caller="looks for results")
    else:
        if shortcut is not Shortcut.RESULTS_FIRST:
            state = _take_results(state)
        yield _conclude(state, shortcut)


def _begin_to_look(state: State, shortcut: Shortcut | None) -> State:
    if shortcut is Shortcut.RESULTS_FIRST:
        state = _take_results(state)
    state = state._replace(seen_returned=tuple(worker.returned for worker in state.workers))
    if shortcut is Shortcut.PIPE_LAST:
        return state._replace(caller="looks at words")
    return state._replace(caller="looks at words", pipe=(), seen_unread=state.pipe)


def _conclude(state: State, shortcut: Shortcut | None) -> State:
    taken = state.seen_taken
    if shortcut is Shortcut.NO_DOUBT:
        taken = tuple(max(word, 0) for word in taken)
    dead, workers = Worker(), state.workers
    if state.dead >= 0:  # another worker is started in its place
        dead, workers = workers[state.dead], _put_worker(workers, state.dead, Worker())
    unfinished = [n for n in state.unfinished if n not in state.seen_unread]
    before, now = state.seen_returned, tuple(worker.returned for worker in state.workers)
    has_moved = before != now or any(n % 2 for r, n in enumerate(before) if r != state.dead)
    verdict = after_death(unfinished, taken, dead.taken, dead.running, has_moved=has_moved)
    if verdict.lost:
        state = _end(state, verdict.lost, "lost")
    return state._replace(
        caller="free",
        dead=-1,
        workers=workers,
        doubt=verdict.is_in_doubt,
        pipe=(*verdict.again, *state.seen_unread, *state.pipe),
        seen_unread=(),
        seen_taken=(),
        seen_returned=(),
    )


def _kill_steps(state: State) -> Iterator[State]:
    for rank, worker in enumerate(state.workers):
        if state.kills and worker.at != "dead":  # its words stay as they are
            workers = _put_worker(state.workers, rank, worker._replace(at="dead"))
            yield state._replace(workers=workers, kills=state.kills - 1)


def steps(state: State, shortcut: Shortcut | None = None) -> Iterator[State]:
    """All states that one step leads to."""
    for rank in range(len(state.workers)):
        yield from _worker_steps(state, rank, shortcut)
    yield from _caller_steps(state, shortcut)
    yield from _kill_steps(state)


def begin(workers: int, functions: int, kills: int, cancels: int, returns: int = 0) -> State:
    """Nothing is submitted yet."""
    return State(
        (Worker(),) * workers, begun=(0,) * functions, kills=kills, cancels=cancels, returns=returns
    )


def _check_end(state: State) -> None:
    """Nothing can happen any more: so everything must have happened."""
    for n, (begun, end) in enumerate(zip(state.begun, state.ends, strict=True), 1):
        if not end:
            raise Fault(f"nothing is ever heard of {n}")
        if end == "done" and not begun:
            raise Fault(f"{n} is done and never began")
        if end == "cancelled" and begun:
            raise Fault(f"{n} was cancelled and ran")


def explore(first: State, shortcut: Shortcut | None = None) -> int:
    """Visit all states; how many there are. Raises Fault where something goes wrong.

    That it always ends: from each state a state is reached from which nothing follows. A state that the
    caller returns to while it is in doubt is left by the worker that is in between.
    """
    before: dict[State, list[State]] = {first: []}
    waiting = deque([first])
    ends = []
    while waiting:
        state = waiting.popleft()
        follow = set(steps(state, shortcut))
        if not follow:
            _check_end(state)
            ends.append(state)
        for each in follow:
            if each not in before:
                before[each] = []
                waiting.append(each)
            before[each].append(state)
    reaching = set(ends)
    waiting.extend(ends)
    while waiting:
        for each in before[waiting.popleft()]:
            if each not in reaching:
                reaching.add(each)
                waiting.append(each)
    if len(reaching) < len(before):
        raise Fault("it may go on for ever")
    return len(before)
