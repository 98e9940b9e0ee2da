"""What a user calls. Read `verbs` first.

`verbs` (pmap, pmap_chunks, pmap_ranges, preduce), `bind` (what a verb was given, checked), `options`,
`memo` (calls seen before), `sequences` and `windows` (inputs that are iterated over), `future`, `progress`,
`share`.
"""

from .future import MapFuture
from .options import config
from .share import share
from .verbs import map_iterables, pmap, pmap_chunks, pmap_ranges, preduce
