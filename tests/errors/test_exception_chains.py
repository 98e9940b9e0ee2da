"""C14: what an exception came from is there in the caller, too."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest

import shmmap


class Unpicklable(Exception):
    """It pickles, but does not unpickle."""

    def __init__(self, a: Any, b: Any) -> None:
        super().__init__(a)

    def __reduce__(self) -> Any:
        return type(self), self.args


def look_up(v: Any) -> Any:
    error = KeyError(int(v))
    error.add_note("a note of the cause")
    raise error


def explicit(v: Any) -> Any:
    try:
        look_up(v)
    except KeyError as exc:
        error = ValueError("no such value")
        error.add_note("a note")
        raise error from exc


def implicit(v: Any) -> Any:
    try:
        look_up(v)
    except KeyError:
        raise ValueError("no such value")  # noqa: B904


def suppressed(v: Any) -> Any:
    try:
        look_up(v)
    except KeyError:
        raise ValueError("no such value") from None


def unpicklable_cause(v: Any) -> Any:
    try:
        try:
            look_up(v)
        except KeyError as exc:
            raise Unpicklable("one", "two") from exc
    except Unpicklable as exc:
        raise ValueError("no such value") from exc


def group(v: Any) -> Any:
    caught = []
    for fail in (explicit, suppressed):
        try:
            fail(v)
        except ValueError as exc:
            caught.append(exc)
    raise ExceptionGroup("both", [*caught, ExceptionGroup("inner", [Unpicklable("one", "two")])])


def raised_by(func: Callable[[Any], Any], engine: Any) -> Any:
    with pytest.raises(Exception) as caught:
        shmmap.pmap(func, [1], engine=engine)
    return caught.value


def test_cause(engine: Any) -> None:
    """``raise ... from``: the cause, its own notes, and that its context is not to be shown."""
    error = raised_by(explicit, engine)
    assert type(error) is ValueError
    assert error.__notes__[0] == "a note"
    assert error.__suppress_context__
    assert type(error.__cause__) is KeyError
    assert error.__cause__.args == (1,)
    assert error.__cause__.__notes__ == ["a note of the cause"]
    assert error.__context__ is error.__cause__


def test_context(engine: Any) -> None:
    """An exception in the handling of another one."""
    error = raised_by(implicit, engine)
    assert error.__cause__ is None
    assert type(error.__context__) is KeyError
    assert not error.__suppress_context__
    error = raised_by(suppressed, engine)
    assert error.__cause__ is None
    assert type(error.__context__) is KeyError
    assert error.__suppress_context__


def test_context_within_a_handler(engine: Any) -> None:
    """As for a loop that is run in a handler, what is handled there comes at the end of the chain."""
    try:
        raise LookupError("outside")
    except LookupError as outside:
        with pytest.raises(ValueError) as caught:
            shmmap.pmap(implicit, [1], engine=engine)
        context = caught.value.__context__
        assert type(context) is KeyError
        assert context.__context__ is outside
        assert outside.__context__ is None


def test_what_does_not_pickle(process_engine: Any) -> None:
    """A cause that does not pickle has a stand-in; what was raised, and the cause's cause, have not."""
    error = raised_by(unpicklable_cause, process_engine)
    assert type(error) is ValueError
    assert type(error.__cause__) is shmmap.RemoteError
    assert "Unpicklable: one" in str(error.__cause__)
    assert type(error.__cause__.__cause__) is KeyError


def test_groups(process_engine: Any) -> None:
    """The members of groups, each with its own cause; one that does not pickle has a stand-in."""
    error = raised_by(group, process_engine)
    assert type(error) is ExceptionGroup
    assert error.message == "both"
    first, second, inner = error.exceptions
    assert type(first) is type(second) is ValueError
    assert type(first.__cause__) is KeyError
    assert second.__cause__ is None
    assert second.__suppress_context__
    assert type(inner) is ExceptionGroup
    assert type(inner.exceptions[0]) is shmmap.RemoteError


def test_a_local_exception_as_cause(process_engine: Any) -> None:
    """With A3: the cause is of a class that cannot be imported."""

    class Failure(Exception):
        pass

    def fail(v: Any) -> Any:
        try:
            raise Failure(np.arange(3))
        except Failure as exc:
            raise ValueError from exc

    error = raised_by(fail, process_engine)
    assert type(error.__cause__) is Failure
    assert list(error.__cause__.args[0]) == [0, 1, 2]


def test_exceptions_that_refer_to_each_other(process_engine: Any) -> None:
    def fail(v: Any) -> Any:
        one, two = ValueError("one"), KeyError("two")
        one.__cause__, two.__cause__ = two, one
        raise one

    error = raised_by(fail, process_engine)
    assert error.__cause__.__cause__ is error


