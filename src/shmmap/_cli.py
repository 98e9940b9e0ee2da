"""The command line, ``shmmap map`` and ``shmmap info``, written on the public API.

(It also asks `_memory`, so that it tells what the library itself goes by.)

What always holds for ``map``:

- IN and OUT are memory-mapped, so neither has to fit into memory.
- OUT is made under a temporary name in its own folder, with all its space reserved before the map
  starts, and renamed onto its final name when it is complete and on disk. So an OUT that was there
  before stays as it was until then, a full disk is an error and never a SIGBUS, and a run that
  fails, is interrupted or is terminated leaves nothing. (SIGKILL gives no process a chance to clean
  up: a ``.shmmap-*.partial`` may stay behind in OUT's folder.)
- Whatever goes wrong is one line on stderr. Exit codes: 0, 1 (the run failed), 2 (it was refused
  before it began), 128 + the signal's number (it was stopped).
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import platform
import secrets
import shlex
import signal
import stat
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

import numpy as np

import shmmap
from shmmap import _memory
from shmmap._kernel_files import read_kernel_file

__all__ = ["main"]

PROBE_NBYTES = 1 << 20
"""Bytes of the first piece of IN that tells OUT's shape and dtype with ``--by chunk``."""

PROBE_LEN = 64
"""At most this many items in it. Fewer starve functions that need neighbours; more take longer."""

SHM = "/dev/shm"
HUGE_PAGES = "/sys/kernel/mm/transparent_hugepage/shmem_enabled"

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Refused(Exception):
    """The command cannot be carried out as given; the text says why, in one line."""


class Stopped(KeyboardInterrupt):
    """Ctrl-C, SIGTERM or SIGHUP, on its way up the stack."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


# ------------------------------------------------------------------------------------------ main


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line, like every other error here."""

    def error(self, message: str) -> NoReturn:
        """Print the complaint, and where to read on, and exit."""
        self.exit(2, f"{self.prog}: error: {message} (try {self.prog} --help)\n")


