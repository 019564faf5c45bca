"""Order between requests of one attachment, whichever process serves them.

Runtimes send DEL right after killing an ADD, and a kernel call cannot be recalled: a DEL that finds nothing
while the ADD is still at work would leave a leak behind. So before its first effect every ADD and DEL locks
a file named after network, container id and interface, writes its intent into it, and removes the file: an
ADD after its answer was written, a DEL when nothing is left. A file with an intent and without a lock is a
request that died half-way: the next one is told that leftovers may exist. Sources: flock(2), proc(5)
(`/proc/PID/stat`).
"""

from __future__ import annotations

import fcntl
import os
import time

from pycni.errors import TRY_AGAIN_LATER, CNIError
from pycni.kernel.flock import LOCK_EX, try_lock
from pycni.names import attachment_key
from pycni.record import Record
from pycni.wire.json import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from pycni.context import Context
    from pycni.request import Request

RUN_DIR: Final = "/run/pycni"
FOLDER: Final = "attachments"
WAIT_SECONDS: Final = 60.0
FIRST_PAUSE: Final = 0.001
LONGEST_PAUSE: Final = 0.02


class Intent(Record):
    """Who works on an attachment. `caller` is the process that the runtime started, `pid` the one at work
    (the agent, or the same)."""

    verb: str = ""
    network: str = ""
    container_id: str = ""
    ifname: str = ""
    pid: int = 0
    caller: int = 0
    started: float = 0.0

    def encode(self) -> bytes:
        return dumps(dict(zip(_KEYS, (getattr(self, name) for name in self._fields), strict=True)))

    def __str__(self) -> str:
        if not self.verb:
            return "a request that did not say who it is"
        return f"{self.verb} of process {self.caller} (served by process {self.pid})"


_KEYS: Final = ("verb", "network", "containerID", "ifname", "pid", "caller", "started")


def decode_intent(data: bytes) -> Intent | None:
    """None for what is no intent: nothing, or half of one."""
    try:
        members = loads(data)
    except ValueError:
        return None
    if not isinstance(members, dict):
        return None
    started = members.get("started")
    if type(started) is int:
        members["started"] = float(started)  # a whole second is written without its ".0"
    values = [
        members.get(key, default) for key, default in zip(_KEYS, Intent().__dict__.values(), strict=True)
    ]
    if any(
        type(value) is not type(default)
        for value, default in zip(values, Intent().__dict__.values(), strict=True)
    ):
        return None
    return Intent(*values)


class Hold:
    """A lock that is held; `stale` says whether its file told of a request that died.

    Programs that are started meanwhile inherit the descriptor, and with it the lock: if this process is
    killed, what it started may still be at work, and the next request of the attachment must wait for that.
    """

    def __init__(self, path: str, descriptor: int, *, stale: bool, remove: bool) -> None:
        self.path = path
        self.descriptor = descriptor
        self.stale = stale
        self._remove = remove
        self._ended = True

    def forget(self) -> None:
        """Remove the file, and keep the lock: whatever happens now, nothing is left. Never raises."""
        if not self._remove:
            return
        self._remove = False  # from now on the path may be another request's
        try:  # noqa: SIM105 - contextlib would cost start-up time
            os.unlink(self.path)
        except OSError:
            pass

    def keep(self) -> None:
        """Something may be left or still be at work: the file will stay, and locked as long as that works."""
        self._remove = self._ended = False

    def release(self, *, failed: bool = False) -> None:
        """Remove the file, then unlock. To be called when the answer is written. Never raises.

        A request that `failed` may not have cleaned up after an earlier one that died: then the file stays.
        """
        if self.descriptor < 0:
            return
        if not (failed and self.stale):
            self.forget()
        try:
            if self._ended:  # for those who inherited the descriptor too: they work for other requests
                fcntl.flock(self.descriptor, fcntl.LOCK_UN)
        except OSError:
            pass
        os.close(self.descriptor)
        self.descriptor = -1


