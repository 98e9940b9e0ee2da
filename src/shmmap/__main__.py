"""``python -m shmmap``: the command line."""

import sys

from shmmap._cli import main

if __name__ == "__main__":  # not in a child of a function that uses multiprocessing's "spawn"
    sys.exit(main())