def make_parser() -> argparse.ArgumentParser:
    """Every option of every command."""
    parser = Parser(
        prog="shmmap", description="Map functions over large NumPy arrays with a team of processes."
    )
    parser.add_argument("--version", action="version", version=f"shmmap {shmmap.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    command = commands.add_parser(
        "map",
        help="apply a function to every item, or chunk, of a .npy file",
        description="Apply FUNC to every item (or chunk) of IN along an axis, and write OUT.",
        epilog="FUNC is called once more on the first item, to learn the shape and dtype of OUT. "
        "OUT appears under its name only when it is complete.",
    )
    command.add_argument(
        "func",
        metavar="FUNC",
        help="package.module:function, or a dotted path such as numpy.linalg.norm; "
        "modules in the current directory can be imported",
    )
    command.add_argument("source", metavar="IN", help="a .npy file; may be larger than memory")
    command.add_argument("target", metavar="OUT", help="the .npy file to write")
    command.add_argument(
        "--by",
        choices=("item", "chunk"),
        default="item",
        help="what FUNC gets: one item along the axis, or a block of many, vectorised "
        "(default: item)",
    )
    command.add_argument("--axis", type=int, default=0, help="the axis of IN to split (default: 0)")
    command.add_argument(
        "--workers", type=int, default=-1, help="how many take part (default: all usable cores)"
    )
    command.add_argument(
        "--engine",
        choices=("processes", "fork", "threads", "serial"),
        default="processes",
        help="where FUNC runs (default: processes)",
    )
    command.add_argument(
        "--chunksize",
        type=parse_chunksize,
        default="auto",
        help='items per chunk: a number, a byte size such as 8MiB, or "auto" (default)',
    )
    command.add_argument(
        "--dtype", help="dtype of OUT (default: what FUNC gives for the first item)"
    )
    command.add_argument("--no-progress", action="store_true", help="no progress bar on a terminal")
    command.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    command.set_defaults(run=run_map)

    command = commands.add_parser(
        "info", help="say what this machine offers: cores, shared memory, huge pages, versions"
    )
    command.set_defaults(run=run_info, traceback=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: ``sys.argv[1:]``) and return its exit code."""
    args = make_parser().parse_args(argv)
    try:
        args.run(args)
        sys.stdout.flush()  # here, where a reader that has left is no surprise
        return 0
    except Refused as error:
        code, message = 2, f"error: {error}"
    except KeyboardInterrupt as error:
        signum = error.signum if isinstance(error, Stopped) else signal.SIGINT
        code, message = 128 + signum, "interrupted" if signum == signal.SIGINT else "terminated"
    except BrokenPipeError:
        # Whoever read our output has left; a second failure while Python flushes would be noise.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        code, message = 1, f"error: {describe(error)}"
        if args.traceback:
            traceback.print_exc()
    print(f"shmmap: {message}", file=sys.stderr)
    return code


def describe(error: BaseException) -> str:
    """One line for an exception: its type, its text, and where it happened if that is noted."""
    text = " ".join(str(error).split())
    line = f"{type(error).__name__}: {text}" if text else type(error).__name__
    notes = [note.strip() for note in getattr(error, "__notes__", ()) if note.strip()]
    return f"{line} ({notes[0].splitlines()[0]})" if notes else line


# ------------------------------------------------------------------------------------- shmmap map


def run_map(args: argparse.Namespace) -> None:
    """Carry out ``shmmap map``."""
    with Output(args.target, source=args.source) as output:
        func = import_function(args.func)
        source = open_source(args.source)
        if not -source.ndim <= args.axis < source.ndim:
            raise Refused(f"--axis {args.axis} is out of range: {args.source} has {axes(source)}")
        axis = args.axis % source.ndim
        dtype = None if args.dtype is None else parse_dtype(args.dtype)
        verb = shmmap.pmap if args.by == "item" else shmmap.pmap_chunks

        shape, found = probe(verb, func, source, axis, dtype, args.chunksize, args.engine)
        if dtype is None:
            func = Lossless(func, found)
        out = output.allocate(shape, found)

        options: dict[str, Any] = {
            "engine": args.engine,
            "workers": args.workers,
            "progress": args.func if sys.stderr.isatty() and not args.no_progress else False,
        }
        began = time.perf_counter()
        verb(func, source, axis=axis, out=out, chunksize=args.chunksize, **options)
        output.commit()
        seconds = time.perf_counter() - began

        print(f"{args.target}: {summarize(args.target, options)}")
        what = f"{source.shape[axis]:,} items along axis {axis} of {args.source}"
        workers = args.workers if args.workers > 0 else _memory.usable_cores()
        where = "serial" if args.engine == "serial" else f"{args.engine}, workers={workers}"
        print(f"{what} in {seconds:.3g} s ({where})")


def import_function(name: str) -> Callable[..., Any]:
    """Import what `name` names: ``package.module:function``, or a dotted path."""
    if not all(part.isidentifier() for part in name.replace(":", ".", 1).split(".")):
        raise Refused(f"FUNC is package.module:function or a dotted path, not {name!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    module_name, colon, path = name.partition(":")
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


def open_source(path: str) -> np.ndarray[Any, Any]:
    """Memory-map IN."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise Refused(f"{path} is not a regular file")
        with open(path, "rb") as file:
            magic = file.read(len(np.lib.format.MAGIC_PREFIX))
        if magic != np.lib.format.MAGIC_PREFIX:
            hint = ": an .npz or another archive?" if magic.startswith(b"PK") else ""
            raise Refused(f"{path} is not an .npy file{hint}")
        source = shmmap.load(path, mmap_mode="r")
    except OSError as error:
        raise Refused(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, TypeError, EOFError) as error:
        raise Refused(f"cannot read {path}: {' '.join(str(error).split())}") from error
    if source.ndim == 0:
        raise Refused(f"{path} holds a single value: there is no axis to map over")
    return source


def parse_chunksize(text: str) -> int | str:
    """Items as a number; anything else is a byte size or ``"auto"``, for the library to judge."""
    return int(text) if text.lstrip("+-").isdigit() else text


def parse_dtype(text: str) -> np.dtype[Any]:
    """Make a dtype of what was given as ``--dtype``."""
    try:
        dtype = np.dtype(text)
    except (TypeError, ValueError, SyntaxError) as error:
        raise Refused(f"--dtype {text} is not a dtype NumPy knows") from error
    if dtype.hasobject:
        raise Refused(f"--dtype {text}: Python objects cannot be memory-mapped")
    return dtype


