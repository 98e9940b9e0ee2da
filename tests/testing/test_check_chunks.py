"""`check_chunks`: whether a block function looks beyond its chunk, and where (A18)."""

from __future__ import annotations

import itertools
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import shmmap
from shmmap.testing import ChunksDiffer, check_chunks

x = np.random.default_rng(0).normal(size=50)


def smooth(chunk: Any) -> Any:
    return np.convolve(chunk, [1, 2, 1], "same")


@pytest.mark.parametrize(
    "func",
    [
        np.cumsum,
        np.sort,
        lambda c: c - c.mean(),
        lambda c: c / c.max(),
        lambda c: np.diff(c, prepend=0),
        lambda c: c[::-1],
        lambda c: np.argsort(np.argsort(c)),
        lambda c: np.arange(len(c)),
        lambda c: (c, np.cumsum(c)),
        lambda c: np.full(len(c), len(c)),
        lambda c: c.astype("f4") if len(c) == 50 else c,
    ],
)
def test_functions_that_look_beyond_are_found(func: Any) -> None:
    """A18. Kind: what a function gives for an index depends on which other items are in its chunk."""
    with pytest.raises(
        ChunksDiffer, match=r"beyond its chunk: in chunks of 1, index \d+"
    ) as caught:
        check_chunks(func, x)
    assert caught.value.chunksize == 1
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.index, again.chunksize, str(again)) == (
        caught.value.index,
        1,
        str(caught.value),
    )


def test_the_first_index_is_named() -> None:
    """A18: and the values there, and the limits of its chunk."""
    with pytest.raises(ChunksDiffer) as caught:
        check_chunks(np.cumsum, np.arange(1, 11), chunksizes=(4,))
    assert caught.value.index == 4
    assert "index 4 is np.int64(5), and np.int64(15) where all 10 items are one chunk" in str(
        caught.value
    )
    assert "its chunk was [4, 8)" in str(caught.value)
    with pytest.raises(ChunksDiffer, match="index 6 of result 1 is"):
        check_chunks(lambda c: (c, np.cumsum(c)), np.arange(10), chunksizes=(6,))


