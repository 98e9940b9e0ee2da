"""What workers are sent: their start, and calls, with what each of them lacks for it and without what it has.

Owned by `Workers`; everything here is done with the team's lock held. What a worker has is in its link's
`known`.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from .._code.letters import news
from .._code.versions import latest, look_again
from .._code.watch import current_version
from .._errors.exceptions import name_of
from .._wire import (
    Bundle,
    ControlBlock,
    News,
    Payload,
    Settings,
    Start,
    Surroundings,
    are_plain,
    cannot_send,
    dumps_message,
    is_inheritable,
    make_payload,
    pack,
    pack_apart,
    pack_for,
    pack_surroundings,
    snapshot,
)
from .link import WorkerLink
from .run import Posting

# Surroundings that are kept for submitted functions; more only if functions that are under way need them.
_SETTINGS_MAX = 8


class Equipment(NamedTuple):
    """What every worker must have before a submitted function is put into the pipe."""

    segments: frozenset[int]
    modules: int
    """Version of the user's modules, see `_code.watch`."""
    settings: int
    """Number of the surroundings in which it is run."""
    writes_main: bool
    """Unpickling it writes into ``__main__`` there, so that a function kept from before may be outdated."""


class PackedCall(NamedTuple):
    """A function and its arguments, pickled."""

    data: bytes
    split: int
    """Where the pickle of the function ends and that of its arguments begins; 0: they are one."""
    keeps: bool
    """Workers may keep the function for calls to come."""
    segments: frozenset[int]
    modules: int
    writes_main: bool
    keep: Any
    """What must stay in place until it is over."""


def pack_call(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], bundle: Bundle | None
) -> PackedCall:
    """Pickle a function that is submitted. Raises whatever its arguments raise as they are pickled."""
    function = pack_apart(fn) if bundle is None else None
    if function is None:
        whole = fn, args, kwargs, bundle is None
        packed = pack(whole) if bundle is None else pack_for(bundle, whole)
        modules = current_version(packed.reaches)
        return PackedCall(packed.data, 0, False, packed.segments, modules, packed.by_value, packed)
    func, by_value = function.packed, function.by_value
    modules, data = current_version(func.reaches), func.data
    if are_plain(args) and (not kwargs or are_plain(kwargs.values())):
        rest = pickle.dumps((args, kwargs), 5)
        return PackedCall(
            data + rest, len(data), not by_value, frozenset(), modules, by_value, None
        )
    more = pack((args, kwargs))
    return PackedCall(
        data=data + more.data,
        split=len(data),
        keeps=not by_value,
        segments=more.segments,
        modules=max(modules, current_version(more.reaches)),
        writes_main=by_value or more.by_value,
        keep=more,
    )


class Initializer:
    """What workers call as they start: pickled, or as it is where only forked workers can have it."""

    def __init__(
        self, start: str, func: Callable[..., object] | None, args: tuple[Any, ...]
    ) -> None:
        self.inherited: Callable[[], object] | None = None
        """What forked workers have without anything being sent."""
        self.payload: Payload | None = None
        self.segments: frozenset[int] = frozenset()
        self._packed = None
        if func is None:
            return
        try:
            self._packed = pack((func, args))
        except Exception as exc:
            bound = functools.partial(func, *args)
            if start != "fork" or not is_inheritable(bound):
                raise cannot_send(f"the initializer {name_of(func)}", bound, exc) from None
            self.inherited = bound
            return
        self.payload, self._root = make_payload(self._packed.data)
        self.segments = self._packed.segments | self.payload.segments()

    def look_at_modules(self) -> None:
        """Look at what it reaches in the user's modules, so that workers are told of what has changed."""
        if self._packed is not None:
            current_version(self._packed.reaches)


