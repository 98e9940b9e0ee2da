"""What a function may rely on around it, carried from the caller to its workers when it changes.

`Surroundings` has the list. Taking a snapshot is on the path of every call, so it has to be cheap: about
3 us. What is costly to ask for is not carried; `docs/how-to/surroundings.md` says what that is.

A worker applies what has changed in the caller since it was told last, entry by entry, and nothing else: so
what an initializer has set stays set. What a function changes of these things in its worker, and of the
signals, the limits and the user there, ends with the call: see `Baseline`.
"""

from __future__ import annotations

import functools
import importlib.machinery
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, ClassVar, NamedTuple

import numpy as np

from .._system.forks import make_lock
from .inheritance import own_authkey, set_authkey


class Surroundings(NamedTuple):
    """A snapshot; equal ones need not be sent again."""

    path: tuple[str, ...]
    cwd: str
    environment: int
    """Version of ``os.environ``; the variables travel only when it changes."""
    errors: dict[str, Any]
    """What NumPy does about floating-point errors."""
    filters: tuple[Any, ...]
    """Of warnings."""
    levels: tuple[tuple[str, int], ...]
    """Of loggers that have one."""
    disabled: int
    """The level up to which `logging.disable` silences all loggers."""
    umask: int
    argv: tuple[str, ...]
    recursion_limit: int
    digits_limit: int
    """Of integers that are converted to text."""
    zone: tuple[str, str]
    """Names of the time zone; the zone itself is in the environment."""
    locale: tuple[str, ...] | None
    """See `_read_locale`."""
    authkey: bytes | None
    """By which processes of `multiprocessing` know each other: a secret. None where it is not imported."""
    decimal: tuple[Any, ...] | None
    """Precision, rounding, limits and traps of the decimal context; None where `decimal` is not imported."""


_last: Surroundings | None = None
_environment_version = 0
_limits_version = 0
_decimal: tuple[Any, tuple[Any, ...]] = (None, ())
"""The state of the decimal context that was read last, and what of it is a setting."""
_hooked = False
_umask = -1
_umask_lock = make_lock()
_first_path: tuple[str, ...] = ()


def _count_changes(event: str, args: tuple[Any, ...]) -> None:
    global _environment_version, _limits_version
    if event == "os.putenv" or event == "os.unsetenv":
        _environment_version += 1
    elif event == "resource.setrlimit" or event == "resource.prlimit":
        _limits_version += 1


def snapshot() -> Surroundings:
    """The surroundings of this process now."""
    global _hooked, _last, _first_path
    try:
        cwd = os.getcwd()
    except OSError:  # the folder was removed
        cwd = ""
    if not _hooked:
        # Comparing os.environ costs 20 us; being told of changes costs nothing.
        _hooked = True
        sys.addaudithook(_count_changes)
        _first_path = tuple(sys.path)
    root = logging.root
    levels = [("", root.level)]
    for name, logger in list(root.manager.loggerDict.items()):
        level = getattr(logger, "level", 0)  # what stands for a logger that is yet to come has none
        if level:
            levels.append((name, level))
    now: Any = (
        tuple(sys.path),
        cwd,
        _environment_version,
        np.geterr(),
        tuple(warnings.filters),
        tuple(levels),
        root.manager.disable,
        _read_umask(),
        tuple(sys.argv),
        sys.getrecursionlimit(),
        sys.get_int_max_str_digits(),
        time.tzname,
        _read_locale(),
        own_authkey(),
        _decimal_context(),
    )
    if now != _last:  # else the same object, which is quickly compared
        _last = Surroundings(*now)
    assert _last is not None
    return _last


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


@functools.cache
def _locale_categories(locale: Any) -> tuple[int, ...]:
    return locale.LC_CTYPE, locale.LC_NUMERIC, locale.LC_TIME, locale.LC_COLLATE, locale.LC_MONETARY


