"""What becomes of a map's chunks in the caller.

`collect` allocates the output and puts the pieces together, `fold` and `combine` put partials of `preduce`
together, `outcome` keeps failures and losses, `recovery` decides what follows from them, `stand_ins` puts
what `on_error` returned in the place of what failed, `arrivals` wakes iterators over a future.
"""

from .arrivals import Arrivals
from .collect import Collector
from .combine import choose_combine
from .fold import MISSING, Fold, Folding, Tree
from .outcome import Outcome
from .pieces import ABSENT
from .recovery import DeadWorker, Instructions, pass_on
