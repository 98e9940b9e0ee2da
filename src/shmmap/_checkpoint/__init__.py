"""Maps that survive a crash: what is done is written to a folder, and the same call runs only the rest.

In reading order: `digest` and `identity` (which map it is), `folder` (the files), `keeper` (what a map tells,
and how it is saved). `_verbs.kept` has the call.

What must hold: what the ledger in the folder names was on the disk before it; and nothing that was kept is
taken for a map that is not the same.
"""

from .folder import Folder, State
from .identity import Policy, compare, identify
from .keeper import Keeper

__all__ = ["Folder", "Keeper", "Policy", "State", "compare", "identify"]
