"""What comes before the first result."""

from __future__ import annotations

import shmmap

from . import WORKERS, nothing_range


def timeraw_import() -> str:
    """``import shmmap`` in a fresh interpreter, NumPy included."""
    return "import shmmap"


def timeraw_import_numpy_alone() -> str:
    """The part of it that is NumPy's."""
    return "import numpy"


class FirstMap:
    """From no team to the first result."""

    params = (["processes", "fork"],)
    param_names = ("engine",)
    number = 1

    def teardown(self, engine: str) -> None:
        """Let the default team go, so that every sample starts one."""
        shmmap.shutdown()

    def time_first_map(self, engine: str) -> None:
        """A tiny map that starts its workers."""
        shmmap.pmap_ranges(nothing_range, WORKERS, chunksize=1, workers=WORKERS, engine=engine)
        shmmap.shutdown()