def _read_locale() -> tuple[str, ...] | None:
    """How text, numbers, times and amounts are written; None before `locale` is imported."""
    locale = sys.modules.get("locale")
    if locale is None or not hasattr(locale, "setlocale"):  # not imported, or just being so
        return None
    # What `setlocale` itself calls. All categories at once take longer than these five.
    return tuple(map(getattr(locale, "_setlocale", locale.setlocale), _locale_categories(locale)))


def _decimal_context() -> tuple[Any, ...] | None:
    """All of the thread's decimal context but its flags, which every calculation may raise."""
    global _decimal
    get_context = getattr(sys.modules.get("decimal"), "getcontext", None)
    if get_context is None:  # not imported, or just being so
        return None
    state = get_context().__reduce__()[1]
    if state != _decimal[0]:
        *settings, _, traps = state
        _decimal = state, (*settings, *traps)
    return _decimal[1]


class ThreadSettings(NamedTuple):
    """What a thread calculates by, for workers of other libraries: the rest is their own."""

    errors: dict[str, Any]
    """What NumPy does about floating-point errors."""
    filters: list[Any]
    """Of warnings."""
    decimal: Any
    """The decimal context; None where `decimal` is not imported."""

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Calculate by them for a while."""
        with ExitStack() as stack:
            stack.enter_context(np.errstate(**self.errors))
            stack.enter_context(warnings.catch_warnings())
            warnings.resetwarnings()
            warnings.filters[:] = self.filters  # type: ignore[index]
            if self.decimal is not None:
                stack.enter_context(sys.modules["decimal"].localcontext(self.decimal))
            yield


def thread_settings() -> ThreadSettings:
    """Those of this thread now."""
    get_context = getattr(sys.modules.get("decimal"), "getcontext", None)
    context = None if get_context is None else get_context().copy()
    return ThreadSettings(dict(np.geterr()), list(warnings.filters), context)


# ---------------------------------------------------------------- what is sent


class _Sent(NamedTuple):
    """What a worker is told: a snapshot, with all that it refers to. Field names as in `Surroundings`."""

    path: tuple[str, ...]
    folders: dict[str, str]
    """From where the caller has its modules, where its search path may not say so any more."""
    cwd: str
    environment: dict[str, str]
    errors: dict[str, Any]
    filters: tuple[Any, ...]
    levels: dict[str, int]
    disabled: int
    umask: int
    argv: tuple[str, ...]
    recursion_limit: int
    digits_limit: int
    zone: tuple[str, str]
    locale: tuple[str, ...] | None
    authkey: bytes | None
    decimal: tuple[Any, ...] | None


def absolute_path(entries: Iterable[Any]) -> list[Any]:
    """Entries of ``sys.path`` as they are understood now, wherever the caller goes; ``""`` is left as it is.

    Python remembers the folder that a relative entry meant when it was first searched.
    """
    path = []
    for entry in entries:
        if isinstance(entry, str) and entry and not os.path.isabs(entry):
            finder = sys.path_importer_cache.get(entry)
            with suppress(OSError):  # there is no working directory any more
                entry = os.path.abspath(getattr(finder, "path", entry))
        path.append(entry)
    return path


def _folders_of_modules() -> dict[str, str]:
    """The folder that each top-level module was imported from."""
    folders = {}
    for name, module in list(sys.modules.items()):
        if "." not in name and (spec := getattr(module, "__spec__", None)) is not None:
            origin = getattr(spec, "origin", None)
            if getattr(spec, "has_location", False) and isinstance(origin, str):
                folder = os.path.dirname(origin)
                is_package = spec.submodule_search_locations is not None
                folders[name] = os.path.dirname(folder) if is_package else folder
    return folders


def pack_surroundings(surroundings: Surroundings) -> tuple[Any, ...]:
    """What is sent: the snapshot, and what it refers to."""
    now = surroundings
    # Where the caller, by now, would not find what it has: "" is the folder that is the current one as a
    # module is imported.
    has_moved = "" in now.path or now.path != _first_path
    key = now.authkey
    now = now._replace(
        authkey=None if key is None else bytes(key)
    )  # its own class refuses to travel
    return (
        tuple(absolute_path(now.path)),
        _folders_of_modules() if has_moved else {},
        now.cwd,
        dict(os.environ),
        now.errors,
        now.filters,
        dict(now.levels),
        *now[6:],
    )


# ---------------------------------------------------------------- in a worker

_told: _Sent | None = None
"""What this worker was told last."""
_unborn: dict[str, int] = {}
"""Levels of loggers that nobody has made here yet: making them is their libraries' to do."""
_lent: dict[str, int] = {}
"""Loggers that have the level of such a one above them, and that level: they would inherit it."""


