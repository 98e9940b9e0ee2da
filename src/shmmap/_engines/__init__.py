"""How chunks reach those that run them.

`base` says what an engine is and what it gets, `hand_over` in which form workers get inputs and outputs,
`resolve` chooses one and has the default team. `local` has "serial" and "threads", `executor` with
`sent_chunks` any Executor; they share `rounds`. `processes` has "processes", "fork" and a `Team`, with
`posting`, `waiting` and `map_run`. Engines are imported when they are first used.
"""

from .base import GRACE_S, TICK_S, Engine, GivenEngine, SteppedWork, Task, Tick, Work
from .hand_over import axis_first, hand_over_inputs, hand_over_outputs
from .resolve import ENGINES, Route, process_engine, resolve_engine, shutdown