@pytest.mark.parametrize(
    "func",
    [
        np.sqrt,
        np.negative,
        lambda c: (c, c * 2),
        lambda c: np.stack([c, c], axis=1),
        lambda c: np.where(c > 0, c, np.nan),
        lambda c: c > 0,
        lambda c: np.array([str(v) for v in c]),
        lambda c: c.astype("M8[s]"),
        lambda c: np.exp(c[:, None] * np.arange(3.0)),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_others_pass(func: Any) -> None:
    for a in (x, np.arange(12.0), np.arange(2.0), shmmap.asshared(x)):
        check_chunks(func, a)


def test_axes_several_inputs_and_neighbours() -> None:
    a = np.arange(60.0).reshape(5, 12)
    check_chunks(lambda c: c - c.mean(axis=0), a, axis=1)
    with pytest.raises(ChunksDiffer):
        check_chunks(lambda c: c - c.mean(axis=0), a, axis=0)
    check_chunks(lambda c, scale: c * scale, a, 3, axis=(1, None))
    check_chunks(lambda c, d: c + d.T, a, a.T.copy(), axis=(1, 0))
    check_chunks(smooth, x, depth=1, boundary="reflect")
    wide = np.ones(5)
    with pytest.raises(ChunksDiffer, match="index 5 is"):
        check_chunks(
            lambda c: np.convolve(c, wide, "same"), x[:48], depth=1, boundary=0.0, chunksizes=(6,)
        )


def test_rounding_is_tolerated_and_can_be_asked_for() -> None:
    """A18: a product of matrices is not computed in the same order for one row and for many."""
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(40, 300)), rng.normal(size=(300, 3))
    check_chunks(lambda c: c @ b, a)
    check_chunks(lambda c: c.astype("f4") @ b.astype("f4"), a)
    noisy = itertools.count()

    def wobble(c: Any) -> Any:
        return c * (1 + next(noisy) * 1e-15)

    check_chunks(wobble, np.ones(9))
    with pytest.raises(ChunksDiffer):
        check_chunks(lambda c: c * (1 + len(c) * 1e-13), np.ones(9), rtol=0)
    with pytest.raises(ChunksDiffer):
        check_chunks(lambda c: c * (1 + len(c) * 1e-5), np.ones(9))


def test_functions_that_work_in_place() -> None:
    """A18: on copies, so that the arrays stay what they are."""
    shared = shmmap.asshared(x)

    def centre(c: Any) -> None:
        c -= c.mean()

    def negate(c: Any) -> None:
        np.negative(c, out=c)

    check_chunks(negate, shared)
    check_chunks(lambda c: np.negative(c, out=c), shared)
    with pytest.raises(ChunksDiffer):
        check_chunks(centre, shared)
    assert shared.tolist() == x.tolist()
    with pytest.raises(TypeError, match="no shared array to write into"):
        check_chunks(lambda c: None, x)


def test_what_is_not_to_be_compared() -> None:
    with pytest.raises(ValueError, match="at least two"):
        check_chunks(np.sqrt, np.ones(1))
    with pytest.raises(ValueError, match="length 50 along axis 0") as caught:
        check_chunks(np.sum, x)
    assert caught.value.__notes__[-1] == "check_chunks ran it in chunks of 50"
    with pytest.raises(ChunksDiffer, match="something else every time"):
        numbers = itertools.count()
        check_chunks(lambda c: np.full(len(c), next(numbers)), x)
    with pytest.raises(ZeroDivisionError) as failed:
        check_chunks(lambda c: c if len(c) > 1 else 1 // 0, x)
    assert "in chunks of 1" in failed.value.__notes__[-1]


def test_lists() -> None:
    check_chunks(lambda part: [v * 2 for v in part], list(range(20)))
    check_chunks(lambda part: [str(v) for v in part], iter(range(20)))
    with pytest.raises(ChunksDiffer, match="index 1 is 1, and 2"):
        check_chunks(lambda part: [v - part[0] + 1 for v in part], range(20))
    with pytest.raises(TypeError, match="one per item"):
        check_chunks(lambda part: [sum(part)], [1, 2, 3])


def test_frames() -> None:
    """A18: diff, rolling, rank, and what works on each row by itself."""
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": x, "b": np.arange(50), "c": list("abcde" * 10)})
    frame.loc[3, "a"] = np.nan
    for func in (
        lambda rows: rows["a"].diff(),
        lambda rows: rows["a"].rolling(3).mean(),
        lambda rows: rows["a"].rank(),
        lambda rows: rows[["a", "b"]].cumsum(),
        lambda rows: rows["a"] - rows["a"].mean(),
    ):
        with pytest.raises(ChunksDiffer):
            check_chunks(func, frame)
        with pytest.raises(ChunksDiffer):
            check_chunks(func, shmmap.share(frame))
    for func in (
        lambda rows: rows.assign(d=rows["a"] * 2),
        lambda rows: rows["c"].str.upper(),
        lambda rows: (rows["a"].to_numpy(), rows["b"]),
    ):
        check_chunks(func, frame)
    with pytest.raises(
        TypeError, match=r"rows of frames have none: pass the columns as arrays .*pmap_ranges"
    ):
        shmmap.pmap_chunks(len, frame, depth=1)


@given(
    n=st.integers(2, 60),
    window=st.integers(1, 4),
    depth=st.integers(0, 4),
)
def test_depth_is_enough_or_is_not(n: int, window: int, depth: int) -> None:
    """A18, as a law: what looks `window` items back passes if and only if depth reaches as far."""
    a = np.arange(1.0, n + 1) ** 2

    def back(c: Any) -> Any:
        return c + np.concatenate([np.zeros(min(window, len(c))), c[: max(0, len(c) - window)]])

    def check() -> None:
        check_chunks(back, a, depth=depth, boundary=0.0)

    if depth >= window or n <= window:
        check()
    else:
        with pytest.raises(ChunksDiffer):
            check()