def apply(packed: Sequence[Any]) -> None:
    """Change a worker's surroundings as those of its caller have changed."""
    global _told
    new, old = _Sent(*packed), _told
    _told = new
    if old is None:
        sys.path[:] = new.path
        warnings.resetwarnings()
        warnings.filters[:] = new.filters  # type: ignore[index]
    else:
        if new.path != old.path:
            sys.path[:] = _merge(sys.path, old.path, new.path)
        if new.filters != old.filters:
            merged = _merge(warnings.filters, old.filters, new.filters)
            warnings.resetwarnings()
            warnings.filters[:] = merged  # type: ignore[index]
    _Folders.now = new.folders
    if new.folders and _Folders not in sys.meta_path:
        at = sys.meta_path.index(importlib.machinery.PathFinder) if _has_path_finder() else 0
        sys.meta_path.insert(at, _Folders)
    if new.cwd and (old is None or new.cwd != old.cwd):
        with suppress(OSError):  # gone since; the function will see it
            os.chdir(new.cwd)
    before = dict(os.environ) if old is None else old.environment
    has_new_zone = old is not None and new.zone != old.zone
    _change_environment(before, new.environment, has_new_zone)
    np.seterr(**{k: v for k, v in new.errors.items() if old is None or old.errors[k] != v})
    known = {} if old is None else old.levels
    for name in known.keys() - new.levels.keys():
        _set_level(name, logging.NOTSET)
    for name, level in new.levels.items():
        if known.get(name) != level:
            _set_level(name, level)
    if new.levels != known:
        _lend_levels(list(logging.root.manager.loggerDict))
    for field, value in new._asdict().items():
        if field in _SETTERS and (old is None or getattr(old, field) != value):
            with suppress(OSError, ValueError, RecursionError):
                _SETTERS[field](value)


def _merge(here: Sequence[Any], old: Sequence[Any], new: Sequence[Any]) -> list[Any]:
    """`new`, with what was added here to `old`, before or behind it, and without what was removed here."""
    if list(here) == list(old):
        return list(new)
    first = next((at for at, entry in enumerate(here) if entry in old), 0)
    before = [entry for entry in here[:first] if entry not in new]
    behind = [entry for entry in here[first:] if entry not in old and entry not in new]
    removed = [entry for entry in old if entry not in here]
    return [*before, *(entry for entry in new if entry not in removed), *behind]


def _change_environment(
    old: Mapping[str, str], new: Mapping[str, str], has_new_zone: bool = False
) -> None:
    has_new_zone |= old.get("TZ") != new.get("TZ")
    for name in old.keys() - new.keys():
        os.environ.pop(name, None)
    for name, value in new.items():
        if old.get(name) != value:
            os.environ[name] = value
    if has_new_zone:
        time.tzset()


def _set_level(name: str, level: int) -> None:
    """Give a logger its level, once it is there."""
    logger: Any = logging.root.manager.loggerDict.get(name) if name else logging.root
    if isinstance(logger, logging.Logger):
        logger.setLevel(level)
    elif level:
        _unborn[name] = level
        manager: Any = logging.root.manager
        manager.getLogger = _get_logger
    else:
        _unborn.pop(name, None)


def _get_logger(name: str) -> logging.Logger:
    """Take the place of the manager's own method."""
    logger = logging.Manager.getLogger(logging.root.manager, name)
    level = _unborn.pop(name, None)
    if level is None:
        _lend_levels([name])
    else:
        logger.setLevel(level)
        _lend_levels(list(logging.root.manager.loggerDict))
    return logger


