"""``python -m tests.soak [--minutes N] [--seed S]``, from the root of the repository."""

import sys

from tests.soak.soak import main

if __name__ == "__main__":
    sys.exit(main())
