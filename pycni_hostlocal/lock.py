"""The lock of a network's folder: flock(2) on its file `lock`, shared with the Go plugin."""

from __future__ import annotations

import _thread
import os
import time

from pycni.errors import TRY_AGAIN_LATER, CNIError
from pycni.kernel.flock import LOCK_EX, try_lock
from pycni_hostlocal.files import failure, make_folder, open_or_create

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import LockType
    from types import TracebackType
    from typing import Final, Self

LOCK_SECONDS: Final = 30.0
"""How long a request waits for the lock."""

_FIRST_PAUSE: Final = 0.0005
_LONGEST_PAUSE: Final = 0.008
_QUEUES: Final[dict[str, LockType]] = {}
"""One per folder: of the threads of this process only one polls for a folder's lock, the others sleep."""


class LockedFolder:
    """A folder, made if missing and locked from `__enter__` to `__exit__`; blocks.

    `path` is absolute, `fd` its descriptor while locked. `umask` is the caller's: modes come out as if the
    caller had made the files. `seconds` bounds the wait.
    """

    def __init__(self, path: str, umask: int, seconds: float = LOCK_SECONDS) -> None:
        self.path = path
        self.umask = umask
        self.fd = -1
        self._seconds = seconds
        self._lock = -1
        self._queue = _QUEUES.setdefault(path, _thread.allocate_lock())
        self._queued = False

    def __enter__(self) -> Self:
        """Raises CNIError: code 11 if somebody holds the lock for too long, 999 if the folder is unusable."""
        deadline = time.monotonic() + self._seconds
        try:
            while True:
                self._open()
                self._acquire(deadline)
                # Somebody may have removed the folder or the lock before the lock was ours.
                if os.fstat(self._lock).st_nlink:
                    return self
                self.close()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the lock up; harmless when repeated."""
        for fd in (self._lock, self.fd):
            if fd >= 0:
                os.close(fd)
        self._lock = self.fd = -1
        if self._queued:
            self._queued = False
            self._queue.release()

    def _open(self) -> None:
        make_folder(self.path, self.umask)
        try:
            self.fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._lock = open_or_create("lock", self.fd, os.O_RDONLY, 0o750 & ~self.umask)
        except OSError as error:
            advice = '"ipam.dataDir" must be a folder that can be written'
            raise failure("open", os.path.join(self.path, "lock"), error, advice) from error

    def _acquire(self, deadline: float) -> None:
        self._queued = self._queue.acquire(timeout=max(deadline - time.monotonic(), 0))
        if not self._queued:
            raise self._timed_out()
        pause = _FIRST_PAUSE
        while True:
            try:
                if try_lock(self._lock, LOCK_EX):
                    return
            except OSError as error:
                lock = os.path.join(self.path, "lock")
                raise failure("flock", lock, error, "the file system must support flock(2)") from error
            if time.monotonic() >= deadline:
                raise self._timed_out()
            time.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    def _timed_out(self) -> CNIError:
        holders = ", ".join(map(str, lock_holders(self._lock)))
        who = f"held by process {holders}" if holders else "the holder is not known"
        return CNIError(
            f"timed out waiting for lock {os.path.join(self.path, 'lock')}",
            f"waited {self._seconds:g} seconds; {who}",
            code=TRY_AGAIN_LATER,
        )


def lock_holders(fd: int) -> list[int]:
    """The processes that /proc/locks names as holders of an flock on the open file (proc(5))."""
    status = os.fstat(fd)
    wanted = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        with open("/proc/locks") as table:
            rows = [line.split() for line in table]
    except OSError:
        return []
    return [int(row[4]) for row in rows if len(row) > 5 and row[1] == "FLOCK" and row[5] == wanted]
