"""What a user calls. Read `verbs` first.

`verbs` (pmap, pmap_chunks, pmap_ranges, preduce) make a `request`, and `run` does it: by `templates` (calls
alike), or by `bind` and `outputs` (what was given, checked and planned) and `hand_over` (in the form for
workers). Then `options`, `sequences` and `windows` (inputs that are iterated over), `future`, `progress`,
`share`, `team` (the public `Team`) and `in_order` (what its `map` returns).
"""

from .future import MapFuture
from .options import config
from .share import share
from .team import Team
from .verbs import pmap, pmap_chunks, pmap_ranges, preduce
