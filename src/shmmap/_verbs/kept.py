"""``checkpoint=``: a map that goes on where an earlier run of it has ended, and is saved as it runs.

Called by `_verbs.run` alone, where the option is given. Folder and files are those of `_checkpoint`.
"""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Any, Literal

from .._checkpoint import Folder, Keeper, Policy, compare, identify
from .._chunks import Job, undone
from .._errors.arguments import as_seconds, check_word, describe
from .._errors.hints import depth_of_user
from .._interop.stored import Stored
from .._memory import handle_in_file
from .._results import Collector
from .request import Request


class Checkpoint:
    """Where a map keeps what is done, and how: what ``checkpoint=`` takes beside the path of a folder.

    Parameters
    ----------
    path : str or path-like
        A folder, which is made if it is not there. One map has it for itself.
    interval : float, default 30
        Seconds between two savings. At the end of the map, an exception included, it is saved in any case.
    if_changed : {"raise", "restart", "keep"}, default "raise"
        What to do if the folder is of a map that differs, in its function, say: raise `CheckpointMismatch`,
        begin anew, or keep what is done nevertheless, as long as number and size of the chunks are the same.
    inputs : {"sampled", "full"}, default "sampled"
        Whether an input is known again by pages of it, or size and time of its file, or by all of its bytes.

    Raises
    ------
    TypeError, ValueError
        For arguments that make no sense.

    Examples
    --------
    >>> import shmmap, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> run = shmmap.Checkpoint(folder.name, interval=5)
    >>> shmmap.pmap(lambda v: v * v, range(4), checkpoint=run)  # the second time, nothing is run
    [0, 1, 4, 9]
    >>> folder.cleanup()
    """

    __module__ = "shmmap"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        interval: float = 30.0,
        if_changed: Policy = "raise",
        inputs: Literal["sampled", "full"] = "sampled",
    ) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"checkpoint= takes the path of a folder, not {describe(path)}")
        self.path = os.fspath(path)
        self.interval = as_seconds(interval, "interval")
        check_word(if_changed, "if_changed", ("raise", "restart", "keep"))
        check_word(inputs, "inputs", ("sampled", "full"))
        self.if_changed: Policy = if_changed
        self.inputs = inputs

    def __repr__(self) -> str:
        return (
            f"Checkpoint({self.path!r}, interval={self.interval:g}, if_changed={self.if_changed!r}, "
            f"inputs={self.inputs!r})"
        )


def check_checkpoint(value: Any) -> Checkpoint | None:
    """The option ``checkpoint=``, if it is one."""
    return value if value is None or isinstance(value, Checkpoint) else Checkpoint(value)


def _refuse(request: Request, job: Job) -> None:
    """Refuse what could not go on after a crash."""
    if job.verb == "ranges":
        raise ValueError(
            "checkpoint= keeps results, and what a function of pmap_ranges writes is not among them: use "
            "pmap_chunks, whose results are"
        )
    if job.in_place:
        raise ValueError(
            "checkpoint= needs an out that is not an input: a range that was begun twice would differ"
        )
    for out in job.out or ():
        if isinstance(out, Stored):
            if out.key[0] == "HDF5 dataset":
                raise ValueError(
                    "checkpoint= needs an out that survives a crash, and an HDF5 file that is being written "
                    "does not: use a zarr array, a memory-mapped .npy file, or no out"
                )
            if out.opener is None:
                raise ValueError(
                    "checkpoint= needs an out on a disk that a later run can open, and this zarr array lies "
                    "in memory, or in an archive"
                )
        elif handle_in_file(out) is None:
            raise ValueError(
                "checkpoint= needs an out in a file: leave it out (the result is a file in the folder), or "
                "give a memory-mapped .npy file or a zarr array"
            )


