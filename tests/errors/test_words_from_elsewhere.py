"""Words that people bring from elsewhere are answered with ours (E1, E2, E3, E5)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import shmmap
from tests import functions

ANSWERS = [
    ("n_jobs", 4, "workers=4"),
    ("n_jobs", -1, "workers=-1"),
    ("n_jobs", -2, "workers=4"),
    ("njobs", 3, "workers=3"),
    ("processes", 4, "workers=4"),
    ("max_workers", 4, "workers=4"),
    ("num_proc", 4, "workers=4"),
    ("nprocs", None, "workers=4"),
    ("backend", "loky", "engine='processes'"),
    ("backend", "threading", "engine='threads'"),
    ("executor", object(), "engine='processes', a shmmap.Team"),
    ("pool", None, "engine='processes', a shmmap.Team"),
    ("verbose", 5, "progress=True"),
    ("progress_bar", True, "progress=True"),
    ("show_progress", False, "progress=True"),
    ("desc", "rows", "progress='rows'"),
    ("seed", 7, "rng=7, which gives the function a numpy.random.Generator"),
    ("random_state", 7, "rng=7"),
    ("random_state", np.random.RandomState(3), "rng=..."),
    ("chunk_size", 10, "chunksize=10"),
    ("batch_size", "8MiB", "chunksize='8MiB'"),
    ("drop_axis", 1, "the shape of a result is that of what the function returns"),
    ("block_info", True, "shmmap.current() tells the function where it is"),
    ("callback", print, "future.add_done_callback(callback)"),
    ("args", (2,), "functools.partial(func, 2)"),
    ("args", (), "functools.partial(func)"),
    ("kwargs", {"scale": 2, "b": "x"}, "functools.partial(func, scale=2, b='x')"),
    ("scale", 2, "functools.partial(func, scale=2)"),
    ("weights", np.zeros(100), "functools.partial(func, weights=...)"),
    ("initializer", print, "with shmmap.Team(initializer=print) as team"),
    ("memory_limit", "1GB", "with shmmap.Team(memory_limit='1GB') as team"),
]
"""A keyword, its value, and what the error is to say."""

VERBS: list[Callable[..., Any]] = [
    functools.partial(shmmap.pmap, np.sum, np.zeros((3, 2))),
    functools.partial(shmmap.pmap_chunks, np.sqrt, np.zeros(3)),
    functools.partial(shmmap.pmap_ranges, max, 3),
    functools.partial(shmmap.preduce, np.sum, np.zeros(3), combine=np.add),
]


@pytest.mark.parametrize("verb", VERBS, ids=["pmap", "pmap_chunks", "pmap_ranges", "preduce"])
@pytest.mark.parametrize(("name", "value", "answer"), ANSWERS)
def test_keyword_from_elsewhere(
    verb: Callable[..., Any], name: str, value: Any, answer: str
) -> None:
    """E1, E2; kind: a keyword of another library, or of the function."""
    with pytest.raises(TypeError) as caught:
        verb(**{name: value})
    text = str(caught.value)
    assert answer in text
    assert repr(name) in text
    assert "did you mean" not in text


def test_executor_of_elsewhere_goes_as_engine() -> None:
    with ThreadPoolExecutor(1) as executor:
        with pytest.raises(TypeError, match="engine=, which takes the executor as it is"):
            shmmap.pmap(abs, [1], executor=executor)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("name", "meant"),
    [("worker", "workers"), ("chunksizes", "chunksize"), ("on_errors", "on_error")],
)
def test_only_near_misspellings_are_guessed(name: str, meant: str) -> None:
    with pytest.raises(TypeError, match=f"did you mean '{meant}'"):
        shmmap.pmap(abs, [1], **{name: 1})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["n_jobs", "processes", "max_workers", "n_workers"])
def test_keyword_from_elsewhere_for_a_team(name: str) -> None:
    with pytest.raises(TypeError, match=f"'{name}' is no keyword of Team: write workers=3"):
        shmmap.Team(**{name: 3})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("worker", "did you mean 'workers'"),
        ("scale", "Team takes no 'scale': It takes workers, start, initializer"),
    ],
)
def test_unknown_keyword_for_a_team(name: str, answer: str) -> None:
    with pytest.raises(TypeError, match=answer):
        shmmap.Team(**{name: 3})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value", "answer"),
    [
        ("n_jobs", 3, "write workers=3"),
        ("backend", "threading", "write engine='threads'"),
        ("verbose", 1, "write progress=True"),
        ("chunksize", 3, "which can change a result"),
        ("scale", 3, "config takes no 'scale': It takes workers, engine"),
    ],
)
def test_keyword_from_elsewhere_for_config(name: str, value: Any, answer: str) -> None:
    with pytest.raises(TypeError, match=answer), shmmap.config(**{name: value}):
        pass


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("Pool", "shmmap.Team(workers=4)"),
        ("ThreadPool", 'engine="threads"'),
        ("map", "shmmap.pmap(func, x)"),
        ("starmap", "shmmap.pmap(func, xs, ys)"),
        ("imap", ".in_order()"),
        ("imap_unordered", ".as_completed()"),
        ("Parallel", "shmmap.pmap(func, x)"),
        ("delayed", "takes the function itself"),
        ("submit", "shmmap.Team().submit(func"),
    ],
)
def test_attribute_from_elsewhere(name: str, answer: str) -> None:
    """E1's kind: names of other modules. Probing for them still works as for any module."""
    with pytest.raises(AttributeError) as caught:
        getattr(shmmap, name)
    assert f"module 'shmmap' has no attribute {name!r}: write " in str(caught.value)
    assert answer in str(caught.value)
    assert not hasattr(shmmap, name)
    assert getattr(shmmap, name, None) is None
    assert name not in dir(shmmap)


