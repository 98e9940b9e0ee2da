"""FUNC and its parameters: imported by its name, bound to what ``--param`` says.

What must hold: the current folder is searched last, and only for a FUNC that is nowhere else. What others
have put there under the name of a library is not run.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from .errors import Refused, describe

_FLOATS = {"nan", "inf", "+inf", "-inf"}
_MISSPELT = {"true": "True", "false": "False", "none": "None"}


def import_function(name: str, what: str = "FUNC") -> Callable[..., Any]:
    """Import what `name` names: ``package.module:function``, or a dotted path."""
    if not all(part.isidentifier() for part in name.replace(":", ".", 1).split(".")):
        raise Refused(f"{what} is package.module:function or a dotted path, not {name!r}")
    module_name, colon, path = name.partition(":")
    _look_here_for(module_name.partition(".")[0])
    try:
        module: Any = None
        while module is None:
            try:
                module = importlib.import_module(module_name)
            except ModuleNotFoundError as error:
                # Without a colon, the last names may be attributes. But a module that is there
                # and imports one that is not is an error of its own.
                parent, _, last = module_name.rpartition(".")
                if colon or not parent or not f"{module_name}.".startswith(f"{error.name}."):
                    raise
                module_name, path = parent, f"{last}.{path}" if path else last
    except (Exception, SystemExit) as error:
        raise Refused(f"cannot import {name}: {describe(error)}") from error
    func = module
    for attribute in filter(None, path.split(".")):
        try:
            func = getattr(func, attribute)
        except AttributeError:
            raise Refused(f"cannot import {name}: {module_name} has no {path!r}") from None
    if not callable(func):
        raise Refused(f"{name} is not callable: it is of type {type(func).__name__}")
    return func  # type: ignore[no-any-return]


def _look_here_for(module_name: str) -> None:
    """Have the current folder searched, after everything else, if a module is not found without it."""
    if sys.flags.safe_path:
        return
    try:
        is_found = importlib.util.find_spec(module_name) is not None
    except (ImportError, ValueError):
        is_found = False
    if not is_found:
        sys.path.append(os.getcwd())


def bind_parameters(
    func: Callable[..., Any], name: str, params: Sequence[str], *, takes_rng: bool
) -> Callable[..., Any]:
    """FUNC with what ``--param`` says filled in; and whether it takes what ``--rng`` gives it."""
    given: dict[str, Any] = {}
    known = _parameters(func)
    for param in params:
        key, equals, text = param.partition("=")
        key = key.strip()
        if not equals or not key.isidentifier():
            raise Refused(f"--param {param!r} is not NAME=VALUE")
        if key in given:
            raise Refused(f"--param {key} is given twice")
        if takes_rng and key == "rng":
            raise Refused("--param rng: that is what --rng gives FUNC")
        if known is not None:
            known.check(key, name)
        given[key] = read_value(f"--param {key}", text)
    if takes_rng and known is not None and not known.takes("rng"):
        raise Refused(
            f"--rng: {name} has no parameter rng, by which it would get its random generator"
        )
    if known is not None:
        known.check_required({*given, "rng"} if takes_rng else set(given), name)
    return functools.partial(func, **given) if given else func


def read_value(option: str, text: str) -> Any:
    """A value that is written as a Python literal, or as plain text. Nothing is guessed."""
    text = text.strip()
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pass
    if text.lower() in _FLOATS:
        return float(text)
    if text.lower() in _MISSPELT:
        raise Refused(
            f"{option}: write {_MISSPELT[text.lower()]}, or {text!r} in quotes for a text"
        )
    if not text or text[0] in "([{'\"+-.0123456789":
        raise Refused(f"{option}: {text!r} is no Python literal; a text like it stands in quotes")
    return text


class _Known:
    """The parameters of a function that tells them."""

    def __init__(self, signature: inspect.Signature) -> None:
        kinds = inspect.Parameter
        parameters = list(signature.parameters.values())
        self._takes_any = any(each.kind is kinds.VAR_KEYWORD for each in parameters)
        positional = kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD
        first = next((each for each in parameters if each.kind in positional), None)
        self._first = None if first is None else first.name
        self._names = [
            each.name
            for each in parameters
            if each is not first and each.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)
        ]

        self._required = [
            each.name
            for each in parameters
            if each.name in self._names and each.default is inspect.Parameter.empty
        ]

    def takes(self, name: str) -> bool:
        return self._takes_any or name in self._names

    def check(self, name: str, func: str) -> None:
        """Refuse a name that is no parameter, and say which there are."""
        if name == self._first:
            raise Refused(f"--param {name}: that is what {func} gets from IN")
        if not self.takes(name):
            which = f"it has {', '.join(self._names)}" if self._names else "it has no other"
            raise Refused(f"--param {name}: {func} has no such parameter; {which}")

    def check_required(self, given: set[str], func: str) -> None:
        """Refuse to leave out what has no default."""
        missing = [name for name in self._required if name not in given]
        if missing:
            texts = " ".join(f"--param {name}=..." for name in missing)
            raise Refused(f"{func} needs {', '.join(missing)}: give {texts}")


def _parameters(func: Callable[..., Any]) -> _Known | None:
    """None for functions written in C that do not tell."""
    try:
        return _Known(inspect.signature(func))
    except (ValueError, TypeError):
        return None
