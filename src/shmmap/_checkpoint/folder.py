"""The folder of a checkpoint: which files lie there, what is in them, and in which order they are written.

- ``ledger``: which map it is of, and a mark for each of its chunks; replaced as a whole at every save
- ``out.npy`` (``out-0.npy``, ... for a tuple): the result, where `out=` gives none
- ``out.npy.part``, ``out.npy.new``: a wider result that is being filled, and that is complete
- ``pieces``: what is no part of an array: results of a list, partials of a reduction, and the form of the
  result. Records are added at the end; the ledger says how many bytes of the file count
- ``lock``: held by the program that works there, with its process id

What must hold, also after a power failure: what the ledger names is on the disk before the ledger is. After a
program was killed, the system has all that it had written, whatever its order.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import cloudpickle

from .._errors.exceptions import CheckpointMismatch
from .._interop.numpy_types import Array, DType
from .._memory import create_npy, open_npy, sync_file
from .._system.forks import make_lock

try:
    import fcntl as _fcntl
except ImportError:  # not a POSIX system
    fcntl: Any = None
else:
    fcntl = _fcntl

FORMAT = 1
LEDGER, PIECES, LOCK = "ledger", "pieces", "lock"
NEW, PART = ".new", ".part"
"""What names of files end with that are complete, and that are not."""

# Records are written so many bytes at once; and so many wait for a disk that takes none.
_WRITTEN_NBYTES, _WAITING_NBYTES = 1 << 16, 1 << 26

_open: set[tuple[int, int]] = set()
"""Folders in use by this process, by device and inode: a lock is a process's, not a map's."""
_open_lock = make_lock()


class State(NamedTuple):
    """What the ledger says."""

    identity: dict[str, Any]
    """What the map is, in words and digests."""
    marks: bytes
    pieces_nbytes: int = 0
    sample: str = ""
    """A digest of parts of the result that are done."""
    replaces: list[str] = []  # noqa: RUF012  (never changed)
    """Files of the result whose wider successors are complete beside them."""


class Folder:
    """The folder, locked for as long as this is open. Used by one thread at a time."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            os.makedirs(path, exist_ok=True)
        except FileExistsError:
            raise NotADirectoryError(
                f"checkpoint={path!r}: this is a file, and a folder is needed"
            ) from None
        stat = os.stat(path)
        self._key = stat.st_dev, stat.st_ino
        self._pid = os.getpid()
        self._lock_fd = -1
        self._pieces_fd = -1
        self._pieces_nbytes = 0
        """Of the records that count, and are in the file."""
        self._waiting = bytearray()
        """Records that are to be added to the file."""
        self._has_lost = False
        """So many could not be written that they were given up, and all that come."""
        with _open_lock:
            if self._key in _open:
                raise self._in_use(os.getpid())
            if fcntl is None:
                raise NotImplementedError(
                    "checkpoint= needs a system that locks files as POSIX does"
                )
            self._refuse_others_files()
            self._take_lock()
            _open.add(self._key)

    def _in_use(self, pid: int) -> BlockingIOError:
        return BlockingIOError(f"checkpoint={self.path!r} is in use by process {pid}")

    def _refuse_others_files(self) -> None:
        names = set(os.listdir(self.path))
        if names and not names & {LEDGER, LOCK}:
            raise FileExistsError(
                f"checkpoint={self.path!r} has files, and none of a checkpoint: give a new or empty folder"
            )

    def _take_lock(self) -> None:
        fd = os.open(self.at(LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.read(fd, 20).decode(errors="replace").strip()
            os.close(fd)
            raise self._in_use(int(owner) if owner.isdigit() else 0) from None
        os.truncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._lock_fd = fd

    def close(self) -> None:
        """Give the folder free."""
        if self._pieces_fd >= 0:
            os.close(self._pieces_fd)
            self._pieces_fd = -1
        with _open_lock:
            if self._lock_fd >= 0 and os.getpid() == self._pid:
                os.truncate(self._lock_fd, 0)
                _open.discard(self._key)
            if self._lock_fd >= 0:
                os.close(self._lock_fd)
            self._lock_fd = -1

    def at(self, name: str) -> str:
        return os.path.join(self.path, name)

    # ------------------------------------------------ the ledger

    def read(self) -> State | None:
        """What was saved; None if nothing was. Raises CheckpointMismatch for what is no ledger of ours."""
        try:
            with open(self.at(LEDGER), "rb") as file:
                head, _, marks = file.read().partition(b"\n")
        except FileNotFoundError:
            return None
        try:
            said: dict[str, Any] = json.loads(head)
            if said.pop("format") != FORMAT:
                raise CheckpointMismatch(
                    f"{self.at(LEDGER)} is of another version of this library; give another folder"
                )
            if said.pop("crc") != zlib.crc32(marks):
                raise ValueError
            state = State(marks=marks, **said)
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            if isinstance(exc, CheckpointMismatch):
                raise
            raise CheckpointMismatch(
                f"{self.at(LEDGER)} is damaged, or no ledger: remove the folder to begin anew"
            ) from None
        for name in state.replaces:
            if os.path.exists(self.at(name + NEW)):
                os.replace(self.at(name + NEW), self.at(name))
        for name in os.listdir(self.path):
            if is_output(name) and name.endswith((NEW, PART)):
                os.unlink(self.at(name))  # no ledger has come to know of it
        return state

    def write(self, state: State) -> None:
        """Replace the ledger. *Requires*: all that it names is on the disk."""
        said = {"format": FORMAT, **state._asdict(), "crc": zlib.crc32(state.marks)}
        del said["marks"]
        new = self.at(LEDGER + NEW)
        try:
            with open(new, "wb") as file:
                file.write(json.dumps(said).encode() + b"\n" + state.marks)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                os.unlink(new)  # on a full disk, half of it takes room
            raise
        os.replace(new, self.at(LEDGER))
        sync_file(self.path)

    def clear(self) -> None:
        """Forget what was saved, pieces without a ledger included: they are of who knows which map.

        First the ledger, so that nothing is ever named that is not there.
        """
        names = os.listdir(self.path)
        ours = [name for name in (LEDGER, PIECES) if name in names] + list(filter(is_output, names))
        for name in ours:
            os.unlink(self.at(name))
        if ours:
            sync_file(self.path)

    # ------------------------------------------------ pieces

    def read_pieces(self, nbytes: int) -> Iterator[tuple[Any, ...]]:
        """The records in the first `nbytes`; what comes after them is cut off."""
        self._pieces_nbytes = nbytes
        if nbytes:
            try:
                file = open(self.at(PIECES), "rb")
            except FileNotFoundError:
                raise CheckpointMismatch(f"{self.at(PIECES)} is missing") from None
            with file:
                while file.tell() < nbytes:
                    head = file.read(12)
                    length = int.from_bytes(head[:8], "little")
                    data = file.read(length) if file.tell() + length <= nbytes else b""
                    if len(data) < length or zlib.crc32(data) != int.from_bytes(head[8:], "little"):
                        raise CheckpointMismatch(f"{self.at(PIECES)} is damaged")
                    yield pickle.loads(data)
        if os.path.exists(self.at(PIECES)):
            os.truncate(self.at(PIECES), nbytes)

    def add_piece(self, record: tuple[Any, ...]) -> None:
        """Add a record. It is in the file only after `flush_pieces`, and on the disk after `sync_pieces`."""
        try:
            data = pickle.dumps(record, 5)
        except Exception:
            data = cloudpickle.dumps(record, 5)
        self._add(data)

    def _add(self, data: bytes) -> None:
        if self._has_lost:
            return
        self._waiting += len(data).to_bytes(8, "little") + zlib.crc32(data).to_bytes(4, "little")
        self._waiting += data
        if len(self._waiting) >= _WRITTEN_NBYTES:
            with suppress(OSError):  # the map goes on; whoever saves it is told
                self.flush_pieces()
            if len(self._waiting) >= _WAITING_NBYTES:
                self._has_lost = True
                self._waiting.clear()

    def flush_pieces(self) -> int:
        """Give all records to the system; how many bytes they are. Raises OSError if it does not take them.

        What it did not take then waits for the next time.
        """
        if self._has_lost:
            raise OSError("results came that could not be written")
        if self._waiting and self._pieces_fd < 0:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._pieces_fd = os.open(self.at(PIECES), flags, 0o666)
        while self._waiting:
            written = os.write(self._pieces_fd, self._waiting)
            del self._waiting[:written]
            self._pieces_nbytes += written
        return self._pieces_nbytes

    def sync_pieces(self) -> None:
        if self._pieces_fd >= 0:
            os.fsync(self._pieces_fd)

    # ------------------------------------------------ the result

    def create(self, name: str, shape: tuple[int, ...], dtype: DType) -> tuple[int, Array]:
        """A new ``.npy`` file, its space reserved; its descriptor, and a writable array over it."""
        try:
            fd = os.open(self.at(name), os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
            try:
                return fd, create_npy(fd, shape, dtype)
            except BaseException:
                os.close(fd)
                with suppress(OSError):
                    os.unlink(self.at(name))  # what there is of space is the ledger's
                raise
        except OSError as exc:
            nbytes = dtype.itemsize * math.prod(shape)
            raise type(exc)(
                f"checkpoint={self.path!r}: the result, of {nbytes:,} bytes, has no place in the folder: "
                f"{exc.strerror or exc}"
            ) from None

    def open(self, name: str) -> tuple[int, Array]:
        """The same of one that is there. Raises CheckpointMismatch if it is not."""
        try:
            fd = os.open(self.at(name), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise CheckpointMismatch(
                f"{self.at(name)} is gone: remove the folder to begin anew"
            ) from None
        try:
            return fd, open_npy(fd, self.at(name))
        except ValueError as exc:
            os.close(fd)
            raise CheckpointMismatch(f"{exc}: remove the folder to begin anew") from None


def output_name(j: int, of: int) -> str:
    """The file of one of so many arrays that are the result."""
    return "out.npy" if of == 1 else f"out-{j}.npy"


def is_output(name: str) -> bool:
    stem = name.removesuffix(NEW).removesuffix(PART)
    return (
        stem.startswith("out") and stem.endswith(".npy") and (stem == "out.npy" or stem[3] == "-")
    )
