"""The OUTs of a command while they are being made.

What must hold:

- OUT is made under a temporary name in its own folder, with all its space reserved before the map starts,
  and renamed onto its final name when it is complete and on disk. So an OUT that was there before stays as
  it was until then, a full disk is an error and never a SIGBUS, and a run that fails, is interrupted or is
  terminated leaves nothing. (SIGKILL gives no process a chance to clean up: a ``.shmmap-*.partial`` may stay
  behind in OUT's folder.)
- Its file is opened once, when it is made. Neither this process nor workers look it up by its name again, as
  in a folder where others may write that could be another user's link by then.

What differs for zarr and HDF5 is said in `stored_outputs`, and with ``--checkpoint`` in `kept_outputs`.
"""

from __future__ import annotations

import errno
import os
import secrets
import signal
import stat
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Any, Protocol

import numpy as np

from .._interop.numpy_types import Array, DType
from .._memory import create_npy, sync_file
from .errors import Refused, Stopped

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Output(Protocol):
    """An OUT while it is being made. Refused as it is constructed if it cannot be written."""

    name: str
    """As the user has it."""

    def open(self) -> None:
        """Make sure of the place, before anything is computed."""

    def allocate(self, shape: tuple[int, ...], dtype: DType, along: int, rows: int) -> Any:
        """Make an array of zeros for it, to be passed as ``out=``.

        `rows`: a good number of items, along an axis, to be stored as one.
        """

    def flush(self) -> None:
        """It is complete: bring it to the disk, which may take long."""

    def commit(self) -> None:
        """Give it its name. No signal comes in between."""

    def discard(self, is_refused: bool) -> None:
        """Remove what was not committed. Harmless afterwards, and twice.

        `is_refused`: the command was refused, so all is to be as it was before. It matters where something
        stays otherwise (`kept_outputs`).
        """

    def drop(self) -> None:
        """The same in a signal's handler, as far as it can be done there."""


class Outputs:
    """All OUTs of a command: leaving the ``with`` block by any way but `commit` removes them all.

    A signal that ends the command does so too.
    """

    def __init__(self, outputs: Sequence[Output]) -> None:
        self._outputs = outputs
        self._pid = os.getpid()
        self._is_stopping = False
        self._is_naming = False
        """OUTs are given their names: a signal waits until that is done, or what was there before is lost."""
        self._waiting = 0
        """That signal's number."""

    def __enter__(self) -> Outputs:
        for signum in STOP_SIGNALS:
            # What nohup or a shell's background job has set to be ignored stays ignored.
            if signal.getsignal(signum) is not signal.SIG_IGN:
                signal.signal(signum, self._stop)
        try:
            for each in self._outputs:
                each.open()
        except BaseException:
            self.__exit__(Refused)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *exc_info: object) -> None:
        # Not in a child that was forked in between: the files belong to the parent.
        if os.getpid() == self._pid:
            for each in self._outputs:
                each.discard(kind is Refused)
        # Nothing is left to unwind: from here on a signal ends the process at once.
        self._is_stopping = True

    def commit(self) -> None:
        """All of them are complete."""
        for each in self._outputs:
            each.flush()
        self._is_naming = True
        try:
            for each in self._outputs:
                each.commit()
        finally:
            self._is_naming = False
        if self._waiting:
            self._stop(self._waiting, None)

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a forked worker: as if there were no handler
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)
        if self._is_naming:
            self._waiting = signum
            return
        # Here, and not only while unwinding, where a second signal could come in between.
        for each in self._outputs:
            each.drop()
        if self._is_stopping:
            os._exit(128 + signum)
        self._is_stopping = True
        raise Stopped(signum)


def partial_beside(path: str) -> str:
    """A temporary name in the same folder."""
    return os.path.join(os.path.dirname(path), f".shmmap-{secrets.token_hex(4)}.partial")


class NpyFile:
    """An OUT that is an ``.npy`` file."""

    def __init__(self, target: str, source: str) -> None:
        self.name = target
        # Through a link, so that the file it points to is replaced and not the link.
        self._target = os.path.realpath(target)
        self._folder = os.path.dirname(self._target)
        self._temporary = partial_beside(self._target)
        self._fd = -1
        if not os.path.isdir(self._folder):
            raise Refused(f"cannot write {target}: there is no folder {self._folder}")
        if os.path.exists(self._target):
            if not os.path.isfile(self._target):
                raise Refused(f"cannot write {target}: it is not a regular file")
            if os.path.exists(source) and os.path.samefile(source, self._target):
                raise Refused(f"cannot write {target}: it is the same file as IN")
            if not os.access(self._target, os.W_OK):
                raise Refused(f"cannot write {target}: it is read-only")

    def open(self) -> None:
        try:
            self._fd = os.open(
                self._temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o666
            )
        except OSError as error:
            raise Refused(f"cannot write {self.name}: {error.strerror}") from error
        # As the umask wants it, once it is complete. Until then no other user may read it, as OUT may be
        # closed to them.
        self._mode = stat.S_IMODE(os.fstat(self._fd).st_mode)
        os.fchmod(self._fd, 0o600)

    def allocate(self, shape: tuple[int, ...], dtype: DType, along: int, rows: int) -> Array:
        """Give a writable array of zeros that lies in the file, with all of its space reserved."""
        try:
            return create_npy(self._fd, shape, dtype)
        except OSError as error:
            nbytes = dtype.itemsize * int(np.prod(shape, dtype=object))
            if error.errno == errno.EFBIG:
                raise Refused(
                    f"cannot write {self.name}: {nbytes:,} bytes are more than a file may have here; "
                    "ulimit -f shows the limit"
                ) from error
            free = os.statvfs(self._folder)
            raise Refused(
                f"cannot write {self.name}: {error.strerror or error}: {nbytes:,} bytes wanted, "
                f"{free.f_bavail * free.f_frsize:,} free in {self._folder}"
            ) from error

    def flush(self) -> None:
        os.fsync(self._fd)

    def commit(self) -> None:
        with suppress(FileNotFoundError):
            self._mode = stat.S_IMODE(os.stat(self._target).st_mode) & 0o777
        os.fchmod(self._fd, self._mode)
        if not os.path.samestat(os.lstat(self._temporary), os.fstat(self._fd)):
            raise FileNotFoundError(
                f"somebody has put another file in the place of {self._temporary}"
            )
        os.replace(self._temporary, self._target)
        with suppress(OSError):  # some file systems cannot, and OUT is there
            sync_file(self._folder)

    def discard(self, is_refused: bool) -> None:
        self.drop()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def drop(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._temporary)
