"""Ports that join a bridge, and ADDs that take their idle bridge back: never both at once.

That a bridge is idle and that it is removed are two requests; a port that joined in between would lose its
bridge, perhaps after its ADD was answered. So a port joins under a shared lock, and a bridge is taken back
under an exclusive one. What is locked is the node itself: the file of its network namespace, which every
process that works on its links can open, whatever its run directory and its mounts. Sources: flock(2),
namespaces(7).
"""

from __future__ import annotations

import os
import time

from pycni.kernel.flock import LOCK_EX, LOCK_SH, try_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Final

    from pycni.context import Context

_NODE: Final = "/proc/thread-self/ns/net"
_PAUSE: Final = 0.002
_LONGEST_WAIT: Final = 5.0
"""Seconds; a removal takes some 20 ms, and who stops in the middle of one must not stop the node."""


class Joining:
    """`async with Joining(ctx):` a port joins; bridges that others made, and have no port yet, stay.

    Tried in place: nobody but a removal is waited for. Without /proc it goes on without a lock.
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._descriptor = -1

    async def __aenter__(self) -> None:
        self._descriptor = _open()
        deadline = time.monotonic() + _LONGEST_WAIT
        try:
            while not _lock(self._descriptor, LOCK_SH) and time.monotonic() < deadline:
                await self._ctx.sleep(_PAUSE)
        except BaseException:
            self._close()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Removing:
    """`with Removing() as alone:` `alone` says that no port joins anywhere on the node, until the end.

    If one does, its bridge is not idle for long: nobody waits.
    """

    def __init__(self) -> None:
        self._descriptor = -1

    def __enter__(self) -> bool:
        self._descriptor = _open()
        return _lock(self._descriptor, LOCK_EX)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


def _open() -> int:
    try:
        return os.open(_NODE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def _lock(descriptor: int, kind: int) -> bool:
    """Whether it is locked now; True as well where there is nothing to lock."""
    try:
        return try_lock(descriptor, kind)
    except OSError:
        return True
