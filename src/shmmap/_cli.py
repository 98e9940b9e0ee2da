"""The command line, ``shmmap map`` and ``shmmap info``, written on the public API.

(It also asks `_system.limits`, so that it tells what the library itself goes by, and `_memory.table`, so
that workers get OUT by its descriptor.)

What always holds for ``map``:

- IN and OUT are memory-mapped, so neither has to fit into memory.
- OUT is made under a temporary name in its own folder, with all its space reserved before the map
  starts, and renamed onto its final name when it is complete and on disk. So an OUT that was there
  before stays as it was until then, a full disk is an error and never a SIGBUS, and a run that
  fails, is interrupted or is terminated leaves nothing. (SIGKILL gives no process a chance to clean
  up: a ``.shmmap-*.partial`` may stay behind in OUT's folder.)
- OUT's file is opened once, when it is made: nobody looks it up by its name again, workers neither, as
  in a folder where others may write it could be somebody else's link by then.
- The current folder is searched last, and only for a FUNC that is nowhere else: what others have put
  there under the name of a library is not run.
- Whatever goes wrong is one line on stderr, in words of the command line. Exit codes: 0, 1 (the run
  failed), 2 (it was refused before it began), 128 + the signal's number (it was stopped).
"""

from __future__ import annotations

import argparse
import errno
import importlib
import importlib.metadata
import importlib.util
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
from typing import Any, Literal, NoReturn

import numpy as np

import shmmap
from shmmap._errors.arguments import parse_nbytes
from shmmap._memory import table
from shmmap._system import limits
from shmmap._system.kernel_files import read_kernel_file
from shmmap._wire.control import RANKS_MAX

PROBE_NBYTES = 1 << 20
"""Bytes of the first piece of IN that tells OUT's shape and dtype with ``--by chunk``."""

PROBE_LEN = 64
"""At most this many items in it. Fewer starve functions that need neighbours; more take longer."""

SHM = "/dev/shm"
HUGE_PAGES = "/sys/kernel/mm/transparent_hugepage/shmem_enabled"