def axes(array: np.ndarray[Any, Any]) -> str:
    """Say how many axes `array` has."""
    return f"{array.ndim} axes, shape {array.shape}" if array.ndim > 1 else f"shape {array.shape}"


def probe(
    verb: Callable[..., Any],
    func: Callable[..., Any],
    source: np.ndarray[Any, Any],
    axis: int,
    dtype: np.dtype[Any] | None,
    chunksize: int | str,
    engine: str,
) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Learn shape and dtype of OUT: map the first piece of IN, by the same verb, in the same place.

    In a worker if there are any: a function that ends its process is then an error as others are.
    """
    length = source.shape[axis]
    piece = 1
    if verb is shmmap.pmap_chunks:
        item_nbytes = max(1, source.nbytes // max(1, length))
        piece = min(PROBE_LEN, max(1, PROBE_NBYTES // item_nbytes), max(1, length))
        if isinstance(chunksize, int):
            piece = chunksize
    first = source[(slice(None),) * axis + (slice(0, max(0, piece)),)]
    result = verb(func, first, axis=axis, dtype=dtype, chunksize=piece, engine=engine, workers=1)
    if not isinstance(result, np.ndarray):
        what = f"a tuple of {len(result)}" if isinstance(result, tuple) else "None"
        raise Refused(f"FUNC returns {what}, but OUT holds one array: let it return one")
    shape = list(result.shape)
    if length:
        along = 0 if verb is shmmap.pmap else axis
        shape[along] = length
    return tuple(shape), result.dtype


class Lossless:
    """`func`, refusing every result that the dtype of the first one cannot hold as it is."""

    def __init__(self, func: Callable[..., Any], dtype: np.dtype[Any]) -> None:
        self.func = func
        self.dtype = dtype

    def __call__(self, *args: Any) -> Any:
        """Call `func` and look at the dtype of what it returns."""
        result = self.func(*args)
        dtype = np.asarray(result).dtype
        if dtype != self.dtype and not np.can_cast(dtype, self.dtype, "safe"):
            way_out = ""
            if not dtype.hasobject:
                with suppress(TypeError):  # no dtype holds both
                    wider = str(np.result_type(dtype, self.dtype))
                way_out = f": pass --dtype {shlex.quote(wider)}"
            what = type(result).__name__ if dtype.hasobject else dtype
            raise TypeError(f"a result is {what}, but the first one was {self.dtype}{way_out}")
        return result

    def __repr__(self) -> str:
        return repr(self.func)


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
            os.close(os.open(self.temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666))
        except OSError as error:
            raise Refused(f"cannot write {self.name}: {error.strerror}") from error
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._discard()
        # Nothing is left to unwind: from here on a signal ends the process at once.
        self.is_stopping = True

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        """Give a writable array of zeros that lies in the file, with all of its space reserved."""
        nbytes = dtype.itemsize * int(np.prod(shape, dtype=object))
        try:
            if nbytes == 0:  # nothing to map
                out: np.ndarray[Any, Any] = np.empty(shape, dtype)
                with open(self.temporary, "wb") as file:
                    np.lib.format.write_array(file, out)
                return out
            mapped = np.lib.format.open_memmap(self.temporary, mode="w+", dtype=dtype, shape=shape)
            reserve(self.temporary, mapped.offset, nbytes)
            return mapped
        except OSError as error:
            free = os.statvfs(self.folder)
            raise Refused(
                f"cannot write {self.name}: {error.strerror or error}: {nbytes:,} bytes wanted, "
                f"{free.f_bavail * free.f_frsize:,} free in {self.folder}"
            ) from error

    def commit(self) -> None:
        """Bring the file to the disk, and give it its name."""
        if os.path.exists(self.target):
            os.chmod(self.temporary, stat.S_IMODE(os.stat(self.target).st_mode))
        sync(self.temporary)
        os.replace(self.temporary, self.target)
        with suppress(OSError):  # some file systems cannot, and OUT is there
            sync(self.folder)

    def _discard(self) -> None:
        # Not in a child that was forked in between: the file is not that one's to remove.
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


def reserve(path: str, offset: int, nbytes: int) -> None:
    """Make sure that writing through a mapping of this part of a fresh file cannot fail."""
    with open(path, "r+b") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), offset, nbytes)
            return
        file.seek(offset)
        block = bytes(1 << 20)
        for start in range(0, nbytes, len(block)):
            file.write(block[: nbytes - start])


def sync(path: str) -> None:
    """Wait until the file or folder is on the disk, mappings' writes included."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def summarize(path: str, options: dict[str, Any]) -> str:
    """Shape and dtype of the array in a file, and its range and mean if it holds real numbers."""
    array = shmmap.load(path, mmap_mode="r")
    text = f"shape {array.shape}, {array.dtype}"
    if array.size and array.dtype.kind in "biuf":
        low, high, total, count = shmmap.preduce(
            measure, array.reshape(-1), combine=combine, **{**options, "progress": False}
        )
        if count:
            text += f", min {low:.6g}, mean {total / count:.6g}, max {high:.6g}"
        if nans := array.size - int(count):
            text += f", {nans:,} NaN"
    return text


