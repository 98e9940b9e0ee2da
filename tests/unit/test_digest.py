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


IN_A_CLASS = "import functools, operator, types\nclass C:\n  a = {}\ndef f(x): return C().a"


@pytest.mark.parametrize(
    "source",
    [
        *(
            IN_A_CLASS.format(attribute)
            for attribute in (
                "np.array([K])",
                "{K}",
                "np.float64(K)",
                "functools.partial(pow, K)",
                "functools.lru_cache(lambda self: K)",
                "functools.cached_property(lambda self: K)",
                "functools.partialmethod(lambda self, v: v, K)",
                "staticmethod(lambda v: K)",
                "property(lambda self: K)",
                "types.SimpleNamespace(a=K)",
                "operator.itemgetter(K)",
            )
        ),
        "from typing import NamedTuple\nclass P(NamedTuple):\n  a: int = 1\n  def m(self): return K\n"
        "p = P()\ndef f(x): return p.m()",
        "class P(dict):\n  def m(self): return K\np = P()\ndef f(x): return p.m()",
        "class P(list): pass\np = P()\np.k = K\ndef f(x): return p.k",
        "class P(int):\n  def m(self): return K\np = P(1)\ndef f(x): return p.m()",
        "class P(np.ndarray):\n  def m(self): return K\np = np.zeros(3).view(P)\ndef f(x): return p.m()",
        "class P:\n  def __init__(self, func): self.__wrapped__ = func\n  def __call__(self, x): return K\n"
        "f = P(len)",
        "class P:\n  def __reduce__(self): raise TypeError\nf = P()\nf.k = K",
        "def f(x): return f.k\nf.k = K",
        "import functools\n@functools.wraps(np.sum)\ndef f(x): return K",
        "import functools\n@functools.wraps(np.sum)\ndef g(x): return K\ndef f(x): return g(x)",
        "import functools\nf = functools.lru_cache(lambda x: K)",
        "import re\np = re.compile('a' * K)\ndef f(x): return p.match(x)",
        "g = {1: K}.get\ndef f(x): return g(x)",
        "g = (np.sin, np.sqrt, np.exp)[K]\ndef f(x): return g(x)",
        "f = (np.sin, np.sqrt, np.exp)[K]",
        "g = np.frompyfunc(lambda v: K, 1, 1)\ndef f(x): return g(x)",
        "f = np.vectorize(lambda v: K)",
    ],
)
def test_what_it_reaches_counts(source):
    first, same, other = (define(source.replace("K", str(k))) for k in (1, 1, 2))
    assert digest_of(first) == digest_of(same)
    assert digest_of(first) != digest_of(other)


def test_code_without_a_module_counts():
    """As of functions that a library has made with `exec`."""

    def make(k):
        namespace: dict = {}
        exec(f"def f(x): return x * {k}", namespace)
        return namespace["f"]

    assert digest_of(make(2)) == digest_of(make(2)) != digest_of(make(3))


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "source",
    [
        "import helper\ndef f(x): return helper.g(x)",
        "import helper\ndef f(x): return x + helper.C",
        "import helper\ndef make():\n  m = helper\n  return lambda x: m.g(x)\nf = make()",
        "import helper\nm = {'a': helper}\ndef f(x): return m['a'].g(x)",
        "import helper\nclass M: pass\nm = M()\nm.a = helper\ndef f(x): return m.a.g(x)",
        "def f(x):\n  import helper\n  return helper.g(x)",
        "def f(x):\n  from helper import g\n  return g(x)",
        "def f(x):\n  from package import inner\n  return inner.g(x)",
        "import package.inner\ndef f(x): return package.inner.g(x)",
    ],
)
def test_what_it_names_of_another_module_counts(source, tmp_path):
    """Of one of the user's: by `import module`, also as it runs, and after a comment was added."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    digests = []
    for k, above in ((1, ""), (1, "# a comment\n"), (2, "")):
        text = f"{above}C = {k}\ndef g(x):\n    return x * {k}\nunused = 3\n"
        (tmp_path / "helper.py").write_text(text)
        (tmp_path / "package" / "inner.py").write_text("from helper import g")
        program = f"""
            from tests.unit.test_digest import define, digest_of_function
            print(digest_of_function(define({source!r})))
        """
        digests.append(
            subprocess.run(
                [sys.executable, "-B", "-c", textwrap.dedent(program)],
                capture_output=True,
                text=True,
                check=True,
                env={"PYTHONPATH": str(tmp_path), "PATH": ""},
            ).stdout
        )
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    "source, use",
    [
        ("import functools\n@functools.singledispatch\ndef f(x): return 1", lambda f: f(3)),
        ("f = np.vectorize(lambda v: v, otypes=[float])", lambda f: f(np.ones(2))),
        ("import enum\nclass E(enum.Flag):\n  A = 1\n  B = 2\ndef f(x): return E.A | E.B", lambda f: f(1)),
        ("import functools\n@functools.cache\ndef f(x): return 1", lambda f: f(3)),
    ],
)  # fmt: skip
def test_to_be_used_does_not_count(source, use):
    func = define(source)
    before = digest_of(func)
    use(func)
    assert digest_of(func) == before


def test_attributes_are_no_globals():
    source = "def f(x): return x.mean()"
    assert digest_of(define(source)) == digest_of(define("mean = 3\n" + source))


def test_functions_that_call_each_other_in_a_long_chain():
    chain = [f"def f{i}(x): return f{i + 1}(x)" for i in range(3000)]
    source = "\n".join([*chain, "def f3000(x): return K"])
    assert digest_of(define(source, "f0", K=1)) != digest_of(define(source, "f0", K=2))


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

    def test_a_large_one_is_not_its_transpose(self):
        a = np.random.default_rng(0).random((500, 500))
        assert a.nbytes > WHOLE_NBYTES
        assert digest_of(a) != digest_of(a.T)

    def test_classes_and_layouts_that_change_what_is_done_with_them(self):
        a = np.array([[1, 2], [3, 4]])
        assert digest_of(a) != digest_of(a.view(np.recarray))
        one, other = (np.ma.array([1, 2], mask=[0, 1], fill_value=v) for v in (3, 4))
        assert digest_of(one) != digest_of(other)
        back_to_front = np.dtype({"names": "ab", "formats": ["i4", "i4"], "offsets": [4, 0]})
        assert digest_of(np.zeros(3, back_to_front)) == digest_of(np.zeros(3, back_to_front))

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
