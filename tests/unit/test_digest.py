"""Digests of functions and data are equal in every process for equal ones, and differ where results could."""

from __future__ import annotations

import dataclasses
import functools
import subprocess
import sys
import textwrap
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmmap._checkpoint.digest import PAGES, WHOLE_NBYTES, Digest, digest_of_function


def digest_of(value, **options):
    digest = Digest(**options)
    digest.add(value)
    return digest.text()


def define(source: str, name: str = "f", module: str = "__main__", **names: object):
    """The function of that name in a module of the user's."""
    namespace = {"__name__": module, "np": np, **names}
    exec(compile(textwrap.dedent(source), "anywhere.py", "exec"), namespace)
    return namespace[name]


BASE = "def f(x):\n    return g(x) * 2 + C\ndef g(x):\n    return x + 1\nC = 5"


@pytest.mark.parametrize(
    "source",
    [
        "\n\n# a comment\n" + BASE,
        BASE.replace("def f(x):", "def f(x):\n    'What it does.'"),
        BASE + "\ndef unused(): pass\nD = 7",
    ],
)
def test_where_it_stands_does_not_count(source):
    assert digest_of_function(define(source)) == digest_of_function(define(BASE))


@pytest.mark.parametrize(
    "before, after",
    [
        ("* 2", "* 3"),
        ("x + 1", "x + 2"),
        ("C = 5", "C = 6"),
        ("C = 5", "C = np.ones(3)"),
        ("def f(x):", "def f(x, y=1):"),
        ("g(x) * 2", "(lambda v: v * 4)(x) * 2"),
    ],
)
def test_what_it_does_counts(before, after):
    assert digest_of_function(define(BASE.replace(before, after))) != digest_of_function(
        define(BASE)
    )


def test_what_it_closes_over_counts():
    def outer(a):
        return lambda v: v * a

    assert digest_of(outer(2)) == digest_of(outer(2))
    assert digest_of(outer(2)) != digest_of(outer(3))
    assert digest_of(outer(np.zeros(3))) != digest_of(outer(np.ones(3)))
    assert digest_of(functools.partial(outer, 1)) != digest_of(functools.partial(outer, 2))


def test_methods_and_objects():
    @dataclasses.dataclass
    class Scale:
        factor: float

        def __call__(self, v):
            return v * self.factor

    assert digest_of(Scale(2.0)) == digest_of(Scale(2.0))
    assert digest_of(Scale(2.0)) != digest_of(Scale(3.0))
    assert digest_of(Scale(2.0).__call__) != digest_of(Scale(3.0).__call__)


def test_functions_that_call_each_other():
    source = "def f(x):\n    return x and g(x - 1)\ndef g(x):\n    return f(x) + 1"
    assert digest_of_function(define(source)) == digest_of_function(define(source))
    assert digest_of_function(define(source)) != digest_of_function(
        define(source.replace("+ 1", "+ 2"))
    )


def test_installed_ones_count_by_name():
    assert digest_of(np.sqrt) == digest_of(np.sqrt) != digest_of(np.sum)
    assert digest_of(np.mean) != digest_of(np.median)
    assert digest_of(functools.lru_cache(len)) != digest_of(functools.lru_cache(sum))


@pytest.mark.parametrize("hashes", ["0", "1", "77"])
def test_the_same_in_every_process(hashes):
    """Sets have another order in each, and objects another address."""
    source = """
        import numpy as np
        from tests.unit.test_digest import digest_of, define, BASE
        names = {"alpha", "beta", "gamma", "delta"}
        def f(x):
            return x in names or x in {"a", "b", "c"} or np.sum(x) or object()
        print(digest_of(f), digest_of(define(BASE)), digest_of({"k": {1, 2, ("a", frozenset("xyz"))}}))
    """
    outputs = {
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(source)],
            capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed, "PATH": ""},
        ).stdout
        for seed in ("0", hashes)
    }  # fmt: skip
    assert len(outputs) == 1


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(values, values)
def test_equal_digests_mean_equal_values(a, b):
    if digest_of(a) == digest_of(b):
        assert repr(a) == repr(b)
    else:
        assert repr(a) != repr(b)


def test_types_are_not_mixed_up():
    kinds = [
        1,
        1.0,
        True,
        "1",
        b"1",
        np.float64(1),
        np.int64(1),
        [1],
        (1,),
        {1},
        {1: 1},
        0.0,
        -0.0,
        None,
    ]
    assert len({digest_of(each) for each in kinds}) == len(kinds)


class TestArrays:
    def test_every_byte_of_a_small_one_counts(self):
        a = np.arange(1000.0)
        for i in (0, 1, 500, 999):
            b = a.copy()
            b[i] += 1
            assert digest_of(b) != digest_of(a)

    def test_layouts(self):
        a = np.arange(12.0)
        all_of = [a, a.reshape(3, 4), a.astype("f4"), a.astype(">f8"), a[::-1], a.view("i8")]
        assert len({digest_of(each) for each in all_of}) == len(all_of)
        assert digest_of(a.reshape(3, 4).T.copy()) == digest_of(a.reshape(3, 4).T)

    @pytest.mark.parametrize("order", ["C", "F", "strided"])
    def test_a_large_one_is_sampled(self, order):
        n = 2 * WHOLE_NBYTES // 8
        a = np.zeros((n // 8, 8), order="F" if order == "F" else "C")
        if order == "strided":
            a = np.zeros((n // 8, 16))[:, ::2]
        before, whole = digest_of(a), digest_of(a, in_full=True)
        a[-1, -1] = 1
        assert digest_of(a) != before
        a[-1, -1] = 0
        a[len(a) // 3] = 1
        assert digest_of(a, in_full=True) != whole
        assert PAGES * 4096 <= WHOLE_NBYTES

    def test_structured_masked_and_objects(self):
        a = np.zeros(3, [("x", "f8"), ("y", "i4")])
        b = a.copy()
        b["y"][1] = 1
        assert digest_of(a) != digest_of(b)
        assert digest_of(np.ma.array([1, 2], mask=[0, 1])) != digest_of(
            np.ma.array([1, 2], mask=[1, 0])
        )
        assert digest_of(np.array(["a", None], object)) != digest_of(np.array(["a", "b"], object))


def test_what_cannot_be_pickled_counts_by_its_class():
    import threading

    assert digest_of(threading.Lock()) == digest_of(threading.Lock())
    assert isinstance(digest_of(types.SimpleNamespace(a=threading.Lock())), str)