@pytest.mark.parametrize("name", ["nothing_like_it", "__wrapped__", "_repr_html_", "__path_"])
def test_other_attribute(name: str) -> None:
    with pytest.raises(AttributeError) as caught:
        getattr(shmmap, name)
    assert str(caught.value) == f"module 'shmmap' has no attribute {name!r}"
    assert caught.value.name == name


# --- shapes of calls ----------------------------------------------------------------------------


def delayed(function: Callable[..., Any]) -> Callable[..., Any]:
    """As joblib has it."""
    return lambda *args, **kwargs: (function, args, kwargs)


@pytest.mark.parametrize("verb", ["pmap", "pmap_chunks", "preduce"])
def test_tasks_as_the_function(verb: str) -> None:
    """E3; kind: joblib's way to write a call. A generator is not run for the message."""
    x = [1, 2, 3]
    call = getattr(shmmap, verb)
    ran = []

    def tasks() -> Any:
        for v in x:
            ran.append(v)
            yield delayed(functions.double)(v)

    options = {"combine": np.add} if verb == "preduce" else {}
    with pytest.raises(TypeError, match=rf"generator is not callable.*{verb}\(f, x\)"):
        call(tasks(), **options)
    assert not ran
    with pytest.raises(TypeError, match=rf"list is not callable.*{verb}\(double, x\)"):
        call([delayed(functions.double)(v) for v in x], **options)


@pytest.mark.parametrize(
    "call",
    [
        lambda: shmmap.pmap(np.zeros(3), functions.double),
        lambda: shmmap.pmap([1, 2], functions.double, axis=0),
        lambda: shmmap.pmap_chunks(np.zeros(3), functions.double),
        lambda: shmmap.preduce(np.zeros(3), functions.double, combine=np.add),
        lambda: shmmap.pmap_ranges(3, functions.double),
    ],
)
def test_swapped_arguments(call: Callable[[], Any]) -> None:
    with pytest.raises(TypeError, match=r"the function comes first, as in p\w+\(double, x\)"):
        call()


def test_name_as_the_function() -> None:
    with pytest.raises(TypeError, match="give the function itself, not its name"):
        shmmap.pmap("numpy.sum", [1])  # type: ignore[arg-type]


# --- rng ----------------------------------------------------------------------------------------


def with_seed(i: int, seed: Any) -> Any:
    """Take randomness under another name."""
    return seed


def plain(i: int) -> int:
    """Take none."""
    return i


def local_rng(i: int) -> Any:
    """Have a variable, and no parameter, of that name."""
    rng = i
    return rng


def positional(rng: Any, /) -> Any:
    """Have a parameter of that name that cannot be given by keyword."""
    return rng


class Method:
    """Callable in several ways."""

    def __call__(self, i: int) -> int:
        """Take none."""
        return i


@pytest.mark.parametrize("verb", ["pmap", "pmap_chunks", "pmap_ranges", "preduce", "iterator"])
@pytest.mark.parametrize("function", [with_seed, plain, local_rng, positional, Method(), np.sum])
def test_rng_for_a_function_that_takes_none(verb: str, function: Any) -> None:
    """E5; kind: what `rng=` gives, and under which name. It is said before anything runs."""
    inputs: list[Any] = [3] if verb == "pmap_ranges" else [[1, 2, 3]]
    options: dict[str, Any] = {"combine": np.add} if verb == "preduce" else {}
    if verb == "iterator":
        verb, inputs = "pmap", [iter(range(3))]
    with pytest.raises(TypeError) as caught:
        getattr(shmmap, verb)(function, *inputs, rng=7, **options)
    text = str(caught.value)
    assert text.startswith(
        "rng= gives the function a numpy.random.Generator as keyword argument 'rng'"
    )
    assert ("rename 'seed' to 'rng'" in text) == (function is with_seed)


def test_rng_where_the_signature_tells_nothing(engine: Any) -> None:
    """The error is the function's own, with a note."""

    def outer(*args: Any, **kwargs: Any) -> Any:
        return plain(*args, **kwargs)

    with pytest.raises(TypeError, match="unexpected keyword argument 'rng'") as caught:
        shmmap.pmap(outer, [1, 2, 3], rng=7, engine=engine)
    assert any("rng= gives the function a numpy.random.Generator" in note
               for note in caught.value.__notes__)  # fmt: skip


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    """Take `rng` oneself, for a function that does not."""

    @functools.wraps(function)
    def inner(*args: Any, rng: Any) -> Any:
        return function(*args, float(rng.random()))

    return inner


class WithRng:
    """Callable objects and methods that take it."""

    def __call__(self, i: int, *, rng: Any) -> float:
        """Draw one."""
        return float(rng.random())

    def method(self, i: int, rng: Any) -> float:
        """Draw one."""
        return float(rng.random())


@pytest.mark.parametrize(
    "function",
    [
        decorated(with_seed),
        WithRng(),
        WithRng().method,
        functools.partial(lambda a, i, rng: float(rng.random()), 1),
        lambda *args, **kwargs: float(kwargs["rng"].random()),
    ],
)
def test_rng_reaches_whoever_takes_it(function: Any) -> None:
    expected = shmmap.pmap(lambda i, rng: float(rng.random()), range(3), rng=7, engine="serial")
    assert shmmap.pmap(function, range(3), rng=7, engine="threads") == expected
