"""One chain at a time for each attachment, whichever program runs it.

Plugins order their own requests (`pycni.attachments`); this keeps whole chains of two programs that use this
library (two `pycni`, or `pycni gc` and a service) from interleaving. A lock is a file named after the
attachment, locked by flock(2), which ends with the process, and removed by whoever held it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import anyio

from pycni.attachments import RUN_DIR
from pycni.errors import TRY_AGAIN_LATER, CNIError
from pycni.kernel.flock import LOCK_EX, try_lock
from pycni.names import attachment_key

DEFAULT_RUN_DIR: Final = RUN_DIR
PATIENCE: Final = 60.0
"""Seconds until somebody who waits for an attachment gives up."""
_FOLDER: Final = "chains"
_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.05


@asynccontextmanager
async def hold(
    run_dir: str, network: str, container_id: str, ifname: str, *, patience: float = PATIENCE
) -> AsyncIterator[None]:
    """Hold the attachment for the length of the block.

    Raises CNIError (code 11) if somebody else holds it for longer than `patience` (seconds), OSError if its
    file cannot be made.
    """
    path = os.path.join(run_dir, _FOLDER, attachment_key(network, container_id, ifname))
    deadline = anyio.current_time() + patience
    pause = _FIRST_PAUSE
    while (fd := _attempt(path)) < 0:
        if anyio.current_time() >= deadline:
            raise CNIError(
                f"attachment {network} {container_id} {ifname} is being worked on by another program",
                f"waited {patience:g} s for {path}",
                code=TRY_AGAIN_LATER,
            )
        await anyio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)
    try:
        yield
    finally:
        # In this order: who opens the file in between finds it locked, and afterwards gone.
        with suppress(OSError):
            os.unlink(path)
        os.close(fd)


def _attempt(path: str) -> int:
    """A descriptor that holds the lock, -1 if somebody else does."""
    while True:
        fd = _open(path)
        try:
            if not try_lock(fd, LOCK_EX):
                os.close(fd)
                return -1
            if os.path.samestat(os.stat(path), os.fstat(fd)):
                return fd
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # its last holder removed it between our open and our lock


def _open(path: str) -> int:
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        os.makedirs(os.path.dirname(folder), 0o755, exist_ok=True)
        os.makedirs(folder, 0o700, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
