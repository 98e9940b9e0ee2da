"""Whether what functions reach in the user's modules is as it was: the look that each call takes.

Looking runs no code of the user's, and what fails to pickle fails where it is used, not here. How it works,
and which thread writes what, is in docs/design/0037-code-and-settings-of-now.md.
"""

from __future__ import annotations

import types
import weakref
from collections.abc import Hashable, Iterable
from operator import is_

from . import versions
from .interior import referents
from .modules import MAINS, is_users_or_main, when_gone
from .namespaces import find_home, names_in
from .reach import NamedCode, Space, Walk, modules_named

# Reaches that are kept; the oldest go first.
_REACHES_MAX = 512

Root = object
"""A function, a class, or a `NamedCode`."""


class Reach:
    """All that functions and classes reach, as it was when `current` last looked at it.

    Several threads may look at once. What was noted is replaced part by part, and `version` before all of it:
    a thread that reads an older part sees the change once more, and looks again.
    """

    def __init__(self, roots: tuple[Root, ...]) -> None:
        self.roots = roots
        self.version = -1
        self._seen = -1
        """What was the newest version of all at the last look."""
        # At first as if nothing was reached: another thread may ask while the first look is on its way.
        self._note(Walk(()))

    def _note(self, walk: Walk) -> None:
        self.keys = tuple(walk.values)
        self._spaces, self._weak = walk.spaces()
        self._functions = walk.functions
        self._containers, self._dicts = walk.containers, walk.dicts
        self._content = walk.content()
        self._arrays, self._interiors = walk.arrays, walk.interiors
        self._has_caches = walk.has_caches

    def current(self) -> int:
        """The version that another process must know, after a look at everything."""
        if (
            self.version < 0
            or self._has_changed()
            or (self._seen != versions.newest and self._is_outdated())
        ):
            self._look()
        return self.version

    def _is_outdated(self) -> bool:
        """Whether what it reaches was told differently since: it may be here again as it was."""
        with versions.lock:
            self._seen = versions.newest
            return self.version != versions.version_of(self.keys)

    def _has_changed(self) -> bool:
        for each in self._spaces:
            get, names, values, space, length, _ = each
            if len(space) != length:
                return True
            if not all(map(is_, map(get, names), values)) and not self._take_atoms(each):
                return True
        for func, code, defaults, kwdefaults in self._functions:
            if (
                func.__code__ is not code
                or func.__defaults__ is not defaults
                or func.__kwdefaults__ is not kwdefaults
            ):
                return True
        for get, name, ref in self._weak:
            if get(name) is not ref():
                return True
        if self._content:
            now = referents(self._containers, self._dicts)
            if len(now) != len(self._content) or not all(map(is_, now, self._content)):
                return True
        if self._arrays and any([a.tobytes() != data for a, data in self._arrays]):
            return True
        return bool(self._interiors) and any([each.has_changed() for each in self._interiors])

    def _take_atoms(self, space: Space) -> bool:
        """Take note of names that stood for numbers or strings and still do; False if there is more to it."""
        if self._has_caches:
            return False
        now = tuple(map(space.get, space.names))
        for name, value, before in zip(space.names, now, space.values, strict=True):
            if value is before:
                continue
            plain = versions.PLAIN
            if type(value) not in plain or type(before) not in plain or name not in space.space:
                return False
            with versions.lock:
                if self._seen != versions.newest:
                    return False  # others may have told what is here again as it was
                entry = versions.register((*space.owner, name), value)
                self.version = max(self.version, entry.told.version)
                self._seen = versions.newest
        self._spaces = [
            each._replace(values=now) if each is space else each for each in self._spaces
        ]
        return True

    def _look(self) -> None:
        walk = Walk(self.roots)
        with versions.lock:
            self.version = walk.register()
            self._seen = versions.newest
        self._note(walk)


_reaches: dict[Hashable, Reach] = {}


def _forget(name: str) -> None:
    """Keep nothing of a module that has gone, and so no reach: looking again is cheap, and takes no lock."""
    _reaches.clear()


when_gone(_forget)


def is_root(obj: object) -> bool:
    """Whether a function or class that was met in a pickle may lead to the user's modules."""
    return is_users_or_main(obj.__module__)


def reaches_of(met: Iterable[object]) -> tuple[Reach, ...]:
    """What the functions, classes and modules that were met in a pickle reach."""
    roots: dict[Hashable, Root] = {}
    modules: list[types.ModuleType] = []
    functions: list[types.FunctionType] = []
    for each in met:
        if type(each) is types.ModuleType:
            modules.append(each)
        elif each.__module__ in MAINS or find_home(each) is None:
            if type(each) is types.FunctionType:
                functions.append(each)  # by value: what it holds was met as well
        else:
            roots[id(each)] = each
    for func in functions:
        code = func.__code__
        named = tuple(modules_named(names_in(code), func.__globals__, modules))
        if named:
            roots[code, *map(id, named)] = NamedCode(code, tuple(map(weakref.ref, named)))
    return tuple([_reach(key, (root,)) for key, root in roots.items()])


def _reach(key: Hashable, roots: tuple[Root, ...]) -> Reach:
    known = _reaches.get(key)
    if known is not None and all(map(_is_same_root, roots, known.roots)):
        return known
    made = Reach(roots)
    with versions.lock:
        while len(_reaches) >= _REACHES_MAX:
            _reaches.pop(next(iter(_reaches), None), None)  # they may just have been forgotten
        _reaches[key] = made
    return made


def _is_same_root(root: Root, before: Root) -> bool:
    return root is before or (type(root) is type(before) is NamedCode and bool(root == before))


def together(reaches: tuple[Reach, ...]) -> tuple[Reach, ...]:
    """The same as one, which is quicker to look at: they have much in common."""
    if len(reaches) < 2:
        return reaches
    roots = tuple([root for each in reaches for root in each.roots])
    return (_reach(tuple(map(id, roots)), roots),)


def current_version(reaches: Iterable[Reach]) -> int:
    """The version that a process must know for all of these; 0 for nothing."""
    latest = 0
    for reach in reaches:
        version = reach.current()
        if version > latest:  # `max` takes three times as long
            latest = version
    return latest