def _lend_levels(names: Sequence[str]) -> None:
    """Give loggers without a level the one that they would inherit from a logger that is not there yet."""
    loggers: Any = logging.root.manager.loggerDict
    for name in names if _unborn or _lent else ():
        logger = loggers.get(name)
        if not isinstance(logger, logging.Logger) or logger.level != _lent.pop(
            name, logging.NOTSET
        ):
            continue  # not made yet, or with a level of its own
        above, level = name.rpartition(".")[0], logging.NOTSET
        while above and above not in _unborn and not getattr(loggers.get(above), "level", 0):
            above = above.rpartition(".")[0]
        if above in _unborn:
            level = _lent[name] = _unborn[above]
        if logger.level != level:
            logger.setLevel(level)


def _set_locale(names: tuple[str, ...] | None) -> None:
    if names is not None:
        import locale

        categories = (
            locale.LC_CTYPE,
            locale.LC_NUMERIC,
            locale.LC_TIME,
            locale.LC_COLLATE,
            locale.LC_MONETARY,
        )
        for category, name in zip(categories, names, strict=True):
            with suppress(locale.Error):
                locale.setlocale(category, name)


def _set_decimal_context(settings: tuple[Any, ...] | None) -> None:
    if settings is None and "decimal" not in sys.modules:
        return
    from decimal import Context, setcontext

    arguments: Any = () if settings is None else (*settings[:6], [], list(settings[6:]))
    setcontext(Context(*arguments))


def own_decimal_context() -> None:
    """In a copy of another thread's context: a decimal context of one's own, equal to that thread's."""
    decimal: Any = sys.modules.get("decimal")
    if decimal is not None and hasattr(decimal, "getcontext"):
        decimal.setcontext(decimal.getcontext().copy())


def _set_argv(argv: tuple[str, ...]) -> None:
    sys.argv[:] = argv


_SETTERS: dict[str, Callable[[Any], object]] = {
    "disabled": logging.disable,
    "umask": os.umask,
    "argv": _set_argv,
    "recursion_limit": sys.setrecursionlimit,
    "digits_limit": sys.set_int_max_str_digits,
    "locale": _set_locale,
    "authkey": set_authkey,
    "decimal": _set_decimal_context,
}
"""How what has a single value is set."""


def _has_path_finder() -> bool:
    return importlib.machinery.PathFinder in sys.meta_path


class _Folders:
    """Finds the modules that the caller has imported already where it found them.

    Else ``""`` in the search path would find another module of the same name in the current folder, which
    the caller, having the module, would not look for.
    """

    now: ClassVar[dict[str, str]] = {}

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> Any:
        """See `importlib.abc.MetaPathFinder`."""
        folder = cls.now.get(name) if path is None else None
        if folder is None:
            return None
        return importlib.machinery.PathFinder.find_spec(name, [folder], target)


# Of the limits of a process, those that a program may come to feel.
_LIMITS = ("NOFILE", "AS", "DATA", "FSIZE", "CPU", "STACK", "NPROC")