def measure(chunk: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Minimum, maximum, sum and number of the values that are not NaN."""
    values = chunk[~np.isnan(chunk)] if chunk.dtype.kind == "f" else chunk
    if not values.size:
        return np.array([np.inf, -np.inf, 0.0, 0.0])
    return np.array([values.min(), values.max(), values.sum(dtype=np.float64), values.size], float)


def combine(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Put two partial results of `measure` together."""
    return np.array([min(a[0], b[0]), max(a[1], b[1]), a[2] + b[2], a[3] + b[3]])


# ------------------------------------------------------------------------------------ shmmap info


def run_info(args: argparse.Namespace) -> None:
    """Carry out ``shmmap info``."""
    for name, text in facts():
        print(f"{name:<18}{text}")


def facts() -> Iterator[tuple[str, str]]:
    """Tell what the library finds on this machine, as pairs of a name and a text."""
    yield "cores usable", f"{_memory.usable_cores()} of {os.cpu_count()}"
    with suppress(OSError):
        shm = os.statvfs(SHM)
        free, total = shm.f_bavail * shm.f_frsize, shm.f_blocks * shm.f_frsize
        yield "shared memory", f"{gib(free)} free of {gib(total)} in {SHM}"
    nbytes, where = _memory.available()
    yield "memory", f"{gib(nbytes)} available in {where}"
    headroom = _memory.cgroup_headroom()
    yield "memory cgroup", "no limit" if headroom is None else f"{gib(headroom)} below its limit"
    yield "huge pages", describe_huge_pages()
    yield "start method", "clean: workers are forked from a fresh process, not from the caller"
    names = ("numpy", "cloudpickle", "threadpoolctl", "tqdm")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    yield "versions", f"shmmap {shmmap.__version__}, Python {platform.python_version()}, {versions}"
    yield "system", f"{platform.system()} {platform.release()}, {platform.machine()}"


def describe_huge_pages() -> str:
    """Say whether shared arrays can have huge pages, and how to switch them on."""
    try:
        setting = read_kernel_file(HUGE_PAGES).partition("[")[2].partition("]")[0]
        mounts = [line.split() for line in read_kernel_file("/proc/self/mounts").splitlines()]
    except OSError:
        return "unknown"
    mount = "never"  # tmpfs's default
    for _, folder, kind, options, *_ in mounts:
        if folder == SHM and kind == "tmpfs":
            found = [option for option in options.split(",") if option.startswith("huge=")]
            mount = found[-1].removeprefix("huge=") if found else "never"
    if setting in ("deny", "force"):  # overrides every mount
        return f"{setting} ({HUGE_PAGES})"
    text = f"{mount} in {SHM}, {setting} elsewhere ({HUGE_PAGES})"
    if mount == "never":
        text += f"; as root, mount -o remount,huge=advise {SHM} switches them on"
    return text


def gib(nbytes: int) -> str:
    """Bytes as GiB."""
    return f"{nbytes / 2**30:.1f} GiB"
