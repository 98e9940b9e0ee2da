"""How arrays reach tasks: shared ones as they are, private ones copied once per call, small ones by value."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import shmmap

joblib = pytest.importorskip("joblib", minversion="1.5", reason="the backend is one of joblib's")
Parallel, delayed = joblib.Parallel, joblib.delayed

import shmmap.joblib  # noqa: E402
from shmmap._wire.bundles import Bundle  # noqa: E402

LARGE = np.arange(40_000.0)


def run(func: Any, *calls: tuple[Any, ...], **options: Any) -> Any:
    tasks = (delayed(func)(*args) for args in calls)
    return Parallel(n_jobs=2, backend="shmmap", **options)(tasks)


def fill(a: Any, i: int) -> Any:
    a[i] = -1 - i
    return a


def look(a: Any) -> tuple[bool, bool]:
    return bool(a.flags.writeable), shmmap.is_shared(a)


def test_writes_into_shared_arrays_land() -> None:
    for n in (10, 40_000):
        a = shmmap.zeros(n)
        run(fill, (a, 0), (a, 1))
        assert a[:3].tolist() == [-1, -2, 0]


def test_a_shared_array_that_is_read_only_stays_so() -> None:
    a = shmmap.zeros(10)
    a.flags.writeable = False
    assert run(look, (a,), (a,)) == [(False, True)] * 2


def test_large_private_arrays_are_shared_and_read_only() -> None:
    assert run(look, (LARGE,), (LARGE,)) == [(False, True)] * 2
    with pytest.raises(ValueError, match="read-only") as caught:
        run(fill, (LARGE, 0), (LARGE, 1))
    assert "asshared" in "".join(caught.value.__notes__)


def test_small_private_arrays_are_the_tasks_own() -> None:
    a = np.zeros(100)
    one, other = run(fill, (a, 0), (a, 1), batch_size=1)
    assert one[:2].tolist() == [-1, 0] and other[:2].tolist() == [0, -2] and not a.any()
    a.flags.writeable = False  # as pickles have it
    assert run(look, (a,), (a,)) == [(False, False)] * 2


@pytest.mark.parametrize("options", [{"max_nbytes": None}, {"mmap_mode": None}, {"mmap_mode": "c"}])
def test_options_by_which_tasks_may_write(options: dict[str, Any]) -> None:
    one, other = run(fill, (LARGE, 0), (LARGE, 1), batch_size=1, **options)
    assert one[:2].tolist() == [-1, 1] and other[:2].tolist() == [0, -2]
    assert LARGE[:2].tolist() == [0, 1]


def test_tasks_may_write_into_the_copy_that_all_have() -> None:
    def add(a: Any) -> float:
        a[0] += 1
        return float(a[0])

    a = np.zeros(40_000)
    assert sorted(run(add, *[(a,)] * 4, mmap_mode="r+", batch_size=4)) == [1, 2, 3, 4]
    assert a[0] == 0


@pytest.mark.parametrize("max_nbytes", [100, "1K"])
def test_the_threshold_is_joblibs_option(max_nbytes: Any) -> None:
    a = np.zeros(200)
    assert run(look, (a,), (a,), max_nbytes=max_nbytes) == [(False, True)] * 2
    assert run(look, (LARGE,), (LARGE,), max_nbytes="2M") == [(True, False)] * 2


def test_its_default_counts_as_unset() -> None:
    a = np.zeros(1 << 13)
    assert a.nbytes == 1 << 16
    assert run(look, (a,), (a[1:],), max_nbytes="1M") == [(False, True), (True, False)]


def test_a_second_call_sees_what_was_changed_in_between() -> None:
    a = np.zeros(40_000)
    with Parallel(n_jobs=2, backend="shmmap") as parallel:
        for i in range(3):
            a[:] = i
            assert parallel(delayed(np.max)(a) for _ in range(4)) == [i] * 4
    with joblib.parallel_config(backend="shmmap", n_jobs=2):
        for i in range(3):
            a[:] = i
            assert Parallel()(delayed(np.max)(a) for _ in range(4)) == [i] * 4


def test_what_comes_back_of_a_shared_copy_is_the_callers_own() -> None:
    a = np.arange(40_000.0)

    def give_back(a: Any) -> dict[str, Any]:
        return {"whole": a, "part": a[5:10]}

    for result in run(give_back, (a,), (a,)):
        assert look(result["whole"]) == look(result["part"]) == (True, False)
        assert result["whole"].tobytes() == a.tobytes() and result["part"].tolist() == [
            5,
            6,
            7,
            8,
            9,
        ]
    s = shmmap.asshared(a)
    assert np.may_share_memory(run(give_back, (s,), (s,))[0]["whole"], s)


def test_layouts_and_values_arrive_as_they_are() -> None:
    def describe(a: Any) -> tuple[Any, ...]:
        return str(a.dtype), a.flags.c_contiguous, a.flags.f_contiguous, a.shape, a.tobytes()

    whole = np.arange(90_000, dtype=">i4").reshape(300, 300)
    views = [
        whole,
        whole.T,
        whole[::2, ::-1],
        whole[:3],
        whole[:0],
        whole[5, 5],
        np.asfortranarray(whole),
    ]
    for got, a in zip(run(describe, *((a,) for a in views)), views, strict=True):
        assert got[0] == str(a.dtype) and got[3:] == (a.shape, a.tobytes())
        if a.size:
            assert got[1:3] == describe(a.copy("K"))[1:3]


def test_masks_and_memmaps_arrive(tmp_path: Any) -> None:
    masked = np.ma.masked_less(np.arange(20_000.0), 100)
    assert run(np.ma.count, (masked,), (masked[:150],)) == [19_900, 50]
    np.save(tmp_path / "a.npy", LARGE)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert run(np.sum, (mapped,), (mapped[:3],)) == [LARGE.sum(), 3.0]


def test_frames_arrive_without_being_copied_into_each_task() -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"x": np.arange(20_000.0), "kind": pd.Categorical(["a", "b"] * 10_000)})

    def add_up(frame: Any, kind: str) -> float:
        return float(frame[frame["kind"] == kind]["x"].sum())

    assert run(add_up, (frame, "a"), (frame, "b")) == [add_up(frame, "a"), add_up(frame, "b")]


def test_sparse_matrices_arrive_as_views_of_what_is_shared() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    matrix = sparse.random(400, 400, 0.3, "csr", random_state=0)

    def check(matrix: Any) -> tuple[bool, float]:
        return shmmap.is_shared(matrix.data), float(matrix.sum())

    assert run(check, (matrix,), (matrix,)) == [(True, float(matrix.sum()))] * 2


# ---------------------------------------------------------------- copies in memory


def copies_of(bundle: Bundle) -> int:
    return sum(copy.nbytes for copy in bundle._copies.values())


def test_a_copy_goes_with_its_array() -> None:
    bundle, a = Bundle(0), np.zeros(1000)
    copy, nbytes = bundle.copy_of(a)
    assert nbytes == a.nbytes and bundle.copy_of(a) == (copy, 0) and bundle.copy_of(a[:])[1] == 0
    del a
    assert copies_of(bundle) == 0


def test_an_array_at_the_address_of_one_that_has_gone_is_another() -> None:
    bundle = Bundle(0)
    for i in range(100):
        assert bundle.copy_of(np.full(1000, float(i)))[0][0] == i


def test_windows_of_an_array_take_no_more_than_twice_its_memory() -> None:
    bundle, a = Bundle(0), np.arange(10_000.0)
    for i in range(0, 5000, 50):
        assert bundle.copy_of(a[i : i + 5000])[0][0] == i
        assert copies_of(bundle) <= 2 * a.nbytes
    assert bundle.copy_of(a[4950:9950])[1] == 0


def test_arrays_made_for_each_task_do_not_pile_up() -> None:
    alive: list[weakref.ref[Any]] = []

    def make() -> Iterator[Any]:
        for i in range(40):
            a = np.full(100_000, float(i))
            alive.append(weakref.ref(a))
            yield delayed(np.max)(a)
            del a
            assert sum(ref() is not None for ref in alive) <= 12

    parallel = Parallel(n_jobs=2, backend="shmmap", batch_size=1)
    assert parallel(make()) == list(range(40))
    gc.collect()
    assert not any(ref() is not None for ref in alive)
