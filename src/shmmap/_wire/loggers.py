"""Levels of loggers: read in the caller, and given to a worker's loggers, which may not have been made yet.

Making a logger is its library's to do, so a level waits until that is done; and loggers below one that is not
there yet are lent the level that they would inherit from it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, NamedTuple

Levels = dict[str, int]
"""By name, of the loggers that have a level, and of the root, whose name is empty."""


class _Seen(NamedTuple):
    """What was read last."""

    registry: dict[str, logging.Logger | logging.PlaceHolder]
    """A copy of the manager's: all loggers, and what stands for those that are yet to come."""
    names: list[str]
    loggers: list[Any]
    """The root, and all in the registry that have a level, be it none."""
    values: list[int]
    levels: Levels


_seen = _Seen({}, [""], [logging.root], [], {})
_told: Levels = {}
"""What this worker was told last."""
_noted: frozenset[str] = frozenset()
"""Names in this worker's registry when its baseline was noted."""
_unborn: Levels = {}
"""Levels of loggers that nobody has made here yet."""
_lent: Levels = {}
"""Loggers that have the level of an unborn one above them, and that level."""


def read_levels() -> Levels:
    """The levels now; the same object as long as they are the same."""
    global _seen
    root = logging.root
    seen_registry, names, loggers, seen_values, levels = _seen
    if seen_registry != root.manager.loggerDict or loggers[0] is not root:
        seen_registry = dict(root.manager.loggerDict)
        named = [(name, each) for name, each in seen_registry.items() if hasattr(each, "level")]
        names, loggers = ["", *(name for name, _ in named)], [root, *(each for _, each in named)]
        seen_values = []
    values = [logger.level for logger in loggers]
    if values != seen_values:
        pairs = zip(names, values, strict=True)
        levels = {name: level for name, level in pairs if level or not name}
        _seen = _Seen(seen_registry, names, loggers, values, levels)
    return levels


# ---------------------------------------------------------------- in a worker


def apply_levels(old: Levels | None, new: Levels) -> None:
    """Change levels as those of the caller have changed."""
    global _told
    _told = new
    _change_levels(old or {}, new)


def note_loggers() -> None:
    """Remember which loggers there are, for `put_back_levels`."""
    global _noted
    _noted = frozenset(logging.root.manager.loggerDict)


def put_back_levels(now: Levels, was: Levels) -> None:
    """Undo what a function has changed.

    Loggers that were made meanwhile keep the level that their library or the caller gave them.
    """
    later = {name: _told.get(name, level) for name, level in now.items() if name not in _noted}
    _change_levels(now, {**later, **was})


def _change_levels(old: Levels, new: Levels) -> None:
    for name in old.keys() - new.keys():
        _set_level(name, logging.NOTSET)
    for name, level in new.items():
        if old.get(name) != level:
            _set_level(name, level)
    _lend_levels(list(logging.root.manager.loggerDict))


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


def _lend_levels(names: Iterable[str]) -> None:
    """Give loggers without a level the one that they would inherit from a logger that is not there yet."""
    loggers: Any = logging.root.manager.loggerDict
    for name in names if _unborn or _lent else ():
        logger = loggers.get(name)
        if not isinstance(logger, logging.Logger):
            continue  # not made yet
        if logger.level != _lent.pop(name, logging.NOTSET):
            continue  # it has a level of its own
        above, level = name.rpartition(".")[0], logging.NOTSET
        while above and above not in _unborn and not getattr(loggers.get(above), "level", 0):
            above = above.rpartition(".")[0]
        if above in _unborn:
            level = _lent[name] = _unborn[above]
        if logger.level != level:
            logger.setLevel(level)