def test_a_long_chain(process_engine: Any) -> None:
    """Of very many, those raised last."""

    def fail(v: Any) -> Any:
        error: Exception = ValueError(0)
        for i in range(1, 3000):
            cause, error = error, ValueError(i)
            error.__cause__ = cause
        raise error

    error = raised_by(fail, process_engine)
    assert error.args == (2999,)
    for i in range(2998, 2901, -1):
        error = error.__cause__
        assert error.args == (i,)


def test_by_any_way(team: shmmap.Team) -> None:
    """Submitted, mapped over, awaited, in groups of failures, and in what a function returns."""
    for error in (
        team.submit(explicit, 1).exception(),
        shmmap.pmap(explicit, [1], engine=team, wait=False).exception(),
        *shmmap.pmap(explicit, [1], engine=team, on_error=lambda exc, *_: exc),
        *shmmap.pmap(returned, [1], engine=team),
        team.submit(returned, 1).result(),
    ):
        assert type(error) is ValueError
        assert type(error.__cause__) is KeyError
    with pytest.raises(shmmap.MapError) as failed:
        shmmap.pmap(explicit, [1, 2], engine=team, on_error="continue", chunksize=1)
    assert [exc.__cause__.args for exc in failed.value.exceptions] == [(1,), (2,)]  # type: ignore[union-attr]
    with pytest.raises(ValueError) as caught:
        list(team.map(explicit, [1]))
    assert type(caught.value.__cause__) is KeyError

    async def run() -> Any:
        return await shmmap.pmap(explicit, [1], engine=team, wait=False)

    with pytest.raises(ValueError) as caught:
        asyncio.run(run())
    assert type(caught.value.__cause__) is KeyError


def returned(v: Any) -> Any:
    try:
        explicit(v)
    except ValueError as exc:
        return exc


def test_an_executor_of_processes() -> None:
    with ProcessPoolExecutor(1, get_context("fork")) as executor:
        error = raised_by(unpicklable_cause, executor)
        assert type(error.__cause__.__cause__) is KeyError
        (error,) = shmmap.pmap(returned, [1], engine=executor)
        assert type(error.__cause__) is KeyError


def test_it_reads_well(process_engine: Any) -> None:
    """The cause is told once above, and the note has the whole traceback of the worker."""
    text = "".join(traceback.format_exception(raised_by(explicit, process_engine)))
    before, _, after = text.partition("\nThe above exception was the direct cause")
    assert before.startswith("KeyError: 1\na note of the cause")
    assert "raised by explicit for index 0" in after
    assert "in explicit\n    look_up(v)" in after
    assert "raise error from exc\nValueError: no such value" in after


class Coded(Exception):
    """Its ``__init__`` takes other arguments than its base is given."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class Worded(LookupError):
    """Its ``__init__`` words the text."""

    def __init__(self, name: str, table: Any = None) -> None:
        super().__init__(f"nothing is known of {name}")
        self.table = table


class Exit(SystemExit):
    """A class of C underneath has a field of its own, which its ``__init__`` sets."""

    def __init__(self, code: int) -> None:
        super().__init__(code)


def made() -> list[BaseException]:
    return [Coded(code=3), Worded("x", np.arange(3)), Exit(4)]


def test_with_an_init_of_its_own(process_engine: Any) -> None:
    """Kind: exceptions whose ``__init__`` takes other arguments than ``args``.

    They are raised, in a group, given, and returned.
    """

    def fail(i: int) -> Any:
        raise made()[i]

    def fail_together(i: int) -> Any:
        raise BaseExceptionGroup("several", made()[:2])

    for i, kind in enumerate((Coded, Worded)):
        with pytest.raises(kind) as caught:
            shmmap.pmap(fail, [i], engine=process_engine)
        assert str(caught.value) == str(made()[i])
        assert vars(caught.value).keys() - {"__notes__"} == vars(made()[i]).keys()
    with pytest.raises(ExceptionGroup) as group:
        shmmap.pmap(fail_together, [0], engine=process_engine)
    first, second = group.value.exceptions
    assert isinstance(first, Coded) and first.code == 3
    assert isinstance(second, Worded) and str(second) == "nothing is known of x"
    returned = shmmap.pmap(lambda exc: exc, made(), engine=process_engine)
    assert [(type(exc), str(exc)) for exc in returned] == [
        (Coded, "code 3"),
        (Worded, "nothing is known of x"),
        (Exit, "4"),
    ]
    assert returned[2].code == 4
