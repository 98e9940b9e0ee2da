"""What a function may rely on around it, carried from the caller to its workers when it changes.

`ENTRIES` has the list: to carry one thing more is one more row. Taking a snapshot is on the path of every
call, so reading has to be cheap; what is costly to ask for is not carried, and
`docs/how-to/surroundings.md` says what that is.

A worker applies what has changed in the caller since it was told last, entry by entry, and nothing else: so
what an initializer has set stays set. What a function changes of these things in its worker ends with the
call: see `_worker.baseline`.
"""

from __future__ import annotations

import contextvars
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, partial
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

import numpy as np

from .._system.forks import make_lock
from .inheritance import own_authkey, set_authkey
from .loggers import apply_levels, note_loggers, put_back_levels, read_levels
from .search_path import absolute_path, find_modules_in, folders_of_modules

Surroundings = tuple[object, ...]
"""A snapshot: a value for each of `ENTRIES`. Equal ones need not be sent again."""


class Entry(NamedTuple):
    """One thing around a function."""

    name: str
    mark: Callable[[], object]
    """What is looked at in every call. As long as it is equal to what it was, nothing has changed. Where it
    raises an `OSError`, it is None."""
    apply: Callable[[Any, Any], object]
    """In a worker: make the thing the second value. The first is what was told before; None at first."""
    value: Callable[[Any], object] | None = None
    """The thing itself, given its mark; None if the mark is that. `tuple` says that the mark is a list."""
    send: Callable[[Any], object] | None = None
    """What is sent for a value; None for the value."""
    put_back: Callable[[Any, Any], object] | None = None
    """In a worker: make the first value, which a function has left, the second again; None: as `apply`."""


# ---------------------------------------------------------------- how they are read

_ENVIRONMENT, _LIMITS = "environment", "limits"
_changes = {_ENVIRONMENT: 0, _LIMITS: 0}
"""How often each was changed, as an audit hook counts: comparing `os.environ` would cost 20 us."""
_is_watching = False
_first_path: tuple[str, ...] = ()


def _count_changes(event: str, args: tuple[object, ...]) -> None:
    if event == "os.putenv" or event == "os.unsetenv":
        _changes[_ENVIRONMENT] += 1
    elif event == "resource.setrlimit" or event == "resource.prlimit":
        _changes[_LIMITS] += 1


def _watch_changes() -> None:
    global _is_watching, _first_path
    _is_watching = True
    sys.addaudithook(_count_changes)
    _first_path = tuple(sys.path)


def limit_changes() -> int:
    """How often the limits of this process were set."""
    return _changes[_LIMITS]


def _find_errors_variable() -> contextvars.ContextVar[object] | None:
    """The variable in which NumPy keeps what it does about floating-point errors: what `errstate` sets.

    Its value is never changed, but replaced by another one. None if the variable cannot be told.
    """
    before = contextvars.copy_context()
    with np.errstate():
        inside = contextvars.copy_context()
    found = [each for each in inside if inside[each] is not before.get(each)]
    return found[0] if len(found) == 1 else None


_errors_variable = _find_errors_variable()

_umask = -1
_umask_lock = make_lock()


def _read_umask() -> int:
    """The umask, which cannot be asked for: it is set to what it was when it was read last."""
    global _umask
    with _umask_lock:  # or a thread would read what another one has just set it to
        if _umask < 0:
            _umask = _first_umask()
        umask = os.umask(_umask)
        if umask != _umask:
            os.umask(umask)
            _umask = umask
    return umask


def _first_umask() -> int:
    with suppress(OSError, StopIteration, ValueError):
        with open("/proc/self/status", "rb") as file:
            line = next(line for line in file if line.startswith(b"Umask:"))
        return int(line.split()[1], 8)
    return 0o077  # what other threads make at this moment is private for that long


@cache
def _locale_categories(locale: Any) -> tuple[int, ...]:
    return locale.LC_CTYPE, locale.LC_NUMERIC, locale.LC_TIME, locale.LC_COLLATE, locale.LC_MONETARY


_locale: tuple[str, tuple[str, ...]] = ("", ())
"""What stands for all categories together, and those that are carried."""


