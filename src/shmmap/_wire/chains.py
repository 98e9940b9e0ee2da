"""How an exception travels with those it came from: its causes and contexts, and the members of groups.

The pickling of exceptions leaves out ``__cause__`` and ``__context__``. So the exceptions that hang together
are numbered, and each is pickled by itself, with the others in it by their numbers. One that does not pickle,
or does not unpickle, gets a `RemoteError` as stand-in with its type and text; the others are as they were.

Nothing here pickles: who calls says how.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple, NoReturn

from .._errors.exceptions import RemoteError
from .._errors.hints import is_ours

# Exceptions and texts above this are cut: an error message is read by a person.
CHAIN_NBYTES = 1 << 20
# Exceptions that hang together and are carried; of a longer chain, the ones raised last.
_MOST = 100

_Load = Callable[[bytes, Callable[[int], BaseException]], object]
"""Unpickles one exception, given what returns the others by their numbers."""


class ChainLink(NamedTuple):
    """One exception of several that hang together; these are given by number, -1 for none."""

    data: bytes
    """It by itself, pickled; empty if that does not work."""
    name: str
    text: str
    notes: tuple[str, ...]
    cause: int
    context: int
    suppresses: bool
    """Whether the context is not to be shown."""


def describe_exception(exc: BaseException) -> tuple[str, str]:
    """Type name and text of an exception whose ``__str__`` may itself raise."""
    name = f"{type(exc).__module__}.{type(exc).__qualname__}".removeprefix("builtins.")
    try:
        text = str(exc)
    except BaseException as nested:
        text = f"<its text could not be had: {type(nested).__name__}>"
    return name, text[:CHAIN_NBYTES]


def has_chain(exc: BaseException) -> bool:
    """Whether an exception hangs together with others."""
    return (
        exc.__cause__ is not None
        or exc.__context__ is not None
        or isinstance(exc, BaseExceptionGroup)
    )


_outside = 0
"""In a worker forked from the caller: address of the exception that was being handled there then."""


def note_inherited_exceptions() -> None:
    """In a worker forked from the caller: what is being handled now belongs to the caller's own chain."""
    global _outside
    handled = sys.exception()
    _outside = 0 if handled is None else id(handled)


def _members(exc: BaseException) -> Iterator[BaseException]:
    if exc.__cause__ is not None:
        yield exc.__cause__
    if exc.__context__ is not None and id(exc.__context__) != _outside:
        yield exc.__context__
    if isinstance(exc, BaseExceptionGroup):
        yield from exc.exceptions


def _notes_of(exc: BaseException) -> tuple[str, ...]:
    notes = getattr(exc, "__notes__", None)
    return tuple(map(str, notes)) if isinstance(notes, list) else ()


def link_chain(
    exc: BaseException, dump: Callable[[BaseException, dict[int, int]], bytes], load: _Load
) -> tuple[ChainLink, ...]:
    """An exception, as the first one, and those it hangs together with.

    `dump` pickles one exception, given the numbers of all by their addresses. What does not come out of
    `load` as it went into `dump` has no data.
    """
    found = [exc]
    numbers = {id(exc): 0}
    for each in found:  # which grows meanwhile
        for member in _members(each):
            if id(member) not in numbers and len(found) < _MOST:
                numbers[id(member)] = len(found)
                found.append(member)
    links = []
    left = CHAIN_NBYTES
    for each in found:
        try:
            data = dump(each, numbers)
        except Exception:
            data = b""
        if len(data) > left:
            data = b""
        left -= len(data)
        links.append(
            ChainLink(
                data,
                *describe_exception(each),
                _notes_of(each),
                numbers.get(id(each.__cause__), -1),
                numbers.get(id(each.__context__), -1),
                each.__suppress_context__,
            )
        )
    restored = _restore(tuple(links), load)
    return tuple(
        each if type(there) is type(here) else each._replace(data=b"")
        for each, there, here in zip(links, restored, found, strict=True)
    )


def unlink_chain(links: tuple[ChainLink, ...], load: _Load) -> BaseException:
    restored = _restore(links, load)
    for exc, each in zip(restored, links, strict=True):
        # In this order, as to set a cause says that the context is not to be shown.
        exc.__cause__ = restored[each.cause] if each.cause >= 0 else None
        exc.__context__ = restored[each.context] if each.context >= 0 else None
        exc.__suppress_context__ = each.suppresses
        if each.notes and not getattr(exc, "__notes__", None):
            for note in each.notes:
                exc.add_note(note)
    return restored[0]


def stand_in(name: str, text: str) -> RemoteError:
    """What stands for an exception that could not be carried across."""
    return RemoteError(f"{name}: {text}")


def _restore(links: tuple[ChainLink, ...], load: _Load) -> list[BaseException]:
    restored: dict[int, BaseException] = {}

    def get(number: int) -> BaseException:
        if number not in restored:
            each = links[number]
            # Also for what refers to this one while it is being loaded.
            restored[number] = stand_in(each.name, each.text)
            if each.data:
                try:
                    exc = load(each.data, get)
                except KeyboardInterrupt:
                    raise
                except BaseException:  # whatever the user's class does
                    exc = None
                if isinstance(exc, BaseException):
                    restored[number] = exc
        return restored[number]

    return [get(number) for number in range(len(links))]


def raise_as_is(exc: BaseException) -> NoReturn:
    """Raise an exception that has a context of its own, and keep that.

    Where another exception is being handled, ``raise`` would put that one in its place. As in a loop, it
    comes at the end of the chain.
    """
    context = exc.__context__
    try:
        raise exc
    finally:
        if context is not None and exc.__context__ is not context:
            _put_context_back(exc, context)
        del exc, context  # the traceback refers to this frame


def leave_out_ours(exc: BaseException) -> None:
    """Leave out of a traceback how the exception of a function came through this library.

    For what a user has called, before a ``raise`` without arguments, which adds no frame of its own. What
    remains are the function's frames, if it ran in this process, and those of the caller. What the library
    raises by itself is left as it is.
    """
    frames = exc.__traceback__
    while frames is not None and frames.tb_frame.f_code is not raise_as_is.__code__:
        frames = frames.tb_next
    if frames is None:
        return
    below = frames.tb_next
    while below is not None and is_ours(below.tb_frame):
        below = below.tb_next
    if below is not None or frames.tb_next is None:
        exc.__traceback__ = below


def _put_context_back(exc: BaseException, context: BaseException) -> None:
    handled, exc.__context__ = exc.__context__, context
    chain = [exc]
    while chain[-1].__context__ is not None and chain[-1].__context__ not in chain:
        chain.append(chain[-1].__context__)
    if handled not in chain:
        chain[-1].__context__ = handled
