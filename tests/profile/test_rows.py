"""Rows in memory: written, read, and merged without losing a sum."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shmmap._wire.rows import ROW, RowBanks, RowKind, RowLog, merge_rows, unpack_rows

MOST = 64


def make_log(most: int = MOST) -> RowLog:
    return RowLog.in_own_memory(7, most)


def fill(log: RowLog, count: int, *, long_each: int = 0) -> None:
    """Calls one after the other with a gap of 1, and something handed over after each tenth."""
    now = 1000
    for k in range(count):
        took = 5_000 if long_each and k % long_each == 0 else 10
        log.note(RowKind.CALL, k, k + 1, 1, now, now + took, took)
        now += took
        if k % 10 == 9:
            log.note(RowKind.HANDING, 0, 0, 0, now, now + 3, 3)
            now += 3
        now += 1


def sums_of(rows: Any) -> dict[tuple[int, str], int]:
    return {
        (kind, name): int(rows[name][rows["kind"] == kind].sum())
        for kind in (RowKind.CALL, RowKind.HANDING)
        for name in ("chunks", "busy")
    }


def test_a_row_is_what_was_noted() -> None:
    log = make_log()
    log.note(RowKind.CALL, 3, 9, 5, 100, 250, 140, 2, 0)
    (row,) = unpack_rows(log.rows())
    assert row.tolist() == (0, 2, 7, 3, 9, 5, 100, 250, 140, 0, 0)


def test_any_number_of_rows_fits_and_sums_stay() -> None:
    for count in (MOST - 10, MOST, MOST * 10, MOST * 300):
        log = make_log()
        fill(log, count)
        rows = unpack_rows(log.rows())
        assert len(rows) <= MOST
        assert sums_of(rows) == {
            (0, "chunks"): count,
            (0, "busy"): 10 * count,
            (1, "chunks"): 0,
            (1, "busy"): 3 * (count // 10),
        }
        calls = rows[rows["kind"] == RowKind.CALL]
        assert int(calls["merged"].sum()) + len(calls) == count
        assert (calls["first"].min(), calls["stop"].max()) == (0, count)


def test_merged_rows_do_not_overlap() -> None:
    log = make_log()
    fill(log, 5000, long_each=97)
    rows = unpack_rows(log.rows())
    assert rows["merged"].any()
    assert (rows["began"][1:] >= rows["ended"][:-1]).all()
    assert (rows["ended"] - rows["began"] >= rows["busy"]).all()


def test_long_rows_stay_by_themselves() -> None:
    log = make_log(256)
    fill(log, 10_000, long_each=1000)
    rows = unpack_rows(log.rows())
    long = rows[rows["busy"] >= 5_000]
    assert long["chunks"].tolist() == [1] * 10
    assert long["first"].tolist() == list(range(0, 10_000, 1000))


@given(
    st.lists(
        st.tuples(
            st.sampled_from([RowKind.CALL, RowKind.HANDING, RowKind.SPAN]),
            st.integers(0, 1000),
            st.integers(0, 100),
            st.integers(0, 3),
        ),
        min_size=1,
        max_size=300,
    ),
    st.integers(1, 100),
)
def test_merging_any_rows(drawn: list[tuple[int, int, int, int]], most: int) -> None:
    rows = np.zeros(len(drawn), ROW)
    now = 0
    for row, (kind, took, gap, attempt) in zip(rows, drawn, strict=True):
        row["kind"], row["attempt"], row["chunks"], row["busy"] = kind, attempt, 1, took
        row["began"], row["ended"] = now, now + took
        now += took + gap
    merged = merge_rows(rows, most)
    assert len(merged) <= max(most, 6)  # one for each kind, first runs and further ones apart
    assert sums_of(merged) == sums_of(rows)
    assert int(merged["merged"].sum()) + len(merged) == len(rows)
    work = merged[merged["kind"] != RowKind.SPAN]
    assert (work["began"][1:] >= work["ended"][:-1]).all()


def test_a_successor_goes_on_where_another_one_stopped() -> None:
    memory = memoryview(bytearray(RowBanks.nbytes(3)))
    ours, theirs = RowBanks(memory, 3), RowBanks(memory, 3)
    first = theirs.log(1)
    assert first is not None
    first.note(RowKind.CALL, 0, 1, 1, 1, 2, 1)
    second = RowBanks(memory, 3).log(1)
    assert second is not None
    second.note(RowKind.CALL, 1, 2, 1, 2, 3, 1)
    assert list(ours.rows()) == [1]
    assert unpack_rows(ours.rows()[1])["first"].tolist() == [0, 1]
    assert ours.log(3) is None
    ours.clear()
    assert not ours.rows()


def test_half_a_row_is_none() -> None:
    """A writer that dies before it counts the row loses it, and no other."""

    class Dies(list[int]):
        def __setitem__(self, at: Any, value: Any) -> None:
            raise SystemExit

    log = make_log()
    log.note(RowKind.CALL, 0, 1, 1, 1, 2, 1)
    before = log.rows()
    word = log._word
    log._word = Dies(word)
    try:
        log.note(RowKind.CALL, 1, 2, 1, 2, 3, 1)
    except SystemExit:
        pass
    log._word = word
    assert log.rows() == before


def test_merging_leaves_the_rows_until_it_is_done() -> None:
    class Dies(list[int]):
        def __setitem__(self, at: Any, value: Any) -> None:
            raise SystemExit

    log = make_log()
    fill(log, MOST - 6)
    while log._at != log._end:
        log.note(RowKind.CALL, 0, 1, 1, 1, 2, 1)
    before = log.rows()
    word = log._word
    log._word = Dies(word)
    try:
        log.note(RowKind.CALL, 1, 2, 1, 2, 3, 1)
    except SystemExit:
        pass
    log._word = word
    assert log.rows() == before


def test_memory_for_any_number_of_ranks() -> None:
    assert RowBanks.nbytes(0) == 0
    assert RowBanks.nbytes(2) == 2 * (8 + 2 * 4096 * 64)
    assert RowBanks.nbytes(1024) <= (1 << 26) + 8 * 1024


def test_rows_are_read_while_their_memory_grows() -> None:
    """By another thread than the one that writes them: what is counted has been written where it is read."""

    class Meanwhile(list[int]):
        """A word, by the reading of which the writer has come further."""

        def __getitem__(self, at: Any) -> Any:
            if not self.has_come and sys._getframe(1).f_code.co_name == "rows":
                self.has_come = True
                fill(log, 10)
            return super().__getitem__(at)

        has_come = False

    log = RowLog.in_own_memory(7, 4 * MOST)
    fill(log, MOST - 5)
    log._word = word = Meanwhile(log._word)
    assert (unpack_rows(log.rows())["ended"] > 0).all()
    assert word.has_come