class Sender:
    """Makes messages of what is the same for all workers of a team, and sends each what it lacks."""

    def __init__(
        self, is_forked: bool, initializer: Initializer, blas_threads: int, memory_limit: int | None
    ) -> None:
        self._is_forked = is_forked
        self._initializer = initializer
        self._blas_threads = blas_threads
        self._memory_limit = memory_limit
        self._surroundings: tuple[Surroundings, Payload, Any] | None = None
        """What was told last, and what it lies in."""
        self._modules: tuple[int, int, Payload, frozenset[int], Any] | None = None
        """What was told last of the user's modules: from and up to which version, and how."""
        self._settings: dict[int, tuple[Surroundings, Payload, Any]] = {}
        """By number: the surroundings that submitted functions are run in, and what they lie in."""
        self._last_settings = self._now = 0
        """The number that was given last, and the one that was asked for last."""

    def send_start(self, link: WorkerLink) -> None:
        """Send a worker that is about to be started its first message."""
        initializer, modules = self._initializer, None
        link.attach(initializer.segments)
        surroundings = self._tell_surroundings(link, snapshot())
        if self._is_forked:
            link.known.gets_modules(look_again())  # it has the caller's modules as they are now
        else:
            initializer.look_at_modules()
            if latest():
                modules = self._tell_modules(link)
        start = Start(
            rank=link.rank,
            initializer=initializer.payload,
            blas_threads=self._blas_threads,
            memory_limit=self._memory_limit,
            surroundings=surroundings,
            token=link.token,
            modules=modules,
        )
        link.post(dumps_message(start))

    def send_call(
        self,
        link: WorkerLink,
        seq: int,
        posting: Posting,
        control: ControlBlock,
        redo: Payload | None,
    ) -> None:
        """Send a worker a call; `redo`: the chunks that it is to do first, of the worker it replaces."""
        known, call = link.known, posting.call(control.id)
        link.attach(posting.segments if redo is None else posting.segments | redo.segments())
        link.open(control)
        modules = self._tell_modules(link) if known.modules < posting.modules else None
        func = call.func
        if func is not None and known.gets_function(call.digest, call.by_value):
            func = None
        surroundings = None
        if known.surroundings != posting.surroundings:
            surroundings = self._tell_surroundings(link, posting.surroundings)
        knows_job, forget = known.gets_job(call.job_id)
        its_call = call._replace(
            job=None if knows_job else call.job,
            func=func,
            seq=seq,
            redo=redo,
            surroundings=surroundings,
            forget=forget,
            modules=modules,
        )
        link.post(dumps_message(its_call))
        known.gets_call(posting.key, posting.writes_main)

    def settings(self, now: Surroundings, in_use: Callable[[], Collection[int]]) -> int:
        """The number of surroundings for a submitted function; `in_use` are numbers that are to stay."""
        last = self._settings.get(self._now)
        if last is not None and last[0] is now:
            return self._now
        for number, (known, *_) in self._settings.items():
            if known == now:
                self._now = number
                return number
        while len(self._settings) >= _SETTINGS_MAX:
            unused = self._settings.keys() - in_use()
            if not unused:
                break
            del self._settings[min(unused)]
        self._now = self._last_settings = self._last_settings + 1
        self._settings[self._now] = (now, *self._pack_surroundings(now))
        return self._now

    def equip(self, link: WorkerLink, equipment: Equipment) -> None:
        """Send a worker what it lacks for a submitted function, which it may take."""
        link.attach(equipment.segments)
        known, settings = link.known, equipment.settings
        if known.modules < equipment.modules:
            link.post(dumps_message(News(self._tell_modules(link))))
            known.gets_call(None, writes_main=False)
        if settings not in known.settings:
            _, payload, _ = self._settings[settings]
            link.attach(payload.segments())
            forget = known.gets_settings(settings, self._settings)
            link.post(dumps_message(Settings(settings, payload, forget)))
        if equipment.writes_main:
            known.gets_call(None, writes_main=True)

    def _pack_surroundings(self, now: Surroundings) -> tuple[Payload, Any]:
        if self._surroundings is None or self._surroundings[0] != now:
            self._surroundings = (now, *make_payload(pack(pack_surroundings(now)).data))
        return self._surroundings[1:]

    def _tell_surroundings(self, link: WorkerLink, now: Surroundings) -> Payload:
        """The caller's surroundings, for a message to a worker, which has what they need from now on."""
        payload, root = self._pack_surroundings(now)
        link.attach(payload.segments())
        link.known.gets_surroundings(now)
        link.keep(root)
        return payload

    def _tell_modules(self, link: WorkerLink) -> Payload:
        """What has changed in the user's modules, for a message to a worker, which knows it from now on."""
        now, before = latest(), link.known.modules
        if self._modules is None or self._modules[:2] != (before, now):
            letter = news(before)
            payload, root = make_payload(letter.data)
            self._modules = (before, now, payload, letter.segments, (root, letter.keep))
        _, _, payload, segments, keep = self._modules
        link.attach(payload.segments() | segments)
        link.known.gets_modules(now)
        link.keep(keep)
        return payload
