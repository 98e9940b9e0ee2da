"""OUT of ``shmmap map`` while it is being made.

What must hold:

- OUT is made under a temporary name in its own folder, with all its space reserved before the map starts,
  and renamed onto its final name when it is complete and on disk. So an OUT that was there before stays as
  it was until then, a full disk is an error and never a SIGBUS, and a run that fails, is interrupted or is
  terminated leaves nothing. (SIGKILL gives no process a chance to clean up: a ``.shmmap-*.partial`` may stay
  behind in OUT's folder.)
- Its file is opened once, when it is made. Neither this process nor workers look it up by its name again, as
  in a folder where others may write that could be another user's link by then.
"""

from __future__ import annotations

import errno
import os
import secrets
import signal
import stat
from contextlib import suppress
from types import FrameType

import numpy as np

from .._interop.numpy_types import Array, DType
from .._memory import create_npy
from .errors import Refused, Stopped

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Output:
    """OUT while it is being made: a temporary file beside it, until it is complete.

    Leaving the ``with`` block by any way but `commit`, a signal included, removes the file.
    """

    def __init__(self, target: str, *, source: str) -> None:
        self.name = target
        # Through a link, so that the file it points to is replaced and not the link.
        self.target = os.path.realpath(target)
        self.folder = os.path.dirname(self.target)
        self.temporary = os.path.join(self.folder, f".shmmap-{secrets.token_hex(4)}.partial")
        self.pid = os.getpid()
        self.is_stopping = False
        if not os.path.isdir(self.folder):
            raise Refused(f"cannot write {target}: there is no folder {self.folder}")
        if os.path.exists(self.target):
            if not os.path.isfile(self.target):
                raise Refused(f"cannot write {target}: it is not a regular file")
            if os.path.exists(source) and os.path.samefile(source, self.target):
                raise Refused(f"cannot write {target}: it is the same file as IN")
            if not os.access(self.target, os.W_OK):
                raise Refused(f"cannot write {target}: it is read-only")

    def __enter__(self) -> Output:
        for signum in STOP_SIGNALS:
            # What nohup or a shell's background job has set to be ignored stays ignored.
            if signal.getsignal(signum) is not signal.SIG_IGN:
                signal.signal(signum, self._stop)
        try:
            self.fd = os.open(
                self.temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o666
            )
        except OSError as error:
            raise Refused(f"cannot write {self.name}: {error.strerror}") from error
        # As the umask wants it, once it is complete. Until then no other user may read it, as OUT may be
        # closed to them.
        self.mode = stat.S_IMODE(os.fstat(self.fd).st_mode)
        os.fchmod(self.fd, 0o600)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._discard()
        # Nothing is left to unwind: from here on a signal ends the process at once.
        self.is_stopping = True

    def allocate(self, shape: tuple[int, ...], dtype: DType) -> Array:
        """Give a writable array of zeros that lies in the file, with all of its space reserved."""
        try:
            return create_npy(self.fd, shape, dtype)
        except OSError as error:
            nbytes = dtype.itemsize * int(np.prod(shape, dtype=object))
            if error.errno == errno.EFBIG:
                raise Refused(
                    f"cannot write {self.name}: {nbytes:,} bytes are more than a file may have here; "
                    "ulimit -f shows the limit"
                ) from error
            free = os.statvfs(self.folder)
            raise Refused(
                f"cannot write {self.name}: {error.strerror or error}: {nbytes:,} bytes wanted, "
                f"{free.f_bavail * free.f_frsize:,} free in {self.folder}"
            ) from error

    def commit(self) -> None:
        """Bring the file to the disk, and give it its name."""
        with suppress(FileNotFoundError):
            self.mode = stat.S_IMODE(os.stat(self.target).st_mode) & 0o777
        os.fchmod(self.fd, self.mode)
        os.fsync(self.fd)
        if not os.path.samestat(os.lstat(self.temporary), os.fstat(self.fd)):
            raise FileNotFoundError(
                f"somebody has put another file in the place of {self.temporary}"
            )
        os.replace(self.temporary, self.target)
        with suppress(OSError):  # some file systems cannot, and OUT is there
            sync(self.folder)

    def _discard(self) -> None:
        # Not in a child that was forked in between: the file belongs to the parent.
        if os.getpid() == self.pid:
            with suppress(FileNotFoundError):
                os.unlink(self.temporary)

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self.pid:  # a forked worker: as if there were no handler
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)
        # Here, and not only while unwinding, where a second signal could come in between.
        self._discard()
        if self.is_stopping:
            os._exit(128 + signum)
        self.is_stopping = True
        raise Stopped(signum)


def sync(path: str) -> None:
    """Wait until the file or folder is on the disk, mappings' writes included."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
