"""What a user calls. Read `items` first.

The verbs, `items` (pmap), `chunks` (pmap_chunks), `ranges` (pmap_ranges) and `reduce` (preduce), make a
`request`, and `run` does it: by `templates` (calls alike), or by `bind` and `outputs` (what was given,
checked and planned). Then `options`, `signatures` (what
checkers and editors are told of the verbs), `sequences` and `windows` (inputs that are iterated over),
`future`, `progress`, `team` (the public `Team`) and `in_order` (what its `map` returns).
"""

from .chunks import pmap_chunks
from .future import MapFuture
from .items import pmap
from .options import config
from .ranges import pmap_ranges
from .reduce import preduce
from .team import Team, workers_of