class Kept:
    """A map's checkpoint, from before the map begins until after it has ended."""

    def __init__(self, request: Request, job: Job, option: Checkpoint) -> None:
        _refuse(request, job)
        identity = identify(
            verb=request.name,
            func=request.func,
            inputs=job.inputs,
            plan=job.plan,
            options=(
                request.axis,
                repr(request.dtype),
                request.depth,
                request.boundary,
                job.gather,
            ),
            outs=job.out or (),
            seed=job.seed,
            in_full=option.inputs == "full",
        )
        self._option = option
        self._job = job
        self._pid = os.getpid()
        self._marks: Callable[[], bytes] | None = None
        """Gives the engine's ledger, once the map runs."""
        self._stop = threading.Event()
        self._saver: threading.Thread | None = None
        self._handles_term = False
        self.marks: bytes | None = None
        """The ledger that the map begins with, if a part of it is done."""
        try:
            self._open(Folder(option.path), identity)
        except OSError as exc:
            raise _explain(exc, option.path) from None

    def _open(self, folder: Folder, identity: dict[str, Any]) -> None:
        option, job = self._option, self._job
        try:
            self._keeper = Keeper(folder, identity, job.plan, job.axis)
            state = folder.read()
            if state is not None and not compare(
                option.path, state.identity, identity, option.if_changed
            ):
                state = None
            self._state = state
            if state is None:
                self._keeper.begin()
            else:
                self.marks = state.marks if any(state.marks) else None
        except BaseException:
            folder.close()
            raise

    @property
    def is_complete(self) -> bool:
        return self.marks is not None and not undone(self.marks)

    def attach(self, collector: Collector, columns: tuple[Any, ...] | None) -> None:
        """Give a collector what was kept, and have it tell from now on. `columns`: given outputs."""
        keeper = self._keeper
        if columns is not None:
            keeper.note_given(self._job.out or (), columns)
        if self._state is not None:
            collector.take_up(*keeper.take_up(self._state))
        collector.keeper = keeper

    def begin(self, marks: Callable[[], bytes], is_awaited: bool) -> None:
        """The map runs: have it saved now and then, and when the program is asked to end."""
        self._marks = marks
        self._saver = threading.Thread(target=self._save_on, name="shmmap-checkpoint", daemon=True)
        self._saver.start()
        if is_awaited and threading.current_thread() is threading.main_thread():
            # As a batch system asks before it kills. Who has a handler knows what is to be done.
            if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                self._handles_term = True
                signal.signal(signal.SIGTERM, _leave)

    def _save_on(self) -> None:
        while not self._stop.wait(self._option.interval):
            self._save("it is tried again later")

    def _save(self, what_now: str) -> None:
        """Save what is done. If the disk does not take it, that is warned of: it costs nobody the result."""
        if self._marks is None:
            return
        try:
            self._keeper.save(self._marks())
        except OSError as exc:
            why = f"could not be saved ({exc.strerror or exc}): {what_now}"
            if not os.path.isdir(self._option.path):
                why = "is gone: nothing of this map is kept"
            warnings.warn(
                f"checkpoint={self._option.path!r} {why}. The map and its result are not concerned",
                RuntimeWarning,
                stacklevel=depth_of_user(),
            )

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        if os.getpid() != self._pid:
            return  # a callback has forked, and this is the child
        try:
            self._stop.set()
            if self._saver is not None:
                self._saver.join()
            self._save("what was saved before is kept")
        finally:
            self._keeper.close()
            if self._handles_term:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                if kind is _Terminated:
                    signal.raise_signal(signal.SIGTERM)


def _explain(exc: OSError, path: str) -> OSError:
    """The same error, saying that the folder cannot be used, and why."""
    if str(exc).startswith("checkpoint="):
        return exc
    explained = type(exc)(f"checkpoint={path!r} cannot be used: {exc.strerror or exc}")
    explained.errno = exc.errno
    return explained


class _Terminated(KeyboardInterrupt):
    """SIGTERM came. Where the map is saved, it ends the program after all."""


def _leave(signum: int, frame: FrameType | None) -> None:
    raise _Terminated
