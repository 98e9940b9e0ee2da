"""``python -m shmmap``: the command line."""

import os
import sys

if __name__ == "__main__":  # not in a child of a function that uses multiprocessing's "spawn"
    # Python searches the current folder first here, where others may have put what it would take for a
    # library. The command line has it searched last, if it is needed; but the library may lie there itself.
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if not sys.flags.safe_path and sys.path[0] in ("", os.getcwd()) and os.getcwd() != home:
        del sys.path[0]

from shmmap._cli import main

if __name__ == "__main__":
    sys.exit(main())
