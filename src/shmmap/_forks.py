"""What is to happen around a fork of this process, where the platform has forks."""

from __future__ import annotations

import os

__all__ = ["at_fork"]

at_fork = getattr(os, "register_at_fork", lambda **functions: None)
"""`os.register_at_fork`, or nothing on a platform without it: there, no process is ever forked."""
