"""What to change so that a map takes less time: a pure function of its record.

Each rule looks at one cause, and tells what it costs now, in seconds of the caller's time, and what to write.
Those that gain most are given. The limits are where a change begins to be worth the trouble, see
docs/design/0045-where-the-time-goes.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from .records import Advice, ProfiledMap
from .sums import calls_of, median_chunk
from .words import per_cent, size_of, time_of

ADVICE_MOST = 3
# What gains less of the wall time is not worth the trouble.
GAIN_LEAST = 0.02
# Parts of the wall time, of the time at work, or of the busy time, from which on a rule speaks.
START, PLACING, WAITING, BETWEEN, HANDING, AFTER, FAULTS = 0.25, 0.1, 0.1, 0.2, 0.2, 0.25, 0.15
# What a plain loop takes is an estimate, so it must be less by so much.
SERIAL = 0.9
# A chunk that takes less than this is short.
SHORT_S = 2e-5
# About what a chunk costs by itself, whatever it holds; of functions of NumPy, with a call of one of them.
CHUNK_S = {"pmap": 2.5e-6, "pmap_chunks": 5e-6, "pmap_ranges": 5e-7, "preduce": 5e-6}
# What touching a page for the first time takes.
FAULT_S = 2.5e-7
# Processor time in relation to busy time, below and above which something is up; and so long a map must have
# been busy, or the clocks that count are too coarse.
CPU_LITTLE, CPU_MUCH, CPU_LEAST_S = 0.7, 1.2, 0.05
# Threads that wait for one lock take about one core together, or others take it from them as well; those that
# wait for something else do neither.
LOCK, LOCK_TAKEN = 0.5, 0.1
_PAGE_NBYTES = 4096
# Engines on which a map has as many workers as it asks for; an executor has those it was made with.
_OWN = frozenset(["serial", "threads", "processes", "fork"])


class Found(NamedTuple):
    """What a rule has found."""

    rule: str
    gain: float
    """About so many seconds less."""
    text: str


Rule = Callable[[ProfiledMap], Iterator[Found]]


def advise(of: ProfiledMap) -> tuple[Advice, ...]:
    """At most three pieces of advice, what gains most first. None of a map that runs, or has failed."""
    if of.is_running or of.failed or not len(calls_of(of.bars)):
        return ()
    found = [each for rule in RULES for each in rule(of)]
    found = [each for each in found if each.gain >= GAIN_LEAST * of.phases.wall]
    found.sort(key=lambda each: -each.gain)
    return tuple(Advice(rule=rule, text=text) for rule, _, text in found[:ADVICE_MOST])


def busy_of(of: ProfiledMap) -> float:
    """Seconds that all workers together were busy: what a plain loop takes, at most."""
    return sum(worker.busy for worker in of.workers)


def starting_of(of: ProfiledMap) -> float:
    """Seconds that went into starting workers."""
    phases = of.phases
    return max(0.0, phases.before - phases.binding - phases.placing) if of.is_cold else 0.0


def start(of: ProfiledMap) -> Iterator[Found]:
    """Workers had to be started."""
    took = starting_of(of)
    if took > START * of.phases.wall:
        way = "the next map finds them there"
        if of.engine == "fork":
            way = 'engine="fork" starts processes for each map, and the default engine keeps them'
        yield Found("start", took, f"{time_of(took)} passed until workers had started: {way}")


def serial(of: ProfiledMap) -> Iterator[Found]:
    """A plain loop would be quicker."""
    busy = busy_of(of)
    wall = of.phases.wall - starting_of(of)  # that is for the rule above to say
    if of.engine != "serial" and busy < SERIAL * wall:
        yield Found(
            "serial",
            wall - busy,
            f"a plain loop would take about {time_of(busy)}, this took {time_of(wall)}: "
            'engine="serial", or more work in one map',
        )


def placing(of: ProfiledMap) -> Iterator[Found]:
    """Inputs are copied."""
    phases = of.phases
    if phases.placed and phases.placing > PLACING * phases.wall:
        yield Found(
            "placing",
            phases.placing,
            f"{per_cent(phases.placing / phases.wall)} of the time went into copying "
            f"{size_of(phases.placed)} of inputs: "
            'asshared() or load() once, or engine="fork"',
        )


def uneven(of: ProfiledMap) -> Iterator[Found]:
    """The others wait for one that has got more to do."""
    workers, at_work = len(of.workers), of.phases.at_work
    waiting = sum(worker.waiting for worker in of.workers)
    if workers < 2 or waiting < WAITING * workers * at_work:
        return
    share = per_cent(waiting / (workers * at_work))
    gain = waiting / workers
    if of.is_static:
        yield Found(
            "uneven",
            gain,
            f'workers waited {share} of the time, as schedule="static" gave some more to do: '
            'schedule="dynamic"',
        )
        return
    calls = calls_of(of.bars)
    # The last to end, of those that are one chunk: it is what the others waited for.
    single = calls[(calls["chunks"] == 1) & (calls["merged"] == 0)]
    if not len(single):
        return
    last = single[single["ended_ns"].argmax()]
    took = float(last["busy_ns"]) / 1e9
    # Each of the others can have waited for it no longer than it took.
    if took * (workers - 1) < 0.5 * waiting or of.chunks < 2:
        return
    start, stop = int(last["start_index"]), int(last["stop_index"])
    if stop - start > 1:
        smaller = max(1, of.chunksize // 4)
        way = f"chunksize={smaller} instead of {of.chunksize} lets others share it"
        what = f"indices [{start}, {stop})"
    else:
        way = "put it first"
        what = f"index {start}"
        # So much earlier it could have begun: nothing, if it was among the first.
        gain = min(gain, float(last["began_ns"] - calls["began_ns"].min()) / 1e9)
    yield Found(
        "uneven",
        gain,
        f"workers waited {share} of the time for {what}, which took {time_of(took)} by itself: {way}",
    )


def short(of: ProfiledMap) -> Iterator[Found]:
    """Chunks are so short that what each costs by itself counts."""
    median = median_chunk(of.bars)
    if of.is_auto or not 0 < median < SHORT_S:
        return
    busy = busy_of(of)
    each = 0.0 if of.verb == "pmap" and of.chunksize == 1 else CHUNK_S[of.verb]
    between = sum(worker.between - worker.handing for worker in of.workers)
    lost = between + each * sum(worker.chunks for worker in of.workers)
    if lost > BETWEEN * busy:
        yield Found(
            "short",
            lost / len(of.workers),
            f"chunks of {of.chunksize} take {time_of(median)}, and about "
            f"{per_cent(lost / (busy + between))} of "
            'the time goes into beginning and ending them: chunksize="auto"',
        )


def returning(of: ProfiledMap) -> Iterator[Found]:
    """Results are handed over rather than written in place."""
    phases, busy = of.phases, busy_of(of)
    after, stamps = phases.after, of.stamps
    if of.engine == "fork" and of.kept != "out" and stamps.heard and stamps.returned:
        after -= (stamps.returned - stamps.heard) / 1e9  # until the workers' processes have ended
    handing = sum(worker.handing for worker in of.workers)
    if of.kept == "list":
        way = "out=np.ndarray, if they are numbers or arrays alike; or write into a shared array"
    elif of.kept == "partials":
        way = "larger chunks, of which there are fewer"
    elif of.kept == "out":
        way = "make out with shmmap.empty(), or it is copied"
    else:
        way = "give out="
    if handing > HANDING * (busy + handing) and handing > 1e-3:
        yield Found(
            "returning",
            handing / len(of.workers),
            f"{per_cent(handing / (busy + handing))} of the workers' time went into handing over results: "
            f"{way}",
        )
    elif after > AFTER * phases.wall and after > 1e-3:
        yield Found(
            "returning",
            after,
            f"{per_cent(after / phases.wall)} of the time passed after the last chunk, taking results "
            f"over: {way}",
        )


def new_memory(of: ProfiledMap) -> Iterator[Found]:
    """The output is new memory, page after page."""
    busy = busy_of(of)
    faults = sum(worker.faults or 0 for worker in of.workers)
    touching = faults * FAULT_S
    is_output = of.out_nbytes / _PAGE_NBYTES > 0.5 * faults
    if of.kept == "array" and is_output and touching > FAULTS * busy and touching > 1e-3:
        yield Found(
            "memory",
            touching / len(of.workers),
            f"{per_cent(touching / busy)} of the busy time went into {faults:,} new pages of the output: "
            "use one array again, as out=",
        )


def cores(of: ProfiledMap) -> Iterator[Found]:
    """Workers have a core for less, or for more, than the time in which they are busy."""
    known = [worker for worker in of.workers if worker.cpu is not None]
    busy = sum(worker.busy + worker.handing for worker in known)
    cpu = sum(worker.cpu or 0.0 for worker in known)
    if busy < CPU_LEAST_S or len(known) < len(of.workers):
        return
    workers = len(known)
    share = cpu / busy
    is_little = share < CPU_LITTLE
    had = f"workers had a core for {per_cent(share)} of their busy time"
    switches = sum(worker.switches or 0 for worker in known)
    waits = sum(worker.waits or 0 for worker in known)
    has_lock = cpu > LOCK * of.phases.at_work or switches > LOCK_TAKEN * waits
    if is_little and of.engine == "threads" and has_lock:
        yield Found(
            "lock",
            (busy - cpu) / workers,
            f"{had}, and waited for the interpreter's lock, or for others: processes have a lock each",
        )
    elif is_little and switches > waits:
        fewer = max(1, round(workers * share))
        text = f"{had}: other programs, or more workers than cores, use them: workers={fewer}"
        # What others use is not to be had back; only that workers do not disturb one another.
        if fewer < workers:
            yield Found("cores", 0.1 * (busy - cpu) / workers, text)
    elif is_little:
        more = max(workers + 1, min(8 * workers, round(workers / max(share, 0.01))))
        way = f"more workers than cores, workers={more}"
        if of.engine == "serial":
            way = f'engine="threads", workers={more}'
        elif of.engine not in _OWN:
            way = f"an executor of more workers than cores, max_workers={more}"
        text = f"{had}, and waited, for files or others: {way}"
        yield Found("waits", (busy - cpu) / workers, text)
    elif share > CPU_MUCH:
        yield Found(
            "threads",
            (cpu - busy) / workers,
            f"workers took {share:.1f} cores each, as the function has threads of its own: blas_threads= "
            "of a Team bounds those of BLAS and OpenMP",
        )


RULES: tuple[Rule, ...] = (
    start,
    serial,
    placing,
    uneven,
    short,
    returning,
    new_memory,
    cores,
)