OTHER_FORMATS = frozenset(
    ".bin .csv .dat .fits .gz .h5 .hdf5 .jpg .json .mat .nc .npz .parquet .pkl .png .tif .tiff .tsv .txt "
    ".zarr .zip".split()
)
"""Endings of names by which others would take OUT for what it is not."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Refused(Exception):
    """The command cannot be carried out as given; the text says why, in one line."""


class Unfit(Exception):
    """A result that has no place in OUT; the text says why."""


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
        "a module that is not installed may lie in the current directory",
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
        "--workers",
        type=parse_workers,
        default=-1,
        metavar="N",
        help="how many take part (default: all usable cores)",
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
    if isinstance(error, shmmap.WorkerDied):
        text = text.partition(". ")[0]  # then of what was written, which is discarded here
    line = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, Unfit):
        line = text
    notes = [note.strip() for note in getattr(error, "__notes__", ()) if note.strip()]
    return f"{line} ({notes[0].splitlines()[0]})" if notes else line


# ------------------------------------------------------------------------------------- shmmap map


def run_map(args: argparse.Namespace) -> None:
    """Carry out ``shmmap map``."""
    for name, path in (("IN", args.source), ("OUT", args.target)):
        if path == "-":
            raise Refused(
                f"{name} must be a file, which can be memory-mapped; a file named - is ./-"
            )
    if os.path.splitext(args.target)[1].lower() in OTHER_FORMATS:
        raise Refused(
            f"cannot write {args.target}: OUT is an .npy file, and this name says otherwise"
        )
    with Output(args.target, source=args.source) as output:
        func = import_function(args.func)
        source = open_source(args.source)
        if not -source.ndim <= args.axis < source.ndim:
            raise Refused(f"--axis {args.axis} is out of range: {args.source} has {axes(source)}")
        axis = args.axis % source.ndim
        dtype = None if args.dtype is None else parse_dtype(args.dtype)
        verb = shmmap.pmap if args.by == "item" else shmmap.pmap_chunks

        shape, found = probe(verb, func, source, axis, args.chunksize, args.engine)
        length = source.shape[axis]
        if dtype is not None and length and not np.can_cast(found, dtype, "same_kind"):
            raise Refused(f"--dtype {args.dtype} cannot hold what FUNC returns, which is {found}")
        func = Fitting(
            func,
            found if dtype is None else dtype,
            is_given=dtype is not None,
            shape=shape,
            axis=None if args.by == "item" else axis,
        )
        along = 0 if args.by == "item" or not length else axis
        out = output.allocate((*shape[:along], length, *shape[along:]), func.dtype)

        options: dict[str, Any] = {
            "engine": args.engine,
            "workers": args.workers,
            "progress": args.func if sys.stderr.isatty() and not args.no_progress else False,
        }
        began = time.perf_counter()
        verb(func, source, axis=axis, out=out, chunksize=args.chunksize, **options)
        output.commit()
        seconds = time.perf_counter() - began

        print(f"{args.target}: {summarize(out, options)}")
        what = f"{source.shape[axis]:,} items along axis {axis} of {args.source}"
        workers = args.workers if args.workers > 0 else limits.usable_cores()
        where = "serial" if args.engine == "serial" else f"{args.engine}, workers={workers}"
        print(f"{what} in {seconds:.3g} s ({where})")


def import_function(name: str) -> Callable[..., Any]:
    """Import what `name` names: ``package.module:function``, or a dotted path."""
    if not all(part.isidentifier() for part in name.replace(":", ".", 1).split(".")):
        raise Refused(f"FUNC is package.module:function or a dotted path, not {name!r}")
    module_name, colon, path = name.partition(":")
    look_here_for(module_name.partition(".")[0])
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


def look_here_for(module_name: str) -> None:
    """Have the current folder searched, after everything else, if a module is not found without it."""
    if sys.flags.safe_path:
        return
    try:
        is_found = importlib.util.find_spec(module_name) is not None
    except (ImportError, ValueError):
        is_found = False
    if not is_found:
        sys.path.append(os.getcwd())


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


def parse_workers(text: str) -> int:
    """Read what was given as ``--workers``."""
    try:
        workers = int(text)
    except ValueError:
        workers = 0
    if workers < 1 and workers != -1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a number above 0 nor -1 for all cores"
        )
    if workers > RANKS_MAX:
        raise argparse.ArgumentTypeError(f"{text} are too many: at most {RANKS_MAX}")
    return workers


def parse_chunksize(text: str) -> int | str:
    """Read what was given as ``--chunksize``: items as a number, a size in bytes, or ``"auto"``."""
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    if text != "auto" and (text.lstrip("+-").isdigit() or not parse_nbytes(text)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of items above 0, no size in bytes such as 8MiB, and not auto"
        )
    return text


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
    chunksize: int | str,
    engine: str,
) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Learn from the first piece of IN what FUNC gives: its shape, without the axis mapped, and dtype.

    By the same verb and in the same place as the map. In a worker if there are any: a function that
    ends its process is then an error as others are.
    """
    length = source.shape[axis]
    if not length:
        return (), np.dtype(float)
    piece = 1
    if verb is shmmap.pmap_chunks:
        item_nbytes = max(1, source.nbytes // length)
        piece = min(PROBE_LEN, max(1, PROBE_NBYTES // item_nbytes), length)
        if isinstance(chunksize, int):
            piece = min(chunksize, length)
    first = source[(slice(None),) * axis + (slice(0, piece),)]
    results = verb(func, first, axis=axis, out=list, chunksize=piece, engine=engine, workers=1)
    try:
        a = as_result(results[0])
        if a.dtype.hasobject:
            raise Unfit(f"FUNC returns a {type(results[0]).__name__}, but OUT holds numbers")
        shape = a.shape
        if verb is shmmap.pmap_chunks:
            check_length(a, axis, piece)
            shape = (*shape[:axis], *shape[axis + 1 :])
    except Unfit as error:
        raise Refused(str(error)) from None
    return shape, np.result_type(a.dtype, a.dtype)  # in the byte order of the machine


def as_result(result: Any) -> np.ndarray[Any, Any]:
    """What FUNC returned as an array, if it is one array or number."""
    if result is None:
        raise Unfit("FUNC returns None, but OUT holds one array: let it return one")
    if isinstance(result, tuple):
        raise Unfit(
            f"FUNC returns a tuple of {len(result)}, but OUT holds one array: let it return one"
        )
    if isinstance(result, np.ma.MaskedArray):
        raise Unfit("FUNC returns a masked array, whose mask OUT cannot hold: let it fill it")
    try:
        return np.asarray(result)
    except ValueError:  # nested sequences of different lengths
        raise Unfit(f"FUNC returns a {type(result).__name__} that is no array") from None


def check_length(a: np.ndarray[Any, Any], axis: int, length: int) -> None:
    """Refuse what has not as many items along the axis as the block that it was made of."""
    if a.ndim <= axis or a.shape[axis] != length:
        raise Unfit(
            f"FUNC returns shape {a.shape} for a block of {length} items: with --by chunk it returns "
            f"as many along axis {axis}; --by item calls it for one at a time"
        )


class Fitting:
    """`func`, refusing every result that OUT cannot hold as it is."""

    def __init__(
        self,
        func: Callable[..., Any],
        dtype: np.dtype[Any],
        *,
        is_given: bool,
        shape: tuple[int, ...],
        axis: int | None,
    ) -> None:
        self.func = func
        self.dtype = dtype
        self.is_given = is_given
        """The dtype was asked for, so that a result need only be of its kind."""
        self.shape = shape
        """Of a result, without the axis mapped."""
        self.axis = axis
        """Along which the items of a block's result lie; None where results are items."""

    def __call__(self, block: Any) -> Any:
        """Call `func` and look at what it returns."""
        result = self.func(block)
        a = as_result(result)
        shape = a.shape
        if self.axis is not None:
            check_length(a, self.axis, block.shape[self.axis])
            shape = (*shape[: self.axis], *shape[self.axis + 1 :])
        if shape != self.shape:
            raise Unfit(f"a result has shape {shape}, but the first one had {self.shape}")
        rule: Literal["same_kind", "safe"] = "same_kind" if self.is_given else "safe"
        if a.dtype != self.dtype and not np.can_cast(a.dtype, self.dtype, rule):
            if self.is_given:
                raise Unfit(f"a result is {a.dtype}, which {self.dtype} cannot hold")
            way_out = ""
            if not a.dtype.hasobject:
                with suppress(TypeError):  # no dtype holds both
                    wider = str(np.result_type(a.dtype, self.dtype))
                way_out = f": pass --dtype {shlex.quote(wider)}"
            what = type(result).__name__ if a.dtype.hasobject else a.dtype
            raise Unfit(f"a result is {what}, but the first one was {self.dtype}{way_out}")
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
            self.fd = os.open(
                self.temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o666
            )
        except OSError as error:
            raise Refused(f"cannot write {self.name}: {error.strerror}") from error
        # As the umask wants it; until it is complete, it is for nobody else, as OUT may be.
        self.mode = stat.S_IMODE(os.fstat(self.fd).st_mode)
        os.fchmod(self.fd, 0o600)
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
                with open(os.dup(self.fd), "wb") as file:
                    np.lib.format.write_array(file, out)
                return out
            path = f"/dev/fd/{self.fd}"  # the very same file, whatever has become of its name
            offset = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape).offset
            reserve(self.fd, offset, nbytes)
            root = table.adopt_memory(os.dup(self.fd), offset + nbytes)
            return root[offset:].view(dtype).reshape(shape)
        except OSError as error:
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


def reserve(fd: int, offset: int, nbytes: int) -> None:
    """Make sure that writing through a mapping of this part of a fresh file cannot fail."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, offset, nbytes)
        return
    block = bytes(1 << 20)
    for start in range(0, nbytes, len(block)):
        os.pwrite(fd, block[: nbytes - start], offset + start)


def sync(path: str) -> None:
    """Wait until the file or folder is on the disk, mappings' writes included."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def summarize(array: np.ndarray[Any, Any], options: dict[str, Any]) -> str:
    """Shape and dtype of an array, and its range and mean if it holds real numbers."""
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
    yield "cores usable", f"{limits.usable_cores()} of {os.cpu_count()}"
    with suppress(OSError):
        shm = os.statvfs(SHM)
        free, total = shm.f_bavail * shm.f_frsize, shm.f_blocks * shm.f_frsize
        yield "shared memory", f"{gib(free)} free of {gib(total)} in {SHM}"
    nbytes, where = limits.available()
    yield "memory", f"{gib(nbytes)} available in {where}"
    headroom = limits.cgroup_headroom()
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