async def acquire(ctx: Context, request: Request, run_dir: str) -> Hold | None:
    """Wait for the attachment's lock; None for a verb without attachment and for a delegate of the holder.

    Trying is done in place, also in the agent: nothing in it waits, and a thread would take longer than that.
    ADD and DEL leave their intent in the file. CHECK waits and locks but leaves no trace, so that what a dead
    request left stays to be seen. Where the folder cannot be used (a read-only or foreign /run) the request
    goes on without a lock, and the log is told: a DEL must get there. Raises CNIError (11) after
    `WAIT_SECONDS`.
    """
    if request.verb not in ("ADD", "DEL", "CHECK"):
        return None
    intent = Intent(
        verb=request.verb,
        network=request.network,
        container_id=request.container_id,
        ifname=request.ifname,
        pid=os.getpid(),
        caller=ctx.caller.pid,
        started=time.time(),
    )
    path = f"{run_dir}/{FOLDER}/{attachment_key(request.network, request.container_id, request.ifname)}"
    deadline = time.monotonic() + WAIT_SECONDS
    pause = FIRST_PAUSE
    try:
        while True:
            taken = _attempt(path, intent)
            if not isinstance(taken, Intent):
                return taken
            if _descends_from(intent.caller, taken.caller):
                return None
            if time.monotonic() > deadline and not _give_up(path, intent, taken):
                raise _timed_out(intent, taken, path)
            await ctx.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
    except OSError as error:
        ctx.log(f"going on without ordering the requests of this attachment: {path}: {error.strerror}")
        return None


def _timed_out(intent: Intent, holder: Intent, path: str) -> CNIError:
    return CNIError(
        f"timed out waiting for another request of container {intent.container_id}, "
        f"interface {intent.ifname}, network {intent.network}",
        f"{path} has been locked for {WAIT_SECONDS:g} s by {holder}; try again later",
        code=TRY_AGAIN_LATER,
    )


def _give_up(path: str, intent: Intent, holder: Intent) -> bool:
    """Take the file from a dead request whose lock some program that it started will not let go.

    For a DEL only: it has to get there. Anybody else is told to wait.
    """
    if intent.verb != "DEL" or any(_is_alive(pid) for pid in (holder.pid, holder.caller)):
        return False
    try:  # noqa: SIM105 - contextlib would cost start-up time
        os.unlink(path)
    except FileNotFoundError:
        pass
    return True


def _is_alive(pid: int) -> bool:
    return pid <= 0 or os.path.exists(f"/proc/{pid}")


def _attempt(path: str, intent: Intent) -> Hold | Intent:
    """The lock, or who has it. Raises OSError if the file cannot be made."""
    while True:
        descriptor = _open(path)
        try:
            if not try_lock(descriptor, LOCK_EX):
                return decode_intent(os.pread(descriptor, 4096, 0)) or Intent()
            if is_same_file(path, descriptor):
                hold, descriptor = _take(path, descriptor, intent), -1
                return hold
            # Its last holder removed the file between our open and our lock: that one orders nobody.
        finally:
            if descriptor >= 0:
                os.close(descriptor)


def _open(path: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        folder = os.path.dirname(path)
        for missing, mode in ((os.path.dirname(folder), 0o755), (folder, 0o700)):
            try:
                os.mkdir(missing, mode)
            except FileExistsError:
                continue
        return os.open(path, flags, 0o600)


def is_same_file(path: str, descriptor: int) -> bool:
    """Whether the open file is the one that the path names now."""
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    here = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def _take(path: str, descriptor: int, intent: Intent) -> Hold:
    stale = os.fstat(descriptor).st_size > 0
    os.set_inheritable(descriptor, True)
    if intent.verb == "CHECK":
        return Hold(path, descriptor, stale=stale, remove=not stale)
    data = intent.encode()
    os.pwrite(descriptor, data, 0)
    os.ftruncate(descriptor, len(data))
    return Hold(path, descriptor, stale=stale, remove=True)


def _descends_from(pid: int, ancestor: int) -> bool:
    """Whether `ancestor` is the parent, or the parent's parent …, of process `pid`."""
    while pid > 1 and ancestor > 1:
        try:
            descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            # The name in parentheses may hold anything; after its last ")" come state and parent.
            pid = int(os.read(descriptor, 4096).rpartition(b")")[2].split()[1])
        finally:
            os.close(descriptor)
        if pid == ancestor:
            return True
    return False
