"""What a user calls. Read `verbs` first.

`verbs` (pmap, pmap_chunks, pmap_ranges, preduce), `bind` (what a verb was given, checked), `options`,
`memo` (calls seen before), `sequences` and `windows` (inputs that are iterated over), `future`, `progress`,
`share`, `team` (the public `Team`).
"""

from .future import MapFuture
from .options import config
from .share import share
from .team import Team
from .verbs import pmap, pmap_chunks, pmap_ranges, preduce
