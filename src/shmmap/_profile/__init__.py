"""Where the time of maps went: what `profile()` reports.

`records` says what there is to know of a map, and comes first.
"""

from .records import (
    BARS,
    Advice,
    Bars,
    Failure,
    Kind,
    Phases,
    ProfiledMap,
    ProfiledWorker,
    SlowRow,
    Stack,
    Stamps,
    Verb,
)
