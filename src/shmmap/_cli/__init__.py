"""The command line, ``shmmap map`` and others, written on the public API.

Each command is a file here, imported when it is asked for; `options` has the words of all of them. Besides
the public names they ask lower folders for facts, so that they tell what the library itself goes by.

- `map` and `reduce`: `function` (FUNC and its parameters), `sources` (IN), `output`, `stored_outputs` and
  `kept_outputs` (the OUT that is made), `results` (what FUNC returns)
- `info` and `bench`
- `top`: `programs` (what there is to see of a process), `sightings` (what is shown of it), `screen`

What must hold: whatever goes wrong is one line on stderr, in words of the command line (`errors`). Exit
codes: 0, 1 (the run failed), 2 (it was refused before it began), 128 + the signal's number (it was stopped).
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import shmmap

from .errors import Refused, Stopped, describe, kept_text
from .options import COMMANDS


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line, like every other error here."""

    def error(self, message: str) -> NoReturn:
        """Print the complaint, and where to read on, and exit."""
        self.exit(2, f"{self.prog}: error: {message} (try {self.prog} --help)\n")


def make_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = Parser(
        prog="shmmap", description="Map functions over large NumPy arrays with a team of processes."
    )
    parser.add_argument("--version", action="version", version=f"shmmap {shmmap.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, (purpose, add_options) in COMMANDS.items():
        command = commands.add_parser(name, help=purpose)
        command.set_defaults(command=name, traceback=False)
        add_options(command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: ``sys.argv[1:]``) and return its exit code."""
    args = argparse.Namespace(traceback=False)
    try:
        make_parser().parse_args(sys.argv[1:] if argv is None else argv, args)
        importlib.import_module(f"{__name__}.{args.command}").run(args)
        sys.stdout.flush()  # here, where a reader that has left is no surprise
        return 0
    except Refused as error:
        code, message = 2, f"error: {error}"
    except KeyboardInterrupt as error:
        signum = error.signum if isinstance(error, Stopped) else signal.SIGINT
        code, message = 128 + signum, "interrupted" if signum == signal.SIGINT else "terminated"
    except BrokenPipeError:
        # The reader of our output has left; a second failure while Python flushes would be noise.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        code, message = 1, f"error: {describe(error)}"
        if args.traceback:
            traceback.print_exc()
    if code != 2:
        message += kept_text(getattr(args, "checkpoint", None))
    print(f"shmmap: {message}", file=sys.stderr)
    return code