def _read_locale() -> tuple[str, ...] | None:
    """How text, numbers, times and amounts are written; None before `locale` is imported."""
    global _locale
    locale: Any = sys.modules.get("locale")
    read = getattr(locale, "_setlocale", None)  # what `setlocale` itself calls
    if read is None and (read := getattr(locale, "setlocale", None)) is None:
        return None  # not imported, or just being so
    known, together = _locale, read(locale.LC_ALL)
    if known[0] != together:
        known = _locale = together, tuple(map(read, _locale_categories(locale)))
    return known[1]


_decimal_settings = attrgetter("prec", "rounding", "Emin", "Emax", "capitals", "clamp", "traps")
_decimal: tuple[object, tuple[object, ...], tuple[object, ...]] = (None, (), ())
"""A copy of the context that was read last; its settings, with its own traps; and with a tuple of these."""


def _read_decimal() -> tuple[object, ...] | None:
    """All of the thread's decimal context but its flags, which every calculation may raise."""
    global _decimal
    get_context = getattr(sys.modules.get("decimal"), "getcontext", None)
    if get_context is None:  # not imported, or just being so
        return None
    context, known = get_context(), _decimal
    settings = _decimal_settings(context)
    if known[1] != settings:
        copy, (*numbers, traps) = context.copy(), settings
        set_traps = (signal for signal, is_set in traps.items() if is_set)
        known = _decimal = copy, _decimal_settings(copy), (*numbers, *set_traps)
    return known[2]


# ---------------------------------------------------------------- how they are applied in a worker


_T = TypeVar("_T")


def _merge(here: Sequence[_T], old: Sequence[_T] | None, new: Sequence[_T]) -> list[_T]:
    """`new`, with what was added here to `old`, before or behind it, and without what was removed here."""
    if old is None or list(here) == list(old):
        return list(new)
    first = next((at for at, entry in enumerate(here) if entry in old), 0)
    before = [entry for entry in here[:first] if entry not in new]
    behind = [entry for entry in here[first:] if entry not in old and entry not in new]
    removed = [entry for entry in old if entry not in here]
    return [*before, *(entry for entry in new if entry not in removed), *behind]


def _apply_path(old: Sequence[str] | None, new: Sequence[str]) -> None:
    sys.path[:] = _merge(sys.path, old, new)


def _apply_cwd(old: bytes | None, new: bytes | None) -> None:
    if new:
        os.chdir(new)  # it may be gone since; the function will see that


def _apply_environment(old: dict[str, str] | None, new: dict[str, str]) -> None:
    if old is None:
        old = dict(os.environ)
    for name in old.keys() - new.keys():
        os.environ.pop(name, None)
    for name, value in new.items():
        if old.get(name) != value:
            os.environ[name] = value
    if old.get("TZ") != new.get("TZ"):
        time.tzset()


def _apply_zone(old: tuple[str, str] | None, new: tuple[str, str]) -> None:
    if old is not None:  # the zone itself is in the environment
        time.tzset()


def _apply_errors(old: dict[str, object] | None, new: dict[str, Any]) -> None:
    np.seterr(**{kind: what for kind, what in new.items() if old is None or old[kind] != what})


def _apply_filters(old: Sequence[object] | None, new: Sequence[object]) -> None:
    merged = _merge(warnings.filters, old, new)
    warnings.resetwarnings()
    warnings.filters[:] = merged  # type: ignore[index]


def _apply_argv(old: Sequence[str] | None, new: Sequence[str]) -> None:
    sys.argv[:] = new


def _apply_locale(old: object, new: tuple[str, ...] | None) -> None:
    if new is not None:
        import locale

        for category, name in zip(_locale_categories(locale), new, strict=True):
            with suppress(locale.Error):
                locale.setlocale(category, name)


def _apply_decimal(old: object, new: Sequence[object] | None) -> None:
    if new is None and "decimal" not in sys.modules:
        return
    from decimal import Context, setcontext

    settings: Any = () if new is None else (*new[:6], [], list(new[6:]))
    setcontext(Context(*settings))


def _send_authkey(key: bytes | None) -> bytes | None:
    return None if key is None else bytes(key)  # its own class refuses to travel


