"""Each rule speaks where it should, with its figure, and not where it need not."""

from __future__ import annotations

from typing import Any

import pytest

from shmmap._profile.advice import RULES, advise
from shmmap._profile.records import Failure, ProfiledMap, Stamps

from .made import even, make_map

# One that takes ten times as long as the others, at the end; the same, and the others have more to do.
LATE = [*even(chunks=20), (0, 20, 21, 0.1, 0.2)]
EARLY = [(0, 20, 21, 0.0, 0.1), *[(1, k, k + 1, k * 0.01, (k + 1) * 0.01) for k in range(10)]]
# The same, but as the others have less to do, there is nobody to gain from it.
FIRST = [(0, 0, 1, 0.0, 0.1), *[(1, k, k + 1, k * 0.01, (k + 1) * 0.01) for k in range(1, 5)]]
SHORT = [(rank, rank, rank + 1000, 0.0, 0.01) for rank in (0, 1)]
# A chunk of 10 us every 20 us.
SPARSE = [(0, k, k + 1, k * 2e-5, k * 2e-5 + 1e-5) for k in range(1000)]
DENSE = [(0, k, k + 1, k * 1.9e-5, k * 1.9e-5 + 1.8e-5) for k in range(1000)]
LONGER = [(0, k, k + 1, k * 1e-4, k * 1e-4 + 5e-5) for k in range(1000)]
GAPS = [(rank, k, k + 1, k * 0.02, k * 0.02 + 0.01) for rank in (0, 1) for k in range(5)]
HANDING = [(rank, k * 0.02 + 0.01, k * 0.02 + 0.019) for rank in (0, 1) for k in range(5)]
# It returned 0.1 s after workers had left.
ENDING = Stamps(called=0, heard=1, returned=100_000_001)


def use(**fields: Any) -> dict[str, Any]:
    return {"use": fields}