class Baseline:
    """What holds in a worker between calls, and is put back when a function has changed it.

    *Requires*: used by the worker's main thread, between calls. *Guarantees*: after `restore` is true, the
    next function finds what `note` found. Costs about 5 us where nothing has changed.
    """

    # Asking for every handler takes 60 us, for limits, priority and user 3 us; being told of changes costs
    # nothing. Of limits the audit hook tells.
    _SIGNALS = ("signal", "pthread_sigmask", "setitimer", "alarm")
    _PROCESS = (
        *("nice", "setpriority", "setgroups", "initgroups", "setuid", "seteuid", "setreuid"),
        *("setresuid", "setgid", "setegid", "setregid", "setresgid"),
    )

    def __init__(self) -> None:
        import locale  # noqa: F401  (or a function that does would seem to have changed it)
        import resource

        self._changed: set[Any] = set()
        """The modules of which functions were called that change what is put back here."""
        for module, names in ((signal, self._SIGNALS), (os, self._PROCESS)):
            for name in names:
                if hasattr(module, name):
                    setattr(module, name, self._watch(module, getattr(module, name)))
        self.note()
        self._get_limits, self._set_limits = resource.getrlimit, resource.setrlimit
        numbers = [getattr(resource, f"RLIMIT_{name}", None) for name in _LIMITS]
        self._limits = [(n, resource.getrlimit(n)) for n in numbers if n is not None]
        self._ids = _ids()
        self._nice = os.getpriority(os.PRIO_PROCESS, 0)
        self._limits_version = _limits_version

    def _watch(self, module: Any, func: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(func)
        def watched(*args: Any, **kwargs: Any) -> Any:
            self._changed.add(module)
            return func(*args, **kwargs)

        return watched

    def note(self) -> None:
        """Take what is now for what is to be."""
        self._surroundings = snapshot()
        self._environment = dict(os.environ)
        self._loggers = set(logging.root.manager.loggerDict)
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
        self._changed.discard(signal)

    def restore_limits(self) -> bool:
        """Put the limits of this process back; whether any was lowered.

        Raises
        ------
        OSError, ValueError
            If that is not allowed any more.
        """
        has_changed = False
        for number, limits in self._limits:
            if self._get_limits(number) != limits:
                self._set_limits(number, limits)
                has_changed = True
        return has_changed

    def restore(self) -> bool:
        """Put back what has changed; False if that is not allowed any more."""
        if (
            self._changed or self._limits_version != _limits_version
        ) and not self._restore_process():
            return False
        if snapshot() != self._surroundings:
            self._put_back()
        if signal in self._changed:
            signal.setitimer(signal.ITIMER_REAL, 0)  # it would go off in the next call
            for number, handler in self._handlers.items():
                # None: not Python's, and not to be had from here.
                if handler is not None and signal.getsignal(number) != handler:
                    signal.signal(number, handler)
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        self._changed.clear()
        return True

    def _restore_process(self) -> bool:
        try:
            if _ids() != self._ids:
                os.setresuid(*self._ids[0])  # first: it may be what allows the rest
                os.setresgid(*self._ids[1])
                os.setgroups(self._ids[2])
            self.restore_limits()
            if os.getpriority(os.PRIO_PROCESS, 0) != self._nice:
                os.setpriority(os.PRIO_PROCESS, 0, self._nice)
        except (OSError, ValueError):
            return False
        self._limits_version = _limits_version
        return True

    def _put_back(self) -> None:
        was, now = self._surroundings, snapshot()
        sys.path[:] = was.path
        if was.cwd and now.cwd != was.cwd:
            with suppress(OSError):  # gone since; the function will see it
                os.chdir(was.cwd)
        if now.environment != was.environment:
            _change_environment(dict(os.environ), self._environment, now.zone != was.zone)
        np.seterr(**was.errors)
        if now.filters != was.filters:
            warnings.resetwarnings()
            warnings.filters[:] = was.filters  # type: ignore[index]
        # Loggers that were made meanwhile have the level that their library or the caller gave them.
        told = {} if _told is None else _told.levels
        levels = {name: told.get(name, level) for name, level in now.levels}
        levels.update(dict.fromkeys(self._loggers & levels.keys(), logging.NOTSET))
        levels.update(was.levels)
        for name, level in levels.items():
            _set_level(name, level)
        for field, value in was._asdict().items():
            if field in _SETTERS and getattr(now, field) != value:
                with suppress(OSError, ValueError, RecursionError):
                    _SETTERS[field](value)
        self._surroundings = snapshot()
        self._loggers = set(logging.root.manager.loggerDict)


def _ids() -> tuple[Any, Any, list[int]]:
    """User, group and groups, the real, effective and saved ones."""
    return os.getresuid(), os.getresgid(), os.getgroups()
