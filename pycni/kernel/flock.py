"""Locks on files that end with their process: flock(2), tried without waiting.

Who waits decides how: on an event loop, in a thread, with which deadline.
"""

from __future__ import annotations

import fcntl
from fcntl import LOCK_EX, LOCK_SH

__all__ = ["LOCK_EX", "LOCK_SH", "try_lock"]


def try_lock(descriptor: int, kind: int) -> bool:
    """Lock an open file; False if somebody else has it. `kind` is LOCK_EX or LOCK_SH.

    Raises OSError where the file cannot be locked at all.
    """
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