ENTRIES = (
    Entry("search path", partial(getattr, sys, "path"), _apply_path, tuple, absolute_path),
    Entry("working directory", os.getcwdb, _apply_cwd),
    Entry(
        "environment",
        partial(_changes.__getitem__, _ENVIRONMENT),
        _apply_environment,
        lambda version: dict(os.environ),
    ),
    Entry("names of the time zone", partial(getattr, time, "tzname"), _apply_zone),
    Entry(
        "NumPy's floating-point errors",
        np.geterr if _errors_variable is None else partial(_errors_variable.get, None),
        _apply_errors,
        lambda state: dict(np.geterr()),  # which takes 0.5 us
    ),
    Entry("filters of warnings", partial(getattr, warnings, "filters"), _apply_filters, tuple),
    Entry("levels of loggers", read_levels, apply_levels, put_back=put_back_levels),
    Entry(
        "level up to which all loggers are silenced",
        partial(attrgetter("root.manager.disable"), logging),
        lambda old, new: logging.disable(new),
    ),
    Entry("umask", _read_umask, lambda old, new: os.umask(new)),
    Entry("arguments of the program", partial(getattr, sys, "argv"), _apply_argv, tuple),
    Entry("recursion limit", sys.getrecursionlimit, lambda old, new: sys.setrecursionlimit(new)),
    Entry(
        "digits of integers that are converted to text",
        sys.get_int_max_str_digits,
        lambda old, new: sys.set_int_max_str_digits(new),
    ),
    Entry("locale", _read_locale, _apply_locale),
    Entry(
        "key by which processes of `multiprocessing` know each other",
        own_authkey,
        lambda old, new: set_authkey(new),
        send=_send_authkey,
    ),
    Entry("decimal context", _read_decimal, _apply_decimal),
)
"""A worker applies them in this order."""

_MARKS = [entry.mark for entry in ENTRIES]
_seen: tuple[list[object], Surroundings] = ([], ())
"""The marks that were looked at last, and the values for them."""


def snapshot() -> Surroundings:
    """The surroundings of this process now; the same object as long as they are the same."""
    if not _is_watching:
        _watch_changes()
    try:
        marks = [mark() for mark in _MARKS]
    except OSError:  # the working directory was removed
        marks = [_mark_or_none(mark) for mark in _MARKS]
    marks_seen, values = _seen
    return values if marks == marks_seen else _look(marks)


def _mark_or_none(mark: Callable[[], object]) -> object:
    try:
        return mark()
    except OSError:
        return None


def _look(marks: list[Any]) -> Surroundings:
    """The values for new marks; those of marks that are as before are not read again."""
    global _seen
    # Copies first, and the values from them: another thread may change a list meanwhile.
    kept = [
        list(mark) if entry.value is tuple else mark
        for entry, mark in zip(ENTRIES, marks, strict=True)
    ]
    marks_seen, last = _seen
    values: Surroundings = tuple(
        last[at] if last and mark == marks_seen[at] else entry.value(mark) if entry.value else mark
        for at, (entry, mark) in enumerate(zip(ENTRIES, kept, strict=True))
    )
    if values == last:
        values = last
    _seen = kept, values
    return values


def pack_surroundings(surroundings: Surroundings) -> tuple[dict[str, str], *tuple[object, ...]]:
    """What is sent of a snapshot, and first the folders of modules.

    There are none unless the caller, by now, would not find again what it has: ``""`` is the folder that is
    the current one as a module is imported.
    """
    path: Any = surroundings[0]  # the first of the entries
    has_moved = "" in path or path != _first_path
    pairs = zip(ENTRIES, surroundings, strict=True)
    sent = [value if entry.send is None else entry.send(value) for entry, value in pairs]
    return folders_of_modules() if has_moved else {}, *sent


# ---------------------------------------------------------------- in a worker

_told: Sequence[object] | None = None
"""What this worker was told last."""


def apply(packed: tuple[dict[str, str], *tuple[object, ...]]) -> None:
    """Change a worker's surroundings as those of its caller have changed."""
    global _told
    folders, *new = packed
    old, _told = _told, new
    find_modules_in(folders)
    for entry, before, now in zip(ENTRIES, old or [None] * len(new), new, strict=True):
        if old is None or before != now:
            with suppress(OSError, ValueError, RecursionError):
                entry.apply(before, now)


def note_surroundings() -> Surroundings:
    """What is now, for `put_back`."""
    note_loggers()
    return snapshot()


def put_back(was: Surroundings) -> Surroundings:
    """Undo what a function has changed since `note_surroundings`; what is now comes back."""
    for entry, now, then in zip(ENTRIES, snapshot(), was, strict=True):
        if now != then:
            with suppress(OSError, ValueError, RecursionError):
                (entry.put_back or entry.apply)(now, then)
    return note_surroundings()
