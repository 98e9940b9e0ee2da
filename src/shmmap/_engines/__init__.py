"""How chunks reach those that run them.

`base` says what an engine is and what it gets, `resolve` chooses one and has the default team; `local` has
"serial" and "threads", `processes` has "processes", "fork" and a `Team`, `executor` any other Executor.
These three are imported when they are first used.
"""

from .base import Engine, Task, Tick, Work
from .resolve import ENGINES, Route, resolve_engine, shutdown
