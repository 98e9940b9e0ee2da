"""The report in words."""

from __future__ import annotations

from dataclasses import replace

from shmmap._profile.records import Failure, ProfiledMap
from shmmap._profile.sums import median_chunk
from shmmap._profile.text import ALIKE_LEAST, TABLES_MOST, describe
from shmmap._profile.words import per_cent, size_of, time_of

from .made import even, make_map


def numbered(*maps: ProfiledMap) -> list[ProfiledMap]:
    return [replace(of, number=number) for number, of in enumerate(maps)]


def test_no_map() -> None:
    assert describe([]) == "no map began inside profile()"


def test_one_map() -> None:
    made = make_map(even(chunks=20), binding=0.0002, placed=8_000_000, placing=0.0001)
    assert describe([made]) == "\n".join(
        [
            "pmap of func on processes, 20 items: 102 ms",
            "  = 1.00 until the first chunk (0.20 binding, 8.00 MB placed) + 100 at work "
            "+ 0.50 after the last",
            "  worker   busy ms   between   waiting   chunks   MB/s",
            "       0       100      0.00      0.00       10      -",
            "       1       100      0.00      0.00       10      -",
            "     all     100 %       0 %       0 %       20",
            "  20 chunks of 1: median 10.0 ms, longest 10.0 ms for index 0",
            "  1.97 times as fast as its chunks one after the other; the busiest worker had 1.00 times "
            "the mean",
        ]
    )


def test_lines_stay_within_a_terminal() -> None:
    made = make_map(even(64, 64_000, 1e-3), n=64_000_000, chunksize=1000)
    lines = describe([made]).splitlines()
    assert max(map(len, lines)) <= 110
    assert len(lines) < 30
    assert any(line.strip().startswith("+ 48 more") for line in lines)


def test_a_thousand_maps_of_a_loop_are_one_table() -> None:
    maps = numbered(*[make_map(even(chunks=4, each=1e-4), before=0.0002) for _ in range(1000)])
    maps[17] = replace(maps[17], phases=replace(maps[17].phases, wall=1.0))
    text = describe(maps)
    assert text.count("\n") < 10
    assert text.startswith("1,000 maps: pmap of func on processes: ")
    assert "to 1.00 s (map 17)" in text
    assert "2,000" in text  # chunks of each worker, in all maps


def test_few_maps_are_told_one_by_one() -> None:
    maps = numbered(*[make_map(even()) for _ in range(ALIKE_LEAST - 1)])
    assert describe(maps).count("pmap of func") == ALIKE_LEAST - 1


def test_what_failed_or_runs_is_told_apart() -> None:
    maps = [make_map(even()) for _ in range(10)]
    maps[3] = replace(maps[3], failed=(Failure(start=4, stop=5, error="KeyError: 'no'"),))
    maps[9] = replace(maps[9], is_running=True)
    text = describe(numbered(*maps))
    assert "8 maps: pmap of func" in text
    assert "!! [4, 5) KeyError: 'no'" in text
    assert "still running" in text


def test_advice_that_most_have_is_told_of_all() -> None:
    from shmmap._profile.advice import advise

    small = make_map(even(chunks=2, each=1e-5), before=0.001)
    small = replace(small, advice=advise(small))
    text = describe(numbered(*[small] * 100))
    assert text.count("->") == 1
    assert "-> in 100 of 100: a plain loop would take about 20.0 us, this took 1.51 ms" in text


def test_maps_of_many_functions() -> None:
    maps = numbered(
        *[make_map(even(chunks=2, each=0.001 * (i + 1)), func=f"f{i}") for i in range(100)]
    )
    text = describe(maps)
    assert text.count("\npmap of f") + text.startswith("pmap of f") == TABLES_MOST
    assert "pmap of f99" in text and "pmap of f0 " not in text
    assert f"and {100 - TABLES_MOST} more maps" in text


def test_many_failures_are_counted() -> None:
    failed = tuple(Failure(start=i, stop=i + 1, error="x") for i in range(1000))
    assert "and 995 more ranges" in describe([make_map(even(), failed=failed)])


def test_hosts_are_named_where_there_are_several() -> None:
    made = make_map(even())
    workers = (made.workers[0], replace(made.workers[1], host="there"))
    assert "1 there" in describe([replace(made, workers=workers)])


def test_how_figures_are_written() -> None:
    assert [time_of(each) for each in (0, 1e-7, 2.5e-4, 0.0123, 1.5, 12345.6)] == [
        *("0.00 us", "0.10 us", "250 us", "12.3 ms", "1.50 s", "12,346 s"),
    ]
    assert [size_of(each) for each in (12, 2000, 160e6, 3e9)] == [
        *("12 bytes", "2.00 kB", "160 MB", "3.00 GB"),
    ]
    assert [per_cent(each) for each in (0, 0.001, 0.126, 1)] == ["0 %", "0.1 %", "13 %", "100 %"]


def test_the_median_counts_chunks_and_not_rows() -> None:
    rows = [(0, 0, 100, 0.0, 0.1), (0, 100, 101, 0.1, 0.2), (0, 101, 102, 0.2, 0.3)]
    assert median_chunk(make_map(rows).bars) == 0.001
