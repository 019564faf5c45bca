"""One chain at a time for each attachment, whichever program runs it.

Plugins order their own requests; this keeps whole chains of two programs that use this library (two
`pycni`, or `pycni gc` and a service) from interleaving. All attachments share one file: each locks one byte
of it, found by its name's digest, by open file description locks (fcntl(2), F_OFD_SETLK), which end with
the process. The file stays; it is empty.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import anyio

from pycni.errors import IO_FAILURE, TRY_AGAIN_LATER, CNIError
from pycni.names import attachment_key

DEFAULT_RUN_DIR: Final = "/run/pycni"
PATIENCE: Final = 60.0
"""Seconds until somebody who waits for an attachment gives up."""
_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.05
# struct flock: type, whence, start, length, pid; padded to its own alignment.
_FLOCK: Final = "hhqqi0q"


@asynccontextmanager
async def hold(
    run_dir: str, network: str, container_id: str, ifname: str, *, patience: float = PATIENCE
) -> AsyncIterator[None]:
    """Hold the attachment for the length of the block.

    Raises CNIError: code 11 if somebody else holds it for longer than `patience` (seconds), code 5 if the
    lock file cannot be opened.
    """
    fd = _open(os.path.join(run_dir, "chains.lock"))
    try:
        # 60 bits: a start and a length of one must fit a signed off_t.
        place = int(attachment_key(network, container_id, ifname)[:15], 16)
        await _lock(fd, place, f"{network} {container_id} {ifname}", patience)
        yield
    finally:
        os.close(fd)


def _open(path: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    try:
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        return os.open(path, flags, 0o600)
    except OSError as error:
        cause = (error.strerror or str(error)).lower()
        raise CNIError(f"failed to open lock {path}: {cause}", f"errno {error.errno}", code=IO_FAILURE) from error


async def _lock(fd: int, place: int, what: str, patience: float) -> None:
    wanted = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0)
    deadline = anyio.current_time() + patience
    pause = _FIRST_PAUSE
    while True:
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, wanted)
            return
        except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, as POSIX lets systems choose
            if anyio.current_time() >= deadline:
                raise CNIError(
                    f"attachment {what} is being worked on by another program",
                    f"waited {patience:g} s for it",
                    code=TRY_AGAIN_LATER,
                ) from None
        await anyio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)