CASES: list[tuple[str, str, ProfiledMap, ProfiledMap]] = [
    (
        "start",
        "300 ms passed until workers had started: the next map",
        make_map(even(), before=0.3, is_cold=True),
        make_map(even(), before=0.3),
    ),
    (
        "start",
        'engine="fork" starts processes for each map',
        make_map(even(), before=0.05, is_cold=True, engine="fork"),
        make_map(even(), before=0.02, is_cold=True, engine="fork"),
    ),
    (
        "serial",
        "a plain loop would take about 20.0 ms, this took 50.5 ms",
        make_map(even(chunks=2), before=0.04),
        make_map(even(chunks=20), before=0.04),
    ),
    (
        "serial",
        'engine="serial"',
        make_map(even(chunks=2), before=0.04),
        make_map(even(chunks=2), before=0.04, engine="serial"),
    ),
    (
        "placing",
        "50 % of the time went into copying 160 MB of inputs",
        make_map(even(), before=0.1005, placing=0.1005, placed=160_000_000),
        make_map(even(), before=0.011, placing=0.01, placed=160_000_000),
    ),
    (
        "uneven",
        "for index 20, which took 100 ms by itself: put it first",
        make_map(LATE),
        make_map(EARLY),
    ),
    (
        "uneven",
        "index 20, which took 100 ms by itself: put it first",
        make_map(LATE),
        make_map(FIRST),
    ),
    (
        "uneven",
        "indices [160, 168), which took 100 ms by itself: chunksize=2 instead of 8",
        make_map(LATE, chunksize=8),
        make_map(even(chunks=40), chunksize=8),
    ),
    (
        # The last chunk, in which there is but one item: no chunk size divides that.
        "uneven",
        "index 160, which took 100 ms by itself: put it first",
        make_map(LATE, chunksize=8, n=161),
        make_map(even(chunks=40), chunksize=8),
    ),
    (
        "uneven",
        'schedule="dynamic"',
        make_map(LATE, is_static=True),
        make_map(even(), is_static=True),
    ),
    (
        "short",
        "chunks of 1 take 10.0 us, and about 50 % of the time goes into beginning and ending them",
        make_map(SPARSE, is_auto=False),
        make_map(DENSE, is_auto=False),
    ),
    ("short", "chunks of 1", make_map(SPARSE, is_auto=False), make_map(SPARSE, is_auto=True)),
    (
        "short",
        "chunks of 4 take 18.0 us, and about 32 % of the time",
        make_map(DENSE, is_auto=False, chunksize=4, verb="pmap_chunks"),
        make_map(DENSE, is_auto=False, chunksize=4, verb="pmap_ranges"),
    ),
    ("short", "chunks of 1", make_map(SPARSE, is_auto=False), make_map(LONGER, is_auto=False)),
    (
        "returning",
        "47 % of the workers' time went into handing over results: out=np.ndarray",
        make_map(GAPS, handing=HANDING, kept="list"),
        make_map(GAPS, kept="list"),
    ),
    (
        "returning",
        "50 % of the time passed after the last chunk, taking results over",
        make_map(even(), after=0.101, kept="list"),
        make_map(even(), after=0.02, kept="list"),
    ),
    (
        # What passes until processes have ended is nothing that results could change.
        "returning",
        "50 % of the time passed after the last chunk, taking results over",
        make_map(even(), after=0.101, kept="list", engine="fork"),
        make_map(even(), after=0.101, kept="list", engine="fork", stamps=ENDING),
    ),
    (
        "returning",
        "make out with shmmap.empty()",
        make_map(even(), after=0.101, kept="out"),
        make_map(even(), after=0.02, kept="out"),
    ),
    (
        "memory",
        "50 % of the busy time went into 400,000 new pages of the output: use one array again, as out=",
        make_map(even(), out_nbytes=400_000 * 4096, **use(faults=200_000)),
        make_map(even(), out_nbytes=400_000 * 4096, **use(faults=20_000)),
    ),
    (
        "memory",
        "out=",
        make_map(even(), out_nbytes=400_000 * 4096, **use(faults=200_000)),
        make_map(even(), out_nbytes=400_000 * 4096, kept="out", **use(faults=200_000)),
    ),
    (
        "memory",
        "out=",
        make_map(even(), out_nbytes=400_000 * 4096, **use(faults=200_000)),
        make_map(even(), out_nbytes=4096, **use(faults=200_000)),
    ),
    (
        "cores",
        "a core for 50 % of their busy time: other programs, or more workers than cores, use them: workers=1",
        make_map(even(), **use(cpu=0.05, switches=100, waits=10)),
        make_map(even(), **use(cpu=0.08, switches=100, waits=10)),
    ),
    (
        "waits",
        "a core for 10 % of their busy time, and waited, for files or others: more workers than cores, "
        "workers=16",
        make_map(even(), **use(cpu=0.01, switches=10, waits=100)),
        make_map(even(), **use(cpu=None, switches=10, waits=100)),
    ),
    (
        "waits",
        "a core for 10 %",
        make_map(even(), **use(cpu=0.01)),
        make_map(even(chunks=4), **use(cpu=0.002)),
    ),
    (
        "lock",
        "waited for the interpreter's lock",
        make_map(even(), engine="threads", **use(cpu=0.05)),
        make_map(even(), engine="threads", **use(cpu=0.09)),
    ),
    (
        # Threads that wait for one lock are one core's worth of work together; these are not.
        "waits",
        "workers=16",
        make_map(even(), engine="threads", **use(cpu=0.005)),
        make_map(even(), engine="threads", **use(cpu=0.05)),
    ),
    (
        # They take less than a core where other programs have it, and are seen to be interrupted.
        "lock",
        "a core for 5 %",
        make_map(even(), engine="threads", **use(cpu=0.005, switches=20, waits=100)),
        make_map(even(), engine="threads", **use(cpu=0.005, switches=2, waits=100)),
    ),
    (
        "waits",
        'engine="threads", workers=8',
        make_map(even(workers=1), engine="serial", **use(cpu=0.01)),
        make_map(even(workers=1), engine="serial", **use(cpu=0.19)),
    ),
    (
        # It has as many as it was made with, whatever a map asks for.
        "waits",
        "an executor of more workers than cores, max_workers=16",
        make_map(even(), engine="ThreadPoolExecutor", **use(cpu=0.005, switches=2, waits=100)),
        make_map(even(), engine="ThreadPoolExecutor", **use(cpu=0.09)),
    ),
    (
        # There is none to be given up.
        "cores",
        "workers=1",
        make_map(even(), **use(cpu=0.05, switches=100)),
        make_map(even(workers=1), **use(cpu=0.05, switches=100)),
    ),
    (
        "threads",
        "workers took 2.0 cores each, as the function has threads of its own: blas_threads=",
        make_map(even(), **use(cpu=0.2)),
        make_map(even(), **use(cpu=0.11)),
    ),
]


@pytest.mark.parametrize(("rule", "text", "provoking", "beside"), CASES)
def test_a_rule_speaks_and_beside_it_does_not(
    rule: str, text: str, provoking: ProfiledMap, beside: ProfiledMap
) -> None:
    (told,) = [each for each in advise(provoking) if each.rule == rule]
    assert text in told.text
    assert any(sign.isdigit() for sign in told.text)
    assert rule not in {each.rule for each in advise(beside)}


def test_every_rule_has_a_case() -> None:
    """Rules are functions that give one or more kinds of advice, all of which are here."""
    told = {found.rule for _, _, made, _ in CASES for rule in RULES for found in rule(made)}
    assert told == {rule for rule, *_ in CASES}
    for rule in RULES:
        assert any(list(rule(made)) for _, _, made, _ in CASES)


def test_at_most_three_that_gain_most_first() -> None:
    bad = make_map(
        [*GAPS, (0, 5, 6, 0.1, 0.3)],
        handing=HANDING,
        kept="list",
        before=1.0,
        placing=0.9,
        placed=10**8,
        after=0.5,
        **use(cpu=0.03, switches=1000),
    )
    assert sum(len(list(rule(bad))) for rule in RULES) > 3
    told = advise(bad)
    assert len(told) == 3
    assert told[0].rule == "serial"
    gains = {found.rule: found.gain for rule in RULES for found in rule(bad)}
    assert [gains[each.rule] for each in told] == sorted(gains.values(), reverse=True)[:3]


def test_none_of_a_map_that_runs_or_failed() -> None:
    assert advise(make_map(LATE))
    assert not advise(make_map(LATE, is_running=True))
    assert not advise(make_map(LATE, failed=(Failure(start=1, stop=2, error="x"),)))


def test_nothing_is_to_be_gained() -> None:
    assert not advise(make_map(even()))
