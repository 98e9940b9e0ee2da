"""When this process may be forked: not while a team's descriptors and its note of them disagree.

A forked child lets go of what its parent's teams hold, by what they have noted: what is closed but still
noted would be another's by then, the child's own perhaps; what is open and not noted yet would stay open in
the child, and a worker that is hung up on would not hear of it.
"""

from __future__ import annotations

import os
import threading

__all__ = ["lock"]

lock = threading.RLock()
"""Held while a fork would see one of the two. *Requires*: nothing inside waits, nor takes a team's lock."""


def _replace_in_child() -> None:
    global lock
    lock = threading.RLock()  # a worker is forked inside such a section, which never ends there


os.register_at_fork(
    before=lambda: lock.acquire(),
    after_in_parent=lambda: lock.release(),
    after_in_child=_replace_in_child,
)
